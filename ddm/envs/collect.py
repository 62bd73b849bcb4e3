"""Episodes from a pure environment, for datasets and pictures."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddm.envs.base import Environment
from ddm.errors import InputError
from ddm.types import PRNGKey, PyTree

Episode = dict[str, np.ndarray]
PolicyFn = Callable[[jax.Array, PRNGKey, PyTree], tuple[jax.Array, PyTree]]

_PARALLEL = 256  # episodes simulated at a time; bounds the memory of one device call


def collect(
    environment: Environment,
    policy_fn: PolicyFn,
    key: PRNGKey,
    *,
    num_episodes: int | None = None,
    num_steps: int | None = None,
    params: Any = None,
    initial_policy_state: Callable[[PRNGKey], PyTree] | None = None,
    stop: Callable[[jax.Array, PyTree], jax.Array] | None = None,
) -> list[Episode]:
    """Runs a policy and records whole episodes, many at a time on the device.

    Args:
      environment: a pure environment.
      policy_fn: (observation, key, policy_state) -> (action, policy_state), pure, for one
        observation; a function, or a callable pytree such as `ddm.evaluation.Policy`.
      key: PRNG key; the same key gives the same episodes.
      num_episodes: how many episodes; exclusive with `num_steps`.
      num_steps: how many steps in total; the last episode is cut there and counts as truncated.
      params: the environment's parameters; None for the default ones.
      initial_policy_state: (key) -> policy state at the start of an episode, for example a
        random target; None for the policy's own `initial_state()`, or the empty tuple if it has no
        such method.
      stop: (next observation, policy_state) -> bool; True cuts the episode after this step,
        which counts as truncated.

    Returns:
      One dict per episode of T steps, as `ddm.data.from_episodes` takes them: observations (T + 1,
      *O), actions (T, *A), rewards (T,) float32, terminations (T,) bool and truncations (T,) bool.
      Actions are in the environment's units, as the policy gave them.

    Raises:
      InputError: neither or both of `num_episodes` and `num_steps` are given, or a policy that
        knows its spaces (a `ddm.evaluation.Policy`) has other spaces.
    """
    params = environment.default_params if params is None else params
    if hasattr(policy_fn, "check_spaces"):
        policy_fn.check_spaces(
            environment.name,
            environment.observation_space(params),
            environment.action_space(params),
        )
    # A plain function is a static part of the compiled call, a pytree is an argument of it.
    is_function = jax.tree_util.all_leaves([policy_fn])
    policy = jax.tree_util.Partial(policy_fn) if is_function else policy_fn
    simulate = functools.partial(
        _simulate, environment, initial_policy_state, stop, int(params.max_steps), policy, params
    )
    if num_steps is not None and num_episodes is None:
        return _cut(_rounds(simulate, key, _PARALLEL), num_steps)
    if num_episodes is not None and num_steps is None:
        parallel = min(_PARALLEL, num_episodes)
        return list(itertools.islice(_rounds(simulate, key, parallel), num_episodes))
    raise InputError("collect: give one of num_episodes and num_steps")


def _rounds(simulate, key, parallel):
    """Yields episodes without end; simulates `parallel` of them at a time."""
    while True:
        key, round_key = jax.random.split(key)
        yield from _split_episodes(simulate(jax.random.split(round_key, parallel)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _simulate(environment, initial_policy_state, stop, max_steps, policy, params, keys):
    """One episode per key, each `max_steps` long; steps after an episode's end are masked later."""

    def step(carry, keys):
        observation, state, policy_state = carry
        policy_key, step_key = keys
        action, policy_state = policy(observation, policy_key, policy_state)
        next_observation, state, reward, terminated, truncated, _ = environment.step(
            step_key, state, action, params
        )
        if stop is not None:
            truncated |= stop(next_observation, policy_state) & ~terminated
        record = {
            "next_observations": next_observation,
            "actions": action,
            "rewards": reward,
            "terminations": terminated,
            "truncations": truncated,
        }
        return (next_observation, state, policy_state), record

    def episode(key):
        keys = jax.random.split(key, 2 + 2 * max_steps)
        reset_key, policy_key, step_keys = keys[0], keys[1], keys[2:].reshape(max_steps, 2)
        observation, state = environment.reset(reset_key, params)
        if initial_policy_state is not None:
            policy_state = initial_policy_state(policy_key)
        else:
            policy_state = policy.initial_state() if hasattr(policy, "initial_state") else ()
        _, record = jax.lax.scan(step, (observation, state, policy_state), step_keys)
        later = record.pop("next_observations")
        return record | {"observations": jnp.concatenate([observation[None], later])}

    return jax.vmap(episode)(keys)


def _split_episodes(record: Mapping[str, jax.Array]) -> Iterator[Episode]:
    """Cuts every row of the record (episodes, max_steps, ...) at its episode's end."""
    arrays = {name: np.asarray(value) for name, value in record.items()}
    lengths = (arrays["terminations"] | arrays["truncations"]).argmax(axis=1) + 1
    for row, length in enumerate(lengths):
        yield _head({name: array[row] for name, array in arrays.items()}, length)


def _cut(episodes: Iterator[Episode], num_steps: int) -> list[Episode]:
    """The first `num_steps` steps; the episode that is cut ends with a truncation."""
    kept: list[Episode] = []
    left = num_steps
    while left > 0:
        episode = next(episodes)
        if len(episode["rewards"]) > left:
            episode = _head(episode, left)
            episode["truncations"][-1] = True
        left -= len(episode["rewards"])
        kept.append(episode)
    return kept


def _head(arrays: Mapping[str, np.ndarray], length: int) -> Episode:
    """The first steps of an episode, copied; there is one more observation than steps."""
    return {
        name: array[: length + (name == "observations")].copy() for name, array in arrays.items()
    }
