"""ValueDICE from demonstrations: occupancies are matched without a reward (Kostrikov et al. 2020).

    python experiments/value_dice.py --dataset=mujoco/hopper/expert-v0 \
        --normalize_observations=standardize --seeds=3
    python experiments/value_dice.py --dataset=mujoco/hopper/expert-v0 --own_rows --absorbing \
        --normalize_observations=standardize

The first one learns from the log alone; with --own_rows it also acts in the log's environment.
Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.imitation import value_dice

runner.define_flags(value_dice)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(value_dice)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    sources = {"expert": dataset} if config.own_rows else dataset
    return runner.train(value_dice, config, sources, environment, options)


if __name__ == "__main__":
    runner.launch(main)
