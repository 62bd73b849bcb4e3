"""Behaviour cloning with memory: a frame stack, a recurrent network or a transformer.

    python experiments/history_bc.py --dataset=mujoco/hopper/medium-v0 --history=recurrent --seeds=3
    python experiments/history_bc.py --dataset=D4RL/door/human-v2 --history=stack \
        --observation_steps=4 --head=mixture

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.imitation import history_bc

runner.define_flags(history_bc)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(history_bc)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(history_bc, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
