"""What a log says about a configuration: an epoch's length, units, and when episodes end."""

from __future__ import annotations

from typing import Any

import jax
import jax.core
import numpy as np

from ddm.errors import InputError
from ddm.model_based.parts import terminations


def prepare(config: Any, dataset: Any) -> Any:
    """The length of an epoch, the termination rule and the units, where they are not given.

    Raises:
      InputError: the dataset is traced, as under jit.
    """
    return _with_units(_with_epoch_length(config, dataset), dataset)


def notes(config: Any, dataset: Any) -> list[str]:
    """How imagined episodes end, and how well that agrees with the log if there is one."""
    rule = config.termination
    if not isinstance(rule, str) or rule in (terminations.LEARNED, terminations.AUTO):
        return [f"imagined episodes end as the model learns from the log (termination={rule})"]
    if not hasattr(dataset, "rewards"):  # the policy's own experience, which is still to come
        return [f"imagined episodes end by the rule '{rule}'"]
    share = terminations.agreement(terminations.RULES[rule], dataset)
    return [f"imagined episodes end by the rule '{rule}', which says the same as "
            f"{100.0 * share:.2f} % of the log's transitions"]  # fmt: skip


def _with_epoch_length(config: Any, dataset: Any) -> Any:
    """The configuration with the gradient steps of one pass over the log, where not given."""
    if config.steps_per_epoch:
        return config
    count = dataset.rewards.shape[-1] if hasattr(dataset, "rewards") else dataset.capacity
    held_out = min(int(config.holdout_share * count), config.max_holdout)
    return config.replace(steps_per_epoch=max(1, (count - held_out) // config.model_batch_size))


def _with_units(config: Any, dataset: Any) -> Any:
    """The configuration with the units of a log, and a termination rule for it."""
    units = dataset.normalization
    known = bool(config.observation_std) and config.termination != terminations.AUTO
    if known or units.observation_std is None:
        return config
    if isinstance(units.observation_std, jax.core.Tracer):
        raise InputError(
            "dynamics: units and the termination rule are read from the values of the log: call "
            "ddm.prepare(algorithm, config, dataset) outside of jit"
        )
    if config.termination == terminations.AUTO:
        config = config.replace(termination=terminations.find(dataset))
    return config.replace(
        observation_mean=tuple(np.asarray(units.observation_mean).ravel().tolist()),
        observation_std=tuple(np.asarray(units.observation_std).ravel().tolist()),
        reward_unit=abs(float(units.reward_scale)),
    )
