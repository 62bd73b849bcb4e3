"""Implicit Q-learning on logged data (Kostrikov et al. 2021): no action outside the data is asked.

    python experiments/iql.py --dataset=mujoco/hopper/medium-v0 --seeds=3

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.policy_constraint import iql

runner.define_flags(iql)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(iql)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(iql, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
