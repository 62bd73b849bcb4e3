"""SQIL: soft Q-learning with a reward of 1 for demonstrations, 0 for own steps (Reddy et al. 2020).

    python experiments/sqil.py --dataset=mujoco/hopper/expert-v0 --absorbing --seeds=3

The policy acts in the log's environment while it learns. Writes metrics, checkpoints, learning
curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.imitation import sqil

runner.define_flags(sqil)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(sqil)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(sqil, config, {"expert": dataset}, environment, options)


if __name__ == "__main__":
    runner.launch(main)
