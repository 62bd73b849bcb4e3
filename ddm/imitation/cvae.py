"""CVAE policy: behaviour cloning with a latent variable that chooses among several ways to act.

    L = E_{z ~ q(z | s, a)} [ rec(a, f(s, z)) ] + beta KL(q(z | s, a) || p(z | s))

minus the evidence lower bound of a conditional variational autoencoder (Sohn et al. 2015), in
the form that robomimic trains (Mandlekar et al. 2021). ``rec`` is *summed* over action dimensions
(robomimic averages: its beta is ours over A) and averaged over the batch, the divergence is
summed over the latent's dimensions:

- ``gaussian``: -log N(a; f(s, z), diag(sigma^2)) with one learned sigma for each action; at beta 1
  the bound itself, in nats.
- ``mse``: |a - f(s, z)|^2, the bound for a fixed sigma^2 of beta / 2, up to a factor. Where the
  actions vary by less than that, the latent is not used at all.
- ``l1``: the sum of absolute errors, the bound for a Laplace density of scale beta.

Acting draws z from the prior and returns f(s, z), without the decoder's noise. The priors:

- ``standard_normal``: N(0, I). There is also probability between the regions that the encoder uses
  for two modes, and it decodes to actions between them. Deterministic actions take z = 0, which
  lies there: **they average the modes**, and at a fork they are always wrong. Draw actions
  (deterministic=False) where the demonstrator has several ways.
- ``learned``: N(mean(s), diag(sigma(s)^2)). Deterministic actions take z = mean(s), with the same
  defect.
- ``mixture``: of Gaussians that depend on s; its components sit on the modes. The divergence is
  estimated at the drawn z. Deterministic actions draw a component by its weight and take its mean.

Other differences from robomimic: ``gaussian`` is the default, not its mean squared error, because
it needs no choice of a width; the mixture's weights are learned (robomimic: uniform unless set),
and every learned prior depends on s (robomimic: only if set); the step size is BCQ's 1e-3
(robomimic: 1e-4).

A divergence near 0 means that the latent is ignored (posterior collapse) and the policy is a
regression. A warm-up of beta and free bits help against this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks, ops
from ddm.types import (
    Batch,
    BatchSpec,
    Configuration,
    Metrics,
    NetworkFn,
    PRNGKey,
    PyTree,
    check_batch,
    check_continuous,
    choice,
    leaf,
    network,
    static,
)


class Config(Configuration):
    """Hyper-parameters of the CVAE policy."""

    learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size (BCQ's VAE; robomimic: 1e-4)
    # gradient steps over which a cosine takes the step size to 0; 0: constant
    decay_steps: int = leaf(0, "[0, inf)")
    # decoupled weight decay (AdamW), per unit of learning rate
    weight_decay: float = leaf(0.0, "[0, inf)")
    # weight of the divergence (robomimic); 1 with gaussian is the bound
    beta: float = leaf(1.0, "[0, inf)")
    # gradient steps over which beta rises from 0; 0: none (robomimic)
    beta_warmup_steps: int = leaf(0, "[0, inf)")
    # nats of divergence, batch mean, that cost nothing; 0: none
    free_bits: float = leaf(0.0, "[0, inf)")
    # floor of the latent's log-variances (robomimic)
    log_var_min: float = leaf(-8.0, at_most="log_var_max")
    # Ceiling of the latent's log-variances; robomimic has 30, whose exponential's square overflows
    # Adam's second moment.
    log_var_max: float = leaf(4.0, "(-inf, inf)")
    # floor of the decoder's learned log standard deviations
    log_std_min: float = leaf(-5.0, at_most="log_std_max")
    # ceiling of the decoder's learned log standard deviations
    log_std_max: float = leaf(2.0, "(-inf, inf)")
    reconstruction: str = choice(lambda: LIKELIHOODS, "gaussian")  # what errors cost
    prior: str = choice(networks.PRIORS, "standard_normal")  # of the latent
    num_components: int = static(10, "[1, inf)")  # Gaussians of the mixture prior (robomimic)
    # dimensions of z; 0: twice the action's (robomimic, BCQ)
    latent_dim: int = static(0, "[0, inf)")
    # relu layers of the encoder, the decoder and the prior (robomimic)
    hidden_sizes: tuple[int, ...] = static((300, 400), "[1, inf)")
    bounded: bool = static(True)  # the decoder ends in a tanh
    encoder: str = choice(networks.ENCODERS, "none")  # none: observations are vectors; conv: images
    policy_network: NetworkFn | None = network()  # see `policy_network`


class State(struct.PyTreeNode):
    """Everything that training changes."""

    policy: networks.Trainable
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


class Likelihood(NamedTuple):
    """How actions (..., A) are compared with the decoded ones, per row."""

    loss: Callable[[Config, networks.Reconstruction, jax.Array], jax.Array]
    log_prob: Callable[[Config, networks.Reconstruction, jax.Array], jax.Array]
    learned_std: bool = False


def batch_spec(config: Config) -> BatchSpec:
    """Observations and the actions taken there."""
    del config
    return BatchSpec(fields=("observations", "actions"))


def policy_network(config: Config, action_size: int) -> networks.ActionVAE:
    """The autoencoder of actions that a configuration describes.

    It maps observations (B, *O), actions (B, A), a key and the bounds of the latent's log-variances
    to a `networks.Reconstruction`. Its method `generate` maps observations, a key and these bounds
    to actions.
    """
    return networks.ActionVAE(
        config.hidden_sizes,
        config.latent_dim or 2 * action_size,
        action_size,
        prior_kind=config.prior,
        num_components=config.num_components,
        bounded=config.bounded,
        learned_std=LIKELIHOODS[config.reconstruction].learned_std,
        encoder=config.encoder,
    )


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh policy for observations and actions of the shapes in `batch`.

    Raises:
      InputError: integer actions; observations that need another encoder.
    """
    check_batch(batch, batch_spec(config), "cvae")
    check_continuous(batch, "cvae")
    if config.policy_network is None:
        networks.check_encoder(config.encoder, batch.observations.shape[1:], "cvae")
    key, params_key, noise_key = jax.random.split(key, 3)
    vae = (config.policy_network or policy_network)(config, batch.actions.shape[-1])
    params = vae.init(
        params_key, batch.observations[:1], batch.actions[:1], noise_key, *_log_var_bounds(config)
    )
    return State(
        policy=networks.trainable(vae, params, networks.adamw),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One gradient step on the loss above.

    Metrics: ``loss``; ``reconstruction`` and ``kl``, its two terms without weight and floor,
    means over the batch (nats; ``reconstruction`` of mse and l1 in squares and units of actions).
    """
    check_batch(batch, batch_spec(config), "cvae")
    check_continuous(batch, "cvae")
    key, noise_key = jax.random.split(state.key)
    likelihood = LIKELIHOODS[config.reconstruction]
    beta = ops.latent.warm_up(config.beta, state.step, config.beta_warmup_steps)

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        outputs = state.policy.apply(
            params, batch.observations, batch.actions, noise_key, *_log_var_bounds(config)
        )
        reconstruction = jnp.mean(likelihood.loss(config, outputs, batch.actions))
        loss = reconstruction + beta * ops.latent.free_bits(outputs.kl, config.free_bits)
        return loss, {"loss": loss, "reconstruction": reconstruction, "kl": jnp.mean(outputs.kl)}

    rate = ops.cosine_decay(config.learning_rate, state.step, config.decay_steps)
    policy, metrics = networks.minimize(loss_fn, state.policy, rate, config.weight_decay)
    return state.replace(policy=policy, step=state.step + 1, key=key), metrics


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """The decoded action of a latent drawn from the prior.

    Deterministic actions decode the prior's mean, which *averages* the modes of a multimodal
    demonstrator; for the mixture prior they decode the mean of a drawn component, which does not.
    """
    action = state.policy(
        observation,
        key,
        *_log_var_bounds(config),
        deterministic=deterministic,
        method="generate",
    )
    return action, policy_state


def log_prob(
    config: Config,
    state: State,
    observations: jax.Array,
    actions: jax.Array,
    *,
    num_samples: int = 64,
) -> jax.Array:
    """Estimated log-density (B,) of actions (B, A), from below.

        log 1/K sum_k p(a | s, z_k) p(z_k | s) / q(z_k | s, a),   z_k ~ q(z | s, a)

    the importance-weighted bound (Burda et al. 2016, eq. 8), exact as K grows. The draws come
    from the state's key: a state gives the same estimate each time. The densities p(a | s, z) are
    those whose bound the losses are. For ``mse`` and ``l1`` beta gives their width. At a beta of 0
    there is no density, and the result is NaN.
    """
    likelihood = LIKELIHOODS[config.reconstruction]

    def one(key: PRNGKey) -> jax.Array:
        outputs = state.policy(observations, actions, key, *_log_var_bounds(config))
        return outputs.log_weight + likelihood.log_prob(config, outputs, actions)

    log_weights = jax.vmap(one)(jax.random.split(state.key, num_samples))
    return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(num_samples)


def _log_var_bounds(config: Config) -> tuple[jax.Array | float, jax.Array | float]:
    return config.log_var_min, config.log_var_max


# The reconstructions. Each is a loss, and the log-density whose bound the loss is.


def _squared_error(
    config: Config, outputs: networks.Reconstruction, actions: jax.Array
) -> jax.Array:
    del config
    return jnp.sum(jnp.square(actions - outputs.means), axis=-1)


def _fixed_gaussian_log_prob(
    config: Config, outputs: networks.Reconstruction, actions: jax.Array
) -> jax.Array:
    log_var = jnp.full_like(outputs.means, jnp.log(0.5 * config.beta))
    return ops.latent.gaussian_log_prob(actions, outputs.means, log_var)


def _absolute_error(
    config: Config, outputs: networks.Reconstruction, actions: jax.Array
) -> jax.Array:
    del config
    return jnp.sum(jnp.abs(actions - outputs.means), axis=-1)


def _laplace_log_prob(
    config: Config, outputs: networks.Reconstruction, actions: jax.Array
) -> jax.Array:
    error = _absolute_error(config, outputs, actions)
    return -error / config.beta - actions.shape[-1] * jnp.log(2.0 * config.beta)


def _gaussian_log_prob(
    config: Config, outputs: networks.Reconstruction, actions: jax.Array
) -> jax.Array:
    log_std = jnp.clip(outputs.log_std, config.log_std_min, config.log_std_max)
    log_var = jnp.broadcast_to(2.0 * log_std, outputs.means.shape)
    return ops.latent.gaussian_log_prob(actions, outputs.means, log_var)


LIKELIHOODS = {
    "gaussian": Likelihood(
        lambda config, outputs, actions: -_gaussian_log_prob(config, outputs, actions),
        _gaussian_log_prob,
        learned_std=True,
    ),
    "mse": Likelihood(_squared_error, _fixed_gaussian_log_prob),
    "l1": Likelihood(_absolute_error, _laplace_log_prob),
}
