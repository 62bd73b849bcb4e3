"""What methods with a generative behaviour model share: the model, and the best of its proposals.

    L_VAE = mean (f(s, z) - a)^2 + w mean KL_j(q(z_j | s, a) || N(0, 1)),   z ~ q(z | s, a)
    a_m   = f(s, clip(z_m, -c, c)),   z_m ~ N(0, I)
    y     = r + gamma (1 - termination) max_m [lambda min_i + (1 - lambda) max_i] Qbar_i(s', a_m)
    act   = argmax_m Q_1(s, a_m)

Both means of the first line are over the batch *and* the dimensions, of actions and of latents, as
in the code of BCQ and BEAR. The clip cuts off latents that few actions of the data have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ddm import networks, ops
from ddm.ops import convergence
from ddm.types import (
    Batch,
    Configuration,
    Metrics,
    PRNGKey,
    check_continuous,
    check_vectors,
    leaf,
    static,
)

# A model has converged if about its last 900 updates lowered its loss by at most this share.
SETTLED = 0.02


class Config(Configuration):
    """Hyper-parameters of the behaviour model and of the critics."""

    critic_learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size
    vae_learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size of the behaviour model
    discount: float = leaf(0.99, "[0, 1]")  # gamma
    target_rate: float = leaf(0.005, "(0, 1]")  # tau of the moving average of the targets
    # lambda: weight of the smallest critic; that of the largest is 1 - lambda
    minimum_weight: float = leaf(0.75, "[0, 1]")
    # w: weight of the model's divergence, averaged over latent dimensions
    kl_weight: float = leaf(0.5, "[0, inf)")
    # c: bound of the latents that actions are decoded from
    latent_clip: float = leaf(0.5, "[0, inf)")
    log_var_min: float = leaf(-8.0, at_most="log_var_max")  # floor of the latent's log-variances
    # Ceiling of the latent's log-variances; the authors have 30, whose exponential can overflow
    # Adam's second moment.
    log_var_max: float = leaf(4.0, "(-inf, inf)")
    # actions at s' over which a target takes its maximum
    num_target_samples: int = static(10, "[1, inf)")
    num_eval_samples: int = static(100, "[1, inf)")  # actions among which `act` chooses
    num_critics: int = static(2, "[1, inf)")  # members of the critic ensemble
    # relu layers of policy and critics
    hidden_sizes: tuple[int, ...] = static((400, 300), "[1, inf)")
    # relu layers of encoder and decoder
    vae_hidden_sizes: tuple[int, ...] = static((750, 750), "[1, inf)")
    latent_dim: int = static(0, "[0, inf)")  # dimensions of z; 0: twice the action's
    layer_norm: bool = static(False)  # in the critics


def vae_network(config: Config, action_size: int, *, bounded: bool = True) -> networks.ActionVAE:
    """The behaviour model; if not `bounded`, it decodes to actions before their tanh."""
    return networks.ActionVAE(
        config.vae_hidden_sizes,
        config.latent_dim or 2 * action_size,
        action_size,
        bounded=bounded,
    )


def critic_network(config: Config) -> networks.ActionValue:
    """The ensemble of Q_i(s, a)."""
    return networks.ActionValue(config.hidden_sizes, config.num_critics, config.layer_norm)


def init_vae(config: Config, key: PRNGKey, batch: Batch, name: str) -> networks.Trainable:
    """A fresh behaviour model for the shapes in `batch`.

    Raises:
      InputError: integer actions, or images.
    """
    check_continuous(batch, name)
    check_vectors(batch, name)
    params_key, noise_key = jax.random.split(key)
    params = vae_network(config, batch.actions.shape[-1]).init(
        params_key, batch.observations[:1], batch.actions[:1], noise_key, *_bounds(config)
    )
    return networks.trainable(params, optax.adam(config.vae_learning_rate))


def init_critic(config: Config, key: PRNGKey, batch: Batch) -> networks.Trainable:
    """Fresh critics for the shapes in `batch`."""
    params = critic_network(config).init(key, batch.observations[:1], batch.actions[:1])
    return networks.trainable(params, optax.adam(config.critic_learning_rate))


def vae_step(
    config: Config,
    vae: networks.Trainable,
    tracker: convergence.Convergence,
    batch: Batch,
    key: PRNGKey,
) -> tuple[networks.Trainable, convergence.Convergence, Metrics]:
    """One step of the behaviour model.

    Metrics: ``vae_loss``; ``vae_progress``, the share of the loss that about the last 900 updates
    took off, near 0 in a converged model.
    """
    network = vae_network(config, batch.actions.shape[-1])

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        outputs = network.apply(params, batch.observations, batch.actions, key, *_bounds(config))
        reconstruction = jnp.mean(jnp.square(outputs.means - batch.actions))
        loss = reconstruction + config.kl_weight * jnp.mean(outputs.kl) / network.latent_dim
        return loss, {"vae_loss": loss}

    vae, metrics = networks.minimize(loss_fn, vae, optax.adam(config.vae_learning_rate))
    tracker = convergence.observe(tracker, metrics["vae_loss"])
    share = convergence.progress(tracker) / jnp.maximum(tracker.slow, 1e-8)
    return vae, tracker, {**metrics, "vae_progress": share}


def propose(
    config: Config, params: Any, observations: jax.Array, key: PRNGKey, *, bounded: bool = True
) -> jax.Array:
    """One action (..., A) of the behaviour model for each observation (..., O)."""
    network = vae_network(config, _action_size(params), bounded=bounded)
    shape = (*observations.shape[:-1], network.latent_dim)
    latents = jax.random.normal(key, shape, jnp.float32)
    latents = jnp.clip(latents, -config.latent_clip, config.latent_clip)
    return network.apply(params, observations, latents, method="decode")


def best_values(
    config: Config, params: Any, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    """The largest soft-clipped value (B,) among actions (B, M, A) at observations (B, O)."""
    values = critic_network(config).apply(params, observations, actions)
    return jnp.max(ops.mix_ensemble(values, config.minimum_weight), axis=-1)


def critic_step(
    config: Config, critic: networks.Trainable, batch: Batch, next_values: jax.Array
) -> tuple[networks.Trainable, Metrics]:
    """One step of the critics, given values (B,) of the next observations.

    Metrics: ``critic_loss``; ``q_value``, mean Q(s, a) over members and batch; ``reward_max``, the
    largest size of a reward in the batch.
    """
    reward_max = ops.largest_reward(batch.rewards)
    targets = ops.td_target(batch.rewards, config.discount, batch.terminations, next_values)

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        values = critic_network(config).apply(params, batch.observations, batch.actions)
        loss = ops.squared_td_error(values, targets)
        q_value = jnp.mean(values)
        return loss, {"critic_loss": loss, "q_value": q_value, "reward_max": reward_max}

    return networks.minimize(loss_fn, critic, optax.adam(config.critic_learning_rate))


def first_value(
    config: Config, params: Any, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    """Q_1 (B,) of actions (B, A), or (B, M) of actions (B, M, A)."""
    params = jax.tree.map(lambda leaf: leaf[:1], params)
    single = networks.ActionValue(config.hidden_sizes, 1, config.layer_norm)
    return single.apply(params, observations, actions)[0]


def choose(
    config: Config, critic_params: Any, observation: jax.Array, actions: jax.Array
) -> jax.Array:
    """The action (A,) among (M, A) with the largest Q_1 at one observation (O,)."""
    values = first_value(config, critic_params, observation[None], actions[None])
    return actions[jnp.argmax(values[0])]


def candidate_key(key: PRNGKey, deterministic: bool) -> PRNGKey:
    """The key of the actions that `act` chooses from; a fixed one if `deterministic`."""
    return jax.random.key(0) if deterministic else key


def diagnose(metrics: Mapping[str, float]) -> list[str]:
    """A sentence if the behaviour model still learns."""
    if metrics.get("vae_progress", 0.0) <= SETTLED:
        return []
    return [
        f"the behaviour model still learns: its loss fell by {metrics['vae_progress']:.0%} in "
        "about the last 900 updates, so the actions it proposes are not yet those of the data; "
        "train longer, or raise vae_learning_rate"
    ]


def _action_size(params: Any) -> int:
    return networks.output_size(params["params"]["decoder"])


def _bounds(config: Config) -> tuple[jax.Array | float, jax.Array | float]:
    return config.log_var_min, config.log_var_max
