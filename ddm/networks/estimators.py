"""Estimates of an expectation under a policy, with gradients in the policy.

    grad_theta E_{a ~ pi_theta(. | s)} [ r(a) ]

An estimator draws actions and weights, so that the weighted sum of their rewards has this gradient:
pathwise, through a reparameterised action (for a mixture through every component, weighted
exactly); by the score function with a leave-one-out baseline; or as the exact sum over discrete
actions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddm.networks.distributions import GaussianMixture
from ddm.types import PRNGKey


class Draws(NamedTuple):
    """Actions at B observations whose weighted sum estimates an expectation, with gradients."""

    actions: jax.Array  # (N, B, A), or (N, B) indices
    weights: jax.Array  # (N, B), they sum to one at each observation
    centred: bool = False  # subtract the mean of the other rewards: the score function's baseline

    def mean(self, values: jax.Array) -> jax.Array:
        """() the estimate for values (N, B), without gradients through the weights."""
        return jnp.mean(jnp.sum(jax.lax.stop_gradient(self.weights) * values, axis=0))

    def expectation(self, rewards: jax.Array) -> jax.Array:
        """() the estimate for rewards (N, B), less a baseline if the draws are centred.

        Its gradient is an unbiased estimate of that of the expectation.
        """
        if self.centred:
            others = jnp.sum(rewards, axis=0) - rewards
            rewards = rewards - others / (rewards.shape[0] - 1)
        return jnp.mean(jnp.sum(self.weights * rewards, axis=0))


Estimator = Callable[[Any, PRNGKey, int], Draws]  # (distribution, key, number) -> draws


def reparameterized(policy: Any, key: PRNGKey, number: int) -> Draws:
    """Actions that are functions of the policy's parameters and of noise."""
    actions = policy.sample(seed=key, sample_shape=(number,))
    return Draws(actions, jnp.full(actions.shape[:2], 1.0 / number, actions.dtype))


def every_component(mixture: GaussianMixture, key: PRNGKey, number: int) -> Draws:
    """`number` actions of each component, with the component's weight; only noise is drawn."""
    actions = mixture.sample_components(seed=key, sample_shape=(number,))  # (M, B, K, A)
    actions = jnp.moveaxis(actions, 2, 1)  # (M, K, B, A)
    weights = jnp.broadcast_to(
        jax.nn.softmax(mixture.logits, axis=-1).T / number, actions.shape[:-1]
    )
    return Draws(actions.reshape(-1, *actions.shape[2:]), weights.reshape(-1, weights.shape[-1]))


def every_action(policy: Any, key: PRNGKey, number: int) -> Draws:
    """Each discrete action, with its probability."""
    del key, number
    probabilities = jax.nn.softmax(policy.logits, axis=-1).T
    actions = jnp.arange(len(probabilities), dtype=jnp.int32)[:, None]
    return Draws(jnp.broadcast_to(actions, probabilities.shape), probabilities)


def scored(policy: Any, key: PRNGKey, number: int) -> Draws:
    """Fixed actions whose weights have the score as their gradient."""
    actions = jax.vmap(lambda key: policy.sample(seed=key))(jax.random.split(key, number))
    actions = jax.lax.stop_gradient(actions)
    log_probs = policy.log_prob(actions)
    weights = jnp.exp(log_probs - jax.lax.stop_gradient(log_probs)) / number
    return Draws(actions, weights, centred=True)


PATHWISE = (reparameterized, every_component)

# Head -> its estimators by name; the first one is the default.
ESTIMATORS: dict[str, dict[str, Estimator]] = {
    "gaussian": {"pathwise": reparameterized, "score": scored},
    "tanh_gaussian": {"pathwise": reparameterized, "score": scored},
    "mixture": {"pathwise": every_component, "score": scored},
    "linear_gaussian": {"pathwise": reparameterized, "score": scored},
    "categorical": {"exact": every_action, "score": scored},
    "tabular": {"exact": every_action, "score": scored},
    "linear_softmax": {"exact": every_action, "score": scored},
}


PolicyAt = Callable[[Any], Any]  # parameters -> distribution


def _without_parameters(policy_at: PolicyAt, params: Any, actions: jax.Array) -> jax.Array:
    return policy_at(jax.lax.stop_gradient(params)).log_prob(actions)


def _with_parameters(policy_at: PolicyAt, params: Any, actions: jax.Array) -> jax.Array:
    return policy_at(params).log_prob(actions)


def _minus_entropy(policy_at: PolicyAt, params: Any, actions: jax.Array) -> jax.Array:
    entropy = policy_at(params).entropy()
    return -jnp.broadcast_to(entropy, actions.shape[: entropy.ndim + 1])


# The term log pi_theta(a | s) in a reward: (policy, parameters, actions (N, B, A)) -> (N, B).
# "sticking_the_landing" holds the parameters of this term fixed, so that the variance vanishes at a
# perfect fit (Roeder et al. 2017). "closed_form" uses the entropy of a Gaussian, not a sample.
ENTROPIES: dict[str, Callable[[PolicyAt, Any, jax.Array], jax.Array]] = {
    "sticking_the_landing": _without_parameters,
    "sampled": _with_parameters,
    "closed_form": _minus_entropy,
}
