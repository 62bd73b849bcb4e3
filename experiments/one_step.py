"""One-step improvement of logged data (Brandfonbrener et al. 2021) with the values of its policy.

    python experiments/one_step.py --dataset=mujoco/hopper/medium-v0 --seeds=3

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.policy_constraint import one_step

runner.define_flags(one_step)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(one_step)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(one_step, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
