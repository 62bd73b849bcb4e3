"""Flow-matching policy: chunks of actions by following a velocity from noise (Lipman et al. 2023).

    python experiments/flow_matching.py --dataset=D4RL/pointmaze/umaze-v2 --seeds=3
    python experiments/flow_matching.py --dataset=D4RL/door/human-v2 --denoiser=unet --chunk_size=16

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.imitation import flow_matching

runner.define_flags(flow_matching)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(flow_matching)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(flow_matching, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
