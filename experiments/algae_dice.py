"""AlgaeDICE on logged data (Nachum et al. 2019): policy gradients without importance weights.

    python experiments/algae_dice.py --dataset=mujoco/hopper/medium-v0 --seeds=3

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.policy_constraint import algae_dice

runner.define_flags(algae_dice)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(algae_dice)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(algae_dice, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
