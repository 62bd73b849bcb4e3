"""Behaviour cloning with binned actions, one dimension after the other: any joint distribution.

    python experiments/autoregressive.py --dataset=D4RL/pointmaze/umaze-v2 --num_bins=32

Bins are fitted to the logged actions: `--binning=uniform` (equal, on their range), `quantile`,
`mu_law`, or `box` (equal, from --bin_low to --bin_high). Writes metrics, checkpoints,
learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

import numpy as np
from absl import flags

from ddm import runner
from ddm.imitation import autoregressive
from ddm.ops import binning

runner.define_flags(autoregressive)
BINNING = flags.DEFINE_enum("binning", "uniform", ("box", *binning.BINNINGS), "How the bins lie.")
PERCENTILE = flags.DEFINE_float(
    "clip_percentile", 0.0, "Percent of the logged actions cut off at each end of the bins' range."
)


def main(_):
    """Load, normalise, fit the bins, train, evaluate, report."""
    options, config = runner.parse_flags(autoregressive)
    dataset = runner.load_dataset(options)
    if BINNING.value != "box" and not config.edges:
        edges = binning.fit_edges(
            np.asarray(dataset.actions), config.num_bins, BINNING.value, PERCENTILE.value
        )
        config = config.replace(edges=tuple(edges.ravel().tolist()))
    environment = runner.find_environment(options, dataset)
    return runner.train(autoregressive, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
