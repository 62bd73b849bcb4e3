"""Imitation offline from 4, 11 and 25 recorded episodes of Hopper, one pair in twenty.

    python experiments/tables/demonstrations.py --demonstrations=hopper.npz --environment=Hopper-v4

The file holds `observations` (N, O), `actions` (N, A) and the episodes' `lengths`; no rewards. As
in GAIL's paper (Ho & Ermon 2016, appendix B), each episode gives every twentieth transition, from a
random first one on. The last step of an episode is left out, because the observation after it is
not recorded. All methods get the same rows, standardised, the same number of updates, and batches
of the same size. The last column of a row is the mean return over `--episodes` episodes of the
policy's mode. BC has the policy class of the other two, a squashed Gaussian.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

import ddm
from ddm import data, evaluation, runner
from ddm.imitation import bc, iq_learn, value_dice
from ddm.types import Box

_FILE = flags.DEFINE_string("demonstrations", "", "An .npz file, see above.")
_ENVIRONMENT = flags.DEFINE_string("environment", "Hopper-v4", "Environment of gymnasium.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds of each method.", lower_bound=1)
_FIRST = flags.DEFINE_integer("first_seed", 0, "Number of the first seed.", lower_bound=0)
_UPDATES = flags.DEFINE_integer("num_updates", 10_000, "Gradient steps.", lower_bound=1)
_ROWS = flags.DEFINE_integer("rows", 128, "Rows of a batch.", lower_bound=1)
_EPISODES = flags.DEFINE_integer("episodes", 10, "Episodes of a score.", lower_bound=1)
_COUNTS = flags.DEFINE_list("trajectories", ["4", "11", "25"], "How many episodes are used.")
_EVERY = flags.DEFINE_integer("every", 20, "One transition in so many.", lower_bound=1)
_ONLY = flags.DEFINE_list("only", [], "Names of methods; empty: all.")
_CSV = flags.DEFINE_string("csv", "", "File for the table, beside the screen.")

# Name -> module and configuration. Step sizes of policies are alike but for the one that the
# authors of ValueDICE give theirs.
METHODS: dict[str, tuple[Any, Any]] = {
    "BC": (bc, bc.Config(head="tanh_gaussian", learning_rate=3e-4)),
    "IQ-Learn": (
        iq_learn,
        iq_learn.Config(num_critics=1, use_target=True, loss="v0", actor_learning_rate=3e-5),
    ),
    "IQ-Learn, value_expert": (
        iq_learn, iq_learn.Config(num_critics=1, actor_learning_rate=3e-5),
    ),
    "ValueDICE": (value_dice, value_dice.Config()),
}  # fmt: skip


def main(_):
    """One row for each seed, number of episodes and method; written after each of them."""
    rows: list[dict[str, Any]] = []
    for seed in range(_FIRST.value, _FIRST.value + _SEEDS.value):
        for count in map(int, _COUNTS.value):
            dataset = subsample(_FILE.value, count, _EVERY.value, seed)
            for name in _ONLY.value or METHODS:
                rows.append({
                    "method": name, "episodes": count, "pairs": dataset.num_transitions,
                    "seed": seed, "updates": _UPDATES.value, "return": score(name, dataset, seed),
                })  # fmt: skip
                print("  ".join(str(value) for value in rows[-1].values()), flush=True)
                if _CSV.value:
                    runner.write_csv(Path(_CSV.value), rows)


def subsample(path: str, count: int, every: int, seed: int) -> data.Dataset:
    """Transitions of the first `count` episodes of a random order, one in `every`, standardised."""
    with np.load(path) as file:
        observations, actions, lengths = (
            file[name] for name in ("observations", "actions", "lengths")
        )
    random, ends = np.random.default_rng(seed), np.cumsum(lengths)
    kept: list[int] = []
    for episode in random.permutation(len(lengths))[:count]:
        begin = ends[episode] - lengths[episode] + random.integers(every)
        kept += range(begin, ends[episode] - 1, every)
    single = [
        {"observations": observations[[i, i + 1]], "actions": actions[[i]]} for i in sorted(kept)
    ]
    box = Box((actions.shape[1],), (-1.0,) * actions.shape[1], (1.0,) * actions.shape[1])
    dataset = data.from_episodes(single, action_space=box, name=Path(path).stem)
    return data.normalize(dataset, "standardize")


@functools.cache
def trainer(name: str, num_updates: int, rows: int) -> Any:
    """A compiled function from a key and a dataset to a trained state."""
    algorithm, config = METHODS[name]

    def train(key: jax.Array, dataset: data.Dataset) -> Any:
        return ddm.fit(algorithm, config, dataset, key, num_updates, batch_size=rows)[0]

    return jax.jit(train)


def score(name: str, dataset: data.Dataset, seed: int) -> float:
    """The mean return of a method's policy after training."""
    algorithm, config = METHODS[name]
    state = trainer(name, _UPDATES.value, _ROWS.value)(jax.random.key(seed), dataset)
    policy = evaluation.Policy(
        algorithm, config, state, dataset.normalization, dataset.info.action_space
    )
    result = evaluation.evaluate(
        policy, _ENVIRONMENT.value, seed=1_000 + seed, num_episodes=_EPISODES.value, lanes=False
    )
    return float(np.mean(result.returns))


if __name__ == "__main__":
    runner.launch(main)
