"""Diversified critics on logged data (An et al. 2021): pessimism with fewer of them than SAC-N.

    python experiments/edac.py --dataset=mujoco/hopper/medium-v0 --num_critics=50

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.lower_bound import edac

runner.define_flags(edac)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(edac)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(edac, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
