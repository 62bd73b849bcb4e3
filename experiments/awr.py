"""AWR on logged data (Peng et al. 2019): logged returns weigh the logged actions.

    python experiments/awr.py --dataset=mujoco/hopper/medium-v0 --seeds=3

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.policy_constraint import awr

runner.define_flags(awr)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(awr)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(awr, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
