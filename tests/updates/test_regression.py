"""One update of each weighted regression, against its equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import (
    HIDDEN,
    NUM_ACTIONS,
    OBSERVATION_SIZE,
    adam,
    all_values,
    check_update,
    chosen,
    critics,
    mlp,
    normal_log_prob,
    same,
    some_state,
    tracked,
    transitions,
)

from ddm.policy_constraint import awac, awr, crr, iql, one_step
from ddm.policy_constraint.parts import regression
from ddm.types import Batch

SHARED = {
    "hidden_sizes": HIDDEN, "actor_learning_rate": 0.02, "value_learning_rate": 0.03,
    "discount": 0.9, "log_std_min": -1.0, "log_std_max": 0.3, "actor_decay_steps": 10,
}  # fmt: skip
RATE = 0.02 * 0.5 * (1.0 + np.cos(0.4 * np.pi))  # of the policy's cosine after 4 of 10 steps
KINDS = pytest.mark.parametrize("num_actions", [0, NUM_ACTIONS])


# The policies: a Gaussian about a tanh mean with one width a dimension, and a softmax.


def log_prob(params, observations, actions):
    outputs = mlp(params, observations)
    if actions.ndim == 1:
        return chosen(jax.nn.log_softmax(outputs), actions)
    log_std = jnp.clip(params["params"]["log_std"], -1.0, 0.3)
    return normal_log_prob(actions, jnp.tanh(outputs), log_std)


def sample(params, observations, key, *count):
    mean = jnp.tanh(mlp(params, observations))
    noise = jax.random.normal(key, (*count, *mean.shape))
    raw = mean + jnp.exp(jnp.clip(params["params"]["log_std"], -1.0, 0.3)) * noise
    return jnp.clip(raw, -1.0, 1.0)


def value_of_policy(critic, params, observations, key, num_actions):
    """E_pi min_i Q_i (B,), of one sample or exactly; and the values of the critics themselves."""
    if num_actions:
        values = all_values(critic, observations)
        probabilities = jax.nn.softmax(mlp(params, observations))
        return (probabilities * values.min(axis=0)).sum(axis=-1), values[..., 0]
    values = critics(critic, observations, sample(params, observations, key))
    return values.min(axis=0), values


def value(params, observations):
    return mlp(params, observations)[..., 0]


# The steps.


def actor_step(model, batch, weights):
    def loss(params):
        return -(weights * log_prob(params, batch.observations, batch.actions)).mean()

    share = weights.sum() ** 2 / (len(weights) * (weights**2).sum())
    metrics = {
        "actor_loss": loss(model.params), "weight": weights.mean(), "effective_share": share,
    }  # fmt: skip
    return adam(loss, model, RATE), metrics


def critic_step(model, batch, next_values):
    y = batch.rewards + 0.9 * (1.0 - batch.terminations) * next_values

    def loss(params):
        return ((critics(params, batch.observations, batch.actions) - y) ** 2).mean(axis=1).sum()

    metrics = {
        "critic_loss": loss(model.params),
        "q_value": critics(model.params, batch.observations, batch.actions).mean(),
        "reward_max": jnp.abs(batch.rewards).max(),
    }
    return adam(loss, model, 0.03), metrics


def value_step(model, observations, loss_of_values):
    loss = lambda params: loss_of_values(value(params, observations)).mean()  # noqa: E731
    metrics = {"value_loss": loss(model.params), "value": value(model.params, observations).mean()}
    return adam(loss, model, 0.03), metrics


def exponential(advantages, inverse_temperature, maximum):
    return jnp.minimum(jnp.exp(inverse_temperature * advantages), maximum)


@KINDS
def test_iql(num_actions):
    def equations(old, batch):
        key, _ = jax.random.split(old.key)
        logged = critics(old.critic.target_params, batch.observations, batch.actions)
        target = logged.min(axis=0)

        def expectile(values):
            return jnp.abs(0.8 - (target - values < 0.0)) * (target - values) ** 2

        new_value, value_metrics = value_step(old.value, batch.observations, expectile)
        # Policy and critics see V after its step.
        advantages = target - value(new_value.params, batch.observations)
        actor, actor_metrics = actor_step(old.actor, batch, exponential(advantages, 2.0, 5.0))
        next_values = value(new_value.params, batch.next_observations)
        critic, critic_metrics = critic_step(old.critic, batch, next_values)
        new = old.replace(
            actor=actor,
            value=new_value,
            critic=tracked(critic, 0.1),
            step=5,
            key=key,
        )
        return new, value_metrics | actor_metrics | critic_metrics, (logged,)

    config = iql.Config(
        **SHARED, target_rate=0.1, expectile=0.8, inverse_temperature=2.0, max_weight=5.0,
        num_actions=num_actions,
    )  # fmt: skip
    check_update(iql, config, transitions(num_actions=num_actions), equations)


def test_one_step():
    def equations(old, batch):
        key, _ = jax.random.split(old.key)
        logged = critics(old.critic.target_params, batch.observations, batch.actions)
        following = critics(old.critic.target_params, batch.next_observations, batch.next_actions)
        critic, critic_metrics = critic_step(old.critic, batch, following.min(axis=0))
        target = logged.min(axis=0)
        new_value, value_metrics = value_step(
            old.value, batch.observations, lambda values: (values - target) ** 2
        )
        advantages = target - value(new_value.params, batch.observations)
        actor, actor_metrics = actor_step(old.actor, batch, exponential(advantages, 2.0, 5.0))
        new = old.replace(
            actor=actor,
            value=new_value,
            critic=tracked(critic, 0.1),
            step=5,
            key=key,
        )
        return new, value_metrics | actor_metrics | critic_metrics, (logged, following)

    config = one_step.Config(
        **SHARED, target_rate=0.1, inverse_temperature=2.0, max_weight=5.0, bc_steps=4
    )
    check_update(one_step, config, transitions("next_actions"), equations)


def advantages_of(critic, old, batch, key, num_actions, baseline, count):
    """Min_i Q_i of the logged actions, less the baseline of the policy's."""
    logged = critics(critic, batch.observations, batch.actions)
    if num_actions:
        values = all_values(critic, batch.observations).min(axis=0)
        shares = jax.nn.softmax(mlp(old.actor.params, batch.observations))
    else:
        actions = sample(old.actor.params, batch.observations, key, count)
        values = critics(critic, batch.observations, jnp.moveaxis(actions, 0, 1)).min(axis=0)
        shares = jnp.full(values.shape, 1.0 / count)
    if baseline == "max":
        return logged.min(axis=0) - values.max(axis=-1), logged
    return logged.min(axis=0) - (shares * values).sum(axis=-1), logged


@KINDS
def test_awac(num_actions):
    def equations(old, batch):
        key, target_key, sample_key, _ = jax.random.split(old.key, 4)
        next_values, following = value_of_policy(
            old.critic.target_params, old.actor.params, batch.next_observations, target_key,
            num_actions,
        )  # fmt: skip
        critic, critic_metrics = critic_step(old.critic, batch, next_values)
        advantages, logged = advantages_of(
            critic.params, old, batch, sample_key, num_actions, "mean", 3
        )
        actor, actor_metrics = actor_step(old.actor, batch, exponential(advantages, 2.0, 5.0))
        new = old.replace(
            actor=actor,
            critic=tracked(critic, 0.1),
            step=5,
            key=key,
        )
        metrics = {**critic_metrics, **actor_metrics, "advantage": advantages.mean()}
        return new, metrics, (following, logged)

    config = awac.Config(
        **SHARED, target_rate=0.1, inverse_temperature=2.0, max_weight=5.0, num_samples=3,
        num_actions=num_actions,
    )  # fmt: skip
    check_update(awac, config, transitions(num_actions=num_actions), equations)


@pytest.mark.parametrize(
    ("weight", "baseline", "num_actions"),
    [("binary", "mean", 0), ("exponential", "max", 0), ("exponential", "mean", NUM_ACTIONS)],
)
def test_crr(weight, baseline, num_actions):
    def equations(old, batch):
        key, target_key, sample_key, _ = jax.random.split(old.key, 4)
        next_values, following = value_of_policy(
            old.critic.target_params, old.actor.target_params, batch.next_observations,
            target_key, num_actions,
        )  # fmt: skip
        critic, critic_metrics = critic_step(old.critic, batch, next_values)
        advantages, logged = advantages_of(
            critic.params, old, batch, sample_key, num_actions, baseline, 3
        )
        weights = (advantages > 0.0) * 1.0
        weights = exponential(advantages, 2.0, 5.0) if weight == "exponential" else weights
        actor, actor_metrics = actor_step(old.actor, batch, weights)
        new = old.replace(
            actor=tracked(actor, 0.1),
            critic=tracked(critic, 0.1),
            step=5,
            key=key,
        )
        return new, critic_metrics | actor_metrics, (following, logged)

    config = crr.Config(
        **SHARED, target_rate=0.1, inverse_temperature=2.0, max_weight=5.0, num_samples=3,
        num_critics=2, weight=weight, baseline=baseline, num_actions=num_actions,
    )  # fmt: skip
    check_update(crr, config, transitions(num_actions=num_actions), equations)


# AWR, on windows.

LENGTHS = np.array([4, 2, 3, 1, 4, 3])  # valid steps in each of six windows
TERMINATES = np.array([False, True, False, True, True, False])  # the others end by truncation


def windows():
    """Six windows of four steps; beyond an episode's end they repeat its last one."""
    random = np.random.default_rng(0)
    states = random.normal(size=(6, 5, OBSERVATION_SIZE))
    actions = random.uniform(-0.95, 0.95, (6, 4, 2))
    rewards = random.normal(size=(6, 4))
    steps = np.minimum(np.arange(4), LENGTHS[:, None] - 1)
    rows = np.arange(6)[:, None]
    floats = [states[rows, steps], actions[rows, steps], rewards[rows, steps]]
    return Batch(
        *(jnp.asarray(each, jnp.float32) for each in floats),
        next_observations=jnp.asarray(states[rows, steps + 1], jnp.float32),
        terminations=jnp.asarray(TERMINATES[:, None] & (steps == LENGTHS[:, None] - 1)),
        mask=jnp.asarray(np.arange(4) < LENGTHS[:, None]),
    )


def lambda_return(params, batch, row):
    """From the last valid step backward: its end is bootstrapped by V, or by 0."""
    total = 0.0
    for step in reversed(range(LENGTHS[row])):
        following = value(params, batch.next_observations[row, step])
        if step == LENGTHS[row] - 1:
            ahead = 0.0 if TERMINATES[row] else following
        else:
            ahead = 0.2 * following + 0.8 * total
        total = batch.rewards[row, step] + 0.9 * ahead
    return total


def test_awr():
    def equations(old, batch):
        key, _ = jax.random.split(old.key)
        rows = jax.tree.map(lambda leaf: leaf[:, 0], batch)
        returns = jnp.stack([lambda_return(old.value.params, batch, row) for row in range(6)])
        advantages = returns - value(old.value.params, rows.observations)  # V before its step
        new_value, value_metrics = value_step(
            old.value, rows.observations, lambda values: (values - returns) ** 2
        )
        standard = (advantages - advantages.mean()) / (advantages.std() + 1e-5)
        actor, actor_metrics = actor_step(old.actor, rows, exponential(standard, 2.0, 5.0))
        metrics = {
            "return": returns.mean(),
            "advantage_std": advantages.std(),
            "reward_max": jnp.abs(batch.rewards).max(),
        }
        new = old.replace(actor=actor, value=new_value, step=5, key=key)
        return new, metrics | value_metrics | actor_metrics, ()

    config = awr.Config(
        **SHARED, trace_decay=0.8, inverse_temperature=2.0, max_weight=5.0, window=4
    )
    check_update(awr, config, windows(), equations)


@KINDS
def test_they_act_by_a_sample_or_by_the_mode(num_actions):
    config = iql.Config(**SHARED, num_actions=num_actions)
    batch = transitions(num_actions=num_actions)
    state = some_state(iql, config, batch)
    one, key = batch.observations[0], jax.random.key(7)
    outputs = mlp(state.actor.params, one)
    mode = jnp.argmax(outputs) if num_actions else jnp.tanh(outputs)
    same(iql.act(config, state, one, key, deterministic=True)[0], mode)
    act = lambda key: iql.act(config, state, one, key)[0]  # noqa: E731
    actions = np.asarray(jax.jit(jax.vmap(act))(jax.random.split(key, 2000)))
    if num_actions:
        shares = np.bincount(actions, minlength=num_actions) / 2000
        np.testing.assert_allclose(shares, jax.nn.softmax(outputs), atol=0.04)
    else:
        same(act(key), sample(state.actor.params, one, key))
        assert np.abs(actions).max() == 1.0  # clipped to the box


def test_dropout_is_for_training_alone():
    config = iql.Config(**{**SHARED, "actor_learning_rate": 0.0}, dropout_rate=0.5)
    batch = transitions()
    state = some_state(iql, config, batch)
    keys = jax.random.split(jax.random.key(0), 2)
    one = batch.observations[0]
    for key in keys:
        mode, _ = iql.act(config, state, one, key, deterministic=True)
        same(mode, jnp.tanh(mlp(state.actor.params, one)))
    weights = jnp.ones(16)
    first, again, other = (
        regression.actor_step(config, state.actor, batch, weights, state.step, key)[1]["actor_loss"]
        for key in (keys[0], keys[0], keys[1])
    )
    assert first == again != other
