"""Who acts while labels are collected, and which states the expert is asked about.

A schedule gives beta_i, the probability at each step of round i that the expert acts. A gate can
leave more steps to the expert, and ask for fewer labels:

- ``none``: every state is labelled (DAgger, Ross et al. 2011).
- ``safe``: a classifier predicts where the learner's action is far from the expert's. The expert
  acts and labels there (SafeDAgger, Zhang & Cho 2017).
- ``ensemble``: the expert acts where the members' actions vary by more than `doubt_limit`, or
  where their mean is further than `discrepancy_limit` from the expert's action (EnsembleDAgger,
  Menda et al. 2019). The second rule has to ask in every state. With a limit of inf it is left out,
  and only doubtful states are asked.
- ``human``: the expert says itself where it takes over. Its own steps alone are kept (HG-DAgger,
  Kelly et al. 2019).
- ``budget``: the expert acts and labels where the doubt is above its running quantile, so that
  the share `query_rate` of all states is asked (after ThriftyDAgger, Hoque et al. 2021).

Before the first update every state is asked, whatever the gate.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

_RISK_RATE = 0.1  # weight of the newest take-over in the running mean of doubts


class Memory(struct.PyTreeNode):
    """What the rule remembers from step to step, and what it reports."""

    labels: jax.Array  # () int32, labels that were asked for
    steps: jax.Array  # () int32, of all copies
    led: jax.Array  # () int32, steps that the expert took
    invalid: jax.Array  # () int32, labels that were not finite or outside their box
    threshold: jax.Array  # () running quantile of the doubt; 0 before the first
    risk: jax.Array  # () running mean of the doubt where the expert took over

    @classmethod
    def empty(cls) -> Memory:
        """Before the first step."""
        labels, steps, led, invalid = (jnp.zeros((), jnp.int32) for _ in range(4))
        threshold, risk = (jnp.zeros((), jnp.float32) for _ in range(2))
        return cls(labels, steps, led, invalid, threshold, risk)

    def metrics(self) -> dict[str, jax.Array]:
        """What the collection reports beside its returns.

        ``labels`` asked so far; ``expert_share`` of the steps; ``invalid_labels``, which are left
        out; ``doubt_threshold``; ``risk``, the doubt at which the expert took over.
        """
        return {
            "labels": self.labels.astype(jnp.float32),
            "expert_share": self.led / jnp.maximum(self.steps, 1),
            "invalid_labels": self.invalid.astype(jnp.float32),
            "doubt_threshold": self.threshold,
            "risk": self.risk,
        }


# Schedules: (config, round i counted from 0, whether no update was made yet) -> beta


def first(config: Any, i: jax.Array, untrained: jax.Array) -> jax.Array:
    """1 while the policy is untrained, then 0: without a parameter, and as good (Ross et al.)."""
    del config, i
    return untrained.astype(jnp.float32)


def exponential(config: Any, i: jax.Array, untrained: jax.Array) -> jax.Array:
    """p^i, so 1 in the first round."""
    del untrained
    return jnp.power(jnp.asarray(config.beta_decay, jnp.float32), i)


def linear(config: Any, i: jax.Array, untrained: jax.Array) -> jax.Array:
    """From 1 to 0 in `beta_rounds` rounds."""
    del untrained
    return jnp.clip(1.0 - i / config.beta_rounds, 0.0, 1.0)


def always(config: Any, i: jax.Array, untrained: jax.Array) -> jax.Array:
    """1: the expert alone acts, as for DART."""
    del config, untrained
    return jnp.ones_like(i, jnp.float32)


def never(config: Any, i: jax.Array, untrained: jax.Array) -> jax.Array:
    """0: the learner alone acts, from the first step on."""
    del config, untrained
    return jnp.zeros_like(i, jnp.float32)


SCHEDULES = {
    "first": first, "exponential": exponential, "linear": linear, "always": always, "never": never,
}  # fmt: skip


class Signals(struct.PyTreeNode):
    """What a gate knows of each copy, (N,)."""

    doubt: jax.Array  # variance of the members' actions
    discrepancy: jax.Array  # squared error of the learner's action, or 0 and 1 if discrete
    unsafe: jax.Array  # bool, as the classifier predicts
    takes_over: jax.Array  # bool, as the expert wishes
    threshold: jax.Array  # () of the doubt


# Gates: (config, signals) -> (the expert acts, its label is asked), (N,) bool each


def none(config: Any, signals: Signals) -> tuple[jax.Array, jax.Array]:
    """The schedule alone decides, and every state is labelled."""
    del config
    return jnp.zeros_like(signals.unsafe), jnp.ones_like(signals.unsafe)


def safe(config: Any, signals: Signals) -> tuple[jax.Array, jax.Array]:
    """The classifier."""
    del config
    return signals.unsafe, signals.unsafe


def ensemble(config: Any, signals: Signals) -> tuple[jax.Array, jax.Array]:
    """Doubt, and discrepancy if it has a limit."""
    far = signals.discrepancy > config.discrepancy_limit
    led = (signals.doubt > config.doubt_limit) | far
    return led, led | jnp.isfinite(jnp.asarray(config.discrepancy_limit, jnp.float32))


def human(config: Any, signals: Signals) -> tuple[jax.Array, jax.Array]:
    """The expert's own wish."""
    del config
    return signals.takes_over, signals.takes_over


def budget(config: Any, signals: Signals) -> tuple[jax.Array, jax.Array]:
    """Doubt above its running quantile."""
    del config
    above = signals.doubt > signals.threshold
    return above, above


GATES = {"none": none, "safe": safe, "ensemble": ensemble, "human": human, "budget": budget}
DOUBTING = ("ensemble", "budget")  # gates that need members


def next_threshold(config: Any, threshold: jax.Array, doubt: jax.Array) -> jax.Array:
    """The running (1 - `query_rate`) quantile after the doubts (N,) of one step.

    Its logarithm rises by the rate where more copies are above it than the share that is allowed,
    and falls where fewer are (stochastic approximation). So over n steps the share of doubts above
    it differs from `query_rate` by the change of log threshold / (rate n), and it follows a policy
    that becomes more certain.
    """
    excess = jnp.mean(doubt > threshold, dtype=jnp.float32) - config.query_rate
    moved = threshold * jnp.exp(config.quantile_rate * excess)
    return jnp.where(threshold > 0.0, moved, jnp.maximum(jnp.mean(doubt), 1e-12))


def within_budget(config: Any, asked: jax.Array, labels: jax.Array) -> jax.Array:
    """The first of the asked copies (N,) bool, until `max_labels` labels are reached; 0: all."""
    count = labels + jnp.cumsum(asked, dtype=jnp.int32)
    return asked & ((config.max_labels == 0) | (count <= config.max_labels))


def updated(memory: Memory, led: jax.Array, asked: jax.Array, **changes: Any) -> Memory:
    """The memory after a step of N copies, (N,) bool each."""
    count = lambda mask: jnp.sum(mask, dtype=jnp.int32)  # noqa: E731
    return memory.replace(
        labels=memory.labels + count(asked),
        steps=memory.steps + led.size,
        led=memory.led + count(led),
        **changes,
    )


def next_risk(risk: jax.Array, doubt: jax.Array, taken: jax.Array) -> jax.Array:
    """A running mean of the doubts (N,) at take-overs; HG-DAgger's risk threshold.

    The authors average the last quarter of all recorded doubts; here older ones fade.
    """
    count = jnp.sum(taken)
    mean = jnp.sum(jnp.where(taken, doubt, 0.0)) / jnp.maximum(count, 1)
    moved = jnp.where(risk > 0.0, risk + _RISK_RATE * (mean - risk), mean)
    return jnp.where(count > 0, moved, risk)


def held_out(observations: jax.Array, share: Any) -> jax.Array:
    """Which of the observations (B, *O) are held out, (B,) bool.

    By a hash of the observation itself, so that a state is always or never held out, wherever it
    comes from.
    """
    rows = observations.reshape(observations.shape[0], -1).astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(rows, jnp.uint32)
    odd = jnp.arange(bits.shape[1], dtype=jnp.uint32) * jnp.uint32(2654435761 * 2 % 2**32) + 1
    hashed = jnp.sum(bits * odd * jnp.uint32(2246822519), axis=-1, dtype=jnp.uint32)
    hashed = (hashed ^ (hashed >> 15)) * jnp.uint32(2246822519)
    hashed = (hashed ^ (hashed >> 13)) >> 8
    return hashed.astype(jnp.float32) < share * 2.0**24
