"""Behaviour cloning on a learned summary of the past: for demonstrators that remember.

    L(theta) = - E_D [ log pi_theta(a_t | o_{t-n+1}, ..., o_t [, a_{t-n}, ..., a_{t-1}]) ]

The action of a demonstrator that waits, counts, alternates or has seen a cue is not a function of
the observation. The same holds if the state is only partly observed. A trunk summarises the past,
and any head of :mod:`ddm.imitation.bc` maps the summary to actions:

- ``stack``: the last n observations side by side, with flags for the ones before the start. It
  predicts the action of the last step.
- ``recurrent``: GRU or LSTM layers (robomimic's BC-RNN, Mandlekar et al. 2021). A training segment
  begins at the drawn step, after ``burn_in`` steps that start from a zero state and are not
  supervised. Burn-in steps before the episode's start are skipped. So the start of an episode is
  learned from the same state as in acting, and any other step after ``burn_in`` or more steps.
- ``transformer``: causal attention over the last n steps (robomimic's BC-Transformer).

**Copying.** Demonstrations are smooth: the last action predicts the next one, and a policy that
sees the past may copy itself and miss what matters (de Haan et al. 2019). More history can be worse
than none. Remedies: no ``previous_actions`` (the default); ``history_dropout``, which hides the
whole past in a share of the windows; ``change_point_weight``, which emphasises the steps where the
demonstrator changed its action, w_t = 1 + c 1[|a_t - a_{t-1}| > tau] (Wen et al. 2021). The metrics
``copy_error`` and ``change_error`` show how well copying would do and how well the policy does
where copying fails.

Differences from robomimic: the recurrent state is kept for the whole episode unless ``reset_every``
is set (robomimic resets it every ten steps); a head has its own hidden layers; the transformer
normalises before each branch, has sinusoids for positions (robomimic: learned ones), and all steps
of a window are supervised (robomimic: the last, here ``supervise="last"``). The sizes are smaller,
for vectors: one GRU layer of 128 (robomimic: two LSTM layers of 400), one block of 128 with 4 heads
and no dropout (robomimic: six of 512 with 8 heads and 0.1).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from ddm import networks, ops
from ddm.errors import InputError
from ddm.imitation import bc
from ddm.ops import plans
from ddm.types import Batch, BatchSpec, Metrics, PRNGKey, PyTree, check_batch, leaf, static

FIELDS = ("observations", "actions", "mask")


class Config(bc.Config):
    """Hyper-parameters of behaviour cloning, and of the summary of the past."""

    history: str = static("recurrent")  # summary of the past: stack, recurrent or transformer
    # Steps that a stack or a transformer sees, with the current one (robomimic: 10)
    observation_steps: int = static(10, "[1, inf)")
    segment_steps: int = static(32, "[1, inf)")  # supervised steps of a recurrent training segment
    # steps before a segment that only warm up the recurrent state
    burn_in: int = static(8, "[0, inf)")
    # Steps of a window whose actions are predicted, all or last; a stack predicts the last
    supervise: str = static("all")
    previous_actions: bool = static(False)  # the policy sees the actions it took; invites copying
    # share of windows in which each step sees only itself, 0 to 1
    history_dropout: float = leaf(0.0, "[0, 1]")
    # additional weight of steps at which the action changes
    change_point_weight: float = leaf(0.0, "[0, inf)")
    # change of an action that counts, in half action ranges
    change_point_threshold: float = leaf(0.1, "[0, inf)")
    max_gradient_norm: float = leaf(1.0, "(0, inf)")  # longer gradients are shortened to this norm
    cell: str = static("gru")  # of a recurrent history: gru or lstm
    width: int = static(128, "[1, inf)")  # of the recurrent state, or of the transformer's tokens
    num_layers: int = static(1, "[1, inf)")  # recurrent layers, or transformer blocks
    num_heads: int = static(4, "[1, inf)")  # of the transformer's attention; divides the width
    dropout_rate: float = static(0.0, "[0, 1)")  # of the transformer (robomimic: 0.1)
    # steps after which a recurrent policy forgets while it acts; 0: never
    reset_every: int = leaf(0, "[0, inf)")


class State(struct.PyTreeNode):
    """Everything that training changes, and the form of an observation and an action."""

    policy: networks.Trainable  # parameters of "trunk" and "head"
    observation: jax.Array  # (*O,) zeros: the shape and type of one observation
    action: jax.Array  # (A,) or () zeros, likewise
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


class Steps(NamedTuple):
    """T consecutive steps, and the actions taken before each of them."""

    observations: jax.Array  # (..., T, *O)
    mask: jax.Array  # (..., T) bool
    previous: jax.Array  # (..., T, *A)
    previous_mask: jax.Array  # (..., T) bool


def batch_spec(config: Config) -> BatchSpec:
    """Windows around the drawn step, and the step before them for its action."""
    history = _find(config)
    before = 1 + history.past(config)
    window = before + 1 + history.ahead(config)
    return BatchSpec(fields=FIELDS, window=window, history=before, num_actions=config.num_actions)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh policy for observations and actions of the shapes in `batch`.

    Raises:
      InputError: an unknown history, cell or way to supervise, or what `bc.init` refuses.
    """
    check_batch(batch, batch_spec(config), "history_bc")
    networks.check_encoder(config.encoder, batch.observations.shape[2:], "history_bc")
    key, trunk_key, head_key = jax.random.split(key, 3)
    first = jax.tree.map(lambda leaf: leaf[:1], batch)
    head_config = _head_config(config)
    _check(config, batch)
    inputs = _inputs(config, _steps(first))
    trunk_params = _trunk(config).init(trunk_key, *inputs)
    features = _trunk(config).apply(trunk_params, *inputs)
    example = Batch(observations=features[:, -1], actions=first.actions[:, -1])
    head = bc.init(head_config, head_key, example)
    params = {"trunk": trunk_params, "head": head.policy.params}
    return State(
        policy=networks.trainable(params, _optimizer(config, 0)),
        observation=jnp.zeros_like(batch.observations[0, 0]),
        action=jnp.zeros_like(batch.actions[0, 0]),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One gradient step on the weighted mean loss of the supervised valid steps.

    Metrics: ``loss``; ``action_error``, the mean squared error of the policy's mode (the error rate
    for discrete actions); ``copy_error``, that of the previous action; ``change_error``, the
    policy's at the steps where the action changes (0 if there are none).
    """
    check_batch(batch, batch_spec(config), "history_bc")
    key, forget_key, dropout_key = jax.random.split(state.key, 3)
    steps = _steps(batch)
    alone = jax.random.bernoulli(
        forget_key, jnp.float32(config.history_dropout), steps.mask.shape[:1]
    )
    take, valid = _supervised(config, steps.mask)
    actions, previous = take(batch.actions[:, 1:]), take(steps.previous)
    known = valid & take(steps.previous_mask)
    changed = known & _differs(actions, previous, config.change_point_threshold)
    emphasis = 1.0 + config.change_point_weight * changed.astype(jnp.float32)
    weights = valid.astype(jnp.float32) * emphasis
    head, head_config = bc.find_head(config), _head_config(config)

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        features = take(_features(config, params, steps, alone, dropout_key))
        outputs = bc.head_outputs(head_config, params["head"], features)
        modes = head.mode(outputs)
        bc.check_same_actions(modes, actions, "history_bc")
        loss = _mean(head.loss(config, outputs, actions), weights)
        errors = _errors(modes, actions)
        return loss, {
            "loss": loss,
            "action_error": _mean(errors, valid),
            "copy_error": _mean(_errors(previous, actions), known),
            "change_error": _mean(errors, changed),
        }

    policy, metrics = networks.minimize(loss_fn, state.policy, _optimizer(config, state.step))
    return state.replace(policy=policy, step=state.step + 1, key=key), metrics


def initial_policy_state(config: Config, state: State) -> PyTree:
    """What the policy remembers at the start of an episode: nothing."""
    return _find(config).start(config, state)


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """An action of the head, as in `bc.act`; an empty policy state is the start of an episode."""
    history = _find(config)
    memory = policy_state or history.start(config, state)
    features, memory = history.recall(config, state, memory, observation)
    head = bc.State(
        policy=networks.Trainable(state.policy.params["head"], ()), step=state.step, key=state.key
    )
    action, _ = bc.act(_head_config(config), head, features, key, deterministic=deterministic)
    return action, history.record(memory, action)


def log_prob(
    config: Config, state: State, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    """Log-probability (B, T) of each of T actions, given what came before it; see `bc.log_prob`.

    It is that of the trained policy without forgetting: ``reset_every`` is not used.

    Args:
      config: hyper-parameters.
      state: the trained state.
      observations: (B, T, *O) the first T steps of episodes.
      actions: (B, T, A) or (B, T).

    Raises:
      InputError: ``mse``, whose policy is one action.
    """
    # A step of padding at the front, whose action is not known.
    pad = lambda leaf: jnp.concatenate([leaf[:, :1], leaf], axis=1)  # noqa: E731
    mask = jnp.ones((actions.shape[0], actions.shape[1] + 1), bool).at[:, 0].set(False)
    steps = _steps(Batch(observations=pad(observations), actions=pad(actions), mask=mask))
    params = state.policy.params
    features = _find(config).every_step(config, params["trunk"], steps)
    outputs = bc.head_outputs(_head_config(config), params["head"], features)
    return bc.head_log_prob(config, outputs, actions)


def _check(config: Config, batch: Batch) -> None:
    if config.supervise not in SUPERVISED:
        raise InputError(
            f"history_bc: supervise={config.supervise} is unknown; choose one of "
            f"{', '.join(SUPERVISED)}"
        )
    discrete = jnp.issubdtype(batch.actions.dtype, jnp.integer)
    if config.previous_actions and discrete and config.num_actions < 1:
        raise InputError("history_bc: previous_actions that are discrete need num_actions")


def _head_config(config: Config) -> Config:
    """The head works on the trunk's features, which are vectors."""
    return config.replace(encoder="none")


def _optimizer(config: Config, step: jax.Array | int) -> optax.GradientTransformation:
    rate = ops.cosine_decay(config.learning_rate, step, config.decay_steps)
    # optax takes a traced norm, though it says float.
    norm: Any = config.max_gradient_norm
    return optax.chain(
        optax.clip_by_global_norm(norm), optax.adamw(rate, weight_decay=config.weight_decay)
    )


def _trunk(config: Config) -> networks.HistoryEncoder:
    return networks.HistoryEncoder(config.encoder, _find(config).trunk(config))


def _features(
    config: Config, params: Any, steps: Steps, alone: jax.Array, key: PRNGKey
) -> jax.Array:
    """Features (B, T, F) in training; the rows `alone` (B,) see no past."""
    steps = steps._replace(previous_mask=steps.previous_mask & ~alone[:, None])
    return _trunk(config).apply(
        params["trunk"],
        *_inputs(config, steps),
        alone,
        deterministic=config.dropout_rate == 0.0,
        rngs={"dropout": key},
    )


def _steps(batch: Batch) -> Steps:
    """A window without its first step; of that step only the action is used."""
    return Steps(
        batch.observations[:, 1:], batch.mask[:, 1:], batch.actions[:, :-1], batch.mask[:, :-1]
    )


def _inputs(config: Config, steps: Steps) -> tuple[jax.Array, jax.Array | None, jax.Array]:
    """The inputs of the trunk."""
    return steps.observations, _encode(config, steps.previous, steps.previous_mask), steps.mask


def _encode(config: Config, actions: jax.Array, mask: jax.Array) -> jax.Array | None:
    """Previous actions (..., P), zero where there was none; discrete ones are one-hot."""
    if not config.previous_actions:
        return None
    if jnp.issubdtype(actions.dtype, jnp.integer):
        actions = jax.nn.one_hot(actions, config.num_actions, dtype=jnp.float32)
    return jnp.where(mask[..., None], actions, 0.0)


def _mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted mean; 0 if all weights are."""
    weights = weights.astype(values.dtype)
    total = jnp.sum(weights)
    return jnp.sum(weights * values) / jnp.where(total > 0.0, total, 1.0)


def _errors(predictions: jax.Array, actions: jax.Array) -> jax.Array:
    """Squared error of each action (...,), averaged over its dimensions; 0 or 1 if discrete."""
    if jnp.issubdtype(actions.dtype, jnp.integer):
        return (predictions != actions).astype(jnp.float32)
    return jnp.mean(jnp.square(predictions - actions), axis=-1)


def _differs(actions: jax.Array, previous: jax.Array, threshold: jax.Array | float) -> jax.Array:
    if jnp.issubdtype(actions.dtype, jnp.integer):
        return actions != previous
    return jnp.max(jnp.abs(actions - previous), axis=-1) > threshold


# Which steps of a window are supervised. Each function returns how to take them out of an array
# (B, T, *), as (B, S, *), and which of them are valid (B, S).

Take = Callable[[jax.Array], jax.Array]


def _supervised(config: Config, mask: jax.Array) -> tuple[Take, jax.Array]:
    history = _find(config)
    which = "last" if history.last_only else config.supervise
    return SUPERVISED[which](history.skip(config), mask)


def _all_steps(skip: int, mask: jax.Array) -> tuple[Take, jax.Array]:
    return lambda values: values[:, skip:], mask[:, skip:]


def _last_step(skip: int, mask: jax.Array) -> tuple[Take, jax.Array]:
    """The last valid one: the drawn step of a window with history is always valid."""
    del skip
    rows, last = jnp.arange(mask.shape[0]), mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1)
    return lambda values: values[rows, last][:, None], jnp.ones((mask.shape[0], 1), bool)


SUPERVISED = {"all": _all_steps, "last": _last_step}


# The histories. Each is a row of small functions, resolved once from the static field `history`.


class Window(struct.PyTreeNode):
    """Memory of a policy that sees the last n steps."""

    frames: plans.Frames  # n + 1 places: of the first one only the action is used
    actions: jax.Array  # (n, *A) the last n actions taken


class Recurrence(struct.PyTreeNode):
    """Memory of a recurrent policy."""

    carry: PyTree  # of the cells
    action: jax.Array  # (*A,) the last one taken
    time: jax.Array  # () int32, steps of the episode


class History(NamedTuple):
    """How a summary of the past is built, trained and used."""

    trunk: Callable[[Config], nn.Module]
    past: Callable[[Config], int]  # steps of a training window before the drawn one
    ahead: Callable[[Config], int]  # and after it
    skip: Callable[[Config], int]  # first steps of a window that are never supervised
    start: Callable[[Config, State], Any]
    recall: Callable[[Config, State, Any, jax.Array], tuple[jax.Array, Any]]
    record: Callable[[Any, jax.Array], Any]
    every_step: Callable[[Config, Any, Steps], jax.Array]  # features (B, T, F), as in `act`
    last_only: bool = False


def _find(config: Config) -> History:
    if config.history not in HISTORIES:
        raise InputError(
            f"history_bc: history={config.history} is unknown; choose one of {', '.join(HISTORIES)}"
        )
    return HISTORIES[config.history]


def _stack(config: Config) -> nn.Module:
    return networks.FrameStack(config.observation_steps)


def _recurrent(config: Config) -> nn.Module:
    cells = {"gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}
    if config.cell not in cells:
        raise InputError(
            f"history_bc: cell={config.cell} is unknown; choose one of {', '.join(cells)}"
        )
    make_cell = functools.partial(cells[config.cell], config.width)
    return networks.Recurrent(make_cell, config.num_layers)


def _transformer(config: Config) -> nn.Module:
    if config.width % config.num_heads:
        raise InputError(
            f"history_bc: width={config.width} does not divide into num_heads={config.num_heads}"
        )
    return networks.CausalTransformer(
        config.num_layers, config.width, config.num_heads, config.dropout_rate
    )


def _no_window(config: Config, state: State) -> Window:
    shape = (config.observation_steps, *state.action.shape)
    return Window(
        frames=plans.no_frames(config.observation_steps + 1, state.observation),
        actions=jnp.zeros(shape, state.action.dtype),
    )


def _recall_window(
    config: Config, state: State, window: Window, observation: jax.Array
) -> tuple[jax.Array, Window]:
    """Features (F,) of the window that ends with `observation`, as in training."""
    frames = plans.push(window.frames, observation)
    steps = Steps(frames.observations[1:], frames.valid[1:], window.actions, frames.valid[:-1])
    features = _trunk(config).apply(state.policy.params["trunk"], *_inputs(config, steps))
    return features[-1], window.replace(frames=frames)


def _window_at_each_step(config: Config, params: Any, steps: Steps) -> jax.Array:
    """Features (B, T, F): each step gets the window that ends with it."""
    ends = jnp.arange(steps.mask.shape[1], dtype=jnp.int32)[:, None]
    ages = jnp.arange(config.observation_steps, dtype=jnp.int32)[None, ::-1]
    places = ends - ages  # (T, n)
    windows = Steps(*(leaf[:, jnp.maximum(places, 0)] for leaf in steps))
    inside = (places >= 0)[None]
    windows = windows._replace(
        mask=windows.mask & inside, previous_mask=windows.previous_mask & inside
    )
    return _trunk(config).apply(params, *_inputs(config, windows))[..., -1, :]


def _record_window(window: Window, action: jax.Array) -> Window:
    return window.replace(actions=jnp.concatenate([window.actions[1:], action[None]]))


def _no_recurrence(config: Config, state: State) -> Recurrence:
    time = jnp.zeros((), jnp.int32)
    previous = _encode(config, state.action, time > 0)
    carry = _trunk(config).apply(
        state.policy.params["trunk"], state.observation, previous, method="initial_carry"
    )
    return Recurrence(carry=carry, action=jnp.copy(state.action), time=time)


def _recall_recurrence(
    config: Config, state: State, memory: Recurrence, observation: jax.Array
) -> tuple[jax.Array, Recurrence]:
    """Features (F,) after one more step."""
    every = jnp.asarray(config.reset_every, jnp.int32)
    forgets = (every > 0) & (memory.time % jnp.maximum(every, 1) == 0)
    carry = jax.tree.map(
        functools.partial(jnp.where, forgets), _no_recurrence(config, state).carry, memory.carry
    )
    previous = _encode(config, memory.action, memory.time > 0)
    carry, features = _trunk(config).apply(
        state.policy.params["trunk"], carry, observation, previous, method="step"
    )
    return features, memory.replace(carry=carry, time=memory.time + 1)


def _recurrence_at_each_step(config: Config, params: Any, steps: Steps) -> jax.Array:
    return _trunk(config).apply(params, *_inputs(config, steps))


def _record_recurrence(memory: Recurrence, action: jax.Array) -> Recurrence:
    return memory.replace(action=action)


def _seen(config: Config) -> int:
    """Steps that a window policy sees before the current one."""
    return config.observation_steps - 1


def _none(config: Config) -> int:
    del config
    return 0


HISTORIES: dict[str, History] = {
    "stack": History(
        _stack,
        _seen,
        _none,
        _none,
        _no_window,
        _recall_window,
        _record_window,
        _window_at_each_step,
        last_only=True,
    ),
    "recurrent": History(
        _recurrent,
        lambda config: config.burn_in,
        lambda config: config.segment_steps - 1,
        lambda config: config.burn_in,
        _no_recurrence,
        _recall_recurrence,
        _record_recurrence,
        _recurrence_at_each_step,
    ),
    "transformer": History(
        _transformer,
        _seen,
        _none,
        _none,
        _no_window,
        _recall_window,
        _record_window,
        _window_at_each_step,
    ),
}
