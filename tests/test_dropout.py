"""Dropout is for training: what acts, and what says how likely an action is, has none of it."""

import dataclasses
import functools

import contract
import jax
import keys
import pytest

from ddm.types import initial_policy_state

# Where dropout has an effect.
CONTEXT = {"history_bc": {"history": "transformer"}, "autoregressive": {"decoder": "transformer"}}
LAYERS = {"num_layers": 1, "width": 8, "num_heads": 2}


def _algorithms():
    for algorithm in contract.algorithms():
        names = {field.name for field in dataclasses.fields(algorithm.Config)}
        if "dropout_rate" in names:
            name = contract.short_name(algorithm)
            options = {key: value for key, value in LAYERS.items() if key in names}
            make = functools.partial(
                contract.small_config, algorithm, **CONTEXT.get(name, {}) | options
            )
            marks = [contract.one_worker(algorithm)]
            if name not in ("iql", "history_bc"):
                marks.append(pytest.mark.slow)
            yield pytest.param(algorithm, make, id=name, marks=marks)


def _program(function, *arguments):
    with keys.without_custom_vmap():
        return str(jax.make_jaxpr(function)(*arguments))


@pytest.mark.parametrize(("algorithm", "make"), list(_algorithms()))
def test_programs_that_act_are_those_without_dropout(algorithm, make):
    plain, dropping = make(dropout_rate=0.0), make(dropout_rate=0.5)
    batch = contract.make_batch(algorithm, plain)
    key = jax.random.key(0)
    state_of = lambda config: jax.eval_shape(  # noqa: E731
        lambda key: algorithm.init(config, key, batch), key
    )
    observation = contract.first_observation(algorithm, plain, batch)

    def act(config, deterministic):
        def play(state, key):
            policy_state = initial_policy_state(algorithm, config, state)
            return algorithm.act(
                config, state, observation, key, policy_state, deterministic=deterministic
            )

        return _program(play, state_of(config), key)

    def log_prob(config):
        return _program(
            lambda state: algorithm.log_prob(config, state, batch.observations, batch.actions),
            state_of(config),
        )

    for deterministic in (True, False):
        assert act(plain, deterministic) == act(dropping, deterministic)
    # Of chunks and windows, whose log-probabilities take other shapes, the acting is enough.
    if hasattr(algorithm, "log_prob") and algorithm.batch_spec(plain).window is None:
        assert log_prob(plain) == log_prob(dropping)

    update = lambda config: _program(  # noqa: E731
        functools.partial(algorithm.update, config), state_of(config), batch
    )
    assert update(plain) != update(dropping)  # but it is there


def test_what_has_dropout_is_found():
    found = {contract.short_name(each.values[0]) for each in _algorithms()}
    assert found >= {"act", "autoregressive", "diffusion", "flow_matching", "history_bc", "iql"}
