"""PPO in an environment, from the steps of its present policy alone (Schulman et al. 2017).

    python experiments/ppo.py --environment=ddm/Pendulum-v1 --seeds=3
    python experiments/ppo.py --environment=Hopper-v5 --collect_copies=4 --window=512

An update follows `window` steps of each of `collect_copies` copies of the environment. Writes
metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.on_policy import ppo

runner.define_flags(
    ppo,
    online=True,
    collect_copies=16,
    window=256,
    num_updates=100,
    log_every=5,
    eval_every=20,
    checkpoint_every=50,
)


def main(_):
    """Collect, train, evaluate, report."""
    options, config = runner.parse_flags(ppo)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(ppo, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
