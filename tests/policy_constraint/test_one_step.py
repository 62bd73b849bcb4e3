"""One-step improvement: exact values of the behaviour policy, and one step from them."""

import contract
import jax
import jax.numpy as jnp
import logs
import numpy as np
import probes
import pytest

from ddm import networks
from ddm.envs import tabular
from ddm.policy_constraint import one_step
from ddm.policy_constraint.parts import regression

CONTRACT = contract.Contract(
    variants=[{"num_actions": contract.NUM_ACTIONS}],
    other={"bc_steps": 10},
)

CONFIG = one_step.Config(
    hidden_sizes=(32, 32), discount=0.9, actor_learning_rate=3e-3, value_learning_rate=3e-3,
    target_rate=0.02,
)  # fmt: skip
# Linear functions of one-hot observations are tables.
TABLE = one_step.Config(num_actions=2, hidden_sizes=(), discount=0.95, target_rate=0.2)
LENGTH, START = 3, 5


@pytest.fixture(scope="module")
def data():
    return probes.two_steps(one_step.batch_spec(CONFIG), rows=2000, seed=0)


@pytest.fixture(scope="module")
def trained(data):
    """Cloning by temperature, cloning by patience, and improvement."""
    configs = [
        CONFIG.replace(inverse_temperature=0.0, bc_steps=0),
        CONFIG.replace(inverse_temperature=10.0, bc_steps=10_000),
        CONFIG.replace(inverse_temperature=10.0, bc_steps=100),
    ]
    return probes.train_lanes(one_step, configs, [data] * 3, steps=1000)


@pytest.fixture(scope="module")
def lines():
    """The line world, and states for three temperatures on ten rows of each of its states."""
    line, counts = tabular.line_world(LENGTH), logs.line_counts(LENGTH)
    log = logs.with_next_actions(logs.exact_log(line, counts), counts)

    def train(inverse_temperature):
        config = TABLE.replace(inverse_temperature=inverse_temperature)
        names = ("actor_learning_rate", "value_learning_rate")
        return logs.anneal(one_step, config, log, 1000, (0.1, 1e-3), names)

    return line, jax.jit(jax.vmap(train))(jnp.array(TEMPERATURES))


TEMPERATURES = (0.0, 3.0, 10.0)


def test_values_are_exactly_the_behaviour_policys(lines):
    line, states = lines
    behavior = tabular.line_behavior(LENGTH)
    values, action_values = tabular.evaluate_policy(line, behavior)
    observations = jnp.eye(line.num_states)[:-1]
    network = regression.critic_network(TABLE, 2)
    found = jax.vmap(lambda params: network.apply(params, observations))(states.critic.params)
    for lane in range(len(TEMPERATURES)):  # the policy does not matter
        supported = np.asarray(behavior[:-1]) > 0
        errors = (found[lane] - action_values[None, :-1])[:, supported]
        np.testing.assert_allclose(errors, 0.0, atol=2e-3)
    found = regression.value_network(TABLE, 2).apply(
        jax.tree.map(lambda leaf: leaf[0], states.value.params), observations
    )
    np.testing.assert_allclose(found, values[:-1], atol=2e-3)


def test_the_policy_is_one_step_from_behaviour(lines):
    line, states = lines
    behavior = np.asarray(tabular.line_behavior(LENGTH))
    values, action_values = tabular.evaluate_policy(line, behavior)
    reached = []
    for lane, inverse_temperature in enumerate(TEMPERATURES):
        actor = jax.tree.map(lambda leaf, lane=lane: leaf[lane], states.actor)
        policy = regression.policy_at(TABLE, actor, jnp.eye(line.num_states)).probs
        weights = np.exp(inverse_temperature * np.asarray(action_values - values[:, None]))
        expected = behavior * np.minimum(weights, TABLE.max_weight)
        expected /= expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(policy[START:-1], expected[START:-1], atol=0.02)
        policy = policy.at[:START].set(behavior[:START])
        goal = jnp.arange(line.num_states) == line.num_states - 1
        reached.append(float(tabular.reach_within(line, policy, goal, 200)[START]))
    # What exact one-step improvement reaches from the start, by an independent calculation.
    np.testing.assert_allclose(reached, [1.22e-3, 0.011, 0.028], rtol=0.25)


def test_cloning_until_the_advantages_count(trained):
    for state, metrics in trained[:2]:
        assert metrics["weight"] == pytest.approx(1.0)
        assert probes.mode(one_step, CONFIG, state, 1.0) == pytest.approx(0.0, abs=0.1)
    state, metrics = trained[2]
    assert probes.mode(one_step, CONFIG, state, 1.0) == pytest.approx(0.5, abs=0.12)
    assert metrics["effective_share"] < 0.9


def test_better_policies_leave_the_values_at_those_of_behaviour(trained):
    network = networks.StateValue(CONFIG.hidden_sizes)
    for state, _ in trained:
        found = network.apply(state.value.params, jnp.array([[1.0], [-1.0]]))
        np.testing.assert_allclose(found, [5 / 12, 0.9 * 5 / 12], atol=0.1)


def test_losses_against_numpy_and_no_action_outside_the_data(data, monkeypatch):
    config = CONFIG.replace(hidden_sizes=(8,), inverse_temperature=5.0, max_weight=2.0)
    batch = jax.tree.map(lambda leaf: leaf[:8], data)
    init = jax.jit(one_step.init)
    state = init(config, jax.random.key(0), batch)
    state = state.replace(
        critic=state.critic.replace(
            target_params=init(config, jax.random.key(1), batch).critic.params
        )
    )
    network = regression.critic_network(config, 2)
    both = network.apply(state.critic.params, batch.observations, batch.actions)
    logged = network.apply(state.critic.target_params, batch.observations, batch.actions)
    following = network.apply(
        state.critic.target_params, batch.next_observations, batch.next_actions
    )
    policy = regression.policy_at(config, state.actor, batch.observations)
    log_probs = np.asarray(policy.log_prob(batch.actions))

    asked = []
    original = networks.ActionValue.__call__

    def spy(self, observations, actions):
        asked.append(actions.shape)
        return original(self, observations, actions)

    monkeypatch.setattr(networks.ActionValue, "__call__", spy)
    after, metrics = jax.jit(one_step.update)(config, state, batch)
    assert set(asked) == {(16, 1), (8, 1)}  # logged ones with the next ones, and logged ones

    targets = batch.rewards + 0.9 * np.where(batch.terminations, 0.0, np.min(following, axis=0))
    expected = np.square(np.asarray(both - targets)).mean(axis=1).sum()
    assert metrics["critic_loss"] == pytest.approx(float(expected), rel=1e-4)
    logged = np.min(logged, axis=0)
    values = regression.value_network(config, 2).apply(state.value.params, batch.observations)
    assert metrics["value_loss"] == pytest.approx(
        float(np.square(values - logged).mean()), rel=1e-4
    )
    values = regression.value_network(config, 2).apply(after.value.params, batch.observations)
    weights = np.minimum(np.exp(5.0 * (logged - np.asarray(values))), 2.0)
    assert weights.min() < 2.0 < weights.max() + 1e-5
    assert metrics["actor_loss"] == pytest.approx(float(-np.mean(weights * log_probs)), rel=1e-4)
