"""ReBRAC on logged data (Tarasov et al. 2023): TD3+BC with a penalty in the critic as well.

    python experiments/rebrac.py --dataset=mujoco/hopper/medium-v0 --seeds=3

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.policy_constraint import rebrac

runner.define_flags(rebrac, batch_size=1024)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(rebrac)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(rebrac, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
