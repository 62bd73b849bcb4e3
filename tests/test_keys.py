"""No algorithm draws twice from one key: not in `init`, not in two updates, not in two actions."""

import functools

import contract
import jax
import jax.numpy as jnp
import keys
import pytest
from jax.errors import KeyReuseError

from ddm import ops
from ddm.types import initial_policy_state


def _cases():
    """The default of each algorithm; variants where the suite takes its time."""
    seen = set()
    for case in contract.cases():
        algorithm, config = case.values
        marks = [contract.one_worker(algorithm)]
        if algorithm in seen:
            marks.append(pytest.mark.slow)
        seen.add(algorithm)
        yield pytest.param(algorithm, config, id=case.id, marks=marks)


every_case = pytest.mark.parametrize(("algorithm", "config"), list(_cases()))


@every_case
def test_no_key_is_used_twice_in_training(algorithm, config):
    batch = contract.make_batch(algorithm, config)
    update = jax.jit(algorithm.update)  # traced once for both

    def train(key):
        state = algorithm.init(config, key, batch)
        for _ in range(2):  # a state that kept its key would use it again
            state, _ = update(config, state, batch)
        return state

    keys.check(train, jax.random.key(0))


@every_case
def test_no_key_is_used_twice_in_acting(algorithm, config):
    batch = contract.make_batch(algorithm, config)
    state = jax.eval_shape(lambda key: algorithm.init(config, key, batch), jax.random.key(0))
    observation = contract.first_observation(algorithm, config, batch)
    if not contract.has_policy(algorithm):
        sample = functools.partial(contract.use, algorithm, config)
        return keys.check(lambda state, key: sample(state, batch, key), state, jax.random.key(0))
    act = jax.jit(algorithm.act, static_argnames="deterministic")

    def play(state, key, deterministic):
        policy_state = initial_policy_state(algorithm, config, state)
        for each in jax.random.split(key):
            action, policy_state = act(
                config, state, observation, each, policy_state, deterministic=deterministic
            )
        return action

    for deterministic in (True, False):
        keys.check(lambda *args, d=deterministic: play(*args, d), state, jax.random.key(0))


def _draw_twice(key):
    return jax.random.normal(key), jax.random.uniform(key)


def _draw_and_split(key):
    first, _ = jax.random.split(key)
    return jax.random.normal(first), jax.random.normal(key)


def _same_part(key):
    first, _ = jax.random.split(key)
    return jax.random.normal(first), jax.random.normal(first)


def _in_a_scan(key):
    return jax.lax.scan(lambda total, _: (total + jax.random.normal(key), None), 0.0, length=2)


def _in_a_branch(key):
    drawn = ops.cond_if_any(jnp.array(True), jax.random.normal, lambda key: jnp.float32(0.0), key)
    return drawn, jax.random.normal(key)


@pytest.mark.parametrize(
    "function", [_draw_twice, _draw_and_split, _same_part, _in_a_scan, _in_a_branch]
)
def test_a_key_that_is_used_twice_is_found(function):
    with pytest.raises(KeyReuseError):
        keys.check(function, jax.random.key(0))


def test_parts_of_a_key_and_unused_keys_are_fine():
    def distinct(key):
        key, first, second = jax.random.split(key, 3)
        kept = ops.cond_if_any(
            jnp.array(True), lambda _: jnp.float32(1.0), lambda _: jnp.float32(0.0), key
        )
        return key, kept, jax.random.normal(first), jax.random.normal(second)

    keys.check(distinct, jax.random.key(0))
