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

from ddm import networks, ops
from ddm.imitation.parts import chunks
from ddm.networks.chunk_vae import ChunkVAE
from ddm.ops import plans
from ddm.types import (
    Batch,
    Metrics,
    NetworkFn,
    PRNGKey,
    PyTree,
    choice,
    leaf,
    network,
    static,
)


class Config(chunks.Config):
    """Hyper-parameters of ACT."""

    # AdamW's step size (authors: 1e-5, for batches of 8)
    learning_rate: float = leaf(1e-4, "[0, inf)")
    # decoupled weight decay, per unit of learning rate (authors)
    weight_decay: float = leaf(1e-4, "[0, inf)")
    kl_weight: float = leaf(10.0, "[0, inf)")  # weight of the divergence (authors)
    # the i-th oldest prediction has weight exp(-decay i) (authors)
    ensemble_decay: float = leaf(0.01, "(-inf, inf)")
    chunk_size: int = static(8, "[1, inf)")  # actions that are predicted (authors: 100, at 50 Hz)
    temporal_ensemble: bool = static(False)  # instead: a chunk every step, predictions averaged
    # zero (authors), or sample: from the prior, for every chunk; for every episode with an ensemble
    latent: str = choice(lambda: LATENTS, "zero")
    latent_dim: int = static(8, "[1, inf)")  # dimensions of z (authors: 32)
    # of tokens; feed-forward layers are four times as wide (authors: 512)
    width: int = static(128, "[1, inf)")
    num_heads: int = static(8, "[1, inf)")  # of attention (authors)
    # of the encoder and of the policy's encoder each (authors: 4)
    num_layers: int = static(2, "[1, inf)")
    # of the policy's decoder (authors: 7, but only 1 is used)
    num_decoder_layers: int = static(1, "[1, inf)")
    dropout_rate: float = static(0.1, "[0, 1)")  # in all transformer layers (authors)
    policy_network: NetworkFn | None = network()  # see `policy_network`


State = chunks.State
batch_spec = chunks.batch_spec


class Memory(chunks.Memory):
    """What acting carries from step to step; the plan is an ensemble with `temporal_ensemble`."""

    latent: jax.Array  # (Z,) fixed for an episode, so that an ensemble averages chunks of one mode


def policy_network(config: Config, action_size: int) -> ChunkVAE:
    """The autoencoder of chunks that a configuration describes.

    It maps frames (B, To, *O), chunks (B, Tp, A), their mask (B, Tp) and a key to decoded chunks,
    and to the mean and log-variance (B, Z) of the latent. Its method `decode` maps frames
    (To, *O) and a latent (Z,) to a chunk.
    """
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


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh policy for observations and actions of the shapes in `batch`.

    Raises:
      InputError: integer actions; a width that does not divide into heads; observations that need
        another encoder.
    """
    window = chunks.example(config, batch, "act")
    key, params_key, noise_key = jax.random.split(key, 3)
    vae = (config.policy_network or policy_network)(config, window.actions.shape[-1])
    params = vae.init(params_key, *window, noise_key)
    return State(
        policy=networks.trainable(vae, params, networks.adamw),
        observation=chunks.zeros_like_one(window.frames),
        action=chunks.zeros_like_one(window.actions),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One gradient step on the loss above.

    Metrics: ``loss``; ``reconstruction``, the mean absolute error of a valid action dimension;
    ``kl``, the divergence in nats, near 0 where the latent is not used.
    """
    window = chunks.split(config, batch, "act")
    key, noise_key, dropout_key = jax.random.split(state.key, 3)

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        predicted, mean, log_var = state.policy.apply(
            params,
            *window,
            noise_key,
            deterministic=config.dropout_rate == 0.0,
            rngs={"dropout": dropout_key},
        )
        reconstruction = masked_l1(predicted, window.actions, window.mask)
        kl = jnp.mean(ops.latent.kl_to_standard_normal(mean, log_var))
        loss = reconstruction + config.kl_weight * kl
        return loss, {"loss": loss, "reconstruction": reconstruction, "kl": kl}

    rate = ops.cosine_decay(config.learning_rate, state.step, config.decay_steps)
    policy, metrics = networks.minimize(loss_fn, state.policy, rate, config.weight_decay)
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
    empty = plans.no_ensemble if config.temporal_ensemble else plans.no_plan
    return Memory(
        frames=plans.no_frames(config.observation_steps, state.observation),
        plan=empty(config.chunk_size, state.action),
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
    fresh = LATENTS[config.latent](config, key)
    memory = memory.replace(latent=jnp.where(jnp.any(memory.frames.valid), memory.latent, fresh))
    if not config.temporal_ensemble:  # each plan has a latent of its own
        return chunks.play(config, state, observation, memory, _chunk, fresh)
    frames = plans.push(memory.frames, observation)
    chunk = _chunk(config, state, frames.observations, memory.latent)
    action, ensemble = plans.ensemble_action(memory.plan, chunk, config.ensemble_decay)
    return action, memory.replace(frames=frames, plan=ensemble)


def _chunk(config: Config, state: State, frames: jax.Array, latent: jax.Array) -> jax.Array:
    del config
    return state.policy(frames, latent, method="decode")


LATENTS = {
    "zero": lambda config, key: jnp.zeros(config.latent_dim, jnp.float32),
    "sample": lambda config, key: jax.random.normal(key, (config.latent_dim,), jnp.float32),
}
