"""MOPO (Yu et al. 2020): SAC in a learned model whose rewards are lowered where it is unsure.

    python experiments/mopo.py --dataset=mujoco/hopper/medium-v0 --penalty=5 --seeds=3

It trains a model first, or takes that of a run of `dynamics.py` on the same log: --start_from=RUN.
`num_updates` counts the gradient steps of the policy. Writes metrics, checkpoints, learning curves
and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.model_based import mopo

runner.define_flags(mopo)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(mopo)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(mopo, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
