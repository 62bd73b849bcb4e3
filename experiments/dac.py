"""Off-policy adversarial imitation with absorbing states, with SAC (Kostrikov et al. 2019).

    python experiments/dac.py --dataset=mujoco/hopper/expert-v0 --seeds=3

The log needs no rewards. An update is a block: `block_size` steps of the environment, as many of
the discriminator and as many of SAC. Writes metrics, checkpoints, learning curves and a summary to
a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.imitation import dac

runner.define_flags(dac, online=True, normalize_observations="standardize")


def main(_):
    """Load, collect, train, evaluate, report."""
    options, config = runner.parse_flags(dac)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(dac, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
