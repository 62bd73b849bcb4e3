"""BRAC on logged data (Wu, Tucker & Nachum 2019): a policy held near the behaviour policy.

    python experiments/brac.py --dataset=mujoco/hopper/medium-v0 --seeds=3
    python experiments/brac.py --dataset=mujoco/hopper/medium-v0 --novalue_penalty  # BRAC-p

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.policy_constraint import brac

runner.define_flags(brac)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(brac)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(brac, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
