"""Value iteration on logged data, with the policy held near the behaviour policy.

    python experiments/constrained_iteration.py --dataset=logs.npz --seeds=3

Takes discrete actions; the observation's largest feature names the state. Writes metrics,
checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.policy_constraint import constrained_iteration

runner.define_flags(constrained_iteration, num_updates=1_000)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(constrained_iteration)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(constrained_iteration, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
