"""Autoregressive policies over bins: any joint distribution of actions, one dimension at a time.

Each action dimension becomes one of K bins, b_d = bin of a_d. The joint distribution is the product
of D softmaxes, and each softmax sees the bins before it (RT-1, Brohan et al. 2022; Trajectory
Transformer, Janner et al. 2021; Metz et al. 2017):

    log p(b | s) = sum_d log softmax(f_d(s, b_1, ..., b_{d-1}))[b_d]
    L            = - E_D [ log p(b | s) ]                      one-hot targets, teacher forcing
    log pi(a | s) = sum_d ( log p(b_d | s, b_<d) - log width(b_d) )

The last line is a density, constant in each box of bins and zero outside them. It can be compared
with the densities of other policies. A chunk of actions is one sequence, time-major, of chunk_size
* A tokens; `execute_steps` actions of it are executed before the next one is drawn (Chi et al.
2023).

``decoder`` says how a softmax sees the bins before it: by a causal ``transformer``, an ``lstm``, an
``mlp`` (a masked perceptron), or not at all (``factorised``: independent softmaxes, as in many
discretised policies; they mix the modes of different dimensions).

The error of centre decoding is at most half a bin, range / (2 K), and its root mean square
range / (K sqrt 12): with few bins it may be mistaken for an error of the policy. In training,
actions outside the bins count as the outermost bins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ddm import networks, ops
from ddm.imitation.parts import chunks, tokens
from ddm.networks import autoregressive as decoders
from ddm.networks import decoding
from ddm.ops import binning
from ddm.types import (
    Batch,
    BatchSpec,
    Metrics,
    NetworkFn,
    PRNGKey,
    PyTree,
    choice,
    leaf,
    network,
    static,
)


class Config(tokens.Config):
    """Hyper-parameters; those of the transformer are small ones for low-dimensional tasks."""

    # Adam's step size; 1e-3 suits the lstm and the mlp
    learning_rate: float = leaf(3e-4, "[0, inf)")
    # gradient steps over which the step size rises from 0
    warmup_steps: int = leaf(500, "[0, inf)")
    # decoupled weight decay (AdamW), per unit of learning rate
    weight_decay: float = leaf(1e-4, "[0, inf)")
    # gradients of a larger global norm are scaled down to it
    max_gradient_norm: float = leaf(1.0, "(0, inf)")
    # share of the bins before that is hidden in training; 0.05-0.1
    prefix_dropout: float = leaf(0.0, "[0, 1]")
    # divides the logits when sampling; below 1 likely bins are likelier. The limit 0 is the
    # deterministic policy.
    temperature: float = leaf(1.0, "(0, inf)")
    # sampling keeps the likeliest bins with this probability; 1: all bins
    top_p: float = leaf(1.0, "[0, 1]")
    decoder: str = choice(lambda: DECODERS, "transformer")  # what sees the bins before
    chunk_size: int = static(1, "[1, inf)")  # actions predicted as one sequence
    # actions of a chunk that are executed before the next one
    execute_steps: int = static(1, "[1, inf)", at_most="chunk_size")
    # relu layers of lstm, mlp and factorised
    hidden_sizes: tuple[int, ...] = static((256, 256), "[1, inf)")
    width: int = static(128, "[1, inf)")  # of the transformer or the lstm
    num_layers: int = static(3, "[1, inf)")  # of the transformer
    num_heads: int = static(4, "[1, inf)")  # of the transformer; divides its width
    dropout_rate: float = static(0.1, "[0, 1)")  # in the transformer
    cache: bool = static(True)  # keeps the transformer's keys and values while sampling: faster
    policy_network: NetworkFn | None = network()  # see `policy_network`


State = chunks.State
prepare = tokens.prepare
initial_policy_state = chunks.initial_policy_state


def batch_spec(config: Config) -> BatchSpec:
    """Windows: the frames up to the drawn step, and the actions from there on.

    Raises:
      InputError: bins of no width.
    """
    tokens.check_range(config)
    return chunks.batch_spec(config)


def policy_network(config: Config, action_size: int) -> decoders.AutoregressivePolicy:
    """The policy over bins that a configuration describes.

    It maps frames (B, To, *O) and the tokens (B, Tp * A) of a chunk to the logits (B, Tp * A, K) of
    each token, given the ones before it. Its methods `start` and `step` give these one after the
    other: see `networks.autoregressive.AutoregressivePolicy`.
    """
    make = DECODERS[config.decoder]
    decoder = make(config, config.chunk_size * action_size)
    return decoders.AutoregressivePolicy(config.encoder, decoder)


def clipped_adamw(
    learning_rate: Any, weight_decay: Any = 0.0, max_norm: Any = 1.0
) -> optax.GradientTransformation:
    """AdamW on gradients whose global norm is at most `max_norm`."""
    return optax.chain(
        optax.clip_by_global_norm(max_norm), networks.adamw(learning_rate, weight_decay)
    )


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh policy for observations (B, T, *O) and actions (B, T, A) like those in `batch`.

    Raises:
      InputError: discrete actions, edges that do not fit the actions, or observations that need
        another encoder.
    """
    tokens.check_range(config)
    window = chunks.example(config, batch, "autoregressive")
    action_size = window.actions.shape[-1]
    tokens.check_edges(config, action_size)
    key, params_key = jax.random.split(key)
    policy = (config.policy_network or policy_network)(config, action_size)
    no_tokens = jnp.zeros((1, config.chunk_size * action_size), jnp.int32)
    params = policy.init(params_key, window.frames, no_tokens)
    return State(
        policy=networks.trainable(policy, params, clipped_adamw),
        observation=chunks.zeros_like_one(window.frames),
        action=chunks.zeros_like_one(window.actions),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One gradient step on the cross-entropy of the bins; actions beyond the episode do not count.

    Metrics: ``loss``, the cross-entropy with the targets in nats an action (all its dimensions);
    ``log_prob``, the mean log-density of an action given the frames and the chunk before it (that
    of the outermost bin for an action outside the bins);
    ``accuracy``, the share of dimensions whose likeliest bin is the logged one.
    """
    frames, actions, mask = chunks.split(config, batch, "autoregressive")
    key, prefix_key, dropout_key = jax.random.split(state.key, 3)
    edges = tokens.edges_of(config, actions.shape[-1])
    bins = binning.encode(actions, edges)
    prefix = _hide(config, tokens.flat(bins), prefix_key)
    total = jnp.maximum(jnp.sum(mask, dtype=jnp.float32), 1.0)
    mean = lambda values: jnp.sum(jnp.where(mask, values, 0.0)) / total  # noqa: E731

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        logits = state.policy.apply(
            params, frames, prefix, deterministic=False, rngs={"dropout": dropout_key}
        )
        log_probs = jax.nn.log_softmax(logits).reshape(*actions.shape, config.num_bins)
        scores = tokens.scores(config, log_probs, actions, bins, edges)
        loss = mean(-jnp.sum(scores, axis=-1))
        density = tokens.at(log_probs, bins) - binning.log_widths(bins, edges)
        likeliest = jnp.argmax(log_probs, axis=-1).astype(bins.dtype)
        hits = jnp.mean(likeliest == bins, axis=-1)
        return loss, {
            "loss": loss,
            "log_prob": mean(jnp.sum(density, axis=-1)),
            "accuracy": mean(hits),
        }

    rate = ops.cosine_decay(config.learning_rate, state.step, config.decay_steps)
    rate = rate * ops.share_done(state.step + 1, config.warmup_steps)
    policy, metrics = networks.minimize(
        loss_fn, state.policy, rate, config.weight_decay, config.max_gradient_norm
    )
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
    """The next action of a chunk, drawn bin by bin, or of the likeliest bins.

    The deterministic form takes the likeliest bin at each place, and its centre: where modes are
    equally likely, one of them. It is not always the likeliest action: see :func:`beam_search`.
    If the demonstrator's noise covers many bins, it is chance which bin becomes the likeliest:
    samples at a low `temperature` then act better than greedy actions. Without a policy state an
    episode begins.
    """
    make = _greedy_chunk if deterministic else _drawn_chunk
    return chunks.play(config, state, observation, policy_state, make, key)


def log_prob(
    config: Config, state: State, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    """Log-density (B,) of chunks of actions, at a temperature of 1 and all of the bins (`top_p`).

    It is minus infinity for a chunk with an action outside the bins, which is never taken.

    Args:
      config: of the policy.
      state: of the policy.
      observations: (B, observation_steps, *O); (B, *O) for one frame.
      actions: (B, chunk_size, A); (B, A) for one action.
    """
    observations = chunks.with_steps(observations, state.observation)
    actions = chunks.with_steps(actions, state.action)
    edges = tokens.edges_of(config, actions.shape[-1])
    bins = binning.encode(actions, edges)
    logits = state.policy(observations, tokens.flat(bins))
    log_probs = tokens.at(jax.nn.log_softmax(logits), tokens.flat(bins))
    density = jnp.sum(log_probs, axis=-1) - jnp.sum(binning.log_widths(bins, edges), axis=(-2, -1))
    return jnp.where(jnp.all(binning.inside(actions, edges), axis=-1), density, -jnp.inf)


def beam_search(
    config: Config, state: State, frames: jax.Array, width: int
) -> tuple[jax.Array, jax.Array]:
    """The likeliest chunks at `frames` (observation_steps, *O) that a beam of W finds.

    Returns:
      Chunks (W, chunk_size, A) of bin centres and the log-probabilities (W,) of their bins, the
      best first.
    """
    action_size = state.action.size
    num_tokens = config.chunk_size * action_size
    found, scores = decoding.beam_search(state.policy, frames, num_tokens, width)
    bins = found.reshape(width, config.chunk_size, action_size)
    centres = binning.decode(bins, tokens.edges_of(config, action_size))
    return centres.astype(state.action.dtype), scores


def _hide(config: Config, prefix: jax.Array, key: PRNGKey) -> jax.Array:
    hidden = jax.random.bernoulli(key, jnp.float32(config.prefix_dropout), prefix.shape)
    return jnp.where(hidden, config.num_bins, prefix)


def _drawn_chunk(config: Config, state: State, frames: jax.Array, key: PRNGKey) -> jax.Array:
    """(Tp, A) of bins drawn one after the other."""
    tokens_key, decode_key = jax.random.split(key)

    def draw(logits: jax.Array, key: PRNGKey) -> jax.Array:
        logits = decoding.nucleus(logits / config.temperature, config.top_p)
        return jax.random.categorical(key, logits)

    bins, edges = _bins(config, state, frames, tokens_key, draw)
    decode = tokens.DECODINGS[config.decode]
    return decode(bins, edges, decode_key).astype(state.action.dtype)


def _greedy_chunk(config: Config, state: State, frames: jax.Array, key: PRNGKey) -> jax.Array:
    """(Tp, A) of the likeliest bin at each place, given those before it."""
    greedy = lambda logits, _: jnp.argmax(logits, axis=-1)  # noqa: E731
    bins, edges = _bins(config, state, frames, key, greedy)
    return binning.decode(bins, edges).astype(state.action.dtype)


def _bins(
    config: Config, state: State, frames: jax.Array, key: PRNGKey, choose: Any
) -> tuple[jax.Array, jax.Array]:
    """Bins (Tp, A) that `choose` takes one after the other, and all edges."""
    num_tokens = config.chunk_size * state.action.size
    found = decoding.draw_tokens(state.policy, frames, num_tokens, key, choose)
    return found.reshape(config.chunk_size, -1), tokens.edges_of(config, state.action.size)


DECODERS: dict[str, Callable[[Config, int], decoders.Decoder]] = {
    "transformer": lambda config, num_tokens: decoders.TransformerDecoder(
        num_tokens,
        config.num_bins,
        config.width,
        config.num_layers,
        config.num_heads,
        config.dropout_rate,
        config.cache,
    ),
    "lstm": lambda config, num_tokens: decoders.LSTMDecoder(
        num_tokens, config.num_bins, config.width, config.hidden_sizes
    ),
    "mlp": lambda config, num_tokens: decoders.MLPDecoder(
        num_tokens, config.num_bins, config.hidden_sizes
    ),
    "factorised": lambda config, num_tokens: decoders.FactorisedDecoder(
        num_tokens, config.num_bins, config.hidden_sizes
    ),
}
