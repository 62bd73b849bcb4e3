"""Natural policy gradient in an environment: the planner of MOReL, on a true one (Kakade 2002).

    python experiments/npg.py --environment=ddm/Pendulum-v1 --seeds=3
    python experiments/npg.py --environment=Hopper-v5 --collect_copies=4 --window=512

An update follows `window` steps of each of `collect_copies` copies of the environment. Writes
metrics, checkpoints, learning curves and a summary to a folder under `runs`.
"""

from __future__ import annotations

from ddm import runner
from ddm.on_policy import npg

runner.define_flags(
    npg,
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
    options, config = runner.parse_flags(npg)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(npg, config, dataset, environment, options)


if __name__ == "__main__":
    runner.launch(main)
