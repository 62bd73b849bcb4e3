"""SPIBB-DQN on logged data (Laroche et al. 2019): the baseline's actions where data is scarce.

    python experiments/spibb_dqn.py --dataset=logs.npz --normalize_observations=standardize

Takes discrete actions. Counts are of cells of the normalised observations, `--cell_size` wide, or
of one-hot rows with `--count=one_hot`. Writes metrics, checkpoints, learning curves and a summary
to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.policy_constraint import spibb_dqn

runner.define_flags(spibb_dqn)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(spibb_dqn)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(spibb_dqn, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
