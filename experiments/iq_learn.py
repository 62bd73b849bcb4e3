"""IQ-Learn from demonstrations: a soft Q-function as policy and reward (Garg et al. 2021).

    python experiments/iq_learn.py --dataset=mujoco/hopper/expert-v0 --seeds=3
    python experiments/iq_learn.py --dataset=mujoco/hopper/expert-v0 --own_rows --use_target \
        --loss=v0 --chi2_on=all --num_critics=1 --actor_learning_rate=3e-5

The first one learns from the log alone; with --own_rows it also acts in the log's environment.
Writes metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.imitation import iq_learn

runner.define_flags(iq_learn)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(iq_learn)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    sources = {"expert": dataset} if config.own_rows else dataset
    return runner.train(iq_learn, config, sources, environment, options)


if __name__ == "__main__":
    runner.launch(main)
