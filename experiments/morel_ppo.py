"""MOReL (Kidambi et al. 2020) planned by PPO on logged data.

    python experiments/morel_ppo.py --dataset=mujoco/hopper/medium-v0 --threshold=largest \\
        --threshold_coefficient=3 --seeds=3

An update is the epochs of PPO on `batch_size` imagined episodes. Writes metrics,
checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.model_based import morel_ppo

runner.define_flags(
    morel_ppo,
    batch_size=200,
    num_updates=500,
    log_every=25,
    eval_every=100,
    checkpoint_every=100,
)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(morel_ppo)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(morel_ppo, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
