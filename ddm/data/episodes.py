"""Datasets from lists of episodes, and back."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ddm.data import spaces
from ddm.data.columns import Columns, build
from ddm.data.dataset import Dataset
from ddm.data.fields import SETTINGS, as_flags, find_fields
from ddm.data.rows import flat_observations, guess_notes, numbers
from ddm.data.transitions import check_successors
from ddm.data.values import as_array
from ddm.errors import InputError

# The result of `find_fields` for an episode that is an object, such as Minari's.
_ATTRIBUTES = ("observations", "actions", "rewards", "terminations", "truncations")


def from_episodes(
    episodes: Iterable[Any],
    *,
    observation_space: Any = None,
    action_space: Any = None,
    clip_actions: bool = False,
    environment_id: str | None = None,
    reference_scores: tuple[float, float] | None = None,
    reference_source: str | None = None,
    name: str = "episodes",
    notes: tuple[str, ...] = (),
) -> Dataset:
    """A dataset from episodes with T + 1 observations each.

    Args:
      episodes: any iterable of mappings, or of objects with these attributes (Minari's
        episodes): `observations` (T + 1, *O) (dicts and tuples of arrays where
        `observation_space` is one), or (T, *O) beside `next_observations` (T, *O); `actions`
        (T, A) or (T,); `rewards` (T,), in all episodes or in none; `terminations` and
        `truncations` as (T,) flags or one flag for the episode's end. An episode without a flag
        at its end counts as truncated. `masks` (T,) in place of `terminations` may stop bootstraps
        inside the episode. The names of `ddm.data.fields` are known.
      observation_space: as for `from_arrays`.
      action_space: as for `from_arrays`.
      clip_actions: as for `from_arrays`.
      environment_id: where a policy can be evaluated.
      reference_scores: returns of a random and of an expert policy.
      reference_source: where the reference scores are from.
      name: what error messages and reports call the dataset.
      notes: sentences that `info.notes` begins with.

    Raises:
      InputError: names the episode, the field and what was expected.
    """
    read = _read_all(episodes, observation_space, name)
    if read.tree is None or not read.parts:
        raise InputError(f"{name}: there is no episode in it")
    arrays: dict[str, Any] = {field: np.concatenate(values) for field, values in read.parts.items()}
    observed = arrays["observations"]
    guesses = () if observation_space is not None else guess_notes(observed)
    has_rewards = "rewards" in arrays
    arrays.setdefault("rewards", np.zeros(len(arrays["actions"]), np.float32))
    columns = Columns(
        source=name,
        lengths=np.array([len(part) for part in read.parts["actions"]]),
        observation_space=read.tree,
        action_space=None if action_space is None else spaces.parse_space(action_space),
        clip_actions=clip_actions,
        environment_id=environment_id,
        reference_scores=reference_scores,
        reference_source=reference_source,
        has_rewards=has_rewards,
        inner_stops=read.inner_stops,
        notes=(*notes, *guesses),
        **arrays,
    )
    return build(columns)


class _Read(NamedTuple):
    tree: spaces.Tree | None  # of the observations; None without an episode
    parts: dict[str, list[np.ndarray]]  # each field's array of each episode
    inner_stops: bool


def _read_all(episodes: Iterable[Any], observation_space: Any, name: str) -> _Read:
    """All episodes, checked against each other."""
    tree = None if observation_space is None else spaces.parse_space(observation_space)
    parts: dict[str, list[np.ndarray]] = {}
    inner_stops = False
    for index, episode in enumerate(episodes):
        where = f"{name}: episode {index}"
        stored = stored_fields(episode, where)
        inner_stops |= "masks" in stored
        tree, fields = _read_episode(stored, tree, where)
        if parts and ("rewards" in parts) != ("rewards" in fields):
            raise InputError(f"{where}: rewards is missing, or present only here")
        for field, array in fields.items():
            parts.setdefault(field, []).append(array)
            if array.shape[1:] != parts[field][0].shape[1:]:
                raise InputError(
                    f"{where}: {field} has steps of shape {array.shape[1:]}, episode 0 has "
                    f"{parts[field][0].shape[1:]}"
                )
    return _Read(tree, parts, inner_stops)


def to_episodes(dataset: Dataset) -> list[dict[str, np.ndarray]]:
    """The episodes of a dataset in the environment's units, as `from_episodes` takes them.

    Actions that were clipped at load come back up to 1e-5 half widths inside their box. If a log
    has no rewards, its episodes have none. If bootstraps stop inside episodes, they also have
    `masks`.
    """
    maps = dataset.normalization
    fields = {
        "observations": np.asarray(maps.denormalize_observations(dataset.observations)),
        "actions": np.asarray(maps.denormalize_actions(dataset.actions)),
        "rewards": np.asarray(maps.denormalize_rewards(dataset.rewards)),
        "terminations": np.asarray(dataset.terminations),
        "truncations": np.asarray(dataset.truncations),
    }
    if not dataset.info.has_rewards:
        del fields["rewards"]
    if dataset.num_inner_stops:
        fields["masks"] = ~fields["terminations"]
    starts = np.asarray(dataset.episode_starts)
    return [
        {
            field: array[start + e : end + e + 1] if field == "observations" else array[start:end]
            for field, array in fields.items()
        }
        for e, (start, end) in enumerate(itertools.pairwise(starts))
    ]


# --- One episode ---


def stored_fields(episode: Any, where: str) -> dict[str, Any]:
    """The fields of one episode under our names, from a mapping or from attributes."""
    if not isinstance(episode, Mapping):
        found = {field: getattr(episode, field, None) for field in _ATTRIBUTES}
        return {field: value for field, value in found.items() if value is not None}
    stored = find_fields(episode, where)
    misplaced = [key for key in ("episode_ends", "episode_lengths") if key in stored]
    misplaced += [key for key in SETTINGS if key in episode]
    if misplaced:
        raise InputError(f"{where}: {misplaced[0]} is a field of a whole log, not of one episode")
    if "dones" in stored and not {"terminations", "truncations"} <= set(stored):
        raise InputError(
            f"{where}: {stored['dones']} is ambiguous: give terminations (the environment ended "
            "the episode, no value follows) and truncations (it was only cut)"
        )
    fields = {field: episode[name] for field, name in stored.items()}
    return {field: value for field, value in fields.items() if value is not None}


def _read_episode(
    stored: Mapping[str, Any], tree: spaces.Tree | None, where: str
) -> tuple[spaces.Tree, dict[str, np.ndarray]]:
    """Fields of one episode, checked against each other so that errors can name it."""
    for field in ("observations", "actions"):
        if field not in stored:
            raise InputError(f"{where}: {field} is missing")
    counted = "rewards" if "rewards" in stored else "actions"
    fields = {"actions": as_array(stored["actions"], f"{where}: actions")}
    if counted == "rewards":
        fields["rewards"] = numbers(stored["rewards"], f"{where}: rewards")
    steps = len(fields[counted])
    if steps == 0:
        raise InputError(f"{where} is empty, expected at least one transition")
    tree, fields["observations"] = _read_episode_observations(stored, tree, steps, where)
    fields |= _read_episode_flags(stored, steps, where)
    for field, array in fields.items():
        expected = steps + 1 if field == "observations" else steps
        if len(array) != expected:
            raise InputError(
                f"{where}: {field} has {len(array)} rows, expected {expected} for {steps} {counted}"
            )
    return tree, fields


def _read_episode_observations(
    stored: Mapping[str, Any], tree: spaces.Tree | None, steps: int, where: str
) -> tuple[spaces.Tree, np.ndarray]:
    tree, observations = flat_observations(stored["observations"], tree, f"{where}: observations")
    if len(observations) != steps or "next_observations" not in stored:
        return tree, observations
    where = f"{where}: next_observations"
    successors = flat_observations(stored["next_observations"], tree, where)[1]
    if len(successors) != steps:
        raise InputError(f"{where} has {len(successors)} rows, expected {steps}")
    check_successors(observations, successors, np.arange(steps) == steps - 1, where)
    return tree, np.concatenate([observations, successors[-1:]])


def _read_episode_flags(stored: Mapping[str, Any], steps: int, where: str) -> dict[str, np.ndarray]:
    flags = {}
    for field in ("terminations", "truncations"):
        value = stored.get(field, False)
        if np.ndim(value) == 0:
            value = [0] * (steps - 1) + [value]
        flags[field] = as_flags(value, f"{where}: {field}")
    if "masks" in stored:
        stops = ~as_flags(stored["masks"], f"{where}: masks")
        if "terminations" in stored and not np.array_equal(stops, flags["terminations"]):
            raise InputError(f"{where}: masks is not 1 - terminations; keep one of them")
        flags["terminations"] = stops
    return flags
