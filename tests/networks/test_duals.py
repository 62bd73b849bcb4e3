"""Dual variables stay inside their bounds and turn with their gradient, in every method."""

import types
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from ddm import networks
from ddm.lower_bound import cql
from ddm.off_policy import sac
from ddm.policy_constraint import algae_dice, bear, brac
from ddm.types import Batch

ACTIONS = Batch(actions=jnp.zeros((1, 2)))


def _temperature(algorithm):
    config = algorithm.Config(temperature_learning_rate=0.1, temperature_max=10.0)

    def step(dual, sign):
        state: Any = types.SimpleNamespace(temperature=dual)
        entropy = jnp.asarray(2.0 * config.target_entropy - 50.0 * sign)
        return sac.temperature_step(config, state, entropy, ACTIONS)

    return step, np.log(1e-6), np.log(10.0)


def _cql():
    config = cql.Config(lagrange=True, alpha_learning_rate=0.1)

    def step(dual, sign):
        state: Any = types.SimpleNamespace(alpha=dual)
        return cql.alpha_step(config, state, jnp.asarray(config.target_gap + sign))

    return step, np.log(1e-6), np.log(1e6)


def _bear():
    config = bear.Config(alpha_learning_rate=0.1)
    return lambda dual, sign: bear.alpha_step(config, dual, config.epsilon + sign), -5.0, 10.0


def _brac():
    config = brac.Config(adaptive=True, alpha_learning_rate=0.1, alpha_max=9.0)

    def step(dual, sign):
        state: Any = types.SimpleNamespace(alpha=dual)
        return brac.alpha_step(config, state, jnp.asarray(config.target_divergence + sign))

    return step, 0.0, 9.0


DUALS = {
    "sac": lambda: _temperature(sac),
    "algae_dice": lambda: _temperature(algae_dice),
    "cql temperature": lambda: _temperature(cql),
    "cql": _cql,
    "bear": _bear,
    "brac": _brac,
}


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", DUALS)
def test_a_dual_variable_stays_inside_its_bounds_and_comes_back(name, sign):
    step, low, high = DUALS[name]()
    at_bound = high if sign > 0 else low
    start = jnp.asarray(at_bound - 2.0 * sign, jnp.float32)
    dual = networks.trainable(None, start)
    for _ in range(100):
        dual = step(dual, sign)
        assert low - 1e-3 <= dual.params <= high + 1e-3
    assert dual.params == pytest.approx(at_bound, abs=1e-3)
    for _ in range(60):
        dual = step(dual, -sign)
    assert abs(float(dual.params) - at_bound) > 0.5


def test_a_start_outside_of_the_bounds_is_the_bound():
    assert networks.log_dual(0.0, 1e-6, 1e6) == pytest.approx(np.log(1e-6))
    assert networks.log_dual(1e9, 1e-6, 1e6) == pytest.approx(np.log(1e6))
    assert networks.log_dual(5.0, 1e-6, 1e6) == pytest.approx(np.log(5.0))


@pytest.mark.parametrize(
    ("diagnose", "metrics", "low", "high"),
    [
        (sac.diagnose, "temperature", 1e-6, 1e4),
        (cql.diagnose, "alpha", 1e-6, 1e6),
        (algae_dice.diagnose, "temperature", 1e-6, 1e4),
        (bear.diagnose, "log_alpha", -5.0, 10.0),
        (brac.diagnose, "alpha", 0.0, 500.0),
    ],
)
def test_both_ends_are_reported_and_nothing_between(diagnose, metrics, low, high):
    configs = {
        sac.diagnose: sac.Config(),
        cql.diagnose: cql.Config(lagrange=True),
        algae_dice.diagnose: algae_dice.Config(),
        bear.diagnose: bear.Config(),
        brac.diagnose: brac.Config(adaptive=True),
    }
    config = configs[diagnose]
    [sentence] = diagnose(config, {metrics: high})
    assert f"{metrics} stands at its upper bound of {high:g}" in sentence
    [sentence] = diagnose(config, {metrics: low})
    assert f"{metrics} stands at its lower bound of {low:g}" in sentence
    assert diagnose(config, {metrics: 1.0}) == []
