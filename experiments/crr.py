"""CRR on logged data (Wang et al. 2020): only actions that the critic prefers are cloned.

    python experiments/crr.py --dataset=mujoco/hopper/medium-v0 --seeds=3

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.policy_constraint import crr

runner.define_flags(crr)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(crr)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(crr, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
