"""Q-learning with a table on logged data: the baseline that conservatism mends.

    python experiments/q_learning.py --dataset=logs.npz --seeds=3

Takes discrete actions; the observation's largest feature names the state. Writes metrics,
checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.off_policy import q_learning

runner.define_flags(q_learning)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(q_learning)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(q_learning, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
