"""Corrective labels: states near the demonstrations, with actions that lead back to them.

For a demonstrated step (s, a, s') and dynamics s' = s + f(s, a), a generator proposes a state g and
an action b with g + f(g, b) = a demonstrated state. Here f is known or learned, and everything is
in the units of the log: standardised observations, actions in [-1, 1].

- ``backtrack``: g = s - f(s, a), b = a, leads to s (backward Euler; the authors' default).
- ``backtrack_implicit``: g + f(g, a) = s, solved by Newton's method from s.
- ``disturb``: g = s' - f(s', b), b = a + noise, leads to s'.
- ``disturb_implicit``: g + f(g, b) = s', solved from s.
- ``disturb_state``: g = s + noise, and b solves g + f(g, b) = s' by least squares in the action
  box. It is for known dynamics with as many actions as there are directions to correct.
- ``random``: as ``backtrack`` with an action uniform in the box, an ablation.

Let f err by e at the demonstrated pair and be evaluated at (m, b), where m is g for the implicit
ones, s for the first and the last, s' for ``disturb``. With slopes K1 of the true dynamics and K2
of f, and with what the solver left, the true dynamics misses the demonstrated state by at most

    left + e + K1 (|g - s| + |b - a|) + K2 (|m - s| + |b - a|)

so labels that are far away are rejected. K1 is not known, and K2 at the pair stands for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from ddm import ops
from ddm.networks import spectral
from ddm.types import Batch, Configuration, PRNGKey, choice, chosen, leaf, static

FieldFn = Callable[[jax.Array, jax.Array], jax.Array]  # f: (O,), (A,) -> change (O,)


class LabelConfig(Configuration):
    """The fields of corrective labels; a method's Config adds its own."""

    # standard deviation of what `disturb` adds to actions, in half widths of their box
    action_noise: float = leaf(0.1, "[0, inf)")
    # standard deviation of what `disturb_state` adds to observations, in the log's units
    observation_noise: float = leaf(0.1, "[0, inf)")
    tolerance: float = leaf(1e-4, "(0, inf)")  # largest |g + f(g, b) - target| of a solution
    # largest |g - s| in the log's units, for `distance`: the authors' epsilon, theirs in raw units
    max_distance: float = leaf(1.0, "[0, inf)")
    keep_share: float = leaf(0.8, "(0, 1]")  # of the labels, the nearest ones, for `quantile`
    max_error: float = leaf(0.2, "[0, inf)")  # largest predicted error, for `error`
    max_action_distance: float = leaf(2.0, "[0, inf)")  # largest |b - a|, whatever the rejection
    generator: str = choice(lambda: GENERATORS, "backtrack")  # see above
    # which proposals are kept: a function (config, labels) -> (N,) bool may stand here
    rejection: str | Callable = choice(lambda: REJECTIONS, "quantile")
    # proposals for each demonstrated step; equal ones for `backtrack`
    num_labels: int = static(1, "[1, inf)")
    max_iterations: int = static(30, "[1, inf)")  # of the solver


class Labels(struct.PyTreeNode):
    """N proposals; those of one demonstrated step follow each other."""

    observations: jax.Array  # (N, O) g
    actions: jax.Array  # (N, A) b
    targets: jax.Array  # (N, O) the demonstrated states that they lead to
    distances: jax.Array  # (N,) |g - s|
    action_distances: jax.Array  # (N,) |b - a|
    errors: jax.Array  # (N,) predicted errors, see above
    kept: jax.Array  # (N,) bool


class Proposal(NamedTuple):
    """What a generator returns for one demonstrated step."""

    observation: jax.Array  # (O,) g
    action: jax.Array  # (A,) b
    target: jax.Array  # (O,)
    evaluated_at: jax.Array  # (O,) m
    left: jax.Array  # () |g + f(m, b) - target|


def propose(config: Any, field: FieldFn, batch: Batch, key: PRNGKey) -> Labels:
    """Labels for the steps of a batch, B `num_labels` of them.

    Args:
      config: with the fields of :class:`LabelConfig`.
      field: f, of one pair in the log's units.
      batch: observations, actions and next observations of demonstrated steps.
      key: used once.

    Returns:
      The labels. One that is not finite is replaced by the demonstrated pair, and not kept.
    """
    rows = batch.observations, batch.actions, batch.next_observations
    rows = jax.tree.map(lambda x: jnp.repeat(x, config.num_labels, axis=0), rows)
    keys = jax.random.split(key, len(rows[0]))
    labels = jax.vmap(lambda *row: _label(config, field, *row))(*rows, keys)
    return labels.replace(kept=labels.kept & chosen(config, "rejection")(config, labels))


def _label(
    config: Any,
    field: FieldFn,
    observation: jax.Array,
    action: jax.Array,
    successor: jax.Array,
    key: PRNGKey,
) -> Labels:
    """One proposal and how much it can be trusted."""
    found = GENERATORS[config.generator](config, field, observation, action, successor, key)
    finite = jnp.all(jnp.isfinite(found.observation)) & jnp.all(jnp.isfinite(found.action))
    g = jnp.where(finite, found.observation, observation)
    b = jnp.where(finite, found.action, action)
    distance, action_distance = jnp.linalg.norm(g - observation), jnp.linalg.norm(b - action)
    slope = pair_slope(field, observation, action)
    bound = error_bound(
        model_error=jnp.linalg.norm(field(observation, action) - (successor - observation)),
        slopes=(slope, slope),
        distance=distance,
        action_distance=action_distance,
        evaluation_distance=jnp.linalg.norm(found.evaluated_at - observation),
    )
    solved = found.left <= config.tolerance
    return Labels(
        observations=g,
        actions=b,
        targets=found.target,
        distances=distance,
        action_distances=action_distance,
        errors=bound + found.left,
        kept=finite & solved & (action_distance <= config.max_action_distance),
    )


def error_bound(
    *,
    model_error: jax.Array,
    slopes: tuple[Any, Any],
    distance: jax.Array,
    action_distance: Any,
    evaluation_distance: jax.Array,
) -> jax.Array:
    """How far the true dynamics can miss the target; see above, without what the solver left.

    Args:
      model_error: e, of f at the demonstrated pair.
      slopes: K1 of the true dynamics and K2 of f.
      distance: |g - s|.
      action_distance: |b - a|.
      evaluation_distance: |m - s|.
    """
    true_slope, model_slope = slopes
    return (
        model_error
        + true_slope * (distance + action_distance)
        + model_slope * (evaluation_distance + action_distance)
    )


def pair_slope(field: FieldFn, observation: jax.Array, action: jax.Array) -> jax.Array:
    """The local Lipschitz constant () of f at a pair."""
    size = observation.shape[0]
    pair = jnp.concatenate([observation, action])
    return spectral.local_slope(lambda x: field(x[:size], x[size:]), pair)


# Generators: (config, f, s (O,), a (A,), s' (O,), key) -> Proposal.


def backtrack(config, field, observation, action, successor, key) -> Proposal:
    """From before the demonstrated state, by the model's change at that state."""
    del config, successor, key
    before = observation - field(observation, action)
    return Proposal(before, action, observation, observation, jnp.zeros((), before.dtype))


def backtrack_implicit(config, field, observation, action, successor, key) -> Proposal:
    """From before the demonstrated state, by the model's change where it starts."""
    del successor, key
    return _solve_observation(config, field, observation, action, observation)


def random_backtrack(config, field, observation, action, successor, key) -> Proposal:
    """As `backtrack` with an action of its own."""
    other = jax.random.uniform(key, action.shape, action.dtype, -1.0, 1.0)
    return backtrack(config, field, observation, other, successor, key)


def disturb(config, field, observation, action, successor, key) -> Proposal:
    """To the demonstrated successor with another action, by the model's change at its end."""
    del observation
    action = _disturbed(config, action, key)
    before = successor - field(successor, action)
    return Proposal(before, action, successor, successor, jnp.zeros((), before.dtype))


def disturb_implicit(config, field, observation, action, successor, key) -> Proposal:
    """To the demonstrated successor with another action, by the model's change where it starts."""
    action = _disturbed(config, action, key)
    return _solve_observation(config, field, observation, action, successor)


def disturb_state(config, field, observation, action, successor, key) -> Proposal:
    """To the demonstrated successor from another state: inverse dynamics."""
    noise = jax.random.normal(key, observation.shape, observation.dtype)
    other = observation + config.observation_noise * noise
    found, left = ops.gauss_newton(
        lambda action: other + field(other, action) - successor,
        action,
        max_iterations=config.max_iterations,
        tolerance=config.tolerance,
        low=-1.0,
        high=1.0,
    )
    return Proposal(other, found, successor, other, left)


def _disturbed(config: Any, action: jax.Array, key: PRNGKey) -> jax.Array:
    """An action nearby, inside the box."""
    noise = jax.random.normal(key, action.shape, action.dtype)
    return jnp.clip(action + config.action_noise * noise, -1.0, 1.0)


def _solve_observation(
    config: Any, field: FieldFn, start: jax.Array, action: jax.Array, target: jax.Array
) -> Proposal:
    """The state from which the action leads to the target."""
    found, left = ops.gauss_newton(
        lambda observation: observation + field(observation, action) - target,
        start,
        max_iterations=config.max_iterations,
        tolerance=config.tolerance,
    )
    return Proposal(found, action, target, found, left)


GENERATORS: dict[str, Callable[..., Proposal]] = {
    "backtrack": backtrack,
    "backtrack_implicit": backtrack_implicit,
    "disturb": disturb,
    "disturb_implicit": disturb_implicit,
    "disturb_state": disturb_state,
    "random": random_backtrack,
}


# Rejections: (config, labels) -> (N,) bool.


def keep_all(config: Any, labels: Labels) -> jax.Array:
    """Every label that was solved."""
    del config
    return labels.kept


def keep_near(config: Any, labels: Labels) -> jax.Array:
    """Within a distance of the demonstrated state."""
    return labels.distances <= config.max_distance


def keep_nearest(config: Any, labels: Labels) -> jax.Array:
    """A share of those that were solved, the nearest ones."""
    distances = jnp.where(labels.kept, labels.distances, jnp.nan)
    return labels.distances <= jnp.nanquantile(distances, config.keep_share)


def keep_trusted(config: Any, labels: Labels) -> jax.Array:
    """A small predicted error."""
    return labels.errors <= config.max_error


REJECTIONS: dict[str, Callable[[Any, Labels], jax.Array]] = {
    "none": keep_all,
    "distance": keep_near,
    "quantile": keep_nearest,
    "error": keep_trusted,
}
