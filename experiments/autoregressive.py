"""Behaviour cloning with binned actions, one dimension after the other: any joint distribution.

    python experiments/autoregressive.py --dataset=D4RL/pointmaze/umaze-v2 --num_bins=32

Bins are fitted to the logged actions: `--binning=uniform` (equal, on their range), `quantile`,
`mu_law`, or `box` (equal, from --bin_low to --bin_high). Writes metrics, checkpoints,
learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.imitation import autoregressive

runner.define_flags(autoregressive, binning="uniform")


def main(_):
    """Load, normalise, fit the bins, train, evaluate, report."""
    options, config = runner.parse_flags(autoregressive)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(autoregressive, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
