"""BEAR on logged data (Kumar et al. 2019): a policy inside the support of the logged actions.

    python experiments/bear.py --dataset=mujoco/hopper/medium-v0 --seeds=3

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.policy_constraint import bear

runner.define_flags(bear)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(bear)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(bear, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
