"""Datasets from arrays of transitions, and from lists of episodes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ddm.data import spaces
from ddm.data.actions import locate
from ddm.data.columns import Columns, build, returns_to_go
from ddm.data.dataset import Dataset
from ddm.errors import InputError

# The names of D4RL's files, and the ones used here.
FIELD_NAMES = {
    "observations": ("observations",),
    "actions": ("actions",),
    "rewards": ("rewards",),
    "terminations": ("terminations", "terminals"),
    "truncations": ("truncations", "timeouts"),
    "next_observations": ("next_observations",),
}
OPTIONAL_FIELDS = ("truncations", "next_observations")

SUCCESSOR_TOLERANCE = 1e-5  # relative; files store float32


def from_arrays(
    observations: Any,
    actions: Any,
    rewards: Any,
    terminations: Any,
    truncations: Any = None,
    next_observations: Any = None,
    *,
    observation_space: Any = None,
    action_space: Any = None,
    clip_actions: bool = False,
    environment_id: str | None = None,
    reference_scores: tuple[float, float] | None = None,
    reference_source: str | None = None,
    name: str = "arrays",
) -> Dataset:
    """A dataset from flat arrays of N consecutive transitions, as D4RL stores them.

    An episode ends where `terminations` or `truncations` is set, and at the end of the arrays,
    which counts as a truncation. The observation after an episode's last transition is taken from
    `next_observations`. Without them,

    - after a terminal transition nothing depends on it: the observation is repeated;
    - a truncated transition has an unknown successor and is dropped (D4RL's timeouts rule); the
      episode then ends, truncated, with the transition before it. Returns and returns-to-go
      still count its reward.

    Args:
      observations: (N, *O), or dicts and tuples of arrays where `observation_space` is one.
      actions: (N, A) in the environment's units, or (N,) integers.
      rewards: (N,).
      terminations: (N,) the environment ended the episode here.
      truncations: (N,) the episode was cut here; none if None.
      next_observations: like `observations`; inside an episode row t equals observation t + 1.
      observation_space: a gymnasium space, or `ddm.types.Box` / `Discrete`.
      action_space: likewise, or the bounds `(low, high)` of a box. If None, integers are taken to
        run from 0 to the largest one, and floats to lie in [-1, 1].
      clip_actions: moves real actions outside their box onto its edge instead of refusing them.
      environment_id: where a policy can be evaluated.
      reference_scores: returns of a random and of an expert policy.
      reference_source: where the reference scores are from.
      name: what error messages and reports call the dataset.

    Raises:
      InputError: names the field, the episode or index, and what was expected.
    """
    given = (observations, actions, rewards, terminations, truncations, next_observations)
    arrays = dict(zip(FIELD_NAMES, given, strict=True))
    tree, fields = _read_transitions(arrays, observation_space, name)
    columns = Columns(
        source=name,
        **_split_episodes(fields, name),
        observation_space=tree,
        action_space=None if action_space is None else spaces.parse_space(action_space),
        clip_actions=clip_actions,
        environment_id=environment_id,
        reference_scores=reference_scores,
        reference_source=reference_source,
    )
    return build(columns)


def from_mapping(arrays: Mapping[str, Any], name: str = "arrays", **options: Any) -> Dataset:
    """`from_arrays` of named arrays; D4RL's names `terminals` and `timeouts` are known.

    Raises:
      InputError: a field is missing.
    """
    found = {}
    for field, names in FIELD_NAMES.items():
        present = [key for key in names if key in arrays]
        if present:
            found[field] = arrays[present[0]]
        elif field not in OPTIONAL_FIELDS:
            raise InputError(
                f"{name}: field {' or '.join(names)} is missing; it has "
                f"{', '.join(arrays) or 'none'}"
            )
    return from_arrays(**found, name=name, **options)


def from_episodes(
    episodes: Sequence[Mapping[str, Any]],
    *,
    observation_space: Any = None,
    action_space: Any = None,
    clip_actions: bool = False,
    environment_id: str | None = None,
    reference_scores: tuple[float, float] | None = None,
    reference_source: str | None = None,
    name: str = "episodes",
) -> Dataset:
    """A dataset from a list of episodes with T + 1 observations each.

    Args:
      episodes: mappings with `observations` (T + 1, *O) (dicts and tuples of arrays where
        `observation_space` is one), `actions` (T, A) or (T,), `rewards` (T,), and `terminations`
        and `truncations` as (T,) flags or one flag for the episode's end. An episode without a
        flag at its end counts as truncated.
      observation_space: as for `from_arrays`.
      action_space: as for `from_arrays`.
      clip_actions: as for `from_arrays`.
      environment_id: where a policy can be evaluated.
      reference_scores: returns of a random and of an expert policy.
      reference_source: where the reference scores are from.
      name: what error messages and reports call the dataset.

    Raises:
      InputError: names the episode, the field and what was expected.
    """
    if len(episodes) == 0:
        raise InputError(f"{name}: there is no episode in it")
    tree = None if observation_space is None else spaces.parse_space(observation_space)
    parts: dict[str, list[np.ndarray]] = {}
    for index, episode in enumerate(episodes):
        where = f"{name}: episode {index}"
        tree, fields = _read_episode(episode, tree, where)
        for field, array in fields.items():
            parts.setdefault(field, []).append(array)
            if array.shape[1:] != parts[field][0].shape[1:]:
                raise InputError(
                    f"{where}: {field} has steps of shape {array.shape[1:]}, episode 0 has "
                    f"{parts[field][0].shape[1:]}"
                )
    arrays: dict[str, Any] = {field: np.concatenate(values) for field, values in parts.items()}
    columns = Columns(
        source=name,
        lengths=np.array([len(part) for part in parts["rewards"]]),
        observation_space=tree or {},
        action_space=None if action_space is None else spaces.parse_space(action_space),
        clip_actions=clip_actions,
        environment_id=environment_id,
        reference_scores=reference_scores,
        reference_source=reference_source,
        **arrays,
    )
    return build(columns)


def to_episodes(dataset: Dataset) -> list[dict[str, np.ndarray]]:
    """The episodes of a dataset in the environment's units, as `from_episodes` takes them.

    Actions that were clipped at load come back up to 1e-5 half widths inside their box.
    """
    maps = dataset.normalization
    fields = {
        "observations": np.asarray(maps.denormalize_observations(dataset.observations)),
        "actions": np.asarray(maps.denormalize_actions(dataset.actions)),
        "rewards": np.asarray(maps.denormalize_rewards(dataset.rewards)),
        "terminations": np.asarray(dataset.terminations),
        "truncations": np.asarray(dataset.truncations),
    }
    starts = np.asarray(dataset.episode_starts)
    return [
        {
            field: array[start + e : end + e + 1] if field == "observations" else array[start:end]
            for field, array in fields.items()
        }
        for e, (start, end) in enumerate(itertools.pairwise(starts))
    ]


# --- Reading one array ---


def _as_array(value: Any, where: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:
        raise InputError(f"{where} is ragged, expected rows of one shape") from None
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise InputError(f"{where} has dtype {array.dtype}, expected numbers")
    if array.ndim == 0:
        raise InputError(f"{where} is one number, expected one row per step")
    return array


def _numbers(value: Any, where: str) -> np.ndarray:
    """(N,) from (N,) or (N, 1)."""
    array = _as_array(value, where)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(f"{where} has shape {array.shape}, expected one number per step")
    return array


def _flags(value: Any, where: str) -> np.ndarray:
    """(N,) bool from booleans, or numbers that are 0 or 1."""
    array = _numbers(value, where)
    if not np.isin(array, (0, 1)).all():
        raise InputError(f"{where} has values other than 0 and 1")
    return array.astype(bool)


def _flat_observations(value: Any, space: Any, where: str) -> tuple[spaces.Tree, np.ndarray]:
    """The space's tree, guessed for a plain array, and the flattened rows."""
    tree = None if space is None else spaces.parse_space(space)
    if isinstance(value, (Mapping, tuple)):
        if tree is None:
            raise InputError(f"{where} is a {type(value).__name__}: give its observation_space")
    else:
        value = _as_array(value, where)
        if value.ndim == 1 and (tree is None or tree["type"] == "Box"):
            value = value[:, None]
        if tree is None:
            tree = spaces.unbounded_box(value.shape[1:], value.dtype)
    columns = [spaces.pick(value, leaf, where) for leaf in spaces.leaves(tree)]
    rows = [len(column) for column in columns]
    if len(set(rows)) > 1:
        raise InputError(f"{where} has parts of {min(rows)} and of {max(rows)} rows")
    return tree, spaces.flatten(tree, columns, where)


def _read_transitions(
    given: Mapping[str, Any], observation_space: Any, name: str
) -> tuple[spaces.Tree, dict[str, np.ndarray]]:
    """Fields of flat transitions, each of N rows; `next_observations` only if they are given."""
    rewards = _numbers(given["rewards"], f"{name}: rewards")
    if len(rewards) == 0:
        raise InputError(f"{name}: rewards is empty, expected at least one transition")
    tree, observations = _flat_observations(
        given["observations"], observation_space, f"{name}: observations"
    )
    truncations = given["truncations"]
    if truncations is None:
        truncations = np.zeros(len(rewards), bool)
    fields = {
        "observations": observations,
        "actions": _as_array(given["actions"], f"{name}: actions"),
        "rewards": rewards,
        "terminations": _flags(given["terminations"], f"{name}: terminations"),
        "truncations": _flags(truncations, f"{name}: truncations"),
    }
    if given["next_observations"] is not None:
        where = f"{name}: next_observations"
        fields["next_observations"] = _flat_observations(given["next_observations"], tree, where)[1]
    for field, array in fields.items():
        if len(array) != len(rewards):
            raise InputError(f"{name}: {field} has {len(array)} rows, rewards has {len(rewards)}")
    return tree, fields


def _read_episode(
    episode: Mapping[str, Any], tree: spaces.Tree | None, where: str
) -> tuple[spaces.Tree, dict[str, np.ndarray]]:
    """Fields of one episode, checked against each other so that errors can name it."""
    for field in ("observations", "actions", "rewards"):
        if field not in episode:
            raise InputError(f"{where}: {field} is missing")
    rewards = _numbers(episode["rewards"], f"{where}: rewards")
    steps = len(rewards)
    if steps == 0:
        raise InputError(f"{where} is empty, expected at least one transition")
    tree, observations = _flat_observations(episode["observations"], tree, f"{where}: observations")
    fields = {
        "observations": observations,
        "actions": _as_array(episode["actions"], f"{where}: actions"),
        "rewards": rewards,
    }
    for field in ("terminations", "truncations"):
        flags = episode.get(field, False)
        if np.ndim(flags) == 0:
            flags = [0] * (steps - 1) + [flags]
        fields[field] = _flags(flags, f"{where}: {field}")
    for field, array in fields.items():
        expected = steps + 1 if field == "observations" else steps
        if len(array) != expected:
            raise InputError(
                f"{where}: {field} has {len(array)} rows, expected {expected} for {steps} rewards"
            )
    return tree, fields


# --- From transitions to episodes ---


def _split_episodes(fields: Mapping[str, np.ndarray], name: str) -> dict[str, Any]:
    """The columns of flat transitions, by the rule that `from_arrays` states."""
    terminations, truncations = fields["terminations"], fields["truncations"].copy()
    data_cut = not (terminations[-1] or truncations[-1])
    truncations[-1] |= data_cut
    last = terminations | truncations
    starts = np.concatenate([[0], np.flatnonzero(last) + 1])
    if "next_observations" in fields:
        _check_successors(fields["observations"], fields["next_observations"], last, name)
        observations = np.repeat(fields["observations"], 1 + last, axis=0)
        observations[starts[1:] + np.arange(len(starts) - 1)] = fields["next_observations"][last]
        kept = np.ones(len(last), bool)
    else:
        observations, kept = _drop_unknown_successors(fields["observations"], terminations, last)
        if not kept.any():
            raise InputError(
                f"{name}: every episode is one truncated transition whose successor is unknown; "
                "give next_observations"
            )
        # The transition before a dropped one ends its episode now.
        truncations[:-1] |= ~kept[1:] & ~last[:-1]
    to_go = returns_to_go(fields["rewards"].astype(np.float64), starts)
    lengths = np.add.reduceat(kept.astype(np.int64), starts[:-1])
    return {
        "observations": observations,
        "actions": fields["actions"][kept],
        "rewards": fields["rewards"][kept],
        "terminations": terminations[kept],
        "truncations": truncations[kept],
        "lengths": lengths[lengths > 0],
        "raw_returns": to_go[starts[:-1]][lengths > 0],
        "returns_to_go": to_go[kept],
        "dropped_transitions": int((~kept).sum()),
        "data_cuts": int(data_cut),
    }


def _drop_unknown_successors(
    observations: np.ndarray, terminations: np.ndarray, last: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Observation rows with successors, and which transitions are kept: D4RL's timeouts rule."""
    kept = terminations | ~last
    copies = 1 + terminations.astype(np.int64)  # a terminal observation is its own successor
    # A dropped transition's observation is the successor of the one before, if there is one.
    first = np.concatenate([[True], last[:-1]])
    copies[first & ~kept] = 0
    return np.repeat(observations, copies, axis=0), kept


def _check_successors(
    observations: np.ndarray, successors: np.ndarray, last: np.ndarray, name: str
) -> None:
    inside = np.flatnonzero(~last)
    expected, given = observations[inside + 1], successors[inside]
    tolerance = SUCCESSOR_TOLERANCE
    equal = np.isclose(given, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    differs = np.flatnonzero(~equal.reshape(len(inside), math.prod(equal.shape[1:])).all(axis=1))
    if differs.size:
        row = int(inside[differs[0]])
        lengths = np.diff(np.flatnonzero(last), prepend=-1)
        raise InputError(
            f"{name}: next_observations[{row}] differs from observations[{row + 1}] at "
            f"{locate(row, lengths)} ({differs.size} such rows); set truncations where an episode "
            "was cut"
        )
