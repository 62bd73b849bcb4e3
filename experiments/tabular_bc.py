"""Behaviour cloning with a table: action frequencies of each state, in one update.

    python experiments/tabular_bc.py --dataset=logs.npz --seeds=3

Takes discrete actions; the observation's largest feature names the state. Writes metrics,
checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.imitation import tabular_bc

runner.define_flags(tabular_bc, num_updates=1, log_every=1)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(tabular_bc)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(tabular_bc, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
