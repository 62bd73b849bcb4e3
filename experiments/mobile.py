"""MOBILE on logged data (Sun et al. 2023): a learned model, and the spread of its values.

    python experiments/mobile.py --dataset=mujoco/hopper/medium-v0 --seeds=3

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.model_based import mobile

runner.define_flags(mobile)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(mobile)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(mobile, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
