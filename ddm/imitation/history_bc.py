"""Behaviour cloning on a learned summary of the past: for demonstrators that remember.

    L(theta) = - E_D [ log pi_theta(a_t | o_{t-n+1}, ..., o_t [, a_{t-n}, ..., a_{t-1}]) ]

The action of a demonstrator that waits, counts, alternates or has seen a cue is not a function of
the observation. The same holds if the state is only partly observed. A trunk summarises the past,
and any head of :mod:`ddm.networks.heads` maps the summary to actions:

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

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from ddm import networks, ops
from ddm.errors import InputError
from ddm.imitation import bc
from ddm.imitation.parts import histories
from ddm.imitation.parts.histories import CELLS, HISTORIES, SUPERVISED, Steps
from ddm.networks import heads
from ddm.networks.heads import policy_network
from ddm.types import (
    Batch,
    BatchSpec,
    Metrics,
    NetworkFn,
    PRNGKey,
    PyTree,
    check_batch,
    choice,
    leaf,
    network,
    static,
)

FIELDS = ("observations", "actions", "mask")


class Config(bc.Config):
    """Hyper-parameters of behaviour cloning, and of the summary of the past."""

    history: str = choice(HISTORIES, "recurrent")  # summary of the past
    # Steps that a stack or a transformer sees, with the current one (robomimic: 10)
    observation_steps: int = static(10, "[1, inf)")
    segment_steps: int = static(32, "[1, inf)")  # supervised steps of a recurrent training segment
    # steps before a segment that only warm up the recurrent state
    burn_in: int = static(8, "[0, inf)")
    # Steps of a window whose actions are predicted; a stack predicts the last
    supervise: str = choice(SUPERVISED, "all")
    previous_actions: bool = static(False)  # the policy sees the actions it took; invites copying
    # share of windows in which each step sees only itself, 0 to 1
    history_dropout: float = leaf(0.0, "[0, 1]")
    # additional weight of steps at which the action changes
    change_point_weight: float = leaf(0.0, "[0, inf)")
    # change of an action that counts, in half action ranges
    change_point_threshold: float = leaf(0.1, "[0, inf)")
    max_gradient_norm: float = leaf(1.0, "(0, inf)")  # longer gradients are shortened to this norm
    cell: str = choice(CELLS, "gru")  # of a recurrent history
    width: int = static(128, "[1, inf)")  # of the recurrent state, or of the transformer's tokens
    num_layers: int = static(1, "[1, inf)")  # recurrent layers, or transformer blocks
    num_heads: int = static(4, "[1, inf)")  # of the transformer's attention; divides the width
    dropout_rate: float = static(0.0, "[0, 1)")  # of the transformer (robomimic: 0.1)
    # steps after which a recurrent policy forgets while it acts; 0: never
    reset_every: int = leaf(0, "[0, inf)")
    # in place of the summary and its encoder; see `trunk_network`
    trunk_network: NetworkFn | None = network()


class State(struct.PyTreeNode):
    """Everything that training changes, and the form of an observation and an action."""

    policy: networks.Trainable  # a `HistoryPolicy` of trunk and head
    observation: jax.Array  # (*O,) zeros: the shape and type of one observation
    action: jax.Array  # (A,) or () zeros, likewise
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Windows around the drawn step, and the step before them for its action."""
    history = HISTORIES[config.history]
    before = 1 + history.past(config)
    window = before + 1 + history.ahead(config)
    return BatchSpec(fields=FIELDS, window=window, history=before, num_actions=config.num_actions)


def trunk_network(config: Config, action_size: int) -> nn.Module:
    """The summary of the past; the head of `policy_network` works on its features.

    It is called with observations (..., T, *O), previous actions (..., T, P) or None, and a mask
    (..., T), and with `alone` (B,) and `deterministic` in training. It returns features
    (..., T, F). That of a recurrent history also has the methods `initial_carry` and `step`: see
    :class:`ddm.networks.HistoryEncoder`.
    """
    del action_size
    return networks.HistoryEncoder(config.encoder, HISTORIES[config.history].trunk(config))


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh policy for observations and actions of the shapes in `batch`.

    Raises:
      InputError: what `bc.init` refuses, or discrete previous actions without their number.
    """
    check_batch(batch, batch_spec(config), "history_bc")
    _check(config, batch)
    key, trunk_key, head_key = jax.random.split(key, 3)
    first = jax.tree.map(lambda leaf: leaf[:1], batch)
    action_size = heads.action_size(config, batch)
    trunk = (config.trunk_network or trunk_network)(config, action_size)
    inputs = histories.inputs(config, histories.steps_of(first))
    features, trunk_params = trunk.init_with_output(trunk_key, *inputs)
    example = Batch(observations=features[:, -1], actions=first.actions[:, -1])
    on_features = config.replace(encoder="none")
    heads.check(on_features, example, "history_bc")
    head = (config.policy_network or policy_network)(on_features, action_size)
    _, head_key = jax.random.split(head_key)  # as in `bc.init`, which gives the same head
    head_params = head.init(head_key, example.observations, *heads.bounds(config))
    parts = {"trunk": trunk_params, "head": head_params}  # a stack of vectors has no parameters
    params = {"params": {name: each["params"] for name, each in parts.items() if each}}
    return State(
        policy=networks.trainable(networks.HistoryPolicy(trunk, head), params, clipped_adamw),
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
    steps = histories.steps_of(batch)
    alone = jax.random.bernoulli(
        forget_key, jnp.float32(config.history_dropout), steps.mask.shape[:1]
    )
    take, valid = histories.supervised(config, steps.mask)
    actions, previous = take(batch.actions[:, 1:]), take(steps.previous)
    known = valid & take(steps.previous_mask)
    changed = known & _differs(actions, previous, config.change_point_threshold)
    emphasis = 1.0 + config.change_point_weight * changed.astype(jnp.float32)
    weights = valid.astype(jnp.float32) * emphasis

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        features = take(_features(config, state.policy, params, steps, alone, dropout_key))
        bounds = heads.bounds(config)
        outputs = state.policy.apply(params, features, *bounds, method="outputs")
        modes = heads.find(config).mode(outputs)
        heads.check_same_actions(modes, actions, "history_bc")
        loss = _mean(bc.losses(config, outputs, actions), weights)
        errors = bc.errors(modes, actions)
        return loss, {
            "loss": loss,
            "action_error": _mean(errors, valid),
            "copy_error": _mean(bc.errors(previous, actions), known),
            "change_error": _mean(errors, changed),
        }

    rate = ops.cosine_decay(config.learning_rate, state.step, config.decay_steps)
    policy, metrics = networks.minimize(
        loss_fn, state.policy, rate, config.weight_decay, config.max_gradient_norm
    )
    return state.replace(policy=policy, step=state.step + 1, key=key), metrics


def clipped_adamw(
    learning_rate: Any, weight_decay: Any = 0.0, max_norm: Any = 1.0
) -> optax.GradientTransformation:
    """AdamW on gradients that are shortened to a norm, over trunk and head together."""
    return optax.chain(
        optax.clip_by_global_norm(max_norm), networks.adamw(learning_rate, weight_decay)
    )


def initial_policy_state(config: Config, state: State) -> PyTree:
    """What the policy remembers at the start of an episode: nothing."""
    return HISTORIES[config.history].start(config, state)


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
    history = HISTORIES[config.history]
    memory = policy_state or history.start(config, state)
    features, memory = history.recall(config, state, memory, observation)
    outputs = state.policy(features, *heads.bounds(config), method="outputs")
    action = heads.find(config).act(outputs, key, deterministic)
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
    batch = Batch(observations=pad(observations), actions=pad(actions), mask=mask)
    features = HISTORIES[config.history].every_step(config, state, histories.steps_of(batch))
    outputs = state.policy(features, *heads.bounds(config), method="outputs")
    return heads.log_prob(config, outputs, actions, "history_bc")


def _check(config: Config, batch: Batch) -> None:
    if config.trunk_network is None:
        networks.check_encoder(config.encoder, batch.observations.shape[2:], "history_bc")
    discrete = jnp.issubdtype(batch.actions.dtype, jnp.integer)
    if config.previous_actions and discrete and config.num_actions < 1:
        raise InputError("history_bc: previous_actions that are discrete need num_actions")


def _features(
    config: Config,
    policy: networks.Trainable,
    params: Any,
    steps: Steps,
    alone: jax.Array,
    key: PRNGKey,
) -> jax.Array:
    """Features (B, T, F) in training; the rows `alone` (B,) see no past."""
    steps = steps._replace(previous_mask=steps.previous_mask & ~alone[:, None])
    return policy.apply(
        params,
        *histories.inputs(config, steps),
        alone,
        deterministic=config.dropout_rate == 0.0,
        rngs={"dropout": key},
        method="features",
    )


def _mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted mean; 0 if all weights are."""
    weights = weights.astype(values.dtype)
    total = jnp.sum(weights)
    return jnp.sum(weights * values) / jnp.where(total > 0.0, total, 1.0)


def _differs(actions: jax.Array, previous: jax.Array, threshold: jax.Array | float) -> jax.Array:
    if jnp.issubdtype(actions.dtype, jnp.integer):
        return actions != previous
    return jnp.max(jnp.abs(actions - previous), axis=-1) > threshold
