"""TD3 on logged data: the baseline that offline methods mend.

    python experiments/td3.py --dataset=mujoco/hopper/medium-v0 --seeds=3

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.off_policy import td3

runner.define_flags(td3)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(td3)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(td3, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
