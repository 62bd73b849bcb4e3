"""Behaviour cloning of observations with noise: a baseline of methods against compounding errors.

    python experiments/noise_bc.py --dataset=mujoco/hopper/expert-v0 --noise=0.1 --seeds=3

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.imitation import noise_bc

runner.define_flags(noise_bc)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(noise_bc)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(noise_bc, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
