"""Discrete BCQ on logged data (Fujimoto et al. 2019): Q-learning among the data's likely actions.

    python experiments/discrete_bcq.py --dataset=logs.npz --batch_size=64 --seeds=3

Takes discrete actions. Writes metrics, checkpoints, learning curves and a summary to a folder under
`runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.policy_constraint import discrete_bcq

runner.define_flags(discrete_bcq)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(discrete_bcq)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(discrete_bcq, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
