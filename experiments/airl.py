"""Imitation that recovers a reward, with PPO in an environment (Fu et al. 2018).

    python experiments/airl.py --dataset=demos.npz --environment=ddm/Pendulum-v1 --seeds=3

The log needs no rewards. An update follows `window` steps of each of `collect_copies` copies of the
environment, and takes `discriminator_steps` steps of the reward, on `batch_size` rows of either
side; it counts as so many. `ddm.imitation.airl.learned_reward` asks the trained state for the
reward. Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.imitation import airl

runner.define_flags(
    airl,
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
    options, config = runner.parse_flags(airl)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(airl, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
