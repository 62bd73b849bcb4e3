"""MOReL on logged data (Kidambi et al. 2020): planning that stops where a model's members disagree.

    python experiments/morel.py --dataset=mujoco/hopper/medium-v0 --seeds=3
    python experiments/morel.py --dataset=mujoco/hopper/medium-v0 --threshold=largest \\
        --threshold_coefficient=3

The planner is SAC; that of the paper is in experiments/morel_npg.py. Writes metrics, checkpoints,
learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.model_based import morel

runner.define_flags(morel, num_updates=300_000)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(morel)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(morel, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
