"""PPO: proximal policy optimisation with a clipped objective (Schulman et al. 2017, 1707.06347).

    L_pi = - mean_i min(rho_i A_i, clip(rho_i, 1 - epsilon, 1 + epsilon) A_i) - c mean_i H(s_i)
    rho  = pi(a | s) / pi_old(a | s)                                                   (eq. 7)
    L_V  = mean_i (V(s_i) - R_i)^2 / 2

with A the generalised advantage estimates of arXiv 1506.02438 and R = A + V_old(s), both computed
once for an update. An update sees the last `window` steps of every copy of the environment, all by
the present policy. It goes over them `num_epochs` times in shuffled mini-batches.

Terminations stop the bootstrap. A truncation ends the trace, but its value goes on: from the
observation that was reached, not from that of the next episode. `step` counts updates, not
mini-batches.

How actions outside their box are handled is said in :mod:`ddm.on_policy.parts.actor_critic`. The
authors' policy is a Gaussian without a tanh whose density is that of the sample before it is
clipped; ``head=gaussian`` has the probability of the clipped one, whose policy gradient has the
same expectation and less variance (Fujita & Maeda 2018).

Where this leaves the authors' code (baselines) and those who follow it. Policy and values have a
network, an optimiser and a limit of the gradient norm each, so there is no weight of the value
loss. Advantages are standardised over the whole batch, not in each mini-batch. The networks are
those of the house: relu instead of tanh, two layers of 256 units instead of 64, and no small last
layer. Values are not clipped unless `value_clip` is set. With `target_kl`, the first mini-batch
whose estimated KL divergence from the old policy is larger ends the update; others allow 1.5 times
as much.

    collector = ddm.Collector.create(environment, ppo.collect_spec(config))
    learner, metrics = ddm.fit_online(ppo, config, collector, key, num_steps=100)

Another module can run it on windows of its own: `update(config, state, batch)` takes any (N, T),
with a `mask` where steps do not count; `improve(config, state, steps)` takes advantages from
elsewhere.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ddm import networks, ops
from ddm.on_policy.parts import actor_critic, windows
from ddm.on_policy.parts.actor_critic import (
    State,
    act,
    batch_spec,
    collect_spec,
    diagnose,
    log_prob,
)
from ddm.types import Batch, Metrics, PRNGKey, check_batch, leaf, static

__all__ = [
    "Config", "State", "act", "batch_spec", "collect_spec", "diagnose", "improve", "init",
    "log_prob", "policy_loss", "resolve", "update",
]  # fmt: skip


class Config(actor_critic.Config):
    """Hyper-parameters; numbers are those of the paper's MuJoCo runs (its table 3)."""

    actor_learning_rate: float = leaf(3e-4, "[0, inf)")  # Adam's step size
    value_learning_rate: float = leaf(3e-4, "[0, inf)")  # Adam's step size
    # Updates over which both step sizes fall to 0 on a line; not set: those of the run; 0: constant
    decay_steps: int | None = leaf(None, "[0, inf)")
    clip_ratio: float = leaf(0.2, "(0, inf)")  # epsilon: how far a ratio may pay
    # how far a value may move in one update, in units of the return; 0: as far as it likes
    value_clip: float = leaf(0.0, "[0, inf)")
    entropy_weight: float = leaf(0.0, "[0, inf)")  # c, per standard deviation of the advantages
    max_gradient_norm: float = leaf(0.5, "(0, inf)")  # of each network's gradient
    target_kl: float = leaf(0.0, "[0, inf)")  # ends an update early, in nats; 0: never
    num_epochs: int = static(10, "[1, inf)")  # passes over the steps of an update
    num_minibatches: int = static(32, "[1, inf)")  # of each pass; 64 steps each with one copy


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: a head that does not explore, or does not fit the actions; images without an
        encoder.
    """
    return actor_critic.init(config, key, batch, "ppo", clipped_adam, clipped_adam)


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """All epochs over the windows (N, T, ...) of the policy that `state` holds.

    Metrics, before the update: ``value``, ``return`` and ``explained_variance`` of the values;
    ``reward_max``, the largest size of a reward. Means over its mini-batches: ``actor_loss``;
    ``value_loss``; ``entropy``; ``kl``, the estimate mean(rho - 1 - log rho) of the divergence from
    the old policy; ``clip_share``, how many ratios are beyond their bounds. ``minibatches`` counts
    the gradient steps that were made, fewer than all if `target_kl` ended the update.
    """
    check_batch(batch, batch_spec(config), "ppo")
    steps = windows.evaluate(state.value, batch, config.discount, config.trace_decay)
    state, metrics = improve(config, state, windows.standardized(steps))
    return state, {**metrics, **actor_critic.metrics_of(batch, steps)}


def improve(config: Config, state: State, steps: windows.Steps) -> tuple[State, Metrics]:
    """The epochs of an update on steps whose advantages are given, in the scale they shall have."""
    key, order_key = jax.random.split(state.key)
    old_log_probs = log_prob(config, state, steps.observations, steps.actions)
    orders = windows.shuffled_minibatches(
        order_key, steps.weights.shape[0], config.num_epochs, config.num_minibatches
    )
    actor_rate, value_rate = (
        ops.linear_decay(rate, state.step, config.decay_steps)
        for rate in (config.actor_learning_rate, config.value_learning_rate)
    )

    def step(carry: tuple[Any, ...], order: jax.Array) -> tuple[tuple[Any, ...], Any]:
        actor, value, going = carry
        rows, old = windows.take((steps, old_log_probs), order)
        actor_gradients, metrics = jax.grad(
            lambda params: policy_loss(config, actor, params, rows, old), has_aux=True
        )(actor.params)
        loss, value_gradients = jax.value_and_grad(
            lambda params: actor_critic.value_loss(value, params, rows, config.value_clip)
        )(value.params)
        going &= (config.target_kl <= 0.0) | (metrics["kl"] <= config.target_kl)
        norm = config.max_gradient_norm
        moved = (
            networks.descend(actor_gradients, actor, actor_rate, norm),
            networks.descend(value_gradients, value, value_rate, norm),
        )
        actor, value = jax.tree.map(
            lambda new, old: jnp.where(going, new, old), moved, (actor, value)
        )
        done = going.astype(jnp.float32)
        metrics = {**metrics, "value_loss": loss}
        return (actor, value, going), ({name: done * x for name, x in metrics.items()}, done)

    start = state.actor, state.value, jnp.array(True)
    (actor, value, _), (metrics, done) = jax.lax.scan(step, start, orders)
    count = jnp.sum(done)  # at least 1: the first mini-batch is taken at a divergence of 0
    means = {name: jnp.sum(x) / count for name, x in metrics.items()}
    state = state.replace(actor=actor, value=value, step=state.step + 1, key=key)
    return state, {**means, "minibatches": count}


def policy_loss(
    config: Config,
    actor: networks.Trainable,
    params: Any,
    steps: windows.Steps,
    old_log_probs: jax.Array,
) -> tuple[jax.Array, Metrics]:
    """The clipped loss of the policy with the parameters `params`, and its metrics.

    Args:
      config: with `clip_ratio` and `entropy_weight`.
      actor: the policy.
      params: in place of its parameters.
      steps: rows with advantages.
      old_log_probs: (R,) of their actions under the policy that took them.
    """
    outputs = actor_critic.policy_at(config, actor, steps.observations, params)
    log_probs = networks.clipped_log_prob(outputs, steps.actions)
    # Beyond e^20 there is nothing to learn from a ratio but that it is too large.
    log_ratios = jnp.clip(log_probs - old_log_probs, -20.0, 20.0)
    ratios = jnp.exp(log_ratios)
    clipped = jnp.clip(ratios, 1.0 - config.clip_ratio, 1.0 + config.clip_ratio)
    gains = jnp.minimum(ratios * steps.advantages, clipped * steps.advantages)
    entropies = actor_critic.entropies(config, outputs, log_probs, ratios)

    def mean(values: jax.Array) -> jax.Array:
        return windows.weighted_mean(values, steps.weights)

    beyond = jnp.abs(ratios - 1.0) > config.clip_ratio
    loss, entropy = -mean(gains), mean(entropies)
    return loss - config.entropy_weight * entropy, {
        "actor_loss": loss,
        "entropy": entropy,
        "kl": mean(ratios - 1.0 - log_ratios),
        "clip_share": mean(beyond.astype(jnp.float32)),
    }


def resolve(config: Config, num_updates: int) -> Config:
    """Step sizes whose schedule is not set end with the run."""
    return config if config.decay_steps is not None else config.replace(decay_steps=num_updates)


def clipped_adam(learning_rate: Any, max_norm: Any = 1.0) -> optax.GradientTransformation:
    """Adam on gradients of at most that norm; its epsilon is that of the authors' code."""
    return optax.chain(optax.clip_by_global_norm(max_norm), optax.adam(learning_rate, eps=1e-5))
