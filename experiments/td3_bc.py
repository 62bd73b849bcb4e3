"""TD3+BC on logged data (Fujimoto & Gu 2021): TD3 with a cloning term in the policy loss.

    python experiments/td3_bc.py --dataset=mujoco/hopper/medium-v0 --seeds=3

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.policy_constraint import td3_bc

runner.define_flags(td3_bc)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(td3_bc)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(td3_bc, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
