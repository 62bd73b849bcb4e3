"""How far a policy is from the behaviour policy of the log: D(s), one number for each state.

- ``kl``: mean over samples of log pi(a | s) - log beta(a | s), a ~ pi.
- ``mmd``: squared maximum mean discrepancy of samples of pi and of beta.
- ``kl_dual``: the largest E_pi log h(s, a) - E_data h(s, a) + 1 with h = softplus(c(s, a)).
- ``wasserstein``: the largest E_pi c(s, a) - E_data c(s, a).

The first two are *primal*: they need a behaviour policy beta, which is learned by likelihood,
L_beta = - log beta(a | s) of the logged action. The last two are *dual*: a critic c is trained,
with a penalty on slopes above `max_slope`, and no behaviour policy is needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks, ops
from ddm.ops import convergence
from ddm.ops.kernels import KernelFn
from ddm.types import (
    Batch,
    Configuration,
    Metrics,
    NetworkFn,
    PRNGKey,
    choice,
    chosen,
    leaf,
    network,
    static,
)

# Actions are moved this far inside their box before the behaviour policy's density is computed.
ACTION_MARGIN = 1e-3
# The behaviour policy has converged if its loss falls by at most this many nats in about 900
# updates.
SETTLED = 0.1

# (config, pi, beta, key) -> estimates (B,) at the observations of the two distributions.
PrimalFn = Callable[[Any, networks.TanhGaussian, networks.TanhGaussian, PRNGKey], jax.Array]


@dataclasses.dataclass(frozen=True)
class Dual:
    """A divergence that is the supremum over critics c(s, a) of the mean of `bound`."""

    # c (B,) at actions of the policy, c (B,) at the logged actions -> (B,)
    bound: Callable[[jax.Array, jax.Array], jax.Array]


DivergenceFn = PrimalFn | Dual


class Config(Configuration):
    """Hyper-parameters of the divergence, and of the networks that it is estimated with."""

    # Adam's step size of the behaviour policy
    behavior_learning_rate: float = leaf(5e-4, "[0, inf)")
    # gradient steps of the behaviour policy; 0: as many as there are
    behavior_steps: int = leaf(0, "[0, inf)")
    # Adam's step size of a dual divergence's critic
    divergence_learning_rate: float = leaf(1e-3, "[0, inf)")
    # of mmd's kernel; laplacian: half the authors' sigma of 20
    bandwidth: float = leaf(10.0, "(0, inf)")
    # weight of squared excess slopes of a dual's critic
    slope_penalty_weight: float = leaf(5.0, "[0, inf)")
    # slope of a dual's critic, in the action, that is not penalised
    max_slope: float = leaf(1.0, "[0, inf)")
    # floor of the log standard deviation of policy and behaviour
    log_std_min: float = leaf(-5.0, at_most="log_std_max")
    # ceiling of the log standard deviation of policy and behaviour
    log_std_max: float = leaf(2.0, "(-inf, inf)")
    divergence: str | DivergenceFn = choice(lambda: DIVERGENCES, "kl")  # or a function, or a Dual
    kernel: str | KernelFn = choice(ops.kernels.KERNELS, "laplacian")  # of mmd; or a function
    num_samples: int = static(4, "[1, inf)")  # actions for a primal divergence, of each policy
    # steps of a dual divergence's critic in each update
    divergence_steps: int = static(3, "[1, inf)")
    hidden_sizes: tuple[int, ...] = static((256, 256), "[1, inf)")  # relu layers of all networks
    behavior_network: NetworkFn | None = network()  # in place of :func:`behavior_network`
    divergence_network: NetworkFn | None = network()  # in place of :func:`divergence_network`


class Behavior(struct.PyTreeNode):
    """The behaviour policy, and how far its training has converged."""

    policy: networks.Trainable
    fit: convergence.Convergence  # of its loss


def behavior_network(config: Config, action_size: int) -> networks.Network:
    """The behaviour policy.

    Called with observations (..., *O), and the floor and the ceiling of the log standard
    deviations; returns a `networks.TanhGaussian`.
    """
    return networks.TanhGaussianPolicy(config.hidden_sizes, action_size)


def divergence_network(config: Config, action_size: int) -> networks.Network:
    """c(s, a), an ensemble with one member.

    Called with observations (B, *O) and actions (B, A); returns (1, B).
    """
    del action_size
    return networks.ActionValue(config.hidden_sizes, 1)


def find(config: Config) -> Any:
    """The divergence that the configuration names: a `PrimalFn` or a `Dual`."""
    return chosen(config, "divergence")


def is_dual(config: Config) -> bool:
    """Whether a critic is trained, and no behaviour policy."""
    return isinstance(find(config), Dual)


def init_behavior(config: Config, key: PRNGKey, batch: Batch) -> Behavior:
    """A fresh behaviour policy for the shapes in `batch`."""
    policy = (config.behavior_network or behavior_network)(config, batch.actions.shape[-1])
    params = policy.init(key, batch.observations[:1], config.log_std_min, config.log_std_max)
    return Behavior(networks.trainable(policy, params), convergence.start())


def init_critic(config: Config, key: PRNGKey, batch: Batch) -> networks.Trainable:
    """A fresh critic of a dual divergence for the shapes in `batch`."""
    critic = (config.divergence_network or divergence_network)(config, batch.actions.shape[-1])
    return networks.trainable(critic, critic.init(key, batch.observations[:1], batch.actions[:1]))


# Estimates.


def divergence_at(
    config: Config,
    state: Any,
    policy: networks.TanhGaussian,
    observations: jax.Array,
    logged_actions: jax.Array,
    key: PRNGKey,
) -> jax.Array:
    """Estimates D(s), (B,), of a policy at observations (B, O).

    Args:
      config: says which divergence.
      state: of BRAC, with the behaviour policy or with the critic of a dual divergence.
      policy: pi(. | s) at the observations, differentiable in its parameters.
      observations: (B, O).
      logged_actions: (B, A), read by dual divergences only.
      key: used once.
    """
    if state.behavior is not None:
        beta = state.behavior.policy(observations, config.log_std_min, config.log_std_max)
        return find(config)(config, policy, beta, key)
    critic, actions = state.divergence_critic, policy.sample(seed=key)
    values, logged_values = (critic(observations, each)[0] for each in (actions, logged_actions))
    return find(config).bound(values, logged_values)


def kl(
    config: Config, policy: networks.TanhGaussian, behavior: networks.TanhGaussian, key: PRNGKey
) -> jax.Array:
    """KL(pi || beta) in nats, (B,), by `num_samples` actions of pi; may be below 0."""
    actions, log_probs = policy.sample_and_log_prob(seed=key, sample_shape=(config.num_samples,))
    return jnp.mean(log_probs - behavior.log_prob(_inside(actions)), axis=0)


def mmd(
    config: Config, policy: networks.TanhGaussian, behavior: networks.TanhGaussian, key: PRNGKey
) -> jax.Array:
    """Squared maximum mean discrepancy (B,) of `num_samples` actions of each."""
    policy_actions, behavior_actions = (
        jnp.moveaxis(each.sample(seed=seed, sample_shape=(config.num_samples,)), 0, 1)
        for each, seed in zip((policy, behavior), jax.random.split(key), strict=True)
    )
    return ops.kernels.squared_mmd(
        policy_actions, behavior_actions, chosen(config, "kernel"), config.bandwidth
    )


DIVERGENCES: dict[str, DivergenceFn] = {
    "kl": kl,
    "mmd": mmd,
    "kl_dual": Dual(ops.divergences.kl_lower_bound),
    "wasserstein": Dual(ops.divergences.wasserstein_lower_bound),
}


# Steps.


def behavior_step(
    config: Config, behavior: Behavior, step: jax.Array, batch: Batch
) -> tuple[Behavior, Metrics]:
    """One step of maximum likelihood, in the first `behavior_steps` of the updates.

    Metrics: ``behavior_loss``, in nats; ``behavior_progress``, its fall over about the last 900
    updates.
    """

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        bounds = config.log_std_min, config.log_std_max
        beta = behavior.policy.apply(params, batch.observations, *bounds)
        loss = -jnp.mean(beta.log_prob(_inside(batch.actions)))
        return loss, {"behavior_loss": loss}

    learns = (config.behavior_steps < 1) | (step < config.behavior_steps)
    rate = jnp.where(learns, config.behavior_learning_rate, 0.0)
    policy, metrics = networks.minimize(loss_fn, behavior.policy, rate)
    # Stopping a model's training does not make it converge: the tracker stops with it.
    fit = jax.tree.map(
        lambda now, before: jnp.where(learns, now, before),
        convergence.observe(behavior.fit, metrics["behavior_loss"]),
        behavior.fit,
    )
    return Behavior(policy, fit), {**metrics, "behavior_progress": convergence.progress(fit)}


def critic_steps(
    config: Config,
    critic: networks.Trainable,
    policy: networks.TanhGaussian,
    batch: Batch,
    key: PRNGKey,
) -> tuple[networks.Trainable, Metrics]:
    """`divergence_steps` steps of a dual's critic towards its supremum, for the policy as it is.

    Metrics: ``slope_penalty``, the mean squared excess slope, in the last of the steps.
    """
    bound = find(config).bound

    def loss_fn(params: Any, key: PRNGKey) -> tuple[jax.Array, Metrics]:
        action_key, mix_key = jax.random.split(key)
        actions = policy.sample(seed=action_key)
        value = lambda actions: critic.apply(params, batch.observations, actions)[0]  # noqa: E731
        gain = jnp.mean(bound(value(actions), value(batch.actions)))
        shares = jax.random.uniform(mix_key, actions[:, :1].shape, actions.dtype)
        between = actions + shares * (batch.actions - actions)
        penalty = ops.divergences.slope_penalty(value, between, config.max_slope)
        return config.slope_penalty_weight * penalty - gain, {"slope_penalty": penalty}

    metrics: Metrics = {}
    for step_key in jax.random.split(key, config.divergence_steps):
        critic, metrics = networks.minimize(
            lambda params, step_key=step_key: loss_fn(params, step_key),
            critic,
            config.divergence_learning_rate,
        )
    return critic, metrics


def diagnose(metrics: Mapping[str, float]) -> list[str]:
    """A sentence if the behaviour policy still learns when the policy is already held near it."""
    improvement = metrics.get("behavior_progress", 0.0)
    if improvement <= SETTLED or metrics.get("value_weight", 0.0) <= 0.0:
        return []
    return [
        f"the behaviour policy has not converged: its loss fell by {improvement:.2f} nats over "
        "about the last 900 updates, and the policy is already held near it; raise "
        "warmup_steps, or behavior_steps if it is not 0"
    ]


def _inside(actions: jax.Array) -> jax.Array:
    return jnp.clip(actions, -1.0 + ACTION_MARGIN, 1.0 - ACTION_MARGIN)
