"""Adversarial imitation of logged demonstrations in an environment, with PPO (Ho & Ermon 2016).

    python experiments/gail.py --dataset=demos.npz --environment=ddm/Pendulum-v1 --seeds=3
    python experiments/gail.py --dataset=mujoco/hopper/expert-v0 --collect_copies=4 --window=512

The log needs no rewards. An update follows `window` steps of each of `collect_copies` copies of the
environment. It takes `discriminator_steps` steps of the discriminator, on `batch_size` rows of
either side, and counts as so many. Writes metrics, checkpoints, learning curves and a summary to a
folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.imitation import gail

runner.define_flags(
    gail,
    online=True,
    normalize_observations="standardize",
    collect_copies=16,
    window=256,
    num_updates=400,
    log_every=20,
    eval_every=80,
    checkpoint_every=200,
)


def main(_):
    """Load, collect, train, evaluate, report."""
    options, config = runner.parse_flags(gail)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(gail, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
