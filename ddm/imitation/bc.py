"""Behaviour cloning: maximum likelihood of the logged actions.

    L(theta) = - E_D [ log pi_theta(a | s) ]

which is the forward KL divergence from the demonstrator to the policy, up to a constant.
Log-densities are summed over action dimensions and averaged over the batch. The heads are policy
classes. Heads with a network: ``mse`` (a deterministic policy; the likelihood of a Gaussian of
fixed width), ``gaussian`` and ``tanh_gaussian`` (state-dependent widths), ``mixture`` (of
Gaussians: Bishop 1994; robomimic's BC-GMM), ``categorical`` (discrete actions). Heads without a
network, so that the problem has one optimum, known from other sources:

- ``tabular``: pi(a | s) ~ exp(W[s, a]) on one-hot observations, no others. The optimum is the share
  of each action in each state.
- ``linear_softmax``: pi(a | s) ~ exp <phi(s, a), w>, one weight vector for all actions. Convex; at
  the optimum the mean features under the policy are those of the data.
- ``linear_gaussian``: N(W phi(s) + b, diag(sigma^2)), not squashed, one sigma for all states. The
  optimum is ordinary least squares and its mean squared residual.

They start at zero weights: uniform, or a standard normal. They do not use ``hidden_sizes`` and
``layer_norm``.

A head that is unimodal averages the modes of a multimodal demonstrator. A mixture does not: its
deterministic form draws a component by its weight and returns that component's mean
(robomimic's low-noise evaluation). So it keeps every mode, without the noise.

The sizes are for vectors of a few dozen numbers. robomimic has two layers of 1024 units (here 256),
a step size of 1e-4 (here 1e-3), and standard deviations by softplus, at least 1e-4. Here they are
the exp of a clipped logarithm, at least exp(-5) = 0.007: below that the loss follows the rounding
of the actions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from ddm import networks, ops
from ddm.errors import InputError
from ddm.types import (
    Batch,
    BatchSpec,
    Configuration,
    Metrics,
    PRNGKey,
    PyTree,
    check_action_range,
    check_batch,
    check_one_hot,
    leaf,
    static,
)


class Config(Configuration):
    """Hyper-parameters of behaviour cloning."""

    learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size
    # gradient steps over which a cosine takes the step size to 0; 0: constant
    decay_steps: int = leaf(0, "[0, inf)")
    # decoupled weight decay (AdamW), per unit of learning rate
    weight_decay: float = leaf(0.0, "[0, inf)")
    # probability spread over all actions; discrete heads only
    label_smoothing: float = leaf(0.0, "[0, 1)")
    # floor of log std; without it a constant action sends the loss to -inf
    log_std_min: float = leaf(-5.0, at_most="log_std_max")
    # ceiling of the Gaussian heads' log standard deviation
    log_std_max: float = leaf(2.0, "(-inf, inf)")
    # mse, gaussian, tanh_gaussian, mixture or linear_gaussian; for discrete actions categorical,
    # tabular or linear_softmax
    head: str = static("gaussian")
    num_components: int = static(5, "[1, inf)")  # Gaussians of the mixture head
    num_actions: int = static(0, "[0, inf)")  # size of a discrete action space
    hidden_sizes: tuple[int, ...] = static((256, 256), "[1, inf)")  # relu layers
    layer_norm: bool = static(False)  # before each activation
    encoder: str = static("none")  # none: observations are vectors; conv: images
    # Feature map of the linear heads, a function that is hashable. linear_softmax: (..., O) to
    # (..., num_actions, F), required. linear_gaussian: (..., O) to (..., F); None: the observation.
    features: Callable[[jax.Array], jax.Array] | None = static(None)


class State(struct.PyTreeNode):
    """Everything that training changes."""

    policy: networks.Trainable
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


class Head(NamedTuple):
    """How a policy class is built, fitted and used; `outputs` is what its network returns."""

    network: Callable[[Config, int], nn.Module]
    outputs: Callable[[Config, nn.Module, Any, jax.Array], Any]
    loss: Callable[[Config, Any, jax.Array], jax.Array]  # (B,) per row
    sample: Callable[[Any, PRNGKey], jax.Array]
    mode: Callable[[Any], jax.Array]
    # Number of action dimensions from the width of the network's output.
    action_size: Callable[[Config, int], int] = lambda config, width: width
    noiseless: Callable[[Any, PRNGKey], jax.Array] | None = None  # deterministic `act`; None: mode
    discrete: bool = False  # actions are indices
    density: bool = True  # the outputs have log-probabilities; False: the policy is one action


def batch_spec(config: Config) -> BatchSpec:
    """Observations and the actions taken there."""
    return BatchSpec(
        fields=("observations", "actions"),
        one_hot_observations=config.head == "tabular",
        num_actions=config.num_actions,
    )


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh policy for observations and actions of the shapes in `batch`.

    Raises:
      InputError: an unknown head, a head for the other kind of actions, or features that do not
        fit the head.
    """
    check_batch(batch, batch_spec(config), "bc")
    head = find_head(config)
    networks.check_encoder(config.encoder, batch.observations.shape[1:], "bc")
    _check_actions(config, head, batch)
    _check_features(config, batch)
    action_size = config.num_actions if head.discrete else batch.actions.shape[-1]
    key, params_key = jax.random.split(key)
    bounds = _log_std_bounds(config) if head.outputs is _bounded_outputs else ()
    network = _network(config, action_size)
    params = network.init(params_key, batch.observations[:1], *bounds)
    return State(
        policy=networks.trainable(params, _optimizer(config, 0)),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One gradient step on the negative log-likelihood (the squared error for ``mse``).

    Metrics: ``loss``, the mean over the batch, and ``action_error``, the mean squared error of
    the policy's mode (the error rate for discrete actions).
    """
    check_batch(batch, batch_spec(config), "bc")
    head = find_head(config)

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        outputs = head_outputs(config, params, batch.observations)
        modes = head.mode(outputs)
        check_same_actions(modes, batch.actions, "bc")
        loss = jnp.mean(head.loss(config, outputs, batch.actions))
        error = _action_error(modes, batch.actions)
        return loss, {"loss": loss, "action_error": error}

    policy, metrics = networks.minimize(loss_fn, state.policy, _optimizer(config, state.step))
    return state.replace(policy=policy, step=state.step + 1), metrics


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """The policy's mode, or a sample from it; ``mse`` has only a mode, ``mixture`` several."""
    head = find_head(config)
    outputs = head_outputs(config, state.policy.params, observation)
    if not deterministic:
        action = head.sample(outputs, key)
    else:
        action = head.mode(outputs) if head.noiseless is None else head.noiseless(outputs, key)
    return action, policy_state


def log_prob(
    config: Config, state: State, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    """Log-probability (B,) of actions under the policy, a log-density where they are real.

    Label smoothing is part of the loss, not of the policy, so it is left out here.

    Raises:
      InputError: ``mse``, whose policy is one action.
    """
    return head_log_prob(config, head_outputs(config, state.policy.params, observations), actions)


def head_log_prob(config: Config, outputs: Any, actions: jax.Array) -> jax.Array:
    """Log-probabilities (...,) of actions, for what the head's network returned.

    Raises:
      InputError: the head has no density.
    """
    if not find_head(config).density:
        raise InputError(
            f"bc: head={config.head} is one action at each observation, without a density; "
            "choose another head for log-probabilities"
        )
    return outputs.log_prob(actions)


def find_head(config: Config) -> Head:
    """The row of `HEADS` that the configuration names.

    Raises:
      InputError: there is none.
    """
    if config.head not in HEADS:
        raise InputError(f"bc: head={config.head} is unknown; choose one of {', '.join(HEADS)}")
    return HEADS[config.head]


def _check_actions(config: Config, head: Head, batch: Batch) -> None:
    discrete = jnp.issubdtype(batch.actions.dtype, jnp.integer)
    if discrete != head.discrete:
        kind = "discrete" if discrete else "continuous"
        raise InputError(
            f"bc: head={config.head} does not fit {kind} actions of dtype {batch.actions.dtype}"
        )
    if discrete and config.num_actions < 1:
        raise InputError(
            f"bc: head={config.head} needs num_actions, the number of discrete actions"
        )
    if discrete:
        check_action_range(batch.actions, config.num_actions, "bc")
    if config.head == "tabular":
        check_one_hot(batch.observations, "bc: head=tabular")


def check_same_actions(modes: jax.Array, actions: jax.Array, name: str) -> None:
    """Refuses a batch whose actions are of another kind or size than the policy's.

    They would broadcast: every dimension would learn actions (B, 1).

    Raises:
      InputError: naming the algorithm and both shapes.
    """
    discrete = [jnp.issubdtype(each.dtype, jnp.integer) for each in (modes, actions)]
    if modes.shape != actions.shape or discrete[0] != discrete[1]:
        raise InputError(
            f"{name}: batch.actions has shape {actions.shape} and dtype {actions.dtype}, expected "
            f"{modes.shape} and {modes.dtype}, the policy's"
        )


def _check_features(config: Config, batch: Batch) -> None:
    if config.features is None or not config.head.startswith("linear"):
        return
    shape = jax.eval_shape(config.features, batch.observations).shape
    rows = batch.observations.shape[:1]
    expected = (*rows, config.num_actions) if config.head == "linear_softmax" else rows
    if len(shape) != len(expected) + 1 or shape[:-1] != expected:
        raise InputError(
            f"bc: features of observations {batch.observations.shape} have shape {shape}, "
            f"expected ({', '.join(map(str, expected))}, features)"
        )


def head_outputs(config: Config, params: Any, observations: jax.Array) -> Any:
    """What the policy's network returns at observations (..., *O): actions or a distribution."""
    head = find_head(config)
    if head.discrete:
        action_size = config.num_actions
    else:
        action_size = head.action_size(config, networks.output_size(params))
    return head.outputs(config, _network(config, action_size), params, observations)


def _network(config: Config, action_size: int) -> nn.Module:
    policy = find_head(config).network(config, action_size)
    return policy if config.encoder == "none" else networks.Encoded(config.encoder, policy)


def _optimizer(config: Config, step: jax.Array | int) -> optax.GradientTransformation:
    rate = ops.cosine_decay(config.learning_rate, step, config.decay_steps)
    return optax.adamw(rate, weight_decay=config.weight_decay)


def _log_std_bounds(config: Config) -> tuple[jax.Array | float, jax.Array | float]:
    return config.log_std_min, config.log_std_max


def _action_error(modes: jax.Array, actions: jax.Array) -> jax.Array:
    if jnp.issubdtype(actions.dtype, jnp.integer):
        return jnp.mean(modes != actions)
    return jnp.mean(jnp.square(modes - actions))


# The heads. Each is a row of small functions, resolved once from the static field `head`.


def _deterministic_network(config: Config, action_size: int) -> nn.Module:
    return networks.DeterministicPolicy(config.hidden_sizes, action_size, config.layer_norm)


def _gaussian_network(config: Config, action_size: int) -> nn.Module:
    return networks.GaussianPolicy(
        config.hidden_sizes, action_size, state_dependent_std=True, layer_norm=config.layer_norm
    )


def _mixture_network(config: Config, action_size: int) -> nn.Module:
    return networks.MixturePolicy(
        config.hidden_sizes, action_size, config.num_components, config.layer_norm
    )


def _tanh_gaussian_network(config: Config, action_size: int) -> nn.Module:
    return networks.TanhGaussianPolicy(config.hidden_sizes, action_size, config.layer_norm)


def _categorical_network(config: Config, num_actions: int) -> nn.Module:
    return networks.CategoricalPolicy(config.hidden_sizes, num_actions, config.layer_norm)


def _tabular_network(config: Config, num_actions: int) -> nn.Module:
    del config
    return networks.TabularPolicy(num_actions)


def _linear_softmax_network(config: Config, num_actions: int) -> nn.Module:
    del num_actions  # the features know it
    if config.features is None:
        raise InputError("bc: head=linear_softmax needs features, a function of observations")
    return networks.LinearSoftmaxPolicy(config.features)


def _linear_gaussian_network(config: Config, action_size: int) -> nn.Module:
    return networks.LinearGaussianPolicy(action_size, config.features)


def _plain_outputs(config: Config, network: nn.Module, params: Any, observations: jax.Array) -> Any:
    del config
    return network.apply(params, observations)


def _bounded_outputs(
    config: Config, network: nn.Module, params: Any, observations: jax.Array
) -> Any:
    return network.apply(params, observations, *_log_std_bounds(config))


def _squared_error(config: Config, predictions: jax.Array, actions: jax.Array) -> jax.Array:
    del config
    return jnp.sum(jnp.square(predictions - actions), axis=-1)


def _negative_log_prob(config: Config, distribution: Any, actions: jax.Array) -> jax.Array:
    del config
    return -distribution.log_prob(actions)


def _smoothed_cross_entropy(config: Config, distribution: Any, actions: jax.Array) -> jax.Array:
    log_probs = jax.nn.log_softmax(distribution.logits)
    on_action = jnp.take_along_axis(log_probs, actions[..., None], axis=-1)[..., 0]
    return -(
        (1.0 - config.label_smoothing) * on_action
        + config.label_smoothing * jnp.mean(log_probs, axis=-1)
    )


def _sample(distribution: Any, key: PRNGKey) -> jax.Array:
    return distribution.sample(seed=key)


def _mode(distribution: Any) -> jax.Array:
    return distribution.mode()


def _half(config: Config, width: int) -> int:
    """A mean and a width for each action dimension."""
    del config
    return width // 2


HEADS: dict[str, Head] = {
    "mse": Head(
        _deterministic_network,
        _plain_outputs,
        _squared_error,
        sample=lambda action, key: action,
        mode=lambda action: action,
        density=False,
    ),
    "gaussian": Head(
        _gaussian_network, _bounded_outputs, _negative_log_prob, _sample, _mode, _half
    ),
    "tanh_gaussian": Head(
        _tanh_gaussian_network,
        _bounded_outputs,
        _negative_log_prob,
        _sample,
        _mode,
        _half,
    ),
    "mixture": Head(
        _mixture_network,
        _bounded_outputs,
        _negative_log_prob,
        _sample,
        _mode,
        lambda config, width: (width // config.num_components - 1) // 2,
        noiseless=lambda mixture, key: mixture.sample_means(seed=key),
    ),
    "linear_gaussian": Head(
        _linear_gaussian_network, _bounded_outputs, _negative_log_prob, _sample, _mode
    ),
    "categorical": Head(
        _categorical_network,
        _plain_outputs,
        _smoothed_cross_entropy,
        _sample,
        _mode,
        discrete=True,
    ),
    "tabular": Head(
        _tabular_network, _plain_outputs, _smoothed_cross_entropy, _sample, _mode, discrete=True
    ),
    "linear_softmax": Head(
        _linear_softmax_network,
        _plain_outputs,
        _smoothed_cross_entropy,
        _sample,
        _mode,
        discrete=True,
    ),
}
