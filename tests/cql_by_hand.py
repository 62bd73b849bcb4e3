"""What a step of CQL and one of COMBO have in common, from the equations; see `by_hand`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from by_hand import HIDDEN, Squashed, adam, adam_along, critics, tracked

from ddm.types import Batch

# Every step size is another one. The functions below have these numbers in them.
SETTINGS: dict[str, Any] = {
    "hidden_sizes": HIDDEN, "actor_learning_rate": 0.02, "critic_learning_rate": 0.03,
    "temperature_learning_rate": 0.05, "alpha_learning_rate": 0.04, "target_entropy": -0.7,
    "discount": 0.9, "target_rate": 0.1, "backup_entropy": 0.6, "log_std_min": -1.0,
    "log_std_max": 0.3, "alpha": 1.7, "penalty_temperature": 0.7, "target_gap": 0.3,
    "num_samples": 3,
}  # fmt: skip


def soft_values(config: Any, old: Any, batch: Batch, key: jax.Array) -> tuple[Any, Any]:
    """What a target takes from the next state, and the target critics' values there."""
    actions, log_probs = Squashed(config, old.actor.params, batch.next_observations).sample(key)
    values = critics(old.critic.target_params, batch.next_observations, actions)
    return values.min(axis=0) - 0.6 * jnp.exp(old.temperature.params) * log_probs, values


def soft_maxima(config: Any, old: Any, rows: Batch, key: jax.Array) -> Callable[[Any], jax.Array]:
    """Parameters of the critics -> their soft maxima (2, B) over nine actions, all of them at s."""
    sampled, log_densities = sampled_values(config, old, rows, key)
    return lambda params: 0.7 * jnp.log(jnp.exp(sampled(params) / 0.7 - log_densities).mean(axis=2))


def sampled_values(
    config: Any, old: Any, rows: Batch, key: jax.Array
) -> tuple[Callable[[Any], jax.Array], jax.Array]:
    """Parameters of the critics -> values (2, B, 9) of nine actions; their log-densities (B, 9)."""
    uniform_key, current_key, next_key = jax.random.split(key, 3)
    shape = (3, *rows.actions.shape)
    uniform = jax.random.uniform(uniform_key, shape, minval=-1.0, maxval=1.0)
    parts = [(uniform, jnp.full(shape[:2], np.log(0.25)))]
    for observations, key in (
        (rows.observations, current_key),
        (rows.next_observations, next_key),
    ):
        parts.append(Squashed(config, old.actor.params, observations).sample(key, 3))
    actions, log_densities = (jnp.concatenate(each) for each in zip(*parts, strict=True))

    def values(params: Any) -> jax.Array:
        return critics(params, rows.observations, jnp.moveaxis(actions, 0, 1))

    return values, log_densities.T


def step(
    config: Any,
    old: Any,
    key: jax.Array,
    parts: Callable[[Any], tuple[jax.Array, jax.Array, jax.Array]],
    actor_loss: Callable[[Any, Any], tuple[jax.Array, Any]],
    critics_first: bool,
) -> tuple[Any, dict[str, jax.Array], jax.Array]:
    """The state after a step, its metrics but for the rewards', and what the actor's critics say.

    Args:
      config: with SETTINGS.
      old: the state before.
      key: of the state after.
      parts: of the critics' parameters: the squared error, the gaps (2,), the logged values.
      actor_loss: of the actor's and the critics' parameters: the loss, and (log_probs, values).
      critics_first: whether the actor's loss sees the critics after their step.
    """
    weight = jnp.exp(old.alpha.params) if config.lagrange else 1.7

    def critic_loss(params: Any) -> jax.Array:
        error, gaps, _ = parts(params)
        return error + weight * (gaps[0] + gaps[1])  # a sum over members

    critic = adam(critic_loss, old.critic, 0.03)
    seen = critic.params if critics_first else old.critic.params
    loss, (log_probs, values) = actor_loss(old.actor.params, seen)
    error, gaps, logged = parts(old.critic.params)
    temperature = adam_along(-(log_probs.mean() - 1.4), old.temperature, 0.05)
    alpha = old.alpha
    if config.lagrange:  # ascent on alpha (gap - target), in log alpha
        alpha = adam_along(-weight * (gaps.mean() - 0.3), old.alpha, 0.04)
    new = old.replace(
        actor=adam(lambda params: actor_loss(params, seen)[0], old.actor, 0.02),
        critic=tracked(critic, 0.1),
        temperature=temperature,
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
        "temperature": jnp.exp(temperature.params),
        "alpha": weight,
    }
    return new, metrics, values
