"""Conservative Q-learning with a table on logged data of discrete actions.

    python experiments/tabular_cql.py --dataset=logs.npz --seeds=3

Takes discrete actions; the observation's largest feature names the state. Writes metrics,
checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.lower_bound import tabular_cql

runner.define_flags(tabular_cql)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(tabular_cql)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(tabular_cql, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
