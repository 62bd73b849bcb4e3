"""SAC with many critics on logged data (An et al. 2021): their minimum is pessimistic.

    python experiments/sac_n.py --dataset=mujoco/hopper/medium-v0 --num_critics=200

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.lower_bound import sac_n

runner.define_flags(sac_n)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(sac_n)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(sac_n, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
