"""Termination rules on both sides of each limit, and which one a log gets."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import ddm
from ddm import data
from ddm.model_based import dynamics
from ddm.model_based.parts import terminations

HEALTHY = {
    "hopper": [1.2, 0.0] + [0.0] * 9,
    "walker2d": [1.2, 0.0] + [0.0] * 15,
    "ant": [0.5] + [0.0] * 26,
    "humanoid": [1.4] + [0.0] * 44,
    "inverted_pendulum": [0.0, 0.0, 0.0, 0.0],
}
# rule, column, value inside of the limit, value outside
LIMITS = [
    ("hopper", 0, 0.701, 0.699),
    ("hopper", 0, 500.0, 0.7),  # the height has no upper limit, and 0.7 itself is too low
    ("hopper", 1, 0.199, 0.201),
    ("hopper", 1, -0.199, -0.201),
    ("hopper", 2, 99.9, 100.1),
    ("hopper", 2, -99.9, -100.1),  # two-sided: the authors' code misses this one
    ("hopper", 10, -99.9, -100.1),
    ("walker2d", 0, 0.801, 0.799),
    ("walker2d", 0, 1.999, 2.001),
    ("walker2d", 1, 0.999, 1.001),
    ("walker2d", 1, -0.999, -1.001),
    ("ant", 0, 0.201, 0.199),
    ("ant", 0, 0.999, 1.001),
    ("humanoid", 0, 1.001, 0.999),
    ("humanoid", 0, 1.999, 2.001),
    ("inverted_pendulum", 1, 0.199, 0.201),
    ("inverted_pendulum", 1, -0.199, -0.201),
]


@pytest.mark.parametrize(("rule", "column", "inside", "outside"), LIMITS)
def test_a_rule_on_both_sides_of_its_limit(rule, column, inside, outside):
    states = np.array([HEALTHY[rule]] * 2, np.float32)
    states[:, column] = inside, outside
    found = terminations.RULES[rule](jnp.asarray(states))
    np.testing.assert_array_equal(found, [False, True])


@pytest.mark.parametrize("rule", sorted(HEALTHY))
def test_what_is_not_finite_is_not_healthy_or_is_cut_before(rule):
    states = np.array([HEALTHY[rule]], np.float32)
    assert not np.asarray(terminations.RULES[rule](jnp.asarray(states)))[0]
    states[:, 0 if rule != "inverted_pendulum" else 1] = np.inf
    ends = np.asarray(terminations.RULES[rule](jnp.asarray(states)))[0]
    assert ends == (rule != "hopper")  # its height has no upper limit: rollouts cut it


def test_never_never_ends():
    assert not np.asarray(terminations.never(jnp.full((3, 2), 1e9))).any()


def _hopper_log(environment, wrong=0):
    """Ten episodes of three steps: at the end of the odd ones the hopper has fallen."""
    observations, ends = np.zeros((30, 11), np.float32), np.arange(30) % 6 == 5
    observations[:, 0] = 1.25
    following = np.roll(observations, -1, axis=0)
    following[ends, 0] = 0.5
    flags = ends.copy()
    flags[np.flatnonzero(ends)[:wrong]] = False
    last = np.arange(30) % 3 == 2
    log = data.from_arrays(
        observations, np.zeros((30, 3)), np.zeros(30), flags, last & ~flags, following,
        action_space=(-np.ones(3), np.ones(3)), environment_id=environment,
    )  # fmt: skip
    return data.normalize(log, observations="standardize")


@pytest.mark.parametrize(
    ("environment", "wrong", "expected"),
    [
        ("Hopper-v5", 0, "hopper"),
        ("some/namespace/Hopper-v2", 0, "hopper"),
        ("Hopper-v5", 1, "learned"),  # the rule disagrees with one transition of thirty
        ("Walker2d-v5", 0, "walker2d"),  # of which this log could be
        ("Ant-v5", 0, "learned"),  # of which it could not
        ("HalfCheetah-v5", 0, "learned"),  # this one has terminations, whatever its name says
        ("HalfCheetah-v5", 5, "never"),
        ("Maze-v0", 0, "learned"),
        ("Maze-v0", 5, "never"),
        (None, 5, "never"),
    ],
)
def test_a_log_gets_the_rule_that_agrees_with_it(environment, wrong, expected):
    log = _hopper_log(environment, wrong)
    config = ddm.prepare(dynamics, dynamics.Config(), log)
    assert config.termination == expected
    np.testing.assert_allclose(config.observation_mean, log.normalization.observation_mean)
    np.testing.assert_allclose(config.observation_std, log.normalization.observation_std)
    assert config.reward_unit == 1.0
    [note] = dynamics.notes(config, log)
    assert f"'{expected}'" in note or "as the model learns" in note


def test_a_rule_that_is_named_is_kept():
    log = _hopper_log("Hopper-v5", 1)
    config = ddm.prepare(dynamics, dynamics.Config(termination="hopper"), log)
    assert config.termination == "hopper"
    [note] = dynamics.notes(config, log)
    assert "96.67 %" in note
