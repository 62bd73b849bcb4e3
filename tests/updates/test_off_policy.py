"""One update of SAC, TD3 and what shares its critics, against their equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import (
    HIDDEN,
    Squashed,
    adam,
    adam_along,
    check_update,
    critics,
    mlp,
    same,
    some_state,
    tracked,
    transitions,
)

from ddm.lower_bound import edac
from ddm.off_policy import sac, td3
from ddm.policy_constraint import rebrac, td3_bc

SAC = sac.Config(
    hidden_sizes=HIDDEN, actor_learning_rate=0.02, critic_learning_rate=0.03,
    temperature_learning_rate=0.05, target_entropy=-0.7, discount=0.9, target_rate=0.1,
    backup_entropy=0.6, log_std_min=-1.0, log_std_max=0.3,
)  # fmt: skip
TD3 = {
    "hidden_sizes": HIDDEN, "actor_learning_rate": 0.02, "critic_learning_rate": 0.03,
    "discount": 0.9, "target_rate": 0.1, "target_noise": 0.4, "target_noise_clip": 0.3,
}  # fmt: skip


def sac_equations(old, batch, more=lambda params: 0.0):
    key, target_key, actor_key = jax.random.split(old.key, 3)
    alpha = jnp.exp(old.temperature.params)
    actions, log_probs = Squashed(SAC, old.actor.params, batch.next_observations).sample(target_key)
    next_values = critics(old.critic.target_params, batch.next_observations, actions)
    soft = next_values.min(axis=0) - 0.6 * alpha * log_probs
    y = batch.rewards + 0.9 * (1.0 - batch.terminations) * soft

    def critic_loss(params):
        return ((critics(params, batch.observations, batch.actions) - y) ** 2).mean(axis=1).sum()

    critic = adam(lambda params: critic_loss(params) + more(params), old.critic, 0.03)

    def values_and_entropy(params):
        actions, log_probs = Squashed(SAC, params, batch.observations).sample(actor_key)
        return critics(critic.params, batch.observations, actions), log_probs

    def actor_loss(params):
        values, log_probs = values_and_entropy(params)
        return (alpha * log_probs - values.min(axis=0)).mean()

    values, log_probs = values_and_entropy(old.actor.params)
    # d/d log alpha of - log alpha (log pi + target), with -0.7 nats for each of two dimensions.
    temperature = adam_along(-(log_probs.mean() - 1.4), old.temperature, 0.05)
    new = old.replace(
        actor=adam(actor_loss, old.actor, 0.02),
        critic=tracked(critic, 0.1),
        temperature=temperature,
        step=5,
        key=key,
    )
    metrics = {
        "critic_loss": critic_loss(old.critic.params),
        "q_value": critics(old.critic.params, batch.observations, batch.actions).mean(),
        "actor_loss": actor_loss(old.actor.params),
        "entropy": -log_probs.mean(),
        "temperature": jnp.exp(temperature.params),
        "reward_max": jnp.abs(batch.rewards).max(),
    }
    return new, metrics, (next_values, values)


def test_sac():
    check_update(sac, SAC, transitions(), sac_equations)


def test_edac():
    """SAC with the mean over pairs of critics of the cosine of their slopes."""
    size = {name: getattr(SAC, name) for name in sac.Config.__dataclass_fields__}
    config = edac.Config(**{**size, "num_critics": 2}, diversity_weight=0.8)

    def cosine(params, batch):
        def value(member, observation, action):
            inputs = jnp.concatenate([observation, action])
            return mlp(jax.tree.map(lambda leaf: leaf[member], params), inputs)[0]

        def of_row(observation, action):
            one, other = (jax.grad(value, 2)(i, observation, action) for i in (0, 1))
            return one @ other / jnp.sqrt((one @ one) * (other @ other))

        # Both orders of the only pair, over N - 1 = 1.
        return 2.0 * jax.vmap(of_row)(batch.observations, batch.actions).mean()

    def equations(old, batch):
        new, metrics, seen = sac_equations(old, batch, lambda params: 0.8 * cosine(params, batch))
        values = critics(old.critic.params, batch.observations, batch.actions)
        spread = jnp.abs(values[0] - values[1]).mean() / 2.0
        more = {"q_spread": spread, "similarity": cosine(old.critic.params, batch)}
        return new, {**metrics, **more}, seen

    check_update(edac, config, transitions(), equations)


def test_sac_acts_by_a_sample_or_by_the_mode():
    batch = transitions()
    state = some_state(sac, SAC, batch)
    one, key = batch.observations[0], jax.random.key(7)
    policy = Squashed(SAC, state.actor.params, one)
    same(sac.act(SAC, state, one, key)[0], jnp.tanh(policy.raw(key)))
    same(sac.act(SAC, state, one, key, deterministic=True)[0], jnp.tanh(policy.mean))


# TD3 and its descendants, whose policy losses are their own.


def td3_loss(values, actions, logged):
    return -values[0].mean(), {}


def td3_bc_loss(values, actions, logged):
    weight = 2.0 / jax.lax.stop_gradient(jnp.abs(values[0]).mean())
    cloning = ((actions - logged) ** 2).sum() / (8 * 2)
    return cloning - weight * values[0].mean(), {"bc_loss": cloning}


def rebrac_loss(values, actions, logged):
    lowest = values.min(axis=0)
    weight = 1.0 / jax.lax.stop_gradient(jnp.abs(lowest).mean())
    cloning = ((actions - logged) ** 2).sum(axis=1).mean()
    return 0.3 * cloning - weight * lowest.mean(), {"bc_loss": cloning}


def td3_equations(policy_loss, critic_bc_weight=None):
    def equations(old, batch):
        key, noise_key = jax.random.split(old.key)
        noise = jnp.clip(0.4 * jax.random.normal(noise_key, (16, 2)), -0.3, 0.3)
        next_actions = jnp.tanh(mlp(old.actor.target_params, batch.next_observations))
        next_actions = jnp.clip(next_actions + noise, -1.0, 1.0)
        next_values = critics(old.critic.target_params, batch.next_observations, next_actions)
        following, more = next_values.min(axis=0), {}
        if critic_bc_weight is not None:
            distances = ((next_actions - batch.next_actions) ** 2).sum(axis=1)
            following = following - critic_bc_weight * distances
            more = {"next_bc_loss": distances.mean()}
        y = batch.rewards + 0.9 * (1.0 - batch.terminations) * following

        def critic_loss(params, rows):
            values = critics(params, batch.observations[rows], batch.actions[rows])
            return ((values - y[rows]) ** 2).mean(axis=1).sum()

        first, last = slice(0, 8), slice(8, 16)  # a critic step on each half of the batch
        between = adam(lambda params: critic_loss(params, first), old.critic, 0.03)
        critic = adam(lambda params: critic_loss(params, last), between, 0.03)

        def actor_loss(params):
            actions = jnp.tanh(mlp(params, batch.observations[last]))
            values = critics(critic.params, batch.observations[last], actions)
            return *policy_loss(values, actions, batch.actions[last]), values

        actor = adam(lambda params: actor_loss(params)[0], old.actor, 0.02)
        loss, terms, values = actor_loss(old.actor.params)
        new = old.replace(
            actor=tracked(actor, 0.1),
            critic=tracked(critic, 0.1),
            step=6,
            key=key,
        )
        logged = critics(between.params, batch.observations[last], batch.actions[last])
        metrics = {
            "critic_loss": critic_loss(between.params, last),
            "q_value": logged.mean(),
            "actor_loss": loss,
            "reward_max": jnp.abs(batch.rewards).max(),
        }
        return new, metrics | terms | more, (next_values, values)

    return equations


def test_td3():
    check_update(td3, td3.Config(**TD3), transitions(), td3_equations(td3_loss))


def test_td3_bc():
    config = td3_bc.Config(**TD3, alpha=2.0)
    check_update(td3_bc, config, transitions(), td3_equations(td3_bc_loss))


def test_rebrac():
    config = rebrac.Config(**TD3, actor_bc_weight=0.3, critic_bc_weight=0.7, layer_norm=False)
    batch = transitions("next_actions")
    check_update(rebrac, config, batch, td3_equations(rebrac_loss, critic_bc_weight=0.7))


@pytest.mark.parametrize("exploration_noise", [0.0, 0.2])
def test_td3_acts_with_noise_unless_it_is_to_be_deterministic(exploration_noise):
    config = td3.Config(**TD3, exploration_noise=exploration_noise)
    batch = transitions()
    state = some_state(td3, config, batch)
    one, key = batch.observations[0], jax.random.key(7)
    action = np.tanh(mlp(state.actor.params, one))
    noise = exploration_noise * jax.random.normal(key, (2,))
    same(td3.act(config, state, one, key)[0], np.clip(action + noise, -1.0, 1.0))
    same(td3.act(config, state, one, key, deterministic=True)[0], action)
