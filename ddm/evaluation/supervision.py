"""One supervised step: the learner proposes, the expert labels, the algorithm decides who acts.

An algorithm whose `collect_spec` says `labelled` has these functions beside `act`:

`begin_supervision(config, state)`: a pytree of scalars, what its rule remembers from step to step;
its `metrics()` are reported.
`supervise(config, state, memory, seen, key) -> (Ruling, memory)`: who acts in each copy of the
environment, and which labels are asked for.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddm.evaluation import experts
from ddm.evaluation.policy import Policy
from ddm.types import PRNGKey, PyTree


class Seen(NamedTuple):
    """N copies of an environment at one step, in the units of the algorithm."""

    observations: jax.Array  # (N, *O)
    proposals: jax.Array  # (N, A) or (N,) the learner's actions
    labels: jax.Array  # (N, A) or (N,) the expert's actions
    valid: jax.Array  # (N,) bool: the label is finite and inside its box
    takes_over: jax.Array  # (N,) bool: the expert wants to act, where it says so
    policy_states: PyTree  # leaves (N, ...) of the learner, after it proposed


class Ruling(NamedTuple):
    """What happens in each copy."""

    actions: jax.Array  # (N, A) or (N,) the expert's actions where it acts, with noise or without
    led: jax.Array  # (N,) bool: the expert acts
    asked: jax.Array  # (N,) bool: the label is asked for, and the row is kept


def rule(
    policy: Policy,
    memory: PyTree,
    observations: jax.Array,
    proposals: jax.Array,
    labels: jax.Array,
    takes_over: jax.Array,
    policy_states: PyTree,
    key: PRNGKey,
    may_act: bool = True,
) -> tuple[jax.Array, jax.Array, Ruling, PyTree]:
    """The algorithm's decision for N copies, in the environment's units.

    Args:
      policy: of one lane; its spaces are known.
      memory: of the algorithm's rule.
      observations: (N, *O).
      proposals: (N, A) or (N,) the learner's actions.
      labels: (N, A) or (N,) the expert's actions, as they come.
      takes_over: (N,) bool, where the expert wants to act.
      policy_states: of the learner, after it proposed.
      key: used once.
      may_act: whether the expert can act at all; one that labels afterwards cannot.

    Returns:
      The actions to execute, the labels to keep, the ruling, and the rule's memory.
    """
    units, space = policy.normalization, policy.action_space
    assert units is not None, "a policy that collects has units"
    assert space is not None, "a policy that collects has a space of actions"
    valid, labels = experts.is_label(labels, space), experts.fitted(labels, space)
    seen = Seen(
        observations=units.normalize_observations(observations),
        proposals=units.normalize_actions(proposals),
        labels=units.normalize_actions(labels),
        valid=valid,
        takes_over=takes_over,
        policy_states=policy_states,
    )
    ruling, memory = policy.algorithm.supervise(policy.config, policy.state, memory, seen, key)
    if not may_act:
        ruling = ruling._replace(led=jnp.zeros_like(ruling.led))
    by_expert = experts.fitted(units.denormalize_actions(ruling.actions), space)
    led = ruling.led.reshape(ruling.led.shape + (1,) * (proposals.ndim - 1))
    return jnp.where(led, by_expert, proposals), labels, ruling, memory
