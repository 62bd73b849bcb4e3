"""Datasets from flat arrays of transitions.

An episode ends where `terminations` or `truncations` is set, and at the end of the arrays,
which counts as a truncation. Where `episode_ends` is given, it alone says where episodes end,
and `terminations` may stop bootstraps inside an episode (OGBench's tasks do). The observation
after an episode's last transition is taken from `next_observations`. Without them,

- after a terminal transition it has no effect: the observation is repeated;
- a truncated transition has an unknown successor and is dropped (D4RL's timeouts rule); the
  episode then ends, truncated, with the transition before it. Returns and returns-to-go
  still count its reward.

A successor at an episode's end that equals the next episode's first observation was
overwritten by an environment that resets itself: it counts as unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ddm.data import spaces
from ddm.data.columns import Columns, build
from ddm.data.dataset import Dataset
from ddm.data.fields import NAMES, find_fields, read_flags, unused
from ddm.data.references import check_references
from ddm.data.transitions import read_transitions, split_episodes
from ddm.data.values import as_array
from ddm.errors import InputError


def from_arrays(
    observations: Any,
    actions: Any,
    rewards: Any = None,
    terminations: Any = None,
    truncations: Any = None,
    next_observations: Any = None,
    *,
    episode_ends: Any = None,
    observation_space: Any = None,
    action_space: Any = None,
    clip_actions: bool = False,
    environment_id: str | None = None,
    reference_scores: tuple[float, float] | None = None,
    reference_source: str | None = None,
    name: str = "arrays",
    notes: tuple[str, ...] = (),
) -> Dataset:
    """A dataset from flat arrays of N consecutive transitions, as D4RL stores them.

    The rules of this module say where episodes end, and what follows their last transitions.

    Args:
      observations: (N, *O), or dicts and tuples of arrays where `observation_space` is one.
      actions: (N, A) in the environment's units, or (N,) integers.
      rewards: (N,); None for a log without rewards, which only imitation can learn from.
      terminations: (N,) the environment ended the episode here and no value follows; None: no
      terminations.
      truncations: (N,) the episode was cut here; None: no truncations.
      next_observations: like `observations`; inside an episode row t equals observation t + 1.
      episode_ends: (N,) flags of each episode's last step, or for each episode the row one past
        it; an end without `terminations` is a truncation.
      observation_space: a gymnasium space, or `ddm.types.Box` / `Discrete`.
      action_space: likewise, or the bounds `(low, high)` of a box. If None, integers are taken to
        run from 0 to the largest one, and floats to lie in [-1, 1]; `info.notes` says so.
      clip_actions: moves real actions outside their box onto its edge instead of refusing them.
      environment_id: where a policy can be evaluated.
      reference_scores: returns of a random and of an expert policy.
      reference_source: where the reference scores are from.
      name: what error messages and reports call the dataset.
      notes: sentences that `info.notes` begins with.

    Raises:
      InputError: names the field, the episode or index, and what was expected.
    """
    given = _Given(
        observations, actions, rewards, terminations, truncations, next_observations, episode_ends
    )
    return _build(
        given,
        observation_space,
        action_space=None if action_space is None else spaces.parse_space(action_space),
        clip_actions=clip_actions,
        environment_id=environment_id,
        reference_scores=reference_scores,
        reference_source=reference_source,
        source=name,
        notes=notes,
    )


class _Given(NamedTuple):
    """The fields of `from_arrays`, in its order; None where one is not given."""

    observations: Any
    actions: Any
    rewards: Any
    terminations: Any
    truncations: Any
    next_observations: Any
    episode_ends: Any


def _build(
    given: _Given, observation_space: Any, *, source: str, notes: tuple[str, ...], **known: Any
) -> Dataset:
    present = {field: value for field, value in given._asdict().items() if value is not None}
    tree, fields, guesses = read_transitions(present, observation_space, source)
    split = split_episodes(fields, source)
    columns = Columns(
        source=source,
        **split.columns,
        observation_space=tree,
        has_rewards=given.rewards is not None,
        inner_stops=given.episode_ends is not None,
        notes=(*notes, *guesses, *split.notes),
        **known,
    )
    return build(columns)


def from_mapping(
    arrays: Mapping[str, Any],
    name: str = "arrays",
    *,
    max_episode_steps: int | None = None,
    **options: Any,
) -> Dataset:
    """`from_arrays` of named arrays, under any of the names of `ddm.data.fields`.

    A log may also hold `action_low` and `action_high` (or `num_actions`), `num_states`,
    `environment_id` and `reference_scores`; an argument with the same meaning replaces them.

    Args:
      arrays: by name; `masks` (0 where bootstraps stop), `episode_lengths` and `dones` are known.
      name: what error messages and reports call the dataset.
      max_episode_steps: the time limit, for logs that do not say where it ended an episode.
      **options: of `from_arrays`.

    Raises:
      InputError: a field is missing, unknown or ambiguous.
    """
    stored = find_fields(arrays, name)
    for field in ("observations", "actions"):
        if field not in stored:
            raise InputError(
                f"{name}: field {' or '.join(NAMES[field])} is missing; it has "
                f"{', '.join(arrays) or 'none'}"
            )
    fields = {
        field: arrays[stored[field]]
        for field in ("observations", "actions", "rewards", "next_observations")
        if field in stored
    }
    fields |= read_flags(arrays, name, max_episode_steps)
    settings = _settings(arrays, name)
    given = {key: value for key, value in options.items() if value is not None}
    if "reference_scores" in given:
        settings.pop("reference_source", None)
    notes = (*given.pop("notes", ()), *unused(arrays))
    return from_arrays(**fields, name=name, notes=notes, **{**settings, **given})


def _settings(arrays: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The arguments of `from_arrays` that the log itself holds."""
    settings: dict[str, Any] = {}
    bounds = [bound for bound in ("action_low", "action_high") if bound in arrays]
    if len(bounds) == 1:
        raise InputError(f"{name}: {bounds[0]} is there alone, expected action_low and action_high")
    if bounds:
        settings["action_space"] = spaces.box_of_bounds(
            arrays["action_low"], arrays["action_high"], name
        )
    elif "num_actions" in arrays:
        settings["action_space"] = spaces.discrete(arrays["num_actions"], f"{name}: num_actions")
    if "num_states" in arrays:
        settings["observation_space"] = spaces.discrete(arrays["num_states"], f"{name}: num_states")
    if "environment_id" in arrays:
        settings["environment_id"] = _text(arrays["environment_id"], f"{name}: environment_id")
    if "reference_scores" in arrays:
        scores = as_array(arrays["reference_scores"], f"{name}: reference_scores").ravel()
        check_references(scores, name)
        settings["reference_scores"] = tuple(map(float, scores))
        settings["reference_source"] = "the data's reference_scores"
    return settings


def _text(value: Any, where: str) -> str:
    array = np.asarray(value)
    text = array.item() if array.size == 1 else None
    if isinstance(text, bytes):
        text = text.decode()
    if not isinstance(text, str):
        raise InputError(f"{where} is {value!r}, expected one string")
    return text
