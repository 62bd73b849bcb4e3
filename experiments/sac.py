"""Soft actor-critic on logged data: the baseline that offline methods mend.

    python experiments/sac.py --dataset=mujoco/hopper/medium-v0 --seeds=3

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.off_policy import sac

runner.define_flags(sac)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(sac)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(sac, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
