"""COMBO on logged data (Yu et al. 2021): a learned model, and values that are low off the log.

    python experiments/combo.py --dataset=mujoco/hopper/medium-v0 --seeds=3

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.model_based import combo

runner.define_flags(combo)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(combo)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(combo, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
