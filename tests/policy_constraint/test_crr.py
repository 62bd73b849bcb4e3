"""CRR: its weights and baselines by numpy, its limits, and the line world by support."""

import contract
import jax
import jax.numpy as jnp
import logs
import numpy as np
import probes
import pytest

from ddm.envs import tabular
from ddm.errors import InputError
from ddm.policy_constraint import crr
from ddm.policy_constraint.parts import regression

CONTRACT = contract.Contract(
    variants=[
        {"weight": "exponential", "baseline": "max", "num_critics": 2},
        {"num_actions": contract.NUM_ACTIONS},
    ],
    other={"baseline": "max"},
)

CONFIG = crr.Config(
    hidden_sizes=(32, 32), discount=0.9, actor_learning_rate=3e-3, value_learning_rate=3e-3,
    target_rate=0.02,
)  # fmt: skip
SMALL = CONFIG.replace(hidden_sizes=(8,))
LENGTH, START = 5, 5

_init, _update = jax.jit(crr.init), jax.jit(crr.update)


@pytest.fixture(scope="module")
def data():
    return probes.two_steps(crr.batch_spec(CONFIG), rows=2000, seed=0)


@pytest.fixture(scope="module")
def batch(data):
    return jax.tree.map(lambda leaf: leaf[:32], data)


def test_baselines_by_hand():
    values, shares = jnp.array([[1.0, 5.0], [2.0, 2.0]]), jnp.array([[0.75, 0.25], [0.5, 0.5]])
    np.testing.assert_allclose(crr.mean_baseline(values, shares), [2.0, 2.0])
    np.testing.assert_allclose(crr.max_baseline(values, shares), [5.0, 2.0])


def test_losses_against_numpy(batch):
    # A policy of no width, whose every action is its mean: mean and maximum agree.
    config = SMALL.replace(
        weight="exponential", max_weight=1.05, log_std_min=-15.0, log_std_max=-15.0
    )
    state, other = (_init(config, jax.random.key(seed), batch) for seed in (0, 1))
    state = state.replace(
        critic=state.critic.replace(target_params=other.critic.params),
        actor=state.actor.replace(target_params=other.actor.params),
    )
    after, metrics = _update(config, state, batch)

    network = regression.critic_network(config, 1)
    target_policy = regression.policy_at(config, other.actor, batch.next_observations)
    following = network.apply(other.critic.params, batch.next_observations, target_policy.mode())
    targets = batch.rewards + 0.9 * np.where(batch.terminations, 0.0, following[0])
    values = network.apply(state.critic.params, batch.observations, batch.actions)[0]
    expected = np.square(np.asarray(values - targets)).mean()
    assert metrics["critic_loss"] == pytest.approx(float(expected), rel=1e-4)

    policy = regression.policy_at(config, state.actor, batch.observations)
    advantages = network.apply(after.critic.params, batch.observations, batch.actions)[0]
    advantages -= network.apply(after.critic.params, batch.observations, policy.mode())[0]
    weights = np.minimum(np.exp(advantages), 1.05)
    assert 1.0 < weights.max() < 1.05 + 1e-6
    expected = -np.mean(weights * np.asarray(policy.log_prob(batch.actions)))
    assert metrics["actor_loss"] == pytest.approx(float(expected), rel=1e-4)
    assert metrics["weight"] == pytest.approx(float(weights.mean()), rel=1e-4)

    binary, metrics = _update(config.replace(weight="binary"), state, batch)
    assert metrics["weight"] == pytest.approx(float((advantages > 0).mean()))
    jax.tree.map(np.testing.assert_array_equal, binary.critic, after.critic)


def test_the_maximum_keeps_fewer_actions_than_the_mean_and_uniform_weights_all(batch):
    shares = {}
    for name, changes in {
        "mean": {}, "max": {"baseline": "max"}, "all": {"weight": "uniform"}
    }.items():  # fmt: skip
        config = SMALL.replace(**changes)
        _, metrics = _update(config, _init(config, jax.random.key(0), batch), batch)
        shares[name] = float(metrics["weight"])
    assert 0.0 < shares["max"] < shares["mean"] < shares["all"]
    assert shares["all"] == 1.0


def test_only_better_actions_are_cloned_until_the_best_is_left(data):
    state, metrics = probes.train(crr, CONFIG, data, steps=1000)
    assert probes.mode(crr, CONFIG, state, 1.0) == pytest.approx(probes.BEST_ACTION, abs=0.1)
    assert 0.1 < metrics["weight"] < 0.6
    network = regression.critic_network(CONFIG, 1)
    start = network.apply(state.critic.params, -jnp.ones((1, 1)), jnp.zeros((1, 1)))
    # 0.9 of what the policy earns, whose width costs a little; 0.375 for the behaviour policy.
    assert float(start[0, 0]) == pytest.approx(0.85, abs=0.15)


def test_a_function_in_place_of_a_name(batch):
    def median(values, shares):
        del shares
        return jnp.median(values, axis=-1)

    config = SMALL.replace(baseline=median, weight=lambda advantages, rate, most: advantages**2)
    _, metrics = _update(config, _init(config, jax.random.key(0), batch), batch)
    assert 0.0 < metrics["weight"] < 1.0


def test_discrete_actions_find_the_best_supported_way_along_the_line():
    line = tabular.line_world(LENGTH)
    log = logs.exact_log(line, logs.line_counts(LENGTH))
    config = crr.Config(num_actions=2, hidden_sizes=(), discount=0.95, target_rate=0.2)

    @jax.jit
    def train():
        names = ("actor_learning_rate", "value_learning_rate")
        return logs.anneal(crr, config, log, 1000, (0.1, 1e-3), names)

    state = train()
    observations = jnp.eye(line.num_states)[START:-1]
    policy = regression.policy_at(config, state.actor, observations)
    np.testing.assert_array_less(0.9, policy.probs[:, 1])
    values = state.critic(observations)
    best = 0.95 ** np.arange(LENGTH - 1, -1, -1)
    np.testing.assert_allclose(values[0, :, 1], best, atol=0.03)


def test_choices_that_leave_nothing_to_clone_are_refused(batch):
    discrete = batch.replace(actions=jnp.zeros(32, jnp.int32))
    config = SMALL.replace(num_actions=2, baseline="max")
    with pytest.raises(InputError, match="weight=binary with baseline=max gives no discrete"):
        crr.init(config, jax.random.key(0), discrete)
    # Exponential weights have no such trouble: the best action has a weight of 1.
    config = config.replace(weight="exponential")
    _, metrics = _update(config, _init(config, jax.random.key(0), discrete), discrete)
    assert 0.0 < metrics["weight"] <= 1.0
    with pytest.raises(InputError, match="crr: baseline=mode is unknown"):
        crr.init(SMALL.replace(baseline="mode"), jax.random.key(0), batch)
