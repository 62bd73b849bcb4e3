"""One update of CQL, continuous and with a table, against its equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import HIDDEN, Squashed, adam, adam_along, check_update, critics, tracked, transitions

from ddm.lower_bound import cql, tabular_cql
from ddm.types import Batch

CQL = cql.Config(
    hidden_sizes=HIDDEN, actor_learning_rate=0.02, critic_learning_rate=0.03,
    temperature_learning_rate=0.05, alpha_learning_rate=0.04, target_entropy=-0.7, discount=0.9,
    target_rate=0.1, backup_entropy=0.6, log_std_min=-1.0, log_std_max=0.3, alpha=1.7,
    penalty_temperature=0.7, target_gap=0.3, num_samples=3, bc_steps=4,
)  # fmt: skip


def backed_up(config, old, batch, following, key):
    """What a target takes from the next state, and the target critics' values there."""
    if config.max_target_backup:  # the best of three actions for each critic, then the lowest
        actions, _ = following.sample(key, 3)
        next_values = critics(
            old.critic.target_params, batch.next_observations, jnp.moveaxis(actions, 0, 1)
        )
        return next_values.max(axis=2).min(axis=0), next_values
    actions, log_probs = following.sample(key)
    next_values = critics(old.critic.target_params, batch.next_observations, actions)
    temperature = jnp.exp(old.temperature.params)
    return next_values.min(axis=0) - 0.6 * temperature * log_probs, next_values


def penalised(config, old, batch, following, key):
    """Actions (9, B, A), all of them at s, and their log-densities (9, B)."""
    uniform_key, current_key, next_key = jax.random.split(key, 3)
    uniform = jax.random.uniform(uniform_key, (3, 16, 2), minval=-1.0, maxval=1.0)
    current = Squashed(config, old.actor.params, batch.observations).sample(current_key, 3)
    later = following.sample(next_key, 3)
    densities = [jnp.full((3, 16), np.log(0.25)), current[1], later[1]]
    return jnp.concatenate([uniform, current[0], later[0]]), jnp.concatenate(densities)


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
        following = Squashed(config, old.actor.params, batch.next_observations)
        soft, next_values = backed_up(config, old, batch, following, target_key)
        y = batch.rewards + 0.9 * (1.0 - batch.terminations) * soft
        actions, log_densities = penalised(config, old, batch, following, sample_key)

        def parts(params):
            logged = critics(params, batch.observations, batch.actions)
            values = critics(params, batch.observations, jnp.moveaxis(actions, 0, 1))
            gaps = GAPS[config.penalty](values, log_densities.T, logged)
            return ((logged - y) ** 2).mean(axis=1).sum(), gaps, logged

        weight = jnp.exp(old.alpha.params) if config.lagrange else 1.7

        def critic_loss(params):
            error, gaps, _ = parts(params)
            return error + weight * (gaps[0].mean() + gaps[1].mean())  # a sum over members

        def actor_loss(params):
            policy = Squashed(config, params, batch.observations)
            actions, log_probs = policy.sample(actor_key)
            values = critics(old.critic.params, batch.observations, actions)  # before their step
            merit = values.min(axis=0)
            if config.bc_steps > 4:
                merit = policy.log_prob_of_raw(jnp.arctanh(batch.actions))
            return (temperature * log_probs - merit).mean(), (log_probs, values)

        loss, (log_probs, values) = actor_loss(old.actor.params)
        error, gaps, logged = parts(old.critic.params)
        critic = adam(critic_loss, old.critic, 0.03)
        entropy_gap = -(log_probs.mean() - 1.4)
        log_temperature = adam_along(entropy_gap, old.temperature, 0.05)
        alpha = old.alpha
        if config.lagrange:  # ascent on alpha (gap - target), in log alpha
            alpha = adam_along(-weight * (gaps.mean() - 0.3), old.alpha, 0.04)
        new = old.replace(
            actor=adam(lambda params: actor_loss(params)[0], old.actor, 0.02),
            critic=tracked(critic, 0.1),
            temperature=log_temperature,
            alpha=alpha,
            step=5,
            key=key,
        )
        metrics = {
            "critic_loss": error,
            "gap": gaps.mean(),
            "q_value": logged.mean(),
            "actor_loss": loss,
            "entropy": -log_probs.mean(),
            "temperature": jnp.exp(log_temperature.params),
            "alpha": weight,
            "reward_max": jnp.abs(batch.rewards).max(),
        }
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
