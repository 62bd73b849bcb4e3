"""Behaviour cloning of logged data: maximum likelihood of the logged actions.

    python experiments/bc.py --dataset=mujoco/hopper/medium-v0 --seeds=3

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.imitation import bc

runner.define_flags(bc)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(bc)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(bc, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
