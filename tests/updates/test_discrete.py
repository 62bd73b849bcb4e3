"""One update of discrete BCQ, SPIBB-DQN and fitted Q iteration, against their equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import (
    HIDDEN,
    NUM_ACTIONS,
    adam,
    all_values,
    averaged,
    check_update,
    mlp,
    some_state,
    transitions,
)

from ddm.off_policy import fitted_q
from ddm.policy_constraint import discrete_bcq, spibb_dqn

SHARED = {
    "hidden_sizes": HIDDEN, "num_actions": NUM_ACTIONS, "learning_rate": 0.03,
    "behavior_learning_rate": 0.04, "logit_penalty": 0.3, "huber_width": 0.5, "discount": 0.9,
    "target_rate": 0.1,
}  # fmt: skip
ROWS = np.arange(16)


def critic_step(old, batch, next_values, target_period):
    y = batch.rewards + 0.9 * (1.0 - batch.terminations) * next_values

    def loss(params):
        sizes = jnp.abs(all_values(params, batch.observations)[0, ROWS, batch.actions] - y)
        return jnp.where(sizes < 0.5, 0.5 * sizes**2, 0.5 * (sizes - 0.25)).mean()

    critic = adam(loss, old.critic, 0.03)
    rate = 0.1 if target_period == 0 else float(5 % target_period == 0)  # this is the fifth step
    target_params = averaged(critic.target_params, critic.params, rate)
    metrics = {
        "critic_loss": loss(old.critic.params),
        "q_value": all_values(old.critic.params, batch.observations)[0, ROWS, batch.actions].mean(),
        "reward_max": jnp.abs(batch.rewards).max(),
    }
    return critic.replace(target_params=target_params), metrics


def behavior_step(old, batch):
    def parts(params):
        logits = mlp(params, batch.observations)
        likelihood = jax.nn.log_softmax(logits)[ROWS, batch.actions].mean()
        return -likelihood, (logits**2).mean()

    def loss(params):
        negative, squares = parts(params)
        return negative + 0.3 * squares

    now, _ = parts(old.policy.params)
    count = old.tracker.count + 1
    fast, slow = (
        average + rate / (1.0 - (1.0 - rate) ** count) * (now - average)
        for average, rate in ((old.tracker.fast, 0.01), (old.tracker.slow, 0.001))
    )
    tracker = old.tracker.replace(fast=fast, slow=slow, count=count)
    metrics = {"behavior_loss": now, "behavior_progress": slow - fast}
    return old.replace(policy=adam(loss, old.policy, 0.04), tracker=tracker), metrics


def differ(one, other):
    """Two tables of values as critics (2, B K) that must disagree."""
    return jnp.stack([one.ravel(), other.ravel()])


@pytest.mark.parametrize("target_period", [0, 5])
def test_discrete_bcq(target_period):
    def equations(old, batch):
        probabilities = jax.nn.softmax(mlp(old.behavior.policy.params, batch.next_observations))
        allowed = probabilities >= 0.6 * probabilities.max(axis=1, keepdims=True)
        online = all_values(old.critic.params, batch.next_observations)[0]
        target = all_values(old.critic.target_params, batch.next_observations)[0]
        next_actions = jnp.where(allowed, online, -1e9).argmax(axis=1)
        critic, metrics = critic_step(old, batch, target[ROWS, next_actions], target_period)
        behavior, more = behavior_step(old.behavior, batch)
        new = old.replace(behavior=behavior, critic=critic, step=5)
        metrics = {**metrics, **more, "allowed": allowed.mean()}
        return new, metrics, (differ(online, target),)

    config = discrete_bcq.Config(**SHARED, threshold=0.6, target_period=target_period)
    check_update(discrete_bcq, config, transitions(num_actions=NUM_ACTIONS), equations)


def _counts(observations):
    return 5.0 * jnp.abs(observations)  # (B, 3): as many pseudo-counts as actions


@pytest.mark.parametrize("double_q", [False, True])
def test_spibb_dqn(double_q):
    def equations(old, batch):
        behavior, more = behavior_step(old.behavior, batch)
        probabilities = jax.nn.softmax(mlp(behavior.policy.params, batch.next_observations))
        uncertain = _counts(batch.next_observations) < 3.0
        online = all_values(old.critic.params, batch.next_observations)[0]
        target = all_values(old.critic.target_params, batch.next_observations)[0]
        kept = (probabilities * uncertain * target).sum(axis=1)
        free = 1.0 - (probabilities * uncertain).sum(axis=1)
        choice = jnp.where(uncertain, -1e9, online if double_q else target).argmax(axis=1)
        free = jnp.where(uncertain.all(axis=1), 0.0, free)
        critic, metrics = critic_step(old, batch, kept + free * target[ROWS, choice], 0)
        new = old.replace(behavior=behavior, critic=critic, step=5)
        scarce = _counts(batch.observations)[ROWS, batch.actions] < 3.0
        return new, {**metrics, **more, "uncertain": scarce.mean()}, (differ(online, target),)

    config = spibb_dqn.Config(**SHARED, min_count=3.0, count=_counts, double_q=double_q)
    check_update(spibb_dqn, config, transitions(num_actions=NUM_ACTIONS), equations)


def test_fitted_q_on_rows_that_end():
    config = fitted_q.Config(discount=0.9, ridge=0.3, num_actions=NUM_ACTIONS)
    batch = transitions(rows=40, num_actions=NUM_ACTIONS)
    old = some_state(fitted_q, config, batch)
    new, metrics = jax.jit(fitted_q.update)(config, old, batch)
    weights = np.asarray(old.action_values, np.float64)
    features = np.asarray(batch.observations, np.float64)
    following = (np.asarray(batch.next_observations, np.float64) @ weights).max(axis=1)
    going_on = 1.0 - np.asarray(batch.terminations, float)
    y = np.asarray(batch.rewards, np.float64) + 0.9 * going_on * following
    actions = np.asarray(batch.actions)
    values = (features @ weights)[np.arange(40), actions]
    for action in range(NUM_ACTIONS):
        rows = features[actions == action]
        pull = 0.3 * np.diag((rows**2).sum(axis=0))
        moments = rows.T @ y[actions == action] + pull @ weights[:, action]
        expected = np.linalg.solve(rows.T @ rows + pull, moments)
        np.testing.assert_allclose(new.action_values[:, action], expected, rtol=1e-3, atol=1e-4)
    assert new.step == 5
    assert metrics["critic_loss"] == pytest.approx(np.mean((y - values) ** 2), rel=1e-4)
    assert metrics["q_value"] == pytest.approx(values.mean(), rel=1e-4)
    assert metrics["reward_max"] == pytest.approx(np.abs(batch.rewards).max())
