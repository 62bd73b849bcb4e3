"""A configuration of each algorithm of the library, and a random log that fits it."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import products
import timing

import ddm
from ddm import data
from ddm.errors import InputError

OBSERVATION_SIZE, ACTION_SIZE = 17, 6  # of HalfCheetah, Walker2d
CAMERA = (38, 32, 1)  # of ALVINN: a video image, and the range image below it
TRANSITIONS = 100_000

# What a default configuration needs beside what the log decides.
SETTINGS: dict[str, dict[str, Any]] = {
    "kl_control": {"prior_steps": 0},  # measured is the policy's update, not the prior's
}


def configure(
    name: str, algorithm: Any, batch_size: int, **overrides: Any
) -> tuple[Any, data.Dataset]:
    """A configuration, and a log that it learns from: the first of `LOGS` that is accepted.

    A method that reads its whole log in every update gets one of `batch_size` transitions.

    Args:
      name: of the algorithm.
      algorithm: the module.
      batch_size: rows of a gradient step.
      **overrides: fields of the configuration; those that it does not have are left out.

    Raises:
      InputError: no log fits; the reason is that of the last one.
    """
    config = algorithm.Config().replace(**SETTINGS.get(name, {}))
    config = config.replace(**{k: v for k, v in overrides.items() if hasattr(config, k)})
    refused = None
    for make_log in LOGS:
        log = make_log(batch_size if _reads_all(algorithm.batch_spec(config)) else TRANSITIONS)
        try:
            prepared = ddm.prepare(algorithm, config, log)
            shapes_of_state(algorithm, prepared, log)
        except InputError as error:
            refused = error
        else:
            return prepared, log
    raise refused or InputError(f"{name}: there is no log to try")


def shapes_of_state(algorithm: Any, config: Any, log: data.Dataset) -> Any:
    """The shapes and types of a state; nothing is computed but one row of a batch.

    Raises:
      InputError: the algorithm does not learn from such a log.
    """
    key = jax.random.key(0)
    example = data.sample(log, key, 1, algorithm.batch_spec(config))
    return jax.eval_shape(algorithm.init, config, key, example)


def count_products(
    algorithm: Any, config: Any, log: data.Dataset, batch_size: int
) -> collections.Counter[products.Product]:
    """The products of one update on `batch_size` rows for each of its gradient steps."""
    spec = algorithm.batch_spec(config)
    state = shapes_of_state(algorithm, config, log)
    batch = jax.eval_shape(lambda key: data.sample(log, key, batch_size, spec), jax.random.key(0))
    return products.count(algorithm.update, config, state, batch)


def _reads_all(spec: Any) -> bool:
    return not data.is_named(spec) and spec.whole_dataset


def _table_log(transitions: int) -> data.Dataset:
    random = np.random.default_rng(0)
    states = random.integers(OBSERVATION_SIZE, size=transitions)
    observations = np.eye(OBSERVATION_SIZE, dtype=np.float32)[states]
    return timing.random_log(observations, random.integers(ACTION_SIZE, size=transitions))


def _camera_log(transitions: int) -> data.Dataset:
    random = np.random.default_rng(0)
    transitions = min(transitions, 10_000)  # of 1.2 kB each
    images = random.integers(256, size=(transitions, *CAMERA), dtype=np.uint8)
    return timing.random_log(images, np.tanh(random.normal(size=(transitions, 2))))


# Vectors and real actions, vectors and choices, states of a table, and a car's camera.
_vectors = functools.partial(timing.random_dataset, OBSERVATION_SIZE, ACTION_SIZE)
LOGS: tuple[Callable[[int], data.Dataset], ...] = tuple(
    map(functools.cache, (
        _vectors, functools.partial(_vectors, num_actions=ACTION_SIZE), _table_log, _camera_log,
    ))
)  # fmt: skip
