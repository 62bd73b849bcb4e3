"""ACT, action chunking with transformers, on logged data.

    python experiments/act.py --dataset=D4RL/pointmaze/umaze-v2 --chunk_size=16 --seeds=3

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.imitation import act

runner.define_flags(act)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(act)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(act, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
