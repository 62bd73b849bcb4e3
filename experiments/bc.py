"""Behaviour cloning of logged data: maximum likelihood of the logged actions.

    python experiments/bc.py --dataset=mujoco/hopper/medium-v0 --seeds=3

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.imitation import bc
from ddm.types import Discrete

runner.define_flags(bc)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(bc)
    dataset = runner.load_dataset(options)
    if isinstance(dataset.info.action_space, Discrete):
        head = "categorical" if config.head == bc.Config().head else config.head
        config = runner.fit_actions(config.replace(head=head), dataset)
    environment = runner.find_environment(options, dataset)
    return runner.train(bc, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
