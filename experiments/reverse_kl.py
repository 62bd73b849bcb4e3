"""Mode-seeking imitation of logged data: reverse KL with a learned density ratio.

    python experiments/reverse_kl.py --dataset=mujoco/hopper/medium-v0 --seeds=3

Each update takes `discriminator_steps` discriminator steps and one policy step, and counts as so
many gradient steps. Writes metrics, checkpoints, learning curves and a summary to a folder under
`runs`. The demonstrator's density is not known here: `--ratio=known` is for Python callers.
"""

from __future__ import annotations

from ddm import runner
from ddm.imitation import reverse_kl

runner.define_flags(reverse_kl)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(reverse_kl)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(reverse_kl, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
