"""Conservative Q-learning on logged data (Kumar et al. 2020): values that bound the truth.

    python experiments/cql.py --dataset=mujoco/hopper/medium-v0 --seeds=3

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.lower_bound import cql

runner.define_flags(cql)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(cql)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(cql, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
