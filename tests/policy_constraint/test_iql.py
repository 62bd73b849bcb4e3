"""IQL: expectiles with known values, in-sample only, and cloning at its end."""

import contract
import jax
import jax.numpy as jnp
import logs
import numpy as np
import probes
import pytest

from ddm import networks
from ddm.envs import tabular
from ddm.policy_constraint import iql
from ddm.policy_constraint.parts import regression

CONTRACT = contract.Contract(
    variants=[{"dropout_rate": 0.5}, {"num_actions": contract.NUM_ACTIONS}],
)

CONFIG = iql.Config(
    hidden_sizes=(32, 32), discount=0.9, actor_learning_rate=3e-3, value_learning_rate=3e-3,
    target_rate=0.02,
)  # fmt: skip


def _value(config, state, observation):
    network = networks.StateValue(config.hidden_sizes)
    return float(network.apply(state.value.params, jnp.array([[observation]]))[0])


@pytest.fixture(scope="module")
def coin():
    """One-step episodes: action -0.5 earns 0 and +0.5 earns 1, each half of the time."""
    data = probes.two_steps(iql.batch_spec(CONFIG), rows=1000, seed=0)
    good = jnp.arange(1000) % 2 == 0
    return data.replace(
        observations=jnp.ones((1000, 1)),
        actions=jnp.where(good, 0.5, -0.5)[:, None],
        rewards=good.astype(jnp.float32),
        terminations=jnp.ones(1000, bool),
    )


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_value_is_the_expectile_of_the_logged_returns(coin, expectile):
    # Of a fair coin the expectile tau is tau itself.
    config = CONFIG.replace(expectile=expectile)
    state, _ = probes.train(iql, config, coin, steps=1500)
    assert _value(config, state, 1.0) == pytest.approx(expectile, abs=0.05)


def test_values_and_policy_of_the_two_step_probe():
    config = CONFIG.replace(expectile=0.95, inverse_temperature=10.0)
    data = probes.two_steps(iql.batch_spec(config), rows=2000, seed=0, best_share=0.2)
    state, _ = probes.train(iql, config, data, steps=2000)
    assert _value(config, state, 1.0) == pytest.approx(0.95, abs=0.1)
    assert _value(config, state, -1.0) == pytest.approx(0.9 * 0.95, abs=0.1)
    assert probes.mode(iql, config, state, 1.0) == pytest.approx(probes.BEST_ACTION, abs=0.12)


def test_without_advantage_it_is_behaviour_cloning(coin):
    config = CONFIG.replace(inverse_temperature=0.0)
    state, metrics = probes.train(iql, config, coin, steps=800)
    assert metrics["weight"] == pytest.approx(1.0)
    assert probes.mode(iql, config, state, 1.0) == pytest.approx(0.0, abs=0.1)


def test_weights_prefer_the_better_logged_action(coin):
    state, _ = probes.train(iql, CONFIG.replace(inverse_temperature=10.0), coin, steps=1500)
    assert probes.mode(iql, CONFIG, state, 1.0) == pytest.approx(0.5, abs=0.1)


def test_no_value_is_asked_for_an_action_outside_the_data(coin, monkeypatch):
    asked = []
    original = networks.ActionValue.__call__

    def spy(self, observations, actions):
        asked.append(actions)
        return original(self, observations, actions)

    batch = jax.tree.map(lambda leaf: leaf[:8], coin)
    state = iql.init(CONFIG, jax.random.key(0), batch)
    monkeypatch.setattr(networks.ActionValue, "__call__", spy)
    iql.update(CONFIG, state, batch)
    assert asked
    for actions in asked:
        np.testing.assert_array_equal(actions, batch.actions)


def test_discrete_values_of_the_line_tend_to_the_best_action_in_the_data():
    log = logs.exact_log(tabular.line_world(5), logs.line_counts(5))
    table = iql.Config(num_actions=2, hidden_sizes=(), discount=0.95, target_rate=0.2)

    def train(expectile):
        config = table.replace(expectile=expectile)
        names = ("actor_learning_rate", "value_learning_rate")
        return logs.anneal(iql, config, log, 2000, (0.1, 1e-3), names).value.params

    params = jax.jit(jax.vmap(train))(jnp.array([0.5, 0.9, 0.99]))
    values = jax.vmap(lambda each: regression.value_network(table, 2).apply(each, jnp.eye(11)))(
        params
    )
    # At the start, from an exact solver; the best supported policy earns 0.95^4 = 0.8145.
    np.testing.assert_allclose(values[:, 5], [1.2e-5, 0.102, 0.714], atol=5e-3)
    np.testing.assert_allclose(values[:, :5], 0.0, atol=0.04)  # no way back is in the data
