"""One update of AlgaeDICE, against its equations."""

import jax
import jax.numpy as jnp
from by_hand import HIDDEN, Squashed, adam, adam_along, check_update, critics, tracked, transitions

from ddm.policy_constraint import algae_dice

CONFIG = algae_dice.Config(
    hidden_sizes=HIDDEN, actor_learning_rate=0.02, critic_learning_rate=0.03,
    temperature_learning_rate=0.05, target_entropy=-0.7, discount=0.9, target_rate=0.1,
    backup_entropy=0.6, log_std_min=-1.0, log_std_max=0.3, alpha=0.5, exponent=2.5,
    online_share=0.3, orthogonal_weight=0.01,
)  # fmt: skip


def equations(old, batch):
    key, actor_key, *critic_keys = jax.random.split(old.key, 4)
    halves = [jax.tree.map(lambda leaf, i=i: jnp.split(leaf, 2)[i], batch) for i in (0, 1)]
    tau = jnp.exp(old.temperature.params)

    def residuals(actor, critic, rows, key):
        actions, log_probs = Squashed(CONFIG, actor, rows.next_observations).sample(key)
        online = critics(critic, rows.next_observations, actions)
        target = critics(old.critic.target_params, rows.next_observations, actions)
        ahead = 0.3 * online + 0.7 * target.min(axis=0) - 0.6 * tau * log_probs
        values = critics(critic, rows.observations, rows.actions)
        return rows.rewards + 0.9 * (1.0 - rows.terminations) * ahead - values, values, log_probs

    def initial(actor, critic, rows, key):
        actions, _ = Squashed(CONFIG, actor, rows.initial_observations).sample(key)
        return 0.5 * 0.1 * critics(critic, rows.initial_observations, actions)

    def critic_loss(params, rows, key):
        next_key, initial_key = jax.random.split(key)
        deltas, _, _ = residuals(old.actor.params, params, rows, next_key)
        first = initial(old.actor.params, params, rows, initial_key)
        return (jnp.abs(deltas) ** 2.5 / 2.5 + first).mean(axis=1).sum()

    critic = before = old.critic
    for rows, critic_key in zip(halves, critic_keys, strict=True):
        before = critic
        loss = lambda params, rows=rows, key=critic_key: critic_loss(params, rows, key)  # noqa: E731
        critic = adam(loss, critic, 0.03)

    def actor_loss(params):
        next_key, initial_key = jax.random.split(actor_key)
        deltas, _, log_probs = residuals(params, critic.params, halves[1], next_key)
        first = initial(params, critic.params, halves[1], initial_key)
        weights = jax.lax.stop_gradient(jnp.maximum(deltas, 0.0)) ** 1.5
        products = [leaf.T @ leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
        slanted = sum(((each - jnp.diag(jnp.diag(each))) ** 2).sum() for each in products)
        return 0.01 * slanted - (weights * deltas + first).mean(), log_probs

    actor_value, log_probs = actor_loss(old.actor.params)
    temperature = adam_along(-(log_probs.mean() - 1.4), old.temperature, 0.05)
    next_key, _ = jax.random.split(critic_keys[1])
    deltas, values, _ = residuals(old.actor.params, before.params, halves[1], next_key)
    new = old.replace(
        actor=adam(lambda params: actor_loss(params)[0], old.actor, 0.02),
        critic=tracked(critic, 0.1),
        temperature=temperature,
        step=6,
        key=key,
    )
    metrics = {
        "critic_loss": critic_loss(before.params, halves[1], critic_keys[1]),
        "q_value": values.mean(),
        "density_ratio": (jnp.maximum(deltas, 0.0) ** 1.5).mean() / 0.5,
        "actor_loss": actor_value,
        "entropy": -log_probs.mean(),
        "temperature": jnp.exp(temperature.params),
        "reward_max": jnp.abs(batch.rewards).max(),
    }
    return new, metrics, (values,)


def test_algae_dice():
    check_update(algae_dice, CONFIG, transitions("initial_observations"), equations)
