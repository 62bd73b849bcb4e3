"""Diffusion policy: chunks of actions drawn by removing noise (Chi et al. 2023).

    python experiments/diffusion.py --dataset=D4RL/pointmaze/umaze-v2 --seeds=3
    python experiments/diffusion.py --dataset=D4RL/door/human-v2 --denoiser=unet --chunk_size=16

Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.imitation import diffusion

runner.define_flags(diffusion)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(diffusion)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(diffusion, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
