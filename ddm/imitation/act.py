"""ACT: action chunking with transformers (Zhao, Kumar, Levine, Finn 2023, arXiv 2304.13705).

A conditional variational autoencoder of chunks of k actions:

    L = |a_{t:t+k} - f(s_t, z)|_1 + kl_weight KL(q(z | s_t, a_{t:t+k}) || N(0, I))

The error is averaged over action dimensions and over the steps that lie inside the episode; the
divergence is summed over the latent's dimensions and averaged over the batch.

- The encoder q, in training only, is a transformer over [CLS, observation, a_t .. a_{t+k-1}] that
  does not see actions beyond the episode's end.
- The policy f is a transformer encoder over [latent, observations] and a decoder of k learned
  queries, one for each step of the chunk.

A chunk is played in one of two ways: ``execute_steps`` of its actions before the next one is made
(the authors: all of them), or ``temporal_ensemble``: a chunk every step, and the weighted mean of
all predictions for the present one. An ensemble averages *actions*: it is for policies that do
not jump between modes. The same holds for the paper's latent z = 0, the prior's mean: where the
decoder needs z to tell two ways apart, it averages them. ACT relies on a large ``kl_weight``, with
which z carries little information; ``latent="sample"`` draws z.

Differences from the authors' code:

- The error is divided by the number of valid entries. Theirs is divided by all entries, which makes
  the loss of chunks that reach beyond the episode's end too small.
- Blocks have their layer norms inside the residual branches, and a last one; theirs are post-norm.
- Positions are added once, to the tokens, not to the queries and keys of every layer.
- One decoder layer is the default. Theirs has seven and uses the output of the first.
- The encoder sees the last frame as the policy does; theirs sees joints and no images.
- Without the head that predicts padding, which their loss does not use.
- The defaults are for small tasks of low dimension; the authors' are in the comments.
"""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from ddm import networks, ops
from ddm.errors import InputError
from ddm.ops import plans
from ddm.types import (
    Batch,
    BatchSpec,
    Configuration,
    Metrics,
    PRNGKey,
    PyTree,
    check_batch,
    check_continuous,
    leaf,
    static,
)


class Config(Configuration):
    """Hyper-parameters of ACT."""

    # AdamW's step size (authors: 1e-5, for batches of 8)
    learning_rate: float = leaf(1e-4, "[0, inf)")
    # gradient steps over which a cosine takes the step size to 0; 0: constant
    decay_steps: int = leaf(0, "[0, inf)")
    # decoupled weight decay, per unit of learning rate (authors)
    weight_decay: float = leaf(1e-4, "[0, inf)")
    kl_weight: float = leaf(10.0, "[0, inf)")  # weight of the divergence (authors)
    # the i-th oldest prediction has weight exp(-decay i) (authors)
    ensemble_decay: float = leaf(0.01, "(-inf, inf)")
    # frames that the policy sees, the present one last
    observation_steps: int = static(1, "[1, inf)")
    chunk_size: int = static(8, "[1, inf)")  # actions that are predicted (authors: 100, at 50 Hz)
    # actions of a chunk that are played before the next is made
    execute_steps: int = static(8, "[1, inf)", at_most="chunk_size")
    temporal_ensemble: bool = static(False)  # instead: a chunk every step, predictions averaged
    # zero (authors), or sample: from the prior, for every chunk; for every episode with an ensemble
    latent: str = static("zero")
    latent_dim: int = static(8, "[1, inf)")  # dimensions of z (authors: 32)
    # of tokens; feed-forward layers are four times as wide (authors: 512)
    width: int = static(128, "[1, inf)")
    num_heads: int = static(8, "[1, inf)")  # of attention (authors)
    # of the encoder and of the policy's encoder each (authors: 4)
    num_layers: int = static(2, "[1, inf)")
    # of the policy's decoder (authors: 7, but only 1 is used)
    num_decoder_layers: int = static(1, "[1, inf)")
    dropout_rate: float = static(0.1, "[0, 1)")  # in all transformer layers (authors)
    encoder: str = static("none")  # none: observations are vectors; conv: images


class State(struct.PyTreeNode):
    """Everything that training changes, and the form of an observation."""

    policy: networks.Trainable
    observation: jax.Array  # (*O,) zeros: the shape and type of one observation
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


class Memory(struct.PyTreeNode):
    """What acting carries from step to step."""

    frames: plans.Frames
    plan: Any  # a plans.Plan, or a plans.Ensemble with `temporal_ensemble`
    latent: jax.Array  # (Z,) fixed for an episode, so that an ensemble averages chunks of one mode


def batch_spec(config: Config) -> BatchSpec:
    """Windows of the frames that the policy sees and the chunk that begins at the last of them."""
    history = config.observation_steps - 1
    return BatchSpec(
        fields=("observations", "actions", "mask"),
        window=history + config.chunk_size,
        history=history,
        min_episode_steps=config.chunk_size,
    )


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh policy for observations and actions of the shapes in `batch`.

    Raises:
      InputError: integer actions; an unknown latent or encoder; a width that does not divide into
        heads.
    """
    _check_config(config)
    check_batch(batch, batch_spec(config), "act")
    check_continuous(batch, "act")
    networks.check_encoder(config.encoder, batch.observations.shape[2:], "act")
    key, params_key, noise_key = jax.random.split(key, 3)
    network = _network(config, batch.actions.shape[-1])
    example = (leaf[:1] for leaf in _split(config, batch))
    params = network.init(params_key, *example, noise_key)
    return State(
        policy=networks.trainable(params, _optimizer(config, 0)),
        observation=jnp.zeros_like(batch.observations[0, 0]),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One gradient step on the loss above.

    Metrics: ``loss``; ``reconstruction``, the mean absolute error of a valid action dimension;
    ``kl``, the divergence in nats, near 0 where the latent is not used.
    """
    check_batch(batch, batch_spec(config), "act")
    check_continuous(batch, "act")
    key, noise_key, dropout_key = jax.random.split(state.key, 3)
    network = _network(config, batch.actions.shape[-1])
    frames, chunk, valid = _split(config, batch)

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        predicted, mean, log_var = network.apply(
            params,
            frames,
            chunk,
            valid,
            noise_key,
            deterministic=config.dropout_rate == 0.0,
            rngs={"dropout": dropout_key},
        )
        reconstruction = masked_l1(predicted, chunk, valid)
        kl = jnp.mean(ops.latent.kl_to_standard_normal(mean, log_var))
        loss = reconstruction + config.kl_weight * kl
        return loss, {"loss": loss, "reconstruction": reconstruction, "kl": kl}

    policy, metrics = networks.minimize(loss_fn, state.policy, _optimizer(config, state.step))
    return state.replace(policy=policy, step=state.step + 1, key=key), metrics


def masked_l1(predictions: jax.Array, targets: jax.Array, valid: jax.Array) -> jax.Array:
    """Mean absolute error, (), of those steps (B, T) of chunks (B, T, A) that are valid."""
    chex.assert_equal_shape([predictions, targets])
    chex.assert_equal_shape_prefix([targets, valid], 2)
    errors = jnp.mean(jnp.abs(predictions - targets), axis=-1)
    total = jnp.maximum(jnp.sum(valid, dtype=errors.dtype), 1.0)
    return jnp.sum(jnp.where(valid, errors, 0.0)) / total


def initial_policy_state(config: Config, state: State) -> Memory:
    """No frames seen, and nothing planned."""
    action = jnp.zeros(networks.output_size(state.policy.params), jnp.float32)
    empty = plans.no_ensemble if config.temporal_ensemble else plans.no_plan
    return Memory(
        frames=plans.no_frames(config.observation_steps, state.observation),
        plan=empty(config.chunk_size, action),
        latent=jnp.zeros(config.latent_dim, jnp.float32),
    )


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """The next action of the chunk, or the ensemble's.

    `policy_state` is a :class:`Memory`; the empty tuple begins an episode.

    Only the latent is random, so ``latent`` alone decides whether the policy draws: `deterministic`
    changes nothing.
    """
    del deterministic
    memory = policy_state or initial_policy_state(config, state)
    fresh = _draw_latent(config, key)
    begun = jnp.any(memory.frames.valid)
    memory = memory.replace(
        frames=plans.push(memory.frames, observation),
        latent=jnp.where(begun, memory.latent, fresh),
    )
    play = _ensembled if config.temporal_ensemble else _planned
    action, plan = play(config, state, memory, fresh)
    return action, memory.replace(plan=plan)


def _planned(
    config: Config, state: State, memory: Memory, fresh: jax.Array
) -> tuple[jax.Array, plans.Plan]:
    """An action of the plan; a new plan comes from a fresh latent."""

    def make(params: Any, frames: jax.Array, latent: jax.Array) -> jax.Array:
        return _predict(config, params, frames, latent)

    frames = memory.frames.observations
    return plans.next_action(
        memory.plan, config.execute_steps, make, state.policy.params, frames, fresh
    )


def _ensembled(
    config: Config, state: State, memory: Memory, fresh: jax.Array
) -> tuple[jax.Array, plans.Ensemble]:
    """The mean of what this and earlier chunks of the episode's latent predict for now."""
    del fresh
    chunk = _predict(config, state.policy.params, memory.frames.observations, memory.latent)
    return plans.ensemble_action(memory.plan, chunk, config.ensemble_decay)


def _predict(config: Config, params: Any, frames: jax.Array, latent: jax.Array) -> jax.Array:
    network = _network(config, networks.output_size(params))
    return network.apply(params, frames, latent, method="decode")


LATENTS = {
    "zero": lambda config, key: jnp.zeros(config.latent_dim, jnp.float32),
    "sample": lambda config, key: jax.random.normal(key, (config.latent_dim,), jnp.float32),
}


def _draw_latent(config: Config, key: PRNGKey) -> jax.Array:
    return LATENTS[config.latent](config, key)


def _split(config: Config, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Frames (B, To, *O), the chunk (B, T, A), and which of its steps are real (B, T)."""
    return networks.split_window(batch, config.observation_steps, config.chunk_size, "act")


def _optimizer(config: Config, step: jax.Array | int) -> optax.GradientTransformation:
    rate = ops.cosine_decay(config.learning_rate, step, config.decay_steps)
    return optax.adamw(rate, weight_decay=config.weight_decay)


def _check_config(config: Config) -> None:
    if config.latent not in LATENTS:
        raise InputError(
            f"act: latent={config.latent} is unknown; choose one of {', '.join(LATENTS)}"
        )


def _network(config: Config, action_size: int) -> ChunkVAE:
    return ChunkVAE(
        action_size=action_size,
        chunk_size=config.chunk_size,
        latent_dim=config.latent_dim,
        width=config.width,
        num_heads=config.num_heads,
        num_layers=config.num_layers,
        num_decoder_layers=config.num_decoder_layers,
        dropout_rate=config.dropout_rate,
        encoder=config.encoder,
    )


class ChunkVAE(networks.Network):
    """Maps frames (..., To, *O), a chunk (..., T, A) and its mask (..., T) to the decoded chunk.

    Returns (..., T, A) actions, and the mean and log-variance (..., Z) of the latent.
    """

    action_size: int
    chunk_size: int
    latent_dim: int
    width: int
    num_heads: int
    num_layers: int
    num_decoder_layers: int
    dropout_rate: float
    encoder: str

    def setup(self) -> None:
        """The encoder of the latent, and the policy."""
        sizes = (self.width, self.num_heads, 4 * self.width, self.dropout_rate)
        self.observation_encoder = networks.ObservationEncoder(self.encoder)
        self.class_token = self.param("class_token", _normal, (1, self.width), jnp.float32)
        self.observation_in, self.action_in = nn.Dense(self.width), nn.Dense(self.width)
        self.posterior = networks.Transformer(self.num_layers, *sizes)
        self.posterior_out = nn.Dense(2 * self.latent_dim)
        self.latent_in, self.frame_in = nn.Dense(self.width), nn.Dense(self.width)
        self.policy_encoder = networks.Transformer(self.num_layers, *sizes)
        self.queries = self.param("queries", _normal, (self.chunk_size, self.width), jnp.float32)
        self.policy_decoder = networks.Transformer(self.num_decoder_layers, *sizes, cross=True)
        self.output = nn.Dense(self.action_size)

    def __call__(
        self,
        frames: jax.Array,
        chunk: jax.Array,
        valid: jax.Array,
        key: jax.Array,
        *,
        deterministic: bool = True,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Encodes, draws a latent and decodes it."""
        features = self.observation_encoder(frames)
        mean, log_var = self.encode(features[..., -1, :], chunk, valid, deterministic)
        latent = ops.latent.reparameterize(key, mean, log_var)
        return self._decode(features, latent, deterministic), mean, log_var

    def encode(
        self, features: jax.Array, chunk: jax.Array, valid: jax.Array, deterministic: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Mean and log-variance (..., Z) of z given features (..., F) and a chunk."""
        actions = self.action_in(chunk)
        first = jnp.broadcast_to(self.class_token, (*actions.shape[:-2], 1, self.width))
        observation = self.observation_in(features)[..., None, :]
        tokens = jnp.concatenate([first, observation, actions], axis=-2)
        tokens = networks.add_positions(tokens)
        real = jnp.ones((*valid.shape[:-1], 2), bool)
        mask = jnp.concatenate([real, valid], axis=-1)[..., None, :]
        hidden = self.posterior(tokens, mask, deterministic=deterministic)
        mean, log_var = jnp.split(self.posterior_out(hidden[..., 0, :]), 2, axis=-1)
        return mean, log_var

    def decode(self, frames: jax.Array, latent: jax.Array) -> jax.Array:
        """Actions (..., T, A) for frames (..., To, *O) and a latent (..., Z), without dropout."""
        return self._decode(self.observation_encoder(frames), latent, True)

    def _decode(self, features: jax.Array, latent: jax.Array, deterministic: bool) -> jax.Array:
        latent_token = self.latent_in(latent)[..., None, :]
        tokens = jnp.concatenate([latent_token, self.frame_in(features)], axis=-2)
        tokens = networks.add_positions(tokens)
        memory = self.policy_encoder(tokens, deterministic=deterministic)
        queries = jnp.broadcast_to(self.queries, (*memory.shape[:-2], *self.queries.shape))
        hidden = self.policy_decoder(queries, memory=memory, deterministic=deterministic)
        return self.output(hidden)


_normal = nn.initializers.normal(1.0)
