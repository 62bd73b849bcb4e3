"""Fitted Q iteration on logged data: one regression an action and round, linear in the observation.

    python experiments/fitted_q.py --dataset=logs.npz --seeds=3

Takes discrete actions; the values are linear in the observation. Writes metrics,
checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.off_policy import fitted_q

runner.define_flags(fitted_q, num_updates=1_000)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(fitted_q)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(fitted_q, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
