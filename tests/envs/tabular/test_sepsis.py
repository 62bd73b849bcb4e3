"""The sepsis simulator: the published returns to their digits, and its dynamics case by case."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import envs
from ddm.envs import tabular
from ddm.envs.tabular import sepsis
from ddm.errors import InputError

NOTHING, VASOPRESSORS, VENTILATION, ANTIBIOTICS = 0, 1, 2, 4

# Returns of 20 steps: of the optimal policy, with 5 and 14 % of other actions, of random actions,
# without treatment, and with antibiotics alone.
RETURNS = {
    "faithful": (0.4297, 0.3170, 0.1485, -0.7588, -0.8092, -0.4050),
    "fixed": (0.5614, 0.4638, 0.3039, -0.7164, -0.7591, -0.3940),
}


@functools.cache
def _world(variant):
    return sepsis.sepsis_world(variant)


def _state(diabetic=0, heart=1, pressure=1, oxygen=1, glucose=2, flags=(0, 0, 0)):
    levels = (diabetic, heart, pressure, oxygen, glucose, *flags)
    return int(np.ravel_multi_index(levels, sepsis.LEVELS))


def _after(state, action, part, variant="faithful"):
    """Level -> probability of one part of the next state."""
    mdp = _world(variant)
    levels = np.unravel_index(np.asarray(mdp.next_states[state, action]), sepsis.LEVELS)[part]
    chances = np.bincount(levels, np.asarray(mdp.probabilities[state, action], float))
    return {level: round(float(p), 5) for level, p in enumerate(chances) if p > 0.0}


def _return(mdp, policy):
    visits = tabular.expected_visits(mdp, policy, discount=1.0, horizon=sepsis.NUM_STEPS)
    return float(jnp.sum(visits * mdp.expected_rewards()))


@pytest.mark.parametrize("variant", sepsis.VARIANTS)
def test_returns_are_the_published_ones(variant):
    mdp = _world(variant)
    always = lambda action: jnp.zeros((1440, 8)).at[:, action].set(1.0)  # noqa: E731
    found = [_return(mdp, sepsis.sepsis_behavior(mdp, epsilon)) for epsilon in (0.0, 0.05, 0.14)]
    found += [_return(mdp, policy) for policy in (jnp.full((1440, 8), 0.125), always(NOTHING))]
    found.append(_return(mdp, always(ANTIBIOTICS)))
    np.testing.assert_allclose(found, RETURNS[variant], atol=6e-5)


def test_19_percent_of_the_patients_are_diabetic():
    initial = np.asarray(_world("faithful").initial)
    assert initial[sepsis.NUM_OBSERVATIONS :].sum() == pytest.approx(0.190, abs=5e-4)
    assert initial[np.asarray(_world("faithful").terminal)].sum() == 0.0


def test_antibiotics_lower_high_signs_and_their_end_raises_normal_ones():
    for part in (1, 2):
        assert _after(_state(heart=2, pressure=2), ANTIBIOTICS, part) == {1: 0.5, 2: 0.5}
        on = (1, 0, 0)
        assert _after(_state(oxygen=0, flags=on), NOTHING, part) == {1: 0.9, 2: 0.1}
        assert _after(_state(oxygen=0), NOTHING, part) == {0: 0.1, 1: 0.8, 2: 0.1}


def test_vasopressors_act_after_antibiotics_and_otherwise_on_diabetics():
    # high, then half of it normal, of which vasopressors raise 70 %
    both = ANTIBIOTICS + VASOPRESSORS
    assert _after(_state(pressure=2), both, 2) == {1: 0.15, 2: 0.85}
    assert _after(_state(pressure=0), VASOPRESSORS, 2) == {0: 0.3, 1: 0.7}
    assert _after(_state(1, pressure=0), VASOPRESSORS, 2) == {0: 0.1, 1: 0.5, 2: 0.4}
    assert _after(_state(1, oxygen=0), VASOPRESSORS, 4) == {2: 0.5, 3: 0.5}
    assert _after(_state(oxygen=0), VASOPRESSORS, 4) == {2: 1.0}
    on = (0, 1, 0)
    assert _after(_state(flags=on), NOTHING, 2) == {0: 0.1, 1: 0.9}
    assert _after(_state(1, flags=on), NOTHING, 2) == {0: 0.05, 1: 0.95}
    assert _after(_state(1, flags=on), NOTHING, 4) == {1: 0.3, 2: 0.4, 3: 0.3}


def test_ventilation_raises_oxygen_and_its_end_may_lower_it():
    assert _after(_state(oxygen=0), VENTILATION, 3) == {0: 0.3, 1: 0.7}
    assert _after(_state(heart=0, flags=(0, 0, 1)), NOTHING, 3) == {0: 0.1, 1: 0.9}


def test_a_rise_of_glucose_depends_on_the_variant():
    assert _after(_state(heart=0, glucose=4), NOTHING, 4) == {1: 0.1, 3: 0.1, 4: 0.8}
    assert _after(_state(heart=0, glucose=2), NOTHING, 4) == {1: 0.2, 2: 0.8}
    assert _after(_state(heart=0, glucose=3), NOTHING, 4, "fixed") == {2: 0.1, 3: 0.8, 4: 0.1}
    with pytest.raises(InputError, match="variant=mended is unknown; choose one of faithful"):
        sepsis.sepsis_world("mended")


def test_death_and_discharge_end_and_are_rewarded_once():
    mdp = _world("faithful")
    assert mdp.terminal[_state()]  # all normal, no treatment
    assert not mdp.terminal[_state(flags=(0, 0, 1))]
    assert mdp.terminal[_state(heart=0, pressure=0, oxygen=0)]
    assert not mdp.terminal[_state(heart=0, pressure=0)]
    state = _state(heart=0)  # left alone it is normal, or dead, by two independent signs
    rewards = np.broadcast_to(mdp.rewards, mdp.probabilities.shape)[state, NOTHING]
    chances = np.asarray(mdp.probabilities[state, NOTHING])
    well = 0.1 * 0.8 * 0.9 * 0.8
    assert chances[rewards == 1.0].sum() == pytest.approx(well, abs=1e-6)


def test_the_simulator_shows_everything_but_diabetes():
    environment = envs.make("Sepsis-v0")
    params = environment.default_params
    assert params.max_steps == sepsis.NUM_STEPS
    sick, diabetic = params.features[_state(heart=0)], params.features[_state(1, heart=0)]
    np.testing.assert_array_equal(sick, diabetic)
    assert len(np.unique(np.asarray(params.features), axis=0)) == sepsis.NUM_OBSERVATIONS
    told = sepsis.sepsis_features(diabetes=True)
    assert len(np.unique(np.asarray(told), axis=0)) == 2 * sepsis.NUM_OBSERVATIONS


def test_sampled_returns_agree_with_exact_ones():
    environment = envs.make("Sepsis-v0")
    params = environment.default_params
    policy = jax.tree_util.Partial(lambda observation, key, carried: (jnp.int32(0), carried))
    episodes = envs.collect(environment, policy, jax.random.key(0), num_steps=20_000, params=params)
    returns = [float(np.sum(episode["rewards"])) for episode in episodes]
    exact = _return(_world("faithful"), jnp.zeros((1440, 8)).at[:, 0].set(1.0))
    assert np.mean(returns) == pytest.approx(exact, abs=4 * np.std(returns) / len(returns) ** 0.5)
