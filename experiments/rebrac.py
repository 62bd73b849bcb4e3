"""ReBRAC on logged data (Tarasov et al. 2023): TD3+BC with a penalty in the critic as well.

    python experiments/rebrac.py --dataset=mujoco/hopper/medium-v0 --seeds=3

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import data, runner
from ddm.policy_constraint import rebrac

runner.define_flags(rebrac, batch_size=1024)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(rebrac)
    dataset = data.load(options.dataset, clip_actions=options.clip_actions)
    dataset = data.normalize(
        dataset,
        observations=options.normalize_observations,
        rewards=options.reward_transform,
    )
    environment = runner.find_environment(options, dataset)
    runner.train(rebrac, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
