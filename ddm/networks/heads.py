"""Policy heads: one table of policy classes, which all methods with a parametrised policy share.

A head says how the network of a policy is built from plain sizes, what the network returns, and how
an action comes from that. Heads with hidden layers:

- ``mse``: one action for each observation, tanh of a perceptron. It has no density.
- ``gaussian``: N(tanh(mean(s)), std(s)^2), not squashed.
- ``tanh_gaussian``: tanh(u) with u ~ N(mean(s), std(s)^2).
- ``mixture``: of Gaussians like the second one (Bishop 1994; robomimic's BC-GMM).
- ``categorical``: softmax over discrete actions.

Heads without hidden layers. Their likelihood has one optimum, which is known from other sources:

- ``tabular``: pi(a | s) ~ exp(W[s, a]) on one-hot observations, no others.
- ``linear_softmax``: pi(a | s) ~ exp <phi(s, a), w>, one weight vector for all actions.
- ``linear_gaussian``: N(W phi(s) + b, diag(sigma^2)), not squashed, one sigma for all states.

They start at zero weights: uniform, or a standard normal. They do not use ``hidden_sizes`` and
``layer_norm``.

A unimodal head averages the modes of a multimodal demonstrator. A mixture does not: without noise
it draws a component by its weight and returns that component's mean (robomimic's low-noise
evaluation). So it keeps every mode.

    head = heads.find(config)
    network = heads.policy_network(config, action_size)
    params = network.init(key, observations, *heads.bounds(config))
    outputs = network.apply(params, observations, *heads.bounds(config))
    action = head.act(outputs, key, deterministic)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddm.errors import InputError
from ddm.networks import encoders, policies
from ddm.types import (
    Batch,
    Configuration,
    NetworkFn,
    PRNGKey,
    check_action_range,
    check_one_hot,
    choice,
    leaf,
    network,
    static,
)

Features = Callable[[jax.Array], jax.Array]


class HeadConfig(Configuration):
    """The fields of a policy with a head; a method's Config adds its own."""

    # floor of log std; without it a constant action sends the likelihood to infinity
    log_std_min: float = leaf(-5.0, at_most="log_std_max")
    # ceiling of the Gaussian heads' log standard deviation
    log_std_max: float = leaf(2.0, "(-inf, inf)")
    # policy class; categorical, tabular and linear_softmax are for discrete actions
    head: str = choice(lambda: HEADS, "gaussian")
    num_components: int = static(5, "[1, inf)")  # Gaussians of the mixture head
    num_actions: int = static(0, "[0, inf)")  # size of a discrete action space
    hidden_sizes: tuple[int, ...] = static((256, 256), "[1, inf)")  # relu layers
    layer_norm: bool = static(False)  # before each activation
    encoder: str = choice(encoders.ENCODERS, "none")  # none: observations are vectors; conv: images
    # Feature map of the linear heads, a function that is hashable. linear_softmax: (..., O) to
    # (..., num_actions, F), required. linear_gaussian: (..., O) to (..., F); None: the observation.
    features: Features | None = static(None)
    # in place of the head's network and its encoder; see `heads.policy_network`
    policy_network: NetworkFn | None = network()


class Sizes(NamedTuple):
    """What the network of a head is built from; each head reads the sizes that it needs."""

    action_size: int  # dimensions of an action, or the number of discrete actions
    hidden_sizes: tuple[int, ...] = (256, 256)
    layer_norm: bool = False
    num_components: int = 5
    features: Features | None = None


class Head(NamedTuple):
    """A policy class; `outputs` is what its network returns, mostly a distribution."""

    network: Callable[[Sizes], nn.Module]
    discrete: bool = False  # actions are indices
    bounded: bool = False  # the network also takes floor and ceiling of the log standard deviation
    density: bool = True  # outputs have a `log_prob`; False: the outputs are the action
    sample: Callable[[Any, PRNGKey], jax.Array] = lambda outputs, key: outputs.sample(seed=key)
    mode: Callable[[Any], jax.Array] = lambda outputs: outputs.mode()
    # an action without the policy's noise, where that is not the mode
    noiseless: Callable[[Any, PRNGKey], jax.Array] | None = None

    def act(self, outputs: Any, key: PRNGKey, deterministic: bool) -> jax.Array:
        """A sample, or an action without noise: the mode, for a mixture one of several."""
        if not deterministic:
            return self.sample(outputs, key)
        return self.mode(outputs) if self.noiseless is None else self.noiseless(outputs, key)


def policy_network(config: HeadConfig, action_size: int) -> nn.Module:
    """The network of the configured head, on encoded observations.

    It is called with observations (..., *O) and, for the heads of real actions with a density, with
    floor and ceiling of the log standard deviation. It returns an action (..., A) for ``mse``, and
    for all others a distribution with `sample(seed=key)`, `log_prob(actions)` and `mode()`; that of
    discrete actions has `logits`, that of a mixture has `sample_means(seed=key)`.

    Args:
      config: with the fields of :class:`HeadConfig`.
      action_size: dimensions of an action, or the number of discrete actions.
    """
    sizes = Sizes(
        action_size, config.hidden_sizes, config.layer_norm, config.num_components, config.features
    )
    return encoders.encoded(config.encoder, find(config).network(sizes))


def find(config: Any) -> Head:
    """The row of `HEADS` that the configuration names."""
    return HEADS[config.head]


def bounds(config: Any) -> tuple[Any, ...]:
    """What the head's network takes after the observations."""
    return (config.log_std_min, config.log_std_max) if find(config).bounded else ()


def action_size(config: Any, batch: Batch) -> int:
    """Dimensions of an action, or the number of discrete actions."""
    return config.num_actions if find(config).discrete else batch.actions.shape[-1]


def as_vectors(actions: jax.Array, num_actions: int) -> jax.Array:
    """Actions (..., A) as a network reads them: discrete ones (...,) become one-hot rows."""
    if jnp.issubdtype(actions.dtype, jnp.integer):
        return jax.nn.one_hot(actions, num_actions, dtype=jnp.float32)
    return actions


def log_prob(config: Any, outputs: Any, actions: jax.Array, name: str) -> jax.Array:
    """Log-probabilities (...,) of actions, log-densities where they are real.

    Args:
      config: names the head.
      outputs: of the head's network.
      actions: (..., A), or (...,) indices.
      name: the algorithm, for the message.

    Raises:
      InputError: the head has no density.
    """
    if not find(config).density:
        raise InputError(
            f"{name}: head={config.head} is one action at each observation, without a density; "
            "choose another head for log-probabilities"
        )
    return outputs.log_prob(actions)


def check(config: Any, batch: Batch, name: str) -> None:
    """Refuses observations and actions that do not fit the head.

    Args:
      config: names the head.
      batch: observations (B, *O), and actions (B, A) or (B,).
      name: the algorithm, for the message.

    Raises:
      InputError: actions of the other kind or beyond `num_actions`; observations that the encoder,
        the table or the features are not made for.
    """
    discrete = jnp.issubdtype(batch.actions.dtype, jnp.integer)
    if discrete != find(config).discrete:
        kind = "discrete" if discrete else "continuous"
        raise InputError(
            f"{name}: head={config.head} does not fit {kind} actions of dtype {batch.actions.dtype}"
        )
    if discrete and config.num_actions < 1:
        raise InputError(
            f"{name}: head={config.head} needs num_actions, the number of discrete actions"
        )
    if discrete:
        check_action_range(batch.actions, config.num_actions, name)
    if config.policy_network is not None:
        return  # it reads what it reads
    encoders.check_encoder(config.encoder, batch.observations.shape[1:], name)
    if config.head == "tabular":
        check_one_hot(batch.observations, f"{name}: head=tabular")
    if config.head.startswith("linear"):
        _check_features(config, batch, name)


def _check_features(config: HeadConfig, batch: Batch, name: str) -> None:
    if config.features is None:
        if config.head == "linear_softmax":
            raise InputError(
                f"{name}: head=linear_softmax needs features, a function of observations"
            )
        return
    shape = jax.eval_shape(config.features, batch.observations).shape
    rows = batch.observations.shape[:1]
    expected = (*rows, config.num_actions) if config.head == "linear_softmax" else rows
    if len(shape) != len(expected) + 1 or shape[:-1] != expected:
        raise InputError(
            f"{name}: features of observations {batch.observations.shape} have shape {shape}, "
            f"expected ({', '.join(map(str, expected))}, features)"
        )


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


def _gaussian(sizes: Sizes) -> nn.Module:
    return policies.GaussianPolicy(
        sizes.hidden_sizes, sizes.action_size, state_dependent_std=True, layer_norm=sizes.layer_norm
    )


def _mixture(sizes: Sizes) -> nn.Module:
    return policies.MixturePolicy(
        sizes.hidden_sizes, sizes.action_size, sizes.num_components, sizes.layer_norm
    )


def _perceptron(policy: Callable[..., nn.Module]) -> Callable[[Sizes], nn.Module]:
    """A policy class of hidden layers, action size and layer norm."""
    return lambda sizes: policy(sizes.hidden_sizes, sizes.action_size, sizes.layer_norm)


def _linear_softmax(sizes: Sizes) -> nn.Module:
    assert sizes.features is not None, "checked in `check`"
    return policies.LinearSoftmaxPolicy(sizes.features)  # the features know the number of actions


HEADS: dict[str, Head] = {
    "mse": Head(
        _perceptron(policies.DeterministicPolicy),
        density=False,
        sample=lambda action, key: action,
        mode=lambda action: action,
    ),
    "gaussian": Head(_gaussian, bounded=True),
    "tanh_gaussian": Head(_perceptron(policies.TanhGaussianPolicy), bounded=True),
    "mixture": Head(
        _mixture, bounded=True, noiseless=lambda mixture, key: mixture.sample_means(seed=key)
    ),
    "linear_gaussian": Head(
        lambda sizes: policies.LinearGaussianPolicy(sizes.action_size, sizes.features), bounded=True
    ),
    "categorical": Head(_perceptron(policies.CategoricalPolicy), discrete=True),
    "tabular": Head(lambda sizes: policies.TabularPolicy(sizes.action_size), discrete=True),
    "linear_softmax": Head(_linear_softmax, discrete=True),
}
