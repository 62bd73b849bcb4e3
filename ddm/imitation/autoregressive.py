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
import jax.core
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from ddm import networks, ops
from ddm.errors import InputError
from ddm.networks import autoregressive as decoding
from ddm.ops import binning, plans
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
    """Hyper-parameters; those of the transformer are small ones for low-dimensional tasks."""

    # Adam's step size; 1e-3 suits the lstm and the mlp
    learning_rate: float = leaf(3e-4, "[0, inf)")
    # gradient steps over which the step size rises from 0
    warmup_steps: int = leaf(500, "[0, inf)")
    # gradient steps over which a cosine takes the step size to 0; 0: constant
    decay_steps: int = leaf(0, "[0, inf)")
    # decoupled weight decay (AdamW), per unit of learning rate
    weight_decay: float = leaf(1e-4, "[0, inf)")
    # gradients of a larger global norm are scaled down to it
    max_gradient_norm: float = leaf(1.0, "(0, inf)")
    # probability of the targets that is spread over all bins
    label_smoothing: float = leaf(0.0, "[0, 1)")
    target_width: float = leaf(1.0, "(0, inf)")  # standard deviation of soft targets, in bins
    # share of the bins before that is hidden in training; 0.05-0.1
    prefix_dropout: float = leaf(0.0, "[0, 1]")
    # divides the logits when sampling; below 1 likely bins are likelier. The limit 0 is the
    # deterministic policy.
    temperature: float = leaf(1.0, "(0, inf)")
    # sampling keeps the likeliest bins with this probability; 1: all bins
    top_p: float = leaf(1.0, "[0, 1]")
    # first edge of the bins, in the action box [-1, 1]
    bin_low: float = leaf(-1.0, "[-1, 1)", at_most="bin_high")
    bin_high: float = leaf(1.0, "(-1, 1]")  # last edge of the bins, in the action box [-1, 1]
    num_bins: int = static(64, "[2, inf)")  # of each action dimension; RT-1 has 256
    # The bins' edges where they are not equal, num_bins + 1 numbers for each action dimension, one
    # dimension after the other; empty: equal bins from bin_low to bin_high.
    edges: tuple[float, ...] = static((), "[-1, 1]")
    # How `prepare` fits edges that are not given to the log: box (not at all), uniform (equal bins
    # on the range of the actions), quantile or mu_law.
    binning: str = static("box")
    # Percent of the logged actions that `prepare` leaves out at each end of the bins' range.
    clip_percentile: float = static(0.0, "[0, 50)")
    decoder: str = static("transformer")  # transformer, lstm, mlp or factorised
    targets: str = static("one_hot")  # one_hot; soft: a hill over the bins nearby
    decode: str = static("centre")  # centre of the bin; dither: sampled actions uniform in it
    # frames that the policy sees, the current one the last
    observation_steps: int = static(1, "[1, inf)")
    chunk_size: int = static(1, "[1, inf)")  # actions predicted as one sequence
    # actions of a chunk that are executed before the next one
    execute_steps: int = static(1, "[1, inf)", at_most="chunk_size")
    encoder: str = static("none")  # none: observations are vectors; conv: images
    # relu layers of lstm, mlp and factorised
    hidden_sizes: tuple[int, ...] = static((256, 256), "[1, inf)")
    width: int = static(128, "[1, inf)")  # of the transformer or the lstm
    num_layers: int = static(3, "[1, inf)")  # of the transformer
    num_heads: int = static(4, "[1, inf)")  # of the transformer; divides its width
    dropout_rate: float = static(0.1, "[0, 1)")  # in the transformer
    cache: bool = static(True)  # keeps the transformer's keys and values while sampling: faster


class State(struct.PyTreeNode):
    """Everything that training changes."""

    policy: networks.Trainable
    observation: jax.Array  # (*O,) zeros: the shape and type of one observation
    action: jax.Array  # (A,) zeros: the shape and type of one action
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


class PolicyState(struct.PyTreeNode):
    """What acting carries from step to step in an episode."""

    frames: plans.Frames
    plan: plans.Plan


def batch_spec(config: Config) -> BatchSpec:
    """Windows: the frames up to the drawn step, and the actions from there on.

    Raises:
      InputError: a field of `config` is out of range.
    """
    check_config(config)
    history = config.observation_steps - 1
    return BatchSpec(
        fields=("observations", "actions", "mask"),
        window=history + config.chunk_size,
        history=history,
        min_episode_steps=config.chunk_size,
    )


def prepare(config: Config, dataset: Any) -> Config:
    """The edges of the bins, fitted to the logged actions as `binning` says, where not given.

    Raises:
      InputError: an unknown `binning`; the dataset is traced, as under jit.
    """
    if config.edges or config.binning == "box":
        return config
    if config.binning not in binning.BINNINGS:
        known = ", ".join(("box", *binning.BINNINGS))
        raise InputError(
            f"autoregressive: binning={config.binning} is unknown; choose one of {known}"
        )
    if isinstance(dataset.actions, jax.core.Tracer):
        raise InputError(
            "autoregressive: bins are fitted to the values of the log: call "
            "ddm.prepare(autoregressive, config, dataset) outside of jit"
        )
    edges = binning.fit_edges(
        np.asarray(dataset.actions), config.num_bins, config.binning, config.clip_percentile
    )
    return config.replace(edges=tuple(edges.ravel().tolist()))


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh policy for observations (B, T, *O) and actions (B, T, A) like those in `batch`.

    Raises:
      InputError: discrete actions, edges that do not fit the actions, or observations that need
        another encoder.
    """
    check_batch(batch, batch_spec(config), "autoregressive")
    check_continuous(batch, "autoregressive")
    networks.check_encoder(config.encoder, batch.observations.shape[2:], "autoregressive")
    action_size = batch.actions.shape[-1]
    _check_edges(config, action_size)
    key, params_key = jax.random.split(key)
    frames, tokens = batch.observations[:1, : config.observation_steps], _no_tokens(batch, config)
    params = _network(config, action_size).init(params_key, frames, tokens)
    return State(
        policy=networks.trainable(params, _optimizer(config, 0)),
        observation=jnp.zeros_like(batch.observations[0, 0]),
        action=jnp.zeros_like(batch.actions[0, 0]),
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
    check_batch(batch, batch_spec(config), "autoregressive")
    check_continuous(batch, "autoregressive")
    key, prefix_key, dropout_key = jax.random.split(state.key, 3)
    frames = batch.observations[:, : config.observation_steps]
    actions = batch.actions[:, config.observation_steps - 1 :]
    mask = batch.mask[:, config.observation_steps - 1 :]
    edges = _edges(config, actions.shape[-1])
    bins = binning.encode(actions, edges)
    targets = _lookup(TARGETS, config, "targets")(config, actions, bins, edges)
    prefix = _hide(config, _flat(bins), prefix_key)
    total = jnp.maximum(jnp.sum(mask, dtype=jnp.float32), 1.0)
    mean = lambda values: jnp.sum(jnp.where(mask, values, 0.0)) / total  # noqa: E731

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        logits = _network(config, actions.shape[-1]).apply(
            params, frames, prefix, deterministic=False, rngs={"dropout": dropout_key}
        )
        log_probs = jax.nn.log_softmax(logits).reshape(*actions.shape, config.num_bins)
        loss = mean(-jnp.sum(_smoothed(config, log_probs, targets), axis=-1))
        density = _on(log_probs, bins) - binning.log_widths(bins, edges)
        likeliest = jnp.argmax(log_probs, axis=-1).astype(bins.dtype)
        hits = jnp.mean(likeliest == bins, axis=-1)
        return loss, {
            "loss": loss,
            "log_prob": mean(jnp.sum(density, axis=-1)),
            "accuracy": mean(hits),
        }

    policy, metrics = networks.minimize(loss_fn, state.policy, _optimizer(config, state.step))
    return state.replace(policy=policy, step=state.step + 1, key=key), metrics


def initial_policy_state(config: Config, state: State) -> PolicyState:
    """No frames seen, and no plan."""
    return PolicyState(
        frames=plans.no_frames(config.observation_steps, state.observation),
        plan=plans.no_plan(config.chunk_size, state.action),
    )


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PolicyState]:
    """The next action of a chunk, drawn bin by bin, or of the likeliest bins.

    The deterministic form takes the likeliest bin at each place, and its centre: where modes are
    equally likely, one of them. It is not always the likeliest action: see :func:`beam_search`.
    If the demonstrator's noise covers many bins, it is chance which bin becomes the likeliest:
    samples at a low `temperature` then act better than greedy actions. Without a policy state an
    episode begins.
    """
    carried = policy_state or initial_policy_state(config, state)
    frames = plans.push(carried.frames, observation)
    make = _greedy_chunk if deterministic else _drawn_chunk
    action, plan = plans.next_action(
        carried.plan,
        config.execute_steps,
        make,
        config,
        state.policy.params,
        state.action,
        frames.observations,
        key,
    )
    return action, PolicyState(frames=frames, plan=plan)


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
    observations = _with_time(observations, state.observation, config.observation_steps)
    actions = _with_time(actions, state.action, config.chunk_size)
    edges = _edges(config, actions.shape[-1])
    bins = binning.encode(actions, edges)
    logits = _network(config, actions.shape[-1]).apply(
        state.policy.params, observations, _flat(bins)
    )
    log_probs = _on(jax.nn.log_softmax(logits), _flat(bins))
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
    action_size = state.action.shape[0]
    network = _network(config, action_size)
    tokens, scores = decoding.beam_search(network, state.policy.params, frames, width)
    bins = tokens.reshape(width, config.chunk_size, action_size)
    return binning.decode(bins, _edges(config, action_size)).astype(state.action.dtype), scores


def check_config(config: Config) -> None:
    """Refuses, by name, invalid choices; traced bounds are not checked.

    Raises:
      InputError: naming the field, and what was expected.
    """
    _lookup(DECODERS, config, "decoder")
    _lookup(TARGETS, config, "targets")
    _lookup(DECODINGS, config, "decode")
    low, high = config.bin_low, config.bin_high
    known = all(isinstance(each, int | float) for each in (low, high))
    if known and low == high:
        raise InputError(
            f"autoregressive: bins from bin_low={low:g} to bin_high={high:g}, expected "
            "bin_low < bin_high"
        )


def _check_edges(config: Config, action_size: int) -> None:
    expected = action_size * (config.num_bins + 1)
    if not config.edges:
        return
    if len(config.edges) != expected:
        raise InputError(
            f"autoregressive: edges has {len(config.edges)} numbers, expected {expected}: "
            f"num_bins + 1 = {config.num_bins + 1} for each of {action_size} action dimensions"
        )
    edges = np.asarray(config.edges, np.float32).reshape(action_size, -1)
    for dimension, row in enumerate(edges):
        if not np.all(np.diff(row) > 0.0) or row[0] < -1.0 or row[-1] > 1.0:
            raise InputError(
                f"autoregressive: the edges of action dimension {dimension} run from {row[0]:g} to "
                f"{row[-1]:g}, expected increasing numbers inside the action box [-1, 1]"
            )


def _edges(config: Config, action_size: int) -> jax.Array:
    """(A, K + 1)."""
    if config.edges:
        return jnp.asarray(config.edges, jnp.float32).reshape(action_size, config.num_bins + 1)
    return binning.uniform_edges(config.bin_low, config.bin_high, action_size, config.num_bins)


def _network(config: Config, action_size: int) -> decoding.AutoregressivePolicy:
    make = _lookup(DECODERS, config, "decoder")
    return decoding.AutoregressivePolicy(
        config.encoder, make(config, config.chunk_size * action_size)
    )


def _optimizer(config: Config, step: jax.Array | int) -> optax.GradientTransformation:
    rate = ops.cosine_decay(config.learning_rate, step, config.decay_steps)
    warmup = ops.share_done(step + 1, config.warmup_steps)
    return optax.chain(
        optax.clip_by_global_norm(config.max_gradient_norm),
        optax.adamw(rate * warmup, weight_decay=config.weight_decay),
    )


def _no_tokens(batch: Batch, config: Config) -> jax.Array:
    return jnp.zeros((1, config.chunk_size * batch.actions.shape[-1]), jnp.int32)


def _flat(bins: jax.Array) -> jax.Array:
    """(..., T, A) to (..., T * A), time-major."""
    return bins.reshape(*bins.shape[:-2], -1)


def _with_time(values: jax.Array, example: jax.Array, steps: int) -> jax.Array:
    """Adds an axis of steps to (B, ...) if there is one step; (B, T, ...) is not changed."""
    return values[:, None] if values.ndim == example.ndim + 1 and steps == 1 else values


def _hide(config: Config, tokens: jax.Array, key: PRNGKey) -> jax.Array:
    hidden = jax.random.bernoulli(key, jnp.float32(config.prefix_dropout), tokens.shape)
    return jnp.where(hidden, config.num_bins, tokens)


def _on(log_probs: jax.Array, bins: jax.Array) -> jax.Array:
    return jnp.take_along_axis(log_probs, bins[..., None], axis=-1)[..., 0]


def _smoothed(config: Config, log_probs: jax.Array, targets: Callable[..., Any]) -> jax.Array:
    """(..., A) minus the cross-entropy with targets that are mixed with uniform ones."""
    smoothing = config.label_smoothing
    return (1.0 - smoothing) * targets(log_probs) + smoothing * jnp.mean(log_probs, axis=-1)


# The variants: each is a function, looked up once.


def _one_hot(config: Config, actions: jax.Array, bins: jax.Array, edges: jax.Array) -> Any:
    del config, actions, edges
    return lambda log_probs: _on(log_probs, bins)


def _soft(config: Config, actions: jax.Array, bins: jax.Array, edges: jax.Array) -> Any:
    del bins
    hill = binning.soft_targets(actions, edges, config.target_width)
    return lambda log_probs: jnp.sum(hill * log_probs, axis=-1)


def _drawn_chunk(
    config: Config, params: Any, action: jax.Array, frames: jax.Array, key: PRNGKey
) -> jax.Array:
    """(chunk_size, A) of bins drawn one after the other."""
    tokens_key, decode_key = jax.random.split(key)

    def draw(logits: jax.Array, key: PRNGKey) -> jax.Array:
        logits = decoding.nucleus(logits / config.temperature, config.top_p)
        return jax.random.categorical(key, logits)

    bins, edges = _bins(config, params, action, frames, tokens_key, draw)
    decode = _lookup(DECODINGS, config, "decode")
    return decode(bins, edges, decode_key).astype(action.dtype)


def _greedy_chunk(
    config: Config, params: Any, action: jax.Array, frames: jax.Array, key: PRNGKey
) -> jax.Array:
    """(chunk_size, A) of the likeliest bin at each place, given those before it."""
    greedy = lambda logits, _: jnp.argmax(logits, axis=-1)  # noqa: E731
    bins, edges = _bins(config, params, action, frames, key, greedy)
    return binning.decode(bins, edges).astype(action.dtype)


def _bins(
    config: Config, params: Any, action: jax.Array, frames: jax.Array, key: PRNGKey, choose: Any
) -> tuple[jax.Array, jax.Array]:
    network = _network(config, action.shape[0])
    tokens = decoding.draw_tokens(network, params, frames, key, choose)
    return tokens.reshape(config.chunk_size, -1), _edges(config, action.shape[0])


def _lookup(table: dict[str, Any], config: Config, field: str) -> Any:
    name = getattr(config, field)
    if name not in table:
        raise InputError(
            f"autoregressive: {field}={name} is unknown; choose one of {', '.join(table)}"
        )
    return table[name]


DECODERS: dict[str, Callable[[Config, int], decoding.Decoder]] = {
    "transformer": lambda config, num_tokens: decoding.TransformerDecoder(
        num_tokens,
        config.num_bins,
        config.width,
        config.num_layers,
        config.num_heads,
        config.dropout_rate,
        config.cache,
    ),
    "lstm": lambda config, num_tokens: decoding.LSTMDecoder(
        num_tokens, config.num_bins, config.width, config.hidden_sizes
    ),
    "mlp": lambda config, num_tokens: decoding.MLPDecoder(
        num_tokens, config.num_bins, config.hidden_sizes
    ),
    "factorised": lambda config, num_tokens: decoding.FactorisedDecoder(
        num_tokens, config.num_bins, config.hidden_sizes
    ),
}
TARGETS = {"one_hot": _one_hot, "soft": _soft}
DECODINGS: dict[str, Callable[..., jax.Array]] = {
    "centre": lambda bins, edges, key: binning.decode(bins, edges),
    "dither": binning.decode_dithered,
}
