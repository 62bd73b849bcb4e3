"""KL-control of logged data (Jaques et al. 2019): reward for what a prior finds likely.

    python experiments/kl_control.py --dataset=logs.npz --kl_weight=0.5 --seeds=3

The prior is fitted to the log in the first `prior_steps` of the `num_updates` updates. Takes
discrete actions; observations are vectors, or with `num_tokens` token numbers. Writes metrics,
checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.policy_constraint import kl_control

runner.define_flags(kl_control)


def main(_):
    """Load, normalise, train, evaluate, report."""
    options, config = runner.parse_flags(kl_control)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(kl_control, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
