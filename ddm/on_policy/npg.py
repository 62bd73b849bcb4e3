"""NPG: the natural policy gradient (Kakade 2002), with advantages from fitted values.

    g      = mean_i A_i grad log pi(a_i | s_i)
    theta += alpha x,   (F + damping I) x = g,   alpha = sqrt(2 kl_step / (g . x))

F is the Fisher matrix of the policy at the visited states, exact over the actions for a softmax and
a Gaussian. It is never built: the system is solved by conjugate gradients with products F v, one
forward and one reverse derivative each. To second order, every step changes the policy by the same
KL divergence, `kl_step`, whatever the scale of parameters and rewards. Then V is fitted to its
TD(lambda) returns by Adam.

It is the planner of MOReL (Kidambi et al. 2020, arXiv 2005.05951), whose code is mjrl. There the
"normalised step size" is alpha^2 (g . x), twice the KL divergence: its 0.02 is 0.01 here. As there,
advantages are standardised, and the values of an update are those fitted in the one before. Unlike
there, a step whose measured divergence is more than twice `kl_step` is halved until it is not: near
the end of a tanh, or where all samples are clipped, the second order is no guide, and one such step
can end all learning. mjrl fits V by two passes over mini-batches of a fixed size; here they are a
share of the steps. Its policy is a Gaussian with one learned width for all states, two tanh layers
of 32 units, and the density of the sample before it is clipped; here it is any head, see
:mod:`ddm.on_policy.parts.actor_critic`.

Terminations stop the bootstrap. A truncation ends the trace, but its value goes on. `step` counts
updates.

    collector = ddm.Collector.create(environment, npg.collect_spec(config))
    learner, metrics = ddm.fit_online(npg, config, collector, key, num_steps=100)

Another module can run it on windows of its own: `update(config, state, batch)` takes any (N, T),
with a `mask` where steps do not count; `improve(config, state, steps)` takes advantages from
elsewhere.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ddm import networks
from ddm.on_policy.parts import actor_critic, natural, windows
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
    "log_prob", "natural_direction", "update",
]  # fmt: skip


class Config(actor_critic.Config):
    """Hyper-parameters; numbers are those of MOReL's planner."""

    trace_decay: float = leaf(0.97, "[0, 1]")  # lambda of the advantages; 0: one step, 1: all
    # KL divergence of one step to second order, in nats; MOReL's step size of 0.02 is twice that
    kl_step: float = leaf(0.01, "[0, inf)")
    damping: float = leaf(1e-4, "[0, inf)")  # added to the Fisher matrix's diagonal
    value_learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size
    cg_iterations: int = static(10, "[1, inf)")  # of the conjugate gradients
    # halvings of a step that changes the policy by more than twice `kl_step`; 0: mjrl's
    max_halvings: int = static(10, "[0, inf)")
    num_epochs: int = static(2, "[1, inf)")  # passes of the values over the steps of an update
    num_minibatches: int = static(32, "[1, inf)")  # of each pass


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: a head that does not explore, or does not fit the actions; images without an
        encoder.
    """
    return actor_critic.init(config, key, batch, "npg", optax.sgd, optax.adam)


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step of the policy and a fit of the values, on windows (N, T, ...) of that policy.

    Metrics, before the update: ``value``, ``return`` and ``explained_variance`` of the values;
    ``reward_max``, the largest size of a reward; ``entropy``, estimated by - mean log pi(a | s).
    Of the step: ``kl``, the estimate mean(rho - 1 - log rho) of the divergence that it made;
    ``gain``, the mean advantage that it should have gained to first order, alpha (g . x);
    ``value_loss`` over the mini-batches of the fit.
    """
    check_batch(batch, batch_spec(config), "npg")
    steps = windows.evaluate(state.value, batch, config.discount, config.trace_decay)
    state, metrics = improve(config, state, windows.standardized(steps))
    return state, {**metrics, **actor_critic.metrics_of(batch, steps)}


def improve(config: Config, state: State, steps: windows.Steps) -> tuple[State, Metrics]:
    """The step and the fit on steps whose advantages are given."""
    key, order_key = jax.random.split(state.key)
    old_log_probs = log_prob(config, state, steps.observations, steps.actions)
    direction, slope = natural_direction(config, state.actor, steps)
    rate = jnp.sqrt(2.0 * config.kl_step / jnp.maximum(slope, 1e-20))
    actor, rate, divergence = _step(config, state, steps, direction, rate, old_log_probs)
    value, loss = _fit_values(config, state.value, steps, order_key)
    return state.replace(actor=actor, value=value, step=state.step + 1, key=key), {
        "entropy": -windows.weighted_mean(old_log_probs, steps.weights),
        "kl": divergence,
        "gain": rate * slope,
        "value_loss": loss,
    }


def natural_direction(
    config: Config, actor: networks.Trainable, steps: windows.Steps
) -> tuple[Any, jax.Array]:
    """The solution x of (F + damping I) x = g, and g . x.

    Args:
      config: with `damping` and `cg_iterations`.
      actor: the policy that took the steps.
      steps: rows with advantages.
    """

    def surrogate(params: Any) -> jax.Array:
        outputs = actor_critic.policy_at(config, actor, steps.observations, params)
        log_probs = networks.clipped_log_prob(outputs, steps.actions)
        return windows.weighted_mean(log_probs * steps.advantages, steps.weights)

    def coordinates(params: Any) -> tuple[Any, Any]:
        outputs = actor_critic.policy_at(config, actor, steps.observations, params)
        return natural.coordinates(config, outputs, steps.actions)

    def product(direction: Any) -> Any:
        image = natural.fisher_product(coordinates, actor.params, direction, steps.weights)
        return natural.add(image, config.damping, direction)

    gradient = jax.grad(surrogate)(actor.params)
    solution = natural.conjugate_gradient(product, gradient, config.cg_iterations)
    return solution, natural.inner(gradient, solution)


def _step(
    config: Config,
    state: State,
    steps: windows.Steps,
    direction: Any,
    rate: jax.Array,
    old_log_probs: jax.Array,
) -> tuple[networks.Trainable, jax.Array, jax.Array]:
    """The policy after the longest step that it may make, the step's rate and its divergence."""
    ascent = jax.tree.map(jnp.negative, direction)  # the optimiser goes down

    def divergence(actor: networks.Trainable) -> jax.Array:
        after = state.replace(actor=actor)
        log_probs = log_prob(config, after, steps.observations, steps.actions)
        log_ratios = jnp.clip(log_probs - old_log_probs, -20.0, 20.0)
        each = jnp.exp(log_ratios) - 1.0 - log_ratios
        return windows.weighted_mean(each, steps.weights)

    def attempt(rate: jax.Array, count: jax.Array) -> tuple[Any, ...]:
        actor = networks.descend(ascent, state.actor, rate)
        return actor, rate, divergence(actor), count

    def too_long(tried: tuple[Any, ...]) -> jax.Array:
        _, _, found, count = tried
        return (found > 2.0 * config.kl_step) & (count < config.max_halvings)

    first = attempt(rate, jnp.zeros((), jnp.int32))
    actor, rate, found, _ = jax.lax.while_loop(
        too_long, lambda tried: attempt(0.5 * tried[1], tried[3] + 1), first
    )
    return actor, rate, found


def _fit_values(
    config: Config, value: networks.Trainable, steps: windows.Steps, key: PRNGKey
) -> tuple[networks.Trainable, jax.Array]:
    """Values after passes over shuffled mini-batches, and the mean loss."""

    def step(value: networks.Trainable, order: jax.Array) -> tuple[networks.Trainable, jax.Array]:
        rows = windows.take(steps, order)
        loss, gradients = jax.value_and_grad(
            lambda params: actor_critic.value_loss(value, params, rows)
        )(value.params)
        return networks.descend(gradients, value, config.value_learning_rate), loss

    orders = windows.shuffled_minibatches(
        key, steps.weights.shape[0], config.num_epochs, config.num_minibatches
    )
    value, losses = jax.lax.scan(step, value, orders)
    return value, jnp.mean(losses)
