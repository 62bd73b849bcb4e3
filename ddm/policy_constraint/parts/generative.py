"""What methods with a generative behaviour model share: the model, and the best of its proposals.

    L_VAE = mean (f(s, z) - a)^2 + w mean KL_j(q(z_j | s, a) || N(0, 1)),   z ~ q(z | s, a)
    a_m   = f(s, clip(z_m, -c, c)),   z_m ~ N(0, I)
    v(s') = max_m [lambda min_i + (1 - lambda) max_i] Qbar_i(s', a_m)
    act   = argmax_m Q_1(s, a_m)

Both means of the first line are over the batch *and* the dimensions, of actions and of latents, as
in the code of BCQ and BEAR. The clip cuts off latents that few actions of the data have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ddm import networks, ops
from ddm.ops import convergence
from ddm.types import Batch, Configuration, Metrics, NetworkFn, PRNGKey, leaf, network, static

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
    critic_network: NetworkFn | None = network()  # in place of :func:`critic_network`
    vae_network: NetworkFn | None = network()  # in place of :func:`vae_network`


def critic_network(config: Config, action_size: int) -> networks.Network:
    """The ensemble of Q_i(s, a).

    Called with observations (B, *O) and actions (B, [M,] A); returns (E, B, [M]).
    """
    del action_size
    return networks.ActionValue(config.hidden_sizes, config.num_critics, config.layer_norm)


def vae_network(config: Config, action_size: int) -> networks.Network:
    """The behaviour model, whose decoder ends *before* the tanh of its actions.

    Called as `networks.ActionVAE` is, and by its methods `embed` and `decode`; returns a
    `networks.Reconstruction`. It also has the field `latent_dim`.
    """
    latent_dim = config.latent_dim or 2 * action_size
    return networks.ActionVAE(config.vae_hidden_sizes, latent_dim, action_size, bounded=False)


def init_vae(config: Config, key: PRNGKey, batch: Batch) -> networks.Trainable:
    """A fresh behaviour model for the shapes in `batch`."""
    model = (config.vae_network or vae_network)(config, batch.actions.shape[-1])
    params_key, noise_key = jax.random.split(key)
    example = batch.observations[:1], batch.actions[:1], noise_key
    return networks.trainable(
        model, model.init(params_key, *example, config.log_var_min, config.log_var_max)
    )


def init_critic(config: Config, key: PRNGKey, batch: Batch) -> networks.Tracked:
    """Fresh critics for the shapes in `batch`."""
    critic = (config.critic_network or critic_network)(config, batch.actions.shape[-1])
    return networks.tracked(critic, critic.init(key, batch.observations[:1], batch.actions[:1]))


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
    bounds = config.log_var_min, config.log_var_max

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        outputs = vae.apply(params, batch.observations, batch.actions, key, *bounds)
        reconstruction = jnp.mean(jnp.square(jnp.tanh(outputs.means) - batch.actions))
        loss = reconstruction + config.kl_weight * jnp.mean(outputs.kl) / _latent_dim(vae)
        return loss, {"vae_loss": loss}

    vae, metrics = networks.minimize(loss_fn, vae, config.vae_learning_rate)
    tracker = convergence.observe(tracker, metrics["vae_loss"])
    share = convergence.progress(tracker) / jnp.maximum(tracker.slow, 1e-8)
    return vae, tracker, {**metrics, "vae_progress": share}


def repeated_features(vae: networks.Trainable, observations: jax.Array, count: int) -> jax.Array:
    """What the decoder reads of observations (B, *O): `count` times the same, (B, count, F)."""
    embedded = vae(observations, method="embed")
    shape = (len(embedded), count, embedded.shape[-1])
    return jnp.broadcast_to(embedded[:, None], shape)


def propose(
    config: Config, vae: networks.Trainable, features: jax.Array, key: PRNGKey
) -> jax.Array:
    """One action (..., A) of the behaviour model, *before* its tanh, for each (..., F)."""
    shape = (*features.shape[:-1], _latent_dim(vae))
    latents = jax.random.normal(key, shape, jnp.float32)
    latents = jnp.clip(latents, -config.latent_clip, config.latent_clip)
    return vae(features, latents, method="decode")


def best_value(config: Config, values: jax.Array) -> jax.Array:
    """V(s) (B,): the largest soft-clipped value of critics (E, B, M) among M actions."""
    return jnp.max(ops.mix_ensemble(values, config.minimum_weight), axis=-1)


def choose(critic: networks.Trainable, observation: jax.Array, actions: jax.Array) -> jax.Array:
    """The action (A,) among (M, A) with the largest Q_1 at one observation (*O)."""
    values = networks.first_member(critic, observation[None], actions[None])
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


def _latent_dim(vae: networks.Trainable) -> int:
    model: Any = vae.network
    return model.latent_dim
