"""`fit`: the one pure training loop. It runs under jit and vmap, and can be continued."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from ddm import data, experience
from ddm.errors import InputError
from ddm.types import Algorithm, Metrics, PRNGKey


def fit(
    algorithm: Algorithm,
    config: Any,
    source: Any,
    key: PRNGKey,
    num_steps: int,
    *,
    batch_size: int = 256,
    state: Any = None,
) -> tuple[Any, Metrics]:
    """Trains on logged data.

    Pure: wrap it in `jax.jit`, and in `jax.vmap` over keys or configurations. Pass `source` to a
    jitted function as an argument, so that the data do not become a constant of the program.

        train = jax.jit(lambda key, log: ddm.fit(iql, iql.Config(), log, key, 10_000))
        state, metrics = train(jax.random.key(0), log)

    The batch of a step depends on `key` and `state.step` only. So 100 steps and 100 more with the
    same key and the state in between are 200 steps, bit for bit.

    Args:
      algorithm: the algorithm module.
      config: its configuration.
      source: a dataset, a buffer, a mixture, or a dict of them: see :func:`ddm.data.sample`.
      key: PRNG key; the same for a run and its continuation.
      num_steps: gradient steps, a multiple of the algorithm's mini-batches.
      batch_size: rows per gradient step.
      state: to go on from; None: a fresh one.

    Returns:
      The state, and the metrics of every update, (num_steps / minibatches,).

    Raises:
      InputError: the source lacks what the algorithm needs, or `num_steps` does not divide.
    """
    spec = algorithm.batch_spec(config)
    init_key, sampling_key = jax.random.split(key)
    if state is None:
        state = init(algorithm, config, source, init_key)

    def step(state, _):
        batch = draw(source, sampling_key, state.step, batch_size, spec)
        return algorithm.update(config, state, batch)

    return jax.lax.scan(step, state, length=num_updates(num_steps, spec))


class Learner(NamedTuple):
    """A policy that learns while it collects: what `fit_online` begins and goes on with."""

    state: Any  # of the algorithm
    experience: experience.Experience


def fit_online(
    algorithm: Algorithm,
    config: Any,
    collector: experience.Collector,
    key: PRNGKey,
    num_steps: int,
    *,
    log: data.Dataset | None = None,
    log_share: float = 0.5,
    batch_size: int = 256,
    learner: Learner | None = None,
) -> tuple[Learner, Metrics]:
    """Trains on the policy's own experience in a pure environment, beside a log if there is one.

    Pure, as :func:`fit`. Before each update every copy of the environment takes
    `collector.spec.steps_per_update` steps. An algorithm whose `batch_spec` is a dict gets its
    own experience as "own" and the log as "log"; any other gets rows of both in one batch.

    Args:
      algorithm: the algorithm module.
      config: its configuration.
      collector: environment, and how much is collected.
      key: PRNG key; the same for a run and its continuation.
      num_steps: gradient steps, a multiple of the algorithm's mini-batches.
      log: logged data in the environment's spaces; its normalization holds for both.
      log_share: of the log in each batch.
      batch_size: rows per gradient step.
      learner: to go on from; None: a fresh one.

    Returns:
      The learner, and the metrics of every update, (num_steps / minibatches,).

    Raises:
      InputError: the policy does not fit the environment, the buffer is smaller than a batch, or
        `num_steps` does not divide.
    """
    spec = algorithm.batch_spec(config)
    init_key, sampling_key, collect_key = jax.random.split(key, 3)
    if learner is None:
        buffer = collector.empty_buffer(log)
        data.check_sources(own_sources(buffer, log, log_share, spec), spec, batch_size)
        state = algorithm.init(config, init_key, collector.example(buffer))
        begun = experience.begin(collector, algorithm, config, state, collect_key, log)
        learner = Learner(state, begun)

    def step(learner, _):
        seen, collected = experience.collect(collector, algorithm, config, *learner)
        source = own_sources(seen.buffer, log, log_share, spec)
        batch = draw(source, sampling_key, learner.state.step, batch_size, spec)
        state, metrics = algorithm.update(config, learner.state, batch)
        return Learner(state, seen), {**metrics, **collected}

    return jax.lax.scan(step, learner, length=num_updates(num_steps, spec))


def init(algorithm: Algorithm, config: Any, source: Any, key: PRNGKey) -> Any:
    """A fresh state for the shapes of a source."""
    spec = algorithm.batch_spec(config)
    example_key, init_key = jax.random.split(key)
    return algorithm.init(config, init_key, data.sample(source, example_key, 1, spec))


def draw(source: Any, sampling_key: PRNGKey, step: jax.Array, batch_size: int, spec: Any) -> Any:
    """The batch of a gradient step; by its number, however a run is cut into pieces."""
    return data.sample(source, jax.random.fold_in(sampling_key, step), batch_size, spec)


def own_sources(buffer: data.Buffer, log: data.Dataset | None, log_share: float, spec: Any) -> Any:
    """The sources of an algorithm that collects: by name, or mixed for one that knows no names."""
    if log is None:
        return {experience.OWN: buffer}
    if data.is_named(spec):
        return {experience.OWN: buffer, "log": log}
    return data.Mixture((log, buffer), (log_share, 1.0 - log_share))


def num_updates(num_steps: int, spec: Any) -> int:
    """Updates that make so many gradient steps.

    Raises:
      InputError: they do not divide, or there is none.
    """
    minibatches = data.num_minibatches(spec)
    if num_steps < 1 or num_steps % minibatches:
        raise InputError(
            f"num_steps is {num_steps}, expected a positive multiple of {minibatches}, the "
            "gradient steps of one update"
        )
    return num_steps // minibatches
