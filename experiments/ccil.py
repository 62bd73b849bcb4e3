"""CCIL (Ke et al. 2024): behaviour cloning with corrective labels from a learned, smooth model.

    python experiments/ccil.py --dataset=demonstrations.npz --generator=disturb --seeds=3

It trains the model first. `num_updates` counts the gradient steps of the policy. Writes metrics,
checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.imitation import ccil

runner.define_flags(ccil)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(ccil)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(ccil, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
