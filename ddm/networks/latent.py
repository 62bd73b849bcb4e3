"""Conditional variational autoencoders of actions: posterior, prior and decoder."""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from ddm.networks.distributions import GaussianMixture
from ddm.networks.encoders import ObservationEncoder
from ddm.networks.mlp import MLP, Network, concatenate_inputs
from ddm.ops import latent

Bound = jax.Array | float

# A standard deviation of 1 is too wide for the actions' box: a decoder that starts there learns to
# ignore the latent before its standard deviation has shrunk, and does not recover.
LOG_STD_START = -2.0


class GaussianLatent(struct.PyTreeNode):
    """N(mean, diag(exp(log_var))): a posterior q(z | s, a), or a prior p(z | s)."""

    mean: jax.Array  # (..., Z)
    log_var: jax.Array  # (..., Z)

    def sample(self, *, seed: jax.Array) -> jax.Array:
        """Latents (..., Z), differentiable in the parameters."""
        return latent.reparameterize(seed, self.mean, self.log_var)

    def sample_means(self, *, seed: jax.Array) -> jax.Array:
        """The mean (..., Z): a sample without its noise."""
        del seed
        return self.mean

    def log_prob(self, latents: jax.Array) -> jax.Array:
        """Log-density (...,) of latents (..., Z)."""
        return latent.gaussian_log_prob(latents, self.mean, self.log_var)

    def kl_from(self, posterior: GaussianLatent, latents: jax.Array) -> jax.Array:
        """KL(posterior || this) in nats, (...,), in closed form."""
        del latents
        return latent.kl_between_gaussians(
            posterior.mean, posterior.log_var, self.mean, self.log_var
        )


class MixtureLatent(GaussianMixture):
    """A prior p(z | s) that is a mixture of K Gaussians."""

    def kl_from(self, posterior: GaussianLatent, latents: jax.Array) -> jax.Array:
        """KL(posterior || this) in nats, (...,), estimated at latents drawn from the posterior."""
        return latent.sampled_kl(latents, posterior.mean, posterior.log_var, self.log_prob(latents))


class Prior(Protocol):
    """What the priors have in common."""

    def sample(self, *, seed: jax.Array) -> jax.Array:
        """Latents (..., Z)."""
        ...

    def sample_means(self, *, seed: jax.Array) -> jax.Array:
        """Latents (..., Z) without noise; of a mixture, the mean of a drawn component."""
        ...

    def log_prob(self, latents: jax.Array) -> jax.Array:
        """Log-density (...,) of latents (..., Z)."""
        ...

    def kl_from(self, posterior: GaussianLatent, latents: jax.Array) -> jax.Array:
        """KL(posterior || this) in nats, (...,); `latents` (..., Z) are samples of it."""
        ...


class StandardNormalPrior(Network):
    """p(z) = N(0, I), whatever the features (..., F)."""

    hidden_sizes: tuple[int, ...]
    latent_dim: int
    num_components: int

    @nn.compact
    def __call__(
        self, features: jax.Array, log_var_min: Bound, log_var_max: Bound
    ) -> GaussianLatent:
        zeros = jnp.zeros((*features.shape[:-1], self.latent_dim), jnp.float32)
        return GaussianLatent(zeros, zeros)


class GaussianPrior(Network):
    """p(z | s) = N(mean(s), diag(exp(log_var(s)))) of features (..., F)."""

    hidden_sizes: tuple[int, ...]
    latent_dim: int
    num_components: int

    @nn.compact
    def __call__(
        self, features: jax.Array, log_var_min: Bound, log_var_max: Bound
    ) -> GaussianLatent:
        outputs = MLP(self.hidden_sizes, 2 * self.latent_dim, name="mlp")(features)
        return _gaussian(outputs, log_var_min, log_var_max)


class MixturePrior(Network):
    """p(z | s) = sum_k w_k(s) N(mean_k(s), diag(exp(log_var_k(s)))) of features (..., F).

    The means start as independent standard normals: from a common start they would move alike.
    """

    hidden_sizes: tuple[int, ...]
    latent_dim: int
    num_components: int

    @nn.compact
    def __call__(
        self, features: jax.Array, log_var_min: Bound, log_var_max: Bound
    ) -> MixtureLatent:
        shape = (self.num_components, self.latent_dim)
        width = self.num_components * (1 + 2 * self.latent_dim)
        outputs = MLP(self.hidden_sizes, width, name="mlp")(features)
        logits, rest = jnp.split(outputs, [self.num_components], axis=-1)
        means, log_vars = jnp.split(rest.reshape(*rest.shape[:-1], 2 * shape[0], shape[1]), 2, -2)
        offsets = self.param("offsets", nn.initializers.normal(1.0), shape, jnp.float32)
        log_vars = jnp.clip(log_vars, log_var_min, log_var_max)
        return MixtureLatent(logits, means + jnp.broadcast_to(offsets, means.shape), 0.5 * log_vars)


PRIORS: dict[str, type[nn.Module]] = {
    "standard_normal": StandardNormalPrior,
    "learned": GaussianPrior,
    "mixture": MixturePrior,
}


class Reconstruction(struct.PyTreeNode):
    """What one pass through an :class:`ActionVAE` gives."""

    means: jax.Array  # (..., A) decoded actions
    log_std: jax.Array  # (A,) log standard deviation of the decoder; zeros if it has none
    kl: jax.Array  # (...,) KL(q(z | s, a) || p(z | s)) in nats, summed over dimensions
    log_weight: jax.Array  # (...,) log p(z | s) - log q(z | s, a) at the latent that was drawn


class ActionVAE(Network):
    """A latent-variable model of actions (..., A) given observations (..., *O).

    Encoder q(z | s, a) = N(mean, diag(exp(log_var))) with clipped log-variances, decoder
    a = f(s, z), prior p(z | s) by kind:

    - "standard_normal": N(0, I).
    - "learned": a Gaussian whose mean and variance depend on the observation.
    - "mixture": `num_components` such Gaussians.

    Calling it encodes, draws one latent and decodes it. The other methods are its parts;
    features (..., F) are encoded observations, which `decode` takes with latents (..., Z) or
    features (B, F) with latents (B, M, Z).
    """

    hidden_sizes: tuple[int, ...]  # of each of the perceptrons
    latent_dim: int
    action_size: int
    prior_kind: str = "standard_normal"
    num_components: int = 1  # of the mixture
    bounded: bool = True  # decoded actions pass a tanh
    learned_std: bool = False  # the decoder has one log standard deviation for each action
    encoder: str = "none"  # of observations, see ObservationEncoder

    def setup(self) -> None:
        self.observation_encoder = ObservationEncoder(self.encoder)
        self.posterior = MLP(self.hidden_sizes, 2 * self.latent_dim)
        self.decoder = MLP(self.hidden_sizes, self.action_size)
        self.prior_network = PRIORS[self.prior_kind](
            self.hidden_sizes,  # pyright: ignore[reportCallIssue]
            self.latent_dim,
            self.num_components,
        )
        if self.learned_std:
            start = nn.initializers.constant(LOG_STD_START)
            self.log_std = self.param("log_std", start, (self.action_size,), jnp.float32)

    def __call__(
        self,
        observations: jax.Array,
        actions: jax.Array,
        key: jax.Array,
        log_var_min: Bound,
        log_var_max: Bound,
    ) -> Reconstruction:
        features = self.embed(observations)
        posterior = self.encode(features, actions, log_var_min, log_var_max)
        prior = self.prior(features, log_var_min, log_var_max)
        latents = posterior.sample(seed=key)
        zeros = jnp.zeros(self.action_size, jnp.float32)
        return Reconstruction(
            means=self.decode(features, latents),
            log_std=self.log_std if self.learned_std else zeros,
            kl=prior.kl_from(posterior, latents),
            log_weight=prior.log_prob(latents) - posterior.log_prob(latents),
        )

    def embed(self, observations: jax.Array) -> jax.Array:
        """Features (..., F) of observations (..., *O)."""
        return self.observation_encoder(observations)

    def encode(
        self, features: jax.Array, actions: jax.Array, log_var_min: Bound, log_var_max: Bound
    ) -> GaussianLatent:
        """The posterior q(z | s, a) for actions (..., A)."""
        outputs = self.posterior(concatenate_inputs(features, actions))
        return _gaussian(outputs, log_var_min, log_var_max)

    def prior(self, features: jax.Array, log_var_min: Bound, log_var_max: Bound) -> Prior:
        """The prior p(z | s)."""
        return self.prior_network(features, log_var_min, log_var_max)

    def decode(self, features: jax.Array, latents: jax.Array) -> jax.Array:
        """Actions (..., A) of latents (..., Z)."""
        actions = self.decoder(concatenate_inputs(features, latents))
        return jnp.tanh(actions) if self.bounded else actions

    def generate(
        self,
        observations: jax.Array,
        key: jax.Array,
        log_var_min: Bound,
        log_var_max: Bound,
        *,
        deterministic: bool = False,
    ) -> jax.Array:
        """Decoded actions (..., A) of latents drawn from the prior, or of its noiseless form."""
        features = self.embed(observations)
        prior = self.prior(features, log_var_min, log_var_max)
        draw = prior.sample_means if deterministic else prior.sample
        return self.decode(features, draw(seed=key))


def _gaussian(outputs: jax.Array, log_var_min: Bound, log_var_max: Bound) -> GaussianLatent:
    mean, log_var = jnp.split(outputs, 2, axis=-1)
    return GaussianLatent(mean, jnp.clip(log_var, log_var_min, log_var_max))
