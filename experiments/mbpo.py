"""MBPO (Janner et al. 2019): SAC in a learned model that is believed; the baseline of MOPO.

    python experiments/mbpo.py --dataset=mujoco/hopper/medium-v0 --seeds=3

It trains a model first, or takes that of a run of `dynamics.py` on the same log: --start_from=RUN.
`num_updates` counts the gradient steps of the policy. Writes metrics, checkpoints, learning curves
and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.model_based import mbpo

runner.define_flags(mbpo)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(mbpo)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(mbpo, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
