"""What the contract tests need: small configurations and batches of the algorithms.

The library finds its algorithms (`ddm.algorithms`). What the tests must know of one of them beside
its module stands as `CONTRACT` in its own test file, tests/FAMILY/test_NAME.py. So a new algorithm
adds a file, and changes none.

Run as a script it checks, on 8 fake devices, that sharded updates equal unsharded ones: of all
algorithms, or of those that are named.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import ddm

SMALL = {"hidden_sizes": (8, 8), "num_samples": 2}
OBSERVATION_SIZE, ACTION_SIZE, NUM_ACTIONS = 4, 2, 3


@dataclasses.dataclass(frozen=True)
class Contract:
    """What the contract tests know of one algorithm."""

    small: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields that a default configuration lacks, or that are too large in it."""
    variants: Sequence[Mapping[str, Any]] = ()
    """Fields of further configurations."""
    other: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Values at which a field matters, where half of its default (or `not`) would not show it."""
    context: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """By field: the other fields that must be set for it to matter."""
    observation_shape: tuple[int, ...] | None = None
    """Of images."""
    action_size: int = ACTION_SIZE
    table: bool = False
    """One number per state and action: nothing of it is a network."""
    draws: bool = False
    """The policy has no mode: its deterministic form draws, too, only with less noise."""
    slow: bool = False
    """Compiles for minutes: with a transformer, or with many structural fields."""


@functools.cache
def contract_of(algorithm: Any) -> Contract:
    """The `CONTRACT` of an algorithm's test file; an empty one where it has none."""
    _, family, name = algorithm.__name__.split(".")
    path = pathlib.Path(__file__).parent / family / f"test_{name}.py"
    spec = importlib.util.spec_from_file_location(f"contract_of_{name}", path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return getattr(module, "CONTRACT", Contract())


def pair_features(observations: Any) -> Any:
    """Features (..., A, A * O) of every action: the observation in the action's own columns."""
    import jax.numpy as jnp

    columns = jnp.eye(NUM_ACTIONS, dtype=observations.dtype)
    pairs = jnp.einsum("ab,...o->...abo", columns, observations)
    return pairs.reshape(*pairs.shape[:-2], -1)


def standard_normal(observations: Any, actions: Any) -> Any:
    """Log-density (N, B) of actions (N, B, A) of a demonstrator, up to a constant."""
    return -0.5 * (actions**2).sum(axis=-1)


# With one network and with target networks; the others are sharded by `make test-all`.
SHARDED = ("bc", "td3")


def algorithms() -> list[Any]:
    """Every algorithm of the library."""
    return list(ddm.algorithms().values())


def short_name(algorithm: Any) -> str:
    return algorithm.__name__.rpartition(".")[2]


def small_config(algorithm: Any, **overrides: Any) -> Any:
    """The default configuration with networks that compile fast, and with what it lacks."""
    names = {field.name for field in dataclasses.fields(algorithm.Config)}
    small = {name: value for name, value in SMALL.items() if name in names}
    return algorithm.Config().replace(**small | dict(contract_of(algorithm).small) | overrides)


def config_with(algorithm: Any, **overrides: Any) -> Any:
    """A small configuration with these fields: that of a variant, if one has their static ones.

    What is compiled for the variant then serves here too.
    """
    leaves = {
        field.name
        for field in dataclasses.fields(algorithm.Config)
        if field.metadata.get("pytree_node", True)
    }
    static = {name: value for name, value in overrides.items() if name not in leaves}
    for variant in [{}, *contract_of(algorithm).variants]:
        if static.items() <= variant.items():
            return small_config(algorithm, **dict(variant) | overrides)
    return small_config(algorithm, **overrides)


def cases() -> list[Any]:
    """(algorithm, config) for the default and each variant, as pytest parameters."""
    import pytest

    parameters = []
    for algorithm in algorithms():
        name = short_name(algorithm)
        for overrides in [{}, *contract_of(algorithm).variants]:
            label = "-".join(
                [name, *(f"{k}={getattr(v, '__name__', v)}" for k, v in overrides.items())]
            )
            config = small_config(algorithm, **overrides)
            marks = [one_worker(algorithm)]
            if contract_of(algorithm).slow or overrides:
                marks.append(pytest.mark.slow)
            parameters.append(pytest.param(algorithm, config, id=label, marks=marks))
    return parameters


def has_policy(algorithm: Any) -> bool:
    """Whether it acts; a model of the environment predicts in place of it."""
    return hasattr(algorithm, "act")


def acting_cases() -> list[Any]:
    """Those of :func:`cases` that have a policy."""
    return [case for case in cases() if has_policy(case.values[0])]


def use(algorithm: Any, config: Any, state: Any, batch: Any, key: Any) -> Any:
    """What a trained state is for: an action at the batch's first observation, or predictions."""
    import jax

    from ddm.model_based.parts import uncertainty
    from ddm.types import initial_policy_state

    if not has_policy(algorithm):
        inputs = batch.observations, batch.actions
        return (
            algorithm.predict(config, state, *inputs),
            algorithm.uncertainty(config, state, *inputs, uncertainty.max_std),
            algorithm.transition(config, state, *inputs, key),
        )
    before = initial_policy_state(algorithm, config, state)
    observation = first_observation(algorithm, config, batch)
    if not hasattr(algorithm, "supervise"):
        return algorithm.act(config, state, observation, key, before)
    act_key, rule_key = jax.random.split(key)
    acted = algorithm.act(config, state, observation, act_key, before)
    return acted, supervised(algorithm, config, state, batch, rule_key)


def supervised(algorithm: Any, config: Any, state: Any, batch: Any, key: Any) -> Any:
    """Two rulings on who acts, by a method that asks an expert; every second label is wrong."""
    import jax
    import jax.numpy as jnp

    from ddm.evaluation.supervision import Seen
    from ddm.types import initial_policy_state

    memory = algorithm.begin_supervision(config, state)
    before = initial_policy_state(algorithm, config, state)
    rulings = []
    for each in jax.random.split(key):
        act_key, rule_key = jax.random.split(each)
        act = functools.partial(algorithm.act, config, state, deterministic=True)
        keys = jax.random.split(act_key, batch.observations.shape[0])
        proposals, after = jax.vmap(act, (0, 0, None))(batch.observations, keys, before)
        rows = jnp.arange(len(keys))
        seen = Seen(batch.observations, proposals, batch.actions, rows % 4 > 0, rows % 2 > 0, after)
        ruling, memory = algorithm.supervise(config, state, memory, seen, rule_key)
        rulings.append(ruling)
    return rulings, memory.metrics()


def one_worker(algorithm: Any) -> Any:
    """Runs all tests of an algorithm in one process, so that they share compiled functions."""
    import pytest

    return pytest.mark.xdist_group(algorithm.__name__)


def stages(algorithm: Any, config: Any) -> list[tuple[Any, Any]]:
    """(update, batch) of each stage; most algorithms have one."""
    from ddm.types import stages_of

    return [
        (stage.update, make_batch(algorithm, config, spec=stage.batch_spec))
        for stage in stages_of(algorithm, config)
    ]


def make_batch(algorithm: Any, config: Any, rows: int = 8, seed: int = 0, spec: Any = None) -> Any:
    """A batch of random rows, or windows; `rows` for each mini-batch of the algorithm.

    For an algorithm that learns from several sources, a dict of batches.
    """
    import jax.numpy as jnp
    import numpy as np

    from ddm.types import Batch

    spec = algorithm.batch_spec(config) if spec is None else spec
    if isinstance(spec, Mapping):
        return {
            name: make_batch(algorithm, config, rows, seed + 10 * i, one)
            for i, (name, one) in enumerate(spec.items())
        }
    leading = (rows * spec.minibatches,) + (() if spec.window is None else (spec.window,))
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> Any:
        return random.normal(size=leading + shape).astype(np.float32)

    if getattr(config, "num_actions", 0) > 0:
        actions = random.integers(NUM_ACTIONS, size=leading, dtype=np.int32)
    else:
        actions = np.tanh(normal(contract_of(algorithm).action_size))
    next_observations = normal(OBSERVATION_SIZE)
    image = contract_of(algorithm).observation_shape
    if image is not None or getattr(config, "encoder", "none") == "conv":
        shape = leading + (image or (8, 8, 1))
        observations = random.integers(256, size=shape, dtype=np.uint8)
    elif spec.one_hot_observations:
        states = random.integers(2, size=(2, *leading))  # few, so that counts differ
        observations, next_observations = np.eye(OBSERVATION_SIZE, dtype=np.float32)[states]
    else:
        observations = normal(OBSERVATION_SIZE)
    every_field = {
        "observations": observations,
        "actions": actions,
        "rewards": normal(),
        "next_observations": next_observations,
        "terminations": random.random(leading) < 0.3,
        "truncations": np.zeros(leading, bool),
        "next_actions": actions,
        "returns_to_go": normal(),
        "initial_observations": observations[::-1],
    }
    if spec.window is not None:
        # As at an episode's end, where a window's last places are beyond it.
        lengths = random.integers(spec.history + 1, spec.window + 1, size=(leading[0], 1))
        every_field["mask"] = np.arange(spec.window) < lengths
    return Batch(**{name: jnp.asarray(every_field[name]) for name in spec.fields})


def first_observation(algorithm: Any, config: Any, batch: Any) -> Any:
    """One observation, as `act` gets it."""
    windows = first_source(algorithm.batch_spec(config)).window is not None
    observations = first_source(batch).observations
    return observations[0, 0] if windows else observations[0]


def first_source(named: Any) -> Any:
    """The batch, or the spec, of the only source or of the first of several."""
    return next(iter(named.values())) if isinstance(named, Mapping) else named


def of_each_source(change: Any, batch: Any) -> Any:
    """The batch, or each of several, after a change."""
    if isinstance(batch, Mapping):
        return {name: change(one) for name, one in batch.items()}
    return change(batch)


def jitted_update(algorithm: Any) -> Any:
    """One compiled `update` for all tests of an algorithm; the config's leaves are arguments."""
    return jitted(algorithm.update)


@functools.cache
def jitted(function: Any) -> Any:
    """One compiled program of a function."""
    import jax

    return jax.jit(function)


@functools.cache
def jitted_init(algorithm: Any) -> Any:
    import jax

    return jax.jit(algorithm.init)


@functools.cache
def jitted_act(algorithm: Any) -> Any:
    """One compiled function for both forms of `act`: its result is (deterministic, drawn)."""
    import jax

    def act(*arguments: Any) -> Any:
        return tuple(algorithm.act(*arguments, deterministic=form) for form in (True, False))

    return jax.jit(act)


def check_sharded(algorithm: Any) -> None:
    """Eight lanes on eight devices give what each gives alone."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    config = small_config(algorithm)
    batch = make_batch(algorithm, config)
    lanes = [jitted_init(algorithm)(config, jax.random.key(seed), batch) for seed in range(8)]
    states = jax.tree.map(lambda *rows: jnp.stack(rows), *lanes)
    update = jax.jit(jax.vmap(algorithm.update, (None, 0, None)))
    mesh = Mesh(np.array(jax.devices()), ("lanes",))
    sharded_states = jax.device_put(states, NamedSharding(mesh, PartitionSpec("lanes")))
    sharded, _ = update(config, sharded_states, batch)
    assert len(sharded.step.sharding.device_set) == 8, "the update gathered the lanes"
    expected, _ = update(config, states, batch)
    for got, want in zip(jax.tree.leaves(sharded), jax.tree.leaves(expected), strict=True):
        if jax.dtypes.issubdtype(got.dtype, jax.dtypes.prng_key):
            got, want = jax.random.key_data(got), jax.random.key_data(want)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8"
    os.environ["JAX_PLATFORMS"] = "cpu"
    for each in algorithms():
        if len(sys.argv) > 1 and short_name(each) not in sys.argv[1:]:
            continue
        check_sharded(each)
        print(f"{short_name(each)} sharded")
    sys.exit(0)
