"""BCQ on logged data (Fujimoto et al. 2019): the best of actions that a model of the data proposes.

    python experiments/bcq.py --dataset=mujoco/hopper/medium-v0 --batch_size=100 --seeds=3

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.policy_constraint import bcq

runner.define_flags(bcq)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(bcq)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(bcq, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
