"""One update of CQL, continuous and with a table, against its equations."""

import cql_by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import Squashed, check_update, critics, transitions
from cql_by_hand import SETTINGS

from ddm.lower_bound import cql, tabular_cql
from ddm.types import Batch

CQL = cql.Config(**SETTINGS, bc_steps=4)


def backed_up(config, old, batch, key):
    """What a target takes from the next state, and the target critics' values there."""
    if not config.max_target_backup:
        return cql_by_hand.soft_values(config, old, batch, key)
    # The best of three actions for each critic, then the lowest.
    actions, _ = Squashed(config, old.actor.params, batch.next_observations).sample(key, 3)
    next_values = critics(
        old.critic.target_params, batch.next_observations, jnp.moveaxis(actions, 0, 1)
    )
    return next_values.max(axis=2).min(axis=0), next_values


# Of nine sampled actions, the second three are the policy's.
GAPS = {
    "entropy": lambda q, log_q, d: 0.7 * jnp.log(jnp.exp(q / 0.7 - log_q).mean(axis=2)) - d,
    "kl": lambda q, log_q, d: 0.7 * jnp.log(jnp.exp(q[..., 3:6] / 0.7).mean(axis=2)) - d,
    "expected": lambda q, log_q, d: q[..., 3:6].mean(axis=2) - d,
    "pointwise": lambda q, log_q, d: q[..., 3:6].mean(axis=2),
}


def equations_of(config):
    def equations(old, batch):
        key, target_key, actor_key, sample_key = jax.random.split(old.key, 4)
        temperature = jnp.exp(old.temperature.params)
        soft, next_values = backed_up(config, old, batch, target_key)
        y = batch.rewards + 0.9 * (1.0 - batch.terminations) * soft
        sampled, log_densities = cql_by_hand.sampled_values(config, old, batch, sample_key)

        def parts(params):
            logged = critics(params, batch.observations, batch.actions)
            gaps = GAPS[config.penalty](sampled(params), log_densities, logged).mean(axis=1)
            return ((logged - y) ** 2).mean(axis=1).sum(), gaps, logged

        def actor_loss(params, critic):
            policy = Squashed(config, params, batch.observations)
            actions, log_probs = policy.sample(actor_key)
            values = critics(critic, batch.observations, actions)
            merit = values.min(axis=0)
            if config.bc_steps > 4:
                merit = policy.log_prob_of_raw(jnp.arctanh(batch.actions))
            return (temperature * log_probs - merit).mean(), (log_probs, values)

        new, metrics, values = cql_by_hand.step(
            config, old, key, parts, actor_loss, critics_first=False
        )
        metrics["reward_max"] = jnp.abs(batch.rewards).max()
        return new, metrics, (next_values, values)

    return equations


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lagrange": True, "bc_steps": 5},
        {"max_target_backup": True},
        {"penalty": "kl"},
        {"penalty": "expected"},
        {"penalty": "pointwise"},
    ],
    ids=["plain", "lagrange", "max_target", "kl", "expected", "pointwise"],
)
def test_cql(changes):
    config = CQL.replace(**changes)
    check_update(cql, config, transitions(), equations_of(config))


def test_cql_with_a_table():
    config = tabular_cql.Config(learning_rate=0.7, discount=0.9, alpha=0.4, num_actions=2)
    states, actions = np.array([0, 0, 1, 0]), np.array([0, 1, 1, 0])
    next_states, ends = np.array([1, 2, 2, 0]), np.array([False, True, False, False])
    rewards = np.array([1.0, -2.0, 0.5, 0.3], np.float32)
    eye = np.eye(3, dtype=np.float32)
    batch = Batch(eye[states], actions.astype(np.int32), rewards, eye[next_states], ends)
    table = np.array([[1.0, -1.0], [0.5, 2.0], [-0.5, -3.0]], np.float32)
    old = tabular_cql.init(config, jax.random.key(0), batch).replace(action_values=table)
    new, metrics = tabular_cql.update(config, old, batch)

    gradient, errors, gaps = np.zeros((3, 2)), [], []
    for s, a, r, after, end in zip(states, actions, rewards, next_states, ends, strict=True):
        error = table[s, a] - (r + 0.9 * (0.0 if end else table[after].max()))
        exponents = np.exp(table[s])
        gradient[s, a] += error - 0.4
        gradient[s] += 0.4 * exponents / exponents.sum()
        errors.append(error)
        gaps.append(np.log(exponents.sum()) - table[s, a])
    np.testing.assert_allclose(new.action_values, table - 0.7 * gradient / 4, rtol=1e-5)
    assert new.step == 1
    assert metrics["critic_loss"] == pytest.approx(0.5 * np.mean(np.square(errors)), rel=1e-5)
    assert metrics["gap"] == pytest.approx(np.mean(gaps), rel=1e-5)
    assert metrics["q_value"] == pytest.approx(np.mean(table[states, actions]), rel=1e-5)
