"""Planning in the model that a log's counts give, with MOPO's penalty, MOReL's HALT, or without.

    python experiments/tabular_model.py --dataset=logs.npz --pessimism=halt --min_count=3 --seeds=3

Takes discrete actions; the observation's largest feature names the state. Writes metrics,
checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.model_based import tabular_model

runner.define_flags(tabular_model, num_updates=1_000)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(tabular_model)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(tabular_model, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
