"""Tabular behaviour cloning: counts by hand, and the exact return of a clone."""

import contract
import jax
import jax.numpy as jnp
import logs
import numpy as np
import pytest

from ddm.envs import tabular
from ddm.errors import InputError
from ddm.imitation import tabular_bc
from ddm.types import Batch

CONTRACT = contract.Contract(
    small={"num_actions": contract.NUM_ACTIONS},
    other={"pseudo_count": 1.0},
    table=True,
)

CONFIG = tabular_bc.Config(num_actions=3)
# In state 0 actions 0, 1, 2 appear 5 : 3 : 2; in state 1 only action 2; state 2 is never visited.
BATCH = Batch(
    observations=jnp.eye(3)[jnp.array([0] * 10 + [1] * 10)],
    actions=jnp.array([0] * 5 + [1] * 3 + [2] * 2 + [2] * 10, jnp.int32),
)


def _fit(config, batch):
    state = tabular_bc.init(config, jax.random.key(0), batch)
    return tabular_bc.update(config, state, batch)


def test_maximum_likelihood_by_hand():
    state, metrics = _fit(CONFIG, BATCH)
    np.testing.assert_allclose(
        state.policy, [[0.5, 0.3, 0.2], [0, 0, 1], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6
    )
    entropy = -np.sum([p * np.log(p) for p in (0.5, 0.3, 0.2)])
    assert metrics["loss"] == pytest.approx(0.5 * entropy, rel=1e-5)
    assert metrics["unvisited"] == pytest.approx(1 / 3)
    again, _ = tabular_bc.update(CONFIG, state, BATCH)
    np.testing.assert_array_equal(again.policy, state.policy)


def test_pseudo_counts_by_hand():
    state, _ = _fit(CONFIG.replace(pseudo_count=1.0), BATCH)
    np.testing.assert_allclose(
        state.policy,
        [[6 / 13, 4 / 13, 3 / 13], [1 / 13, 1 / 13, 11 / 13], [1 / 3, 1 / 3, 1 / 3]],
        rtol=1e-6,
    )


def test_log_probabilities_are_those_of_the_table():
    state, _ = _fit(CONFIG, BATCH)
    observations = jnp.eye(3)[jnp.array([0, 1, 1])]
    log_probs = tabular_bc.log_prob(CONFIG, state, observations, jnp.array([1, 2, 0]))
    np.testing.assert_allclose(np.exp(log_probs), [0.3, 1.0, 0.0], rtol=1e-6)


def test_the_clone_of_a_soft_expert_has_its_return():
    # The optimal policy of the discount grid, which errs with probability 0.05 and then takes one
    # of the three other actions: its value at the start is 6.1322, by one linear solve.
    grid = tabular.discount_grid()
    optimal = tabular.value_iteration(grid).policy
    expert = 0.95 * optimal + 0.05 * (1.0 - optimal) / 3.0
    assert float(tabular.expected_return(grid, expert)) == pytest.approx(6.1322, abs=1e-3)
    batch = jax.jit(lambda key: logs.sampled_log(grid, expert, key, 60_000))(jax.random.key(0))
    config = tabular_bc.Config(num_actions=4)
    state, metrics = _fit(config, Batch(observations=batch.observations, actions=batch.actions))
    alive = ~np.asarray(grid.terminal)
    divergence = np.sum(expert * np.log(expert / state.policy), axis=-1)[alive]
    assert divergence.mean() < 1e-3
    assert metrics["unvisited"] == pytest.approx(1 / grid.num_states)  # the end
    # The return falls by about 20 for each unit of the error rate, which 2,600 rows a state know
    # to 0.004 in one state, and far better on average.
    assert float(tabular.expected_return(grid, state.policy)) == pytest.approx(6.1322, abs=0.05)


@pytest.mark.parametrize(
    ("config", "actions", "message"),
    [
        (CONFIG, jnp.zeros((4, 1)), "tabular_bc: batch.actions are float32"),
        (tabular_bc.Config(), jnp.zeros(4, jnp.int32), "tabular_bc: needs num_actions"),
    ],
)
def test_what_no_table_can_hold_is_refused_by_name(config, actions, message):
    batch = Batch(observations=jnp.eye(4), actions=actions)
    with pytest.raises(InputError, match=message):
        tabular_bc.init(config, jax.random.key(0), batch)
