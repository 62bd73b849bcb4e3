"""SPIBB on logged data (Laroche et al. 2019): the baseline's actions wherever data is scarce.

    python experiments/spibb.py --dataset=logs.npz --seeds=3

Takes discrete actions; the observation's largest feature names the state. Writes metrics,
checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.policy_constraint import spibb

runner.define_flags(spibb, num_updates=1_000)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(spibb)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(spibb, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
