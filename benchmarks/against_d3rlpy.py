"""Updates per second beside d3rlpy's, in turns on one machine; and scores, where asked.

    python3 -m venv /tmp/d3rlpy && /tmp/d3rlpy/bin/pip install "d3rlpy==2.8.*"
    python benchmarks/against_d3rlpy.py --d3rlpy_python=/tmp/d3rlpy/bin/python
    python benchmarks/against_d3rlpy.py --d3rlpy_python=... --dataset=point_mass --nospeed

Both have the same transitions, batches of one size, the networks and settings of `ddm`'s
defaults, and all cores. d3rlpy's time is that of its own `fit`, without bars, logs and
checkpoints; ours draws its batches inside the loop, too. The floor is the matrix products of the
update as `throughput.py` counts and times them; a fraction of it stands beside both. With a data
set, both also train for `--updates` steps and one evaluator scores the greedy policies of both.
"""

from __future__ import annotations

import dataclasses
import tempfile
import types
from pathlib import Path
from typing import Any

import algorithms
import jax
import jax.numpy as jnp
import numpy as np
import throughput
import timing
from absl import app, flags
from peer import Peer

import ddm
from ddm import data, envs, evaluation, runner
from ddm.envs import point_mass
from ddm.policy_constraint import awac, bcq, bear, crr, iql, td3_bc

_PYTHON = flags.DEFINE_string("d3rlpy_python", "", "Python in which d3rlpy is installed.")
_ONLY = flags.DEFINE_list("methods", [], "Names of algorithms; empty: all.")
_TURNS = flags.DEFINE_integer("turns", 5, "Measurements of each; the median counts.", 1)
_LENGTH = flags.DEFINE_float("turn_seconds", 3.0, "Length of a measurement.", 0.1)
_DATASET = flags.DEFINE_string(
    "dataset",
    "",
    "Minari id, folder or file, or point_mass, a log of a noisy policy there; empty: no scores.",
)
_SPEED = flags.DEFINE_bool("speed", True, "Time both; otherwise only scores.")
_UPDATES = flags.DEFINE_integer("updates", 10_000, "Gradient steps before a score.", 1)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds of the scores.", 1)
_EPISODES = flags.DEFINE_integer("episodes", 20, "Episodes of a score.", 1)
_BATCH = flags.FLAGS["batch_size"]  # of throughput.py
_MODEL = flags.DEFINE_list(
    "vae_hidden_sizes", ["750", "750"], "Hidden layers of the behaviour models of BCQ and BEAR."
)
_TABLE = flags.DEFINE_string("table", "", "File for the table, beside the screen.")


@dataclasses.dataclass(frozen=True)
class Contestant:
    """An algorithm here, and the same settings by d3rlpy's names."""

    algorithm: types.ModuleType
    config: Any
    settings: dict[str, Any]


def settings_of(config: Any, **more: Any) -> dict[str, Any]:
    """What all of d3rlpy's algorithms have."""
    sizes = list(config.hidden_sizes)
    shared = {"batch_size": _BATCH.value, "gamma": config.discount}
    encoders = dict.fromkeys(("actor_encoder_factory", "critic_encoder_factory"), sizes)
    return {**shared, **encoders, "actor_learning_rate": config.actor_learning_rate, **more}


def model_sizes() -> tuple[int, ...]:
    """Hidden layers of a generative behaviour model."""
    return tuple(map(int, _MODEL.value))


def _td3_bc() -> Contestant:
    config = td3_bc.Config()
    rate = {"critic_learning_rate": config.critic_learning_rate, "tau": config.target_rate}
    return Contestant(td3_bc, config, settings_of(config, alpha=config.alpha, **rate))


def _iql() -> Contestant:
    config = iql.Config()
    more = {
        "critic_learning_rate": config.value_learning_rate,
        "value_encoder_factory": list(config.hidden_sizes),
        "expectile": config.expectile,
        "weight_temp": config.inverse_temperature,
        "max_weight": config.max_weight,
    }
    return Contestant(iql, config, settings_of(config, **more))


def _awac() -> Contestant:
    config = awac.Config(hidden_sizes=(256, 256))
    more = {
        "critic_learning_rate": config.value_learning_rate,
        "lam": 1.0 / config.inverse_temperature,
        "n_action_samples": config.num_samples,
    }
    return Contestant(awac, config, settings_of(config, **more))


def _crr() -> Contestant:
    config = crr.Config()
    more = {
        "critic_learning_rate": config.value_learning_rate,
        "weight_type": "binary",
        "advantage_type": "mean",
        "n_action_samples": config.num_samples,
        "n_critics": config.num_critics,
        "target_update_type": "soft",
        "tau": config.target_rate,
    }
    return Contestant(crr, config, settings_of(config, **more))


def _bcq() -> Contestant:
    config = bcq.Config(vae_hidden_sizes=model_sizes())
    more = {
        "critic_learning_rate": config.critic_learning_rate,
        "imitator_learning_rate": config.vae_learning_rate,
        "imitator_encoder_factory": list(config.vae_hidden_sizes),
        "n_action_samples": config.num_target_samples,
    }
    return Contestant(bcq, config, settings_of(config, **more))


def _bear() -> Contestant:
    warmup = min(bear.Config().warmup_steps, _UPDATES.value // 3)  # or a score would miss values
    config = bear.Config(vae_hidden_sizes=model_sizes(), warmup_steps=warmup)
    more = {
        "critic_learning_rate": config.critic_learning_rate,
        "imitator_learning_rate": config.vae_learning_rate,
        "imitator_encoder_factory": list(config.vae_hidden_sizes),
        "n_target_samples": config.num_target_samples,
        "n_mmd_action_samples": config.num_mmd_samples,
        "warmup_steps": config.warmup_steps,
    }
    return Contestant(bear, config, settings_of(config, **more))


CONTESTANTS = {
    "td3_bc": _td3_bc, "iql": _iql, "awac": _awac, "crr": _crr, "bcq": _bcq, "bear": _bear,
}  # fmt: skip


def main(_):
    """Speeds of every algorithm, then scores."""
    if not (_SPEED.value or _DATASET.value):
        raise app.UsageError("--nospeed leaves scores alone, and they need a --dataset")
    dataset = load_dataset()
    with tempfile.TemporaryDirectory() as folder:
        arrays = Path(folder) / "transitions.npz"
        write_arrays(dataset, arrays)
        worker = Peer(
            _PYTHON.value, "d3rlpy_worker.py", str(arrays), flag="d3rlpy_python", library="d3rlpy"
        )
        rows = []
        try:
            for name in _ONLY.value or CONTESTANTS:
                rows.append(report(name, dataset, worker))
                if _TABLE.value:  # what is done is kept
                    runner.write_csv(_TABLE.value, rows)
        finally:
            worker.close()


def load_dataset() -> data.Dataset:
    """Standardised for both, as the experiments do; noise without `--dataset`."""
    if not _DATASET.value:
        return timing.random_dataset(algorithms.OBSERVATION_SIZE, algorithms.ACTION_SIZE)
    dataset = point_mass_log() if _DATASET.value == "point_mass" else data.load(_DATASET.value)
    return data.normalize(dataset, observations="standardize")


def point_mass_log() -> data.Dataset:
    """10,000 transitions of a slow and noisy behaviour, for scores without a simulator."""
    environment = envs.make("PointMass-8-v0")
    policy = point_mass.behavior_policy("medium", environment.default_params)
    episodes = envs.collect(environment, policy, jax.random.key(0), num_episodes=200)
    return data.from_episodes(
        episodes,
        action_space=environment.action_space(environment.default_params),
        name="point mass, medium",
        environment_id="ddm/PointMass-8-v0",
    )


def write_arrays(dataset: data.Dataset, path: Path) -> None:
    """The transitions in order; the last episode ends at the last of them."""
    names = ("actions", "rewards", "terminations", "truncations")
    arrays = {name: np.asarray(getattr(dataset, name)) for name in names}
    # d3rlpy keeps no row for what an episode ends in.
    rows = np.arange(dataset.num_transitions) + np.asarray(dataset.episode_ids)
    arrays["observations"] = np.asarray(dataset.observations)[rows]
    arrays["truncations"] = arrays["truncations"] & ~arrays["terminations"]
    if not arrays["terminations"][-1]:
        arrays["truncations"][-1] = True
    np.savez(path, **arrays)


def report(name: str, dataset: data.Dataset, worker: Peer) -> dict[str, Any]:
    """One line."""
    contestant = CONTESTANTS[name]()
    version = worker.ask(do="start", algorithm=name, seed=0, settings=contestant.settings)
    row = {"algorithm": name, "version": version, "batch_size": _BATCH.value}
    if _SPEED.value:
        row |= measure_speed(contestant, dataset, worker)
        print(
            "{algorithm:8} {ddm:8.0f} updates/s ({ddm_floor:.2f} of the floor), d3rlpy {version} "
            "{d3rlpy:6.0f} ({d3rlpy_floor:.2f}), ratio {ratio:.1f}".format(**row),
            flush=True,
        )
    if _DATASET.value:
        row |= measure_scores(name, contestant, dataset, worker)
        print(
            f"{name:8} score {row['ddm_score']:.1f} (seeds {row['ddm_seeds']}), d3rlpy "
            f"{row['d3rlpy_score']:.1f} (seeds {row['d3rlpy_seeds']})",
            flush=True,
        )
    return row


def measure_speed(contestant: Contestant, dataset: data.Dataset, worker: Peer) -> dict[str, Any]:
    """Both loops and the floor in turns; medians, and the median of the turns' ratios."""
    run, _, steps = timing.compile_updates(
        contestant.algorithm, contestant.config, dataset, _BATCH.value, _LENGTH.value
    )
    floor, _ = throughput.floor_of(
        contestant.algorithm, contestant.config, dataset, _BATCH.value, _LENGTH.value
    )
    first = worker.ask(do="fit", steps=30)
    their_steps = max(30, int(30 * _LENGTH.value / first))
    ours, theirs, floors = [], [], []
    for _ in range(_TURNS.value):
        ours.append(run() / steps)
        theirs.append(worker.ask(do="fit", steps=their_steps) / their_steps)
        floors.append(floor())
    ours, theirs, floors = map(np.array, (ours, theirs, floors))
    return {
        "ddm": 1.0 / float(np.median(ours)),
        "d3rlpy": 1.0 / float(np.median(theirs)),
        "ratio": float(np.median(theirs / ours)),
        "ddm_floor": float(np.median(floors / ours)),
        "d3rlpy_floor": float(np.median(floors / theirs)),
    }


def measure_scores(
    name: str, contestant: Contestant, dataset: data.Dataset, worker: Peer
) -> dict[str, Any]:
    """Scores after `--updates` steps from the same evaluator; percent where references exist."""
    found: dict[str, list[float]] = {"ddm": [], "d3rlpy": []}
    for seed in range(_SEEDS.value):
        state = train(contestant, dataset, seed)
        found["ddm"].append(score(contestant.algorithm, contestant.config, state, dataset))
        worker.ask(do="start", algorithm=name, seed=seed, settings=contestant.settings)
        worker.ask(do="fit", steps=_UPDATES.value)
        found["d3rlpy"].append(
            score(foreign_algorithm(worker, dataset), (), jnp.zeros(()), dataset)
        )
    return {"updates": _UPDATES.value, "episodes": _EPISODES.value} | {
        key: value
        for library, scores in found.items()
        for key, value in (
            (f"{library}_score", float(np.mean(scores))),
            (f"{library}_seeds", " ".join(f"{each:.1f}" for each in scores)),
        )
    }


def train(contestant: Contestant, dataset: data.Dataset, seed: int) -> Any:
    """The state after `--updates` gradient steps."""
    algorithm, config = contestant.algorithm, contestant.config
    minibatches = algorithm.batch_spec(config).minibatches
    steps = _UPDATES.value // minibatches * minibatches

    @jax.jit
    def run(dataset: data.Dataset, key: jax.Array) -> Any:
        return ddm.fit(algorithm, config, dataset, key, steps, batch_size=_BATCH.value)[0]

    return run(dataset, jax.random.key(seed))


def foreign_algorithm(worker: Peer, dataset: data.Dataset) -> Any:
    """d3rlpy's greedy policy with the face of an algorithm here."""

    def predict(observations: np.ndarray) -> np.ndarray:
        rows = observations.reshape(-1, observations.shape[-1])
        actions = np.asarray(worker.ask(do="act", observations=rows.tolist()), np.float32)
        return actions.reshape(*observations.shape[:-1], -1)

    def act(config, state, observation, key, policy_state=(), *, deterministic=False):
        del config, state, key, deterministic
        shape = jax.ShapeDtypeStruct(dataset.actions.shape[1:], jnp.float32)
        action = jax.pure_callback(predict, shape, observation, vmap_method="broadcast_all")
        return action, policy_state

    return types.SimpleNamespace(act=act)


def score(algorithm: Any, config: Any, state: Any, dataset: data.Dataset) -> float:
    """Mean score of the greedy policy."""
    policy = evaluation.Policy(
        algorithm=algorithm, config=config, state=state, normalization=dataset.normalization
    )
    environment = dataset.info.environment_id
    if not environment:
        raise app.UsageError(f"--dataset={_DATASET.value} names no environment to score in")
    result = evaluation.evaluate(
        policy, environment, seed=0, num_episodes=_EPISODES.value, lanes=False
    )
    references = dataset.info.reference_scores
    returns = (
        result.returns if references is None else data.normalized_score(result.returns, references)
    )
    return float(np.mean(returns))


if __name__ == "__main__":
    app.run(main)
