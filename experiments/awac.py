"""AWAC on logged data (Nair et al. 2020): a critic's advantages weigh the logged actions.

    python experiments/awac.py --dataset=mujoco/hopper/medium-v0 --seeds=3

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.policy_constraint import awac

runner.define_flags(awac)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(awac)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(awac, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
