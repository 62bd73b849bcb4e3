"""What GAIL and AIRL share: they play, and are judged, as the PPO inside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from ddm.imitation.parts import occupancy
from ddm.on_policy.parts import actor_critic
from ddm.types import PRNGKey, PyTree


def act(
    config: Any,
    state: Any,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """The policy's mode, or a sample from it."""
    return actor_critic.act(
        config, state.policy, observation, key, policy_state, deterministic=deterministic
    )


def log_prob(config: Any, state: Any, observations: jax.Array, actions: jax.Array) -> jax.Array:
    """Log-probability (B,) of actions that were clipped to their box."""
    return actor_critic.log_prob(config, state.policy, observations, actions)


def diagnose(config: Any, metrics: Mapping[str, float]) -> list[str]:
    """Sentences if the discriminator has collapsed, or values exceed what rewards allow."""
    return [*occupancy.collapsed(metrics), *actor_critic.diagnose(config, metrics)]


def resolve(config: Any, num_updates: int) -> Any:
    """Step sizes of PPO whose schedule is not set end with the run."""
    if config.decay_steps is not None:
        return config
    return config.replace(decay_steps=-(-num_updates // config.discriminator_steps))
