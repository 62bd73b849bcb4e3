"""Behaviour cloning with a latent variable (CVAE policy) of logged data.

    python experiments/cvae.py --dataset=D4RL/pointmaze/umaze-v2 --prior=mixture --seeds=3

Policies are evaluated with a drawn latent: the mean latent of a Gaussian prior averages the ways
of a demonstrator that has several. `--deterministic_eval` evaluates it all the same.

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.imitation import cvae

runner.define_flags(cvae, deterministic_eval=False)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(cvae)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(cvae, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
