"""A prior p(a | s) over discrete actions, and a second network that starts from it.

The prior is a function, or a network that is fitted to the log by likelihood:

    L = - mean log p(a | s) of the logged actions,   p = softmax of the network's scores

The second network gives gains D(s, a) over the prior. It is made like the prior's network, but its
last layer starts at 0, so that D = 0. While the prior is fitted, D takes over its hidden layers.
A user's own network is never changed so: it starts as it is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddm import networks, ops
from ddm.errors import InputError
from ddm.types import (
    Batch,
    Configuration,
    Metrics,
    NetworkFn,
    PRNGKey,
    check_actions,
    check_vectors,
    choice,
    chosen,
    leaf,
    network,
    static,
)

LogPrior = Callable[[jax.Array], jax.Array]  # observations (..., O) -> log p (..., K)


class Config(Configuration):
    """Hyper-parameters of the prior, and of both networks."""

    # Adam's step size of a learned prior; not the authors'
    prior_learning_rate: float = leaf(1e-3, "[0, inf)")
    # first updates, in which only a learned prior is fitted to the log
    prior_steps: int = leaf(10_000, "[0, inf)")
    # a network; or a function of observations (..., O) to log p (..., K)
    prior: str | LogPrior = choice(("learned",), "learned")
    critic_network: NetworkFn | None = network()  # in place of :func:`critic_network`
    prior_network: NetworkFn | None = network()  # in place of :func:`prior_network`
    network: str = choice(lambda: NETWORKS, "mlp")  # of both; gru reads tokens
    # observations are token numbers below this; 0: they are vectors
    num_tokens: int = static(0, "[0, inf)")
    embedding_size: int = static(32, "[1, inf)")  # of a token
    dropout_rate: float = static(0.0, "[0, 1)")  # in both networks
    # relu layers; the first is the GRU's width
    hidden_sizes: tuple[int, ...] = static((256, 256), "[1, inf)")
    num_actions: int = static(0, "[0, inf)")  # size of the discrete action space; required


def check(config: Config, batch: Batch, name: str) -> None:
    """Refuses continuous actions, and images where the library's networks would read them.

    Raises:
      InputError: naming the algorithm and the field.
    """
    if config.num_actions < 1:
        found = "real vectors" if batch.actions.ndim > 1 else f"{batch.actions.dtype}"
        raise InputError(
            f"{name}: batch.actions are {found} and num_actions is {config.num_actions}; "
            "expected discrete actions and their number"
        )
    check_actions(batch, config.num_actions, name)
    check_vectors(config, batch, name)


def critic_network(config: Config, num_actions: int) -> networks.Network:
    """D(s, .), the gains over the prior.

    Called with observations (..., *O); returns (..., K). With `dropout_rate` it is also called with
    `deterministic=False` and a stream of keys named "dropout".

    A user's own starts as it is made, and keeps its parameters while the prior is fitted. So that
    the policy starts from the prior, let its last layer start at 0.
    """
    return prior_network(config, num_actions).clone(output_init=nn.initializers.zeros)


def prior_network(config: Config, num_actions: int) -> networks.Network:
    """Log p up to a constant; called as :func:`critic_network`."""
    if config.network == "gru" and (config.num_tokens < 1 or not config.hidden_sizes):
        raise InputError(
            f"kl_control: network=gru reads tokens; num_tokens is {config.num_tokens}, expected "
            "their number, and hidden_sizes start with the GRU's width"
        )
    return chosen(config, "network")(
        config.hidden_sizes,
        num_actions,
        config.num_tokens,
        config.embedding_size,
        config.dropout_rate,
    )


NETWORKS = {"mlp": networks.ActionScores, "gru": networks.RecurrentActionScores}


def init_critic(
    config: Config, key: PRNGKey, batch: Batch, optimizer: networks.Optimizer
) -> networks.Tracked:
    """A fresh D for the shapes in `batch`."""
    model = (config.critic_network or critic_network)(config, config.num_actions)
    return networks.tracked(model, model.init(key, batch.observations[:1]), optimizer)


def init_prior(config: Config, key: PRNGKey, batch: Batch) -> networks.Trainable | None:
    """A fresh prior for the shapes in `batch`; None where it is a function."""
    if callable(config.prior):
        return None
    model = (config.prior_network or prior_network)(config, config.num_actions)
    return networks.trainable(model, model.init(key, batch.observations[:1]))


def scores(
    config: Config,
    model: networks.Trainable,
    params: Any,
    observations: jax.Array,
    key: PRNGKey | None = None,
) -> jax.Array:
    """Outputs (..., K) of one of the networks; with a key, under dropout."""
    dropout: dict[str, Any] = {}
    if key is not None and config.dropout_rate > 0.0:
        dropout = {"deterministic": False, "rngs": {"dropout": key}}
    return model.apply(params, observations, **dropout)


def log_prior(
    config: Config, prior: networks.Trainable | None, observations: jax.Array
) -> jax.Array:
    """Log p (..., K) at observations (..., O), normalised."""
    if callable(config.prior):
        logits = config.prior(observations)
    else:
        assert prior is not None
        logits = prior(observations)
    return jax.lax.stop_gradient(jax.nn.log_softmax(logits))


def is_fitted(config: Config, state: Any) -> jax.Array:
    """Whether this update fits the prior and does nothing else."""
    if state.prior is None:
        return jnp.zeros((), bool)
    return state.step < config.prior_steps


def fit(
    config: Config, state: Any, batch: Batch, key: PRNGKey
) -> tuple[networks.Trainable, networks.Tracked]:
    """One step of the prior's likelihood, and D that starts from it."""

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        log_probs = jax.nn.log_softmax(scores(config, state.prior, params, batch.observations, key))
        return -jnp.mean(ops.of_actions(log_probs, batch.actions)), {}

    prior, _ = networks.minimize(loss_fn, state.prior, config.prior_learning_rate)
    return prior, start_from(config, prior, state.critic)


def keep(
    config: Config, state: Any, batch: Batch, key: PRNGKey
) -> tuple[networks.Trainable, networks.Tracked]:
    """Both as they are: what :func:`fit` gives when the prior is fitted no more."""
    del config, batch, key
    return state.prior, state.critic


def with_params(prior: networks.Trainable, params: Any, name: str) -> networks.Trainable:
    """The prior with parameters that were trained elsewhere.

    Raises:
      InputError: naming the algorithm; the parameters are of another network.
    """
    given, expected = (jax.tree.map(jnp.shape, each) for each in (params, prior.params))
    if given != expected:
        raise InputError(
            f"{name}: parameters of the prior have shapes {given}, expected {expected}"
        )
    return networks.trainable(prior.network, params)


def start_from(
    config: Config, prior: networks.Trainable, critic: networks.Tracked
) -> networks.Tracked:
    """D with the prior's hidden layers and an output of 0; as it is, if a network is the user's."""
    if config.critic_network is not None or config.prior_network is not None:
        return critic
    params = networks.without_output(prior.params)
    return critic.replace(params=params, target_params=jax.tree.map(jnp.copy, params))
