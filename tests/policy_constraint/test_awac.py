"""AWAC: its losses by numpy, cloning as a limit, and the fixed point of weighting by advantages."""

import contract
import jax
import jax.numpy as jnp
import logs
import numpy as np
import probes
import pytest

from ddm.envs import tabular
from ddm.errors import InputError
from ddm.policy_constraint import awac
from ddm.policy_constraint.parts import regression

CONTRACT = contract.Contract(
    variants=[{"weight": "softmax"}, {"num_actions": contract.NUM_ACTIONS}],
)

CONFIG = awac.Config(
    hidden_sizes=(32, 32), discount=0.9, actor_learning_rate=3e-3, value_learning_rate=3e-3,
    target_rate=0.02,
)  # fmt: skip
# Linear functions of one-hot observations are tables.
TABLE = awac.Config(num_actions=2, hidden_sizes=(), discount=0.95, target_rate=0.2)
LENGTH, START = 3, 5


@pytest.fixture(scope="module")
def data():
    return probes.two_steps(awac.batch_spec(CONFIG), rows=2000, seed=0)


@pytest.fixture(scope="module")
def trained(data):
    """With inverse temperatures of 0 and 10, from one compilation."""
    configs = [CONFIG.replace(inverse_temperature=value) for value in (0.0, 10.0)]
    return probes.train_lanes(awac, configs, [data] * 2, steps=800)


def _weights(advantages, config):
    exponents = config.inverse_temperature * advantages
    if config.weight == "softmax":
        shares = np.exp(exponents - exponents.max())
        return len(shares) * shares / shares.sum()
    return np.minimum(np.exp(exponents), config.max_weight)


@pytest.mark.parametrize("weight", ["exponential", "softmax"])
def test_losses_against_numpy(data, weight):
    # A policy of no width, whose every action is its mean.
    config = CONFIG.replace(
        weight=weight, max_weight=1.2, log_std_min=-15.0, log_std_max=-15.0, hidden_sizes=(8,)
    )
    if weight == "softmax":
        config = config.replace(max_weight=100.0)
    batch = jax.tree.map(lambda leaf: leaf[:8], data)
    init, update = jax.jit(awac.init), jax.jit(awac.update)
    state = init(config, jax.random.key(0), batch)
    state = state.replace(
        critic=state.critic.replace(
            target_params=init(config, jax.random.key(1), batch).critic.params
        )
    )
    after, metrics = update(config, state, batch)

    def smallest(params, observations, actions):
        return np.min(regression.critic_network(config, 2).apply(params, observations, actions), 0)

    policy = regression.policy_at(config, state.actor, batch.next_observations)
    following = smallest(state.critic.target_params, batch.next_observations, policy.mode())
    targets = batch.rewards + 0.9 * np.where(batch.terminations, 0.0, following)
    network = regression.critic_network(config, 2)
    values = network.apply(state.critic.params, batch.observations, batch.actions)
    expected = np.square(np.asarray(values) - np.asarray(targets)).mean(axis=1).sum()
    assert metrics["critic_loss"] == pytest.approx(float(expected), rel=1e-4)

    policy = regression.policy_at(config, state.actor, batch.observations)
    advantages = smallest(after.critic.params, batch.observations, batch.actions) - smallest(
        after.critic.params, batch.observations, policy.mode()
    )
    weights = _weights(advantages, config)
    assert metrics["advantage"] == pytest.approx(float(advantages.mean()), rel=1e-3, abs=1e-5)
    assert metrics["weight"] == pytest.approx(float(weights.mean()), rel=1e-4)
    share = np.sum(weights) ** 2 / (8 * np.sum(weights**2))
    assert metrics["effective_share"] == pytest.approx(float(share), rel=1e-4)
    expected = -np.mean(weights * np.asarray(policy.log_prob(batch.actions)))
    assert metrics["actor_loss"] == pytest.approx(float(expected), rel=1e-4)


def test_without_advantages_it_is_behaviour_cloning(trained):
    state, metrics = trained[0]
    assert metrics["weight"] == pytest.approx(1.0)
    assert metrics["effective_share"] == pytest.approx(1.0)
    assert probes.mode(awac, CONFIG, state, 1.0) == pytest.approx(0.0, abs=0.1)
    # Its values are the behaviour policy's: 5/12 at the end, 0.9 of that before.
    assert metrics["q_value"] == pytest.approx(0.5 * (5 / 12) * 1.9, abs=0.05)


def test_weights_lead_to_the_best_action_and_its_values(trained):
    (cloned, before), (state, metrics) = trained
    del cloned
    assert probes.mode(awac, CONFIG, state, 1.0) == pytest.approx(probes.BEST_ACTION, abs=0.12)
    assert metrics["effective_share"] < 0.8
    assert metrics["q_value"] > before["q_value"] + 0.1  # the start's, whose target is the policy's


def _fixed_point(mdp, behavior, inverse_temperature):
    """The policy that is proportional to behavior * exp(advantage), by its own advantages."""
    policy = behavior
    for _ in range(200):
        values, action_values = tabular.evaluate_policy(mdp, policy)
        weights = behavior * np.exp(
            inverse_temperature * np.asarray(action_values - values[:, None])
        )
        policy = 0.5 * policy + 0.5 * weights / weights.sum(axis=1, keepdims=True)
    return policy, action_values


def test_discrete_actions_reach_the_fixed_point_of_their_own_advantages():
    line = tabular.line_world(LENGTH)
    log = logs.exact_log(line, logs.line_counts(LENGTH))
    temperatures = [0.0, 1.0, 3.0]

    def train(inverse_temperature):
        config = TABLE.replace(inverse_temperature=inverse_temperature)
        names = ("actor_learning_rate", "value_learning_rate")
        return logs.anneal(awac, config, log, 1500, (0.1, 1e-3), names)

    states = jax.jit(jax.vmap(train))(jnp.array(temperatures))
    observations = jnp.eye(line.num_states)[START:-1]
    reached = []
    for lane, inverse_temperature in enumerate(temperatures):
        state = jax.tree.map(lambda leaf, lane=lane: leaf[lane], states)
        policy = regression.policy_at(TABLE, state.actor, observations)
        values = regression.critic_network(TABLE, 2).apply(state.critic.params, observations)
        expected, action_values = _fixed_point(
            line, np.asarray(tabular.line_behavior(LENGTH)), inverse_temperature
        )
        np.testing.assert_allclose(policy.probs, expected[START:-1], atol=0.02)
        np.testing.assert_allclose(values[0], action_values[START:-1], atol=0.02)
        reached.append(float(policy.probs[-1, 1]))
    assert reached[0] == pytest.approx(0.1, abs=0.01)
    assert reached[0] < reached[1] < reached[2]


def test_an_unknown_weight_and_actions_of_the_other_kind_are_refused(data):
    batch = jax.tree.map(lambda leaf: leaf[:4], data)
    with pytest.raises(InputError, match="awac: weight=greedy is unknown; choose one of"):
        awac.init(CONFIG.replace(weight="greedy"), jax.random.key(0), batch)
    with pytest.raises(InputError, match=r"awac: batch\.actions are real vectors"):
        awac.init(CONFIG.replace(num_actions=2), jax.random.key(0), batch)
