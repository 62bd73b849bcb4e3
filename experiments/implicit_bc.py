"""Implicit behaviour cloning: an energy over actions, and search for low energy.

    python experiments/implicit_bc.py --dataset=mujoco/hopper/medium-v0 --seeds=3
    python experiments/implicit_bc.py --dataset=D4RL/door/human-v2 --negatives=langevin \
        --num_negatives=8 --gradient_penalty --inference=langevin --num_samples=512

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.imitation import implicit_bc

runner.define_flags(implicit_bc)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(implicit_bc)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(implicit_bc, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
