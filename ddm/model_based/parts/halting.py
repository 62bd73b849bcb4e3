"""MOReL's pessimistic MDP: where the members of a model disagree, a step leads to HALT.

    disc(s, a) = max_ij || f_i(s, a) - f_j(s, a) ||_2
    disc(s, a) > threshold:  r = min_D r - halt_penalty, and the episode ends

(Kidambi et al. 2020, arXiv 2005.05951, definitions 2 and 3.) The threshold comes from the
disagreement on the log itself, which a stage of one step measures when the model is final. That
stage also runs where the model is given.

In the paper HALT is absorbing and earns its reward for ever; here it is paid once and nothing is
bootstrapped, see `ops.halted`. HALT has no observation: the one before stands in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ddm import ops
from ddm.errors import InputError
from ddm.model_based import dynamics
from ddm.model_based.parts.uncertainty import UNCERTAINTIES, UncertaintyFn, max_std
from ddm.types import Batch, BatchSpec, Metrics, Stage, check_batch, choice, chosen, leaf, static

_CHUNK = 4096  # rows of the log that are predicted at once
_LOG = BatchSpec(fields=("observations", "actions", "rewards"), whole_dataset=True)


class Measured(struct.PyTreeNode):
    """What the log says about the model, in numbers ()."""

    mean: jax.Array  # of the disagreement on the log's pairs, in the environment's units
    std: jax.Array
    largest: jax.Array
    smallest_reward: jax.Array  # of the log, in its units


# What was measured, and `threshold_coefficient` -> the threshold ().
ThresholdFn = Callable[[Measured, Any], jax.Array]


def mean_std(found: Measured, coefficient: Any) -> jax.Array:
    """Mu + beta sigma of the disagreement on the log (the paper, appendix on hyper-parameters)."""
    return found.mean + coefficient * found.std


def largest(found: Measured, coefficient: Any) -> jax.Array:
    """The largest disagreement on the log, divided by the coefficient (the authors' code)."""
    return found.largest / coefficient


def given(found: Measured, coefficient: Any) -> jax.Array:
    """The coefficient itself."""
    del found
    return jnp.asarray(coefficient, jnp.float32)


THRESHOLDS: dict[str, ThresholdFn] = {"mean_std": mean_std, "largest": largest, "given": given}


class Config(dynamics.Config):
    """Hyper-parameters of MOReL's model and of its pessimistic MDP."""

    # Members, layers, decay, epochs: those of the authors' configuration for hopper-medium. All
    # members predict.
    num_members: int = static(4, "[1, inf)")
    num_elites: int = static(4, "[1, inf)", at_most="num_members")
    model_hidden_sizes: tuple[int, ...] = static((512, 512), "[1, inf)")
    model_weight_decay: tuple[float, ...] = static((0.0,), "[0, inf)")
    probabilistic: bool = static(False)
    bootstrap: bool = static(False)  # members differ by their start and by the order of rows
    max_epochs: int = static(25, "[0, inf)")
    # disc(s, a); or a function like those of parts.uncertainty
    uncertainty: str | UncertaintyFn = choice(UNCERTAINTIES, "max_disagreement")
    # where the unknown begins; or a function like those of parts.halting
    threshold: str | ThresholdFn = choice(THRESHOLDS, "mean_std")
    # mean_std: beta, the paper tries 0, 5, 10 ..; largest: the divisor, authors 3; given: itself
    threshold_coefficient: float = leaf(5.0, "[0, inf)")
    # HALT earns so much less than the log's smallest reward, in the environment's units; the paper
    # tries 30, 50, 100 and 200
    halt_penalty: float = leaf(50.0, "[0, inf)")


def check(config: Any, name: str) -> None:
    """Refuses an uncertainty that is 0 everywhere, so that nothing would be unknown.

    Raises:
      InputError: naming the fields.
    """
    if chosen(config, "uncertainty") is max_std and not config.probabilistic:
        raise InputError(
            f"{name}: uncertainty=max_std is 0 for members without a standard deviation; choose "
            "max_disagreement, max_deviation or std_of_means, or probabilistic=True"
        )


def unmeasured() -> Measured:
    """Before the stage; with it as a threshold every disagreement is too much."""
    return Measured(*(jnp.zeros((), jnp.float32) for _ in range(4)))


def stage() -> Stage:
    """One step between the model and the policy, which measures the model on the log."""
    return Stage("threshold", _measure, _LOG, num_steps=1, evaluated=False)


def _measure(config: Any, state: Any, batch: Batch) -> tuple[Any, Metrics]:
    """The update of that stage, for any State with `model`, `measured` and `step`.

    Metrics: ``disagreement``, ``disagreement_std`` and ``disagreement_max`` on the log;
    ``threshold``; ``halt_reward``.
    """
    check_batch(batch, _LOG, "threshold")
    found = measure(config, state.model, batch)
    reported = {
        "disagreement": found.mean,
        "disagreement_std": found.std,
        "disagreement_max": found.largest,
    }
    state = state.replace(measured=found, step=state.step + 1)
    return state, {**reported, **metrics(config, found)}


def measure(config: Any, model: dynamics.State, batch: Batch) -> Measured:
    """The disagreement on all rows of a log, some thousand rows at a time."""
    function = chosen(config, "uncertainty")

    def one(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        observation, action = pair
        return dynamics.uncertainty(config, model, observation[None], action[None], function)[0]

    unsure = jax.lax.map(one, (batch.observations, batch.actions), batch_size=_CHUNK)
    moments = jnp.mean(unsure), jnp.std(unsure), jnp.max(unsure)
    return Measured(*moments, smallest_reward=jnp.min(batch.rewards))


def threshold(config: Any, found: Measured) -> jax.Array:
    """The largest disagreement () of a pair that is known."""
    return chosen(config, "threshold")(found, config.threshold_coefficient)


def halt_reward(config: Any, found: Measured) -> jax.Array:
    """What HALT earns (), in the log's units."""
    return found.smallest_reward - config.halt_penalty * config.reward_unit


def halt(
    config: Any, found: Measured, rows: Batch, unsure: jax.Array
) -> tuple[Batch, dict[str, jax.Array]]:
    """Imagined transitions of the pessimistic MDP; known pairs keep every bit.

    Args:
      config: of the method.
      found: what was measured on the log.
      rows: (B, ...) as the model gives them.
      unsure: (B,) disagreements; one that is not finite is unknown, too.

    Returns:
      The transitions, and to report: ``halted``, whether a step leads to HALT; ``uncertainty``,
      the disagreement, or the threshold in place of one that is not finite.
    """
    limit = threshold(config, found)
    unknown = ops.is_unknown(unsure, limit)
    rewards, terminations = ops.halted(
        rows.rewards, rows.terminations, unknown, halt_reward(config, found)
    )
    following = jnp.where(unknown[:, None], rows.observations, rows.next_observations)
    rows = rows.replace(rewards=rewards, terminations=terminations, next_observations=following)
    shown = jnp.where(jnp.isfinite(unsure), unsure, limit)
    return rows, {"halted": unknown.astype(jnp.float32), "uncertainty": shown}


def metrics(config: Any, found: Measured) -> Metrics:
    """``threshold``, and ``halt_reward`` in the log's units."""
    return {"threshold": threshold(config, found), "halt_reward": halt_reward(config, found)}


def diagnose(config: Any, metrics: Mapping[str, float]) -> list[str]:
    """A sentence if nearly every imagined step is unknown."""
    share = metrics.get("halted", 0.0)
    if share < 0.95:
        return []
    return [
        f"{100.0 * share:.3g} % of the imagined steps are unknown, with a disagreement above "
        f"{metrics.get('threshold', float('nan')):.3g}: nothing can be planned; raise "
        "threshold_coefficient (lower it for threshold=largest), or train the model for longer"
    ]
