"""Value iteration on logged data, with the policy held near the behaviour policy.

    python experiments/constrained_iteration.py --dataset=logs.npz --seeds=3

Takes discrete actions; the observation's largest feature names the state. Writes metrics,
checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.policy_constraint import constrained_iteration
from ddm.types import Discrete

runner.define_flags(constrained_iteration, num_updates=1_000)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(constrained_iteration)
    dataset = runner.load_dataset(options)
    if isinstance(dataset.info.action_space, Discrete):
        config = config.replace(num_actions=dataset.info.action_space.n)
    environment = runner.find_environment(options, dataset)
    runner.train(constrained_iteration, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
