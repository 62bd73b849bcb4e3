"""RAMBO on logged data (Rigter et al. 2022): a learned model that plays against the policy.

    python experiments/rambo.py --dataset=mujoco/hopper/medium-v0 --seeds=3

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.model_based import rambo

runner.define_flags(rambo)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(rambo)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(rambo, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
