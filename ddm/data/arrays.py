"""Datasets from arrays of transitions, and from lists of episodes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ddm.data import spaces
from ddm.data.columns import Columns, build, returns_to_go
from ddm.data.dataset import Dataset
from ddm.data.fields import NAMES, SETTINGS, as_ends, as_flags, find_fields, read_flags, unused
from ddm.data.references import check_references
from ddm.data.values import as_array, check_values, locate
from ddm.errors import InputError

SUCCESSOR_TOLERANCE = 1e-5  # relative; files store float32

# What `find_fields` gives for an episode that is an object, such as Minari's.
_ATTRIBUTES = ("observations", "actions", "rewards", "terminations", "truncations")


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

    An episode ends where `terminations` or `truncations` is set, and at the end of the arrays,
    which counts as a truncation. Where `episode_ends` is given, it alone says where episodes end,
    and `terminations` may stop bootstraps inside an episode (OGBench's tasks do). The observation
    after an episode's last transition is taken from `next_observations`. Without them,

    - after a terminal transition nothing depends on it: the observation is repeated;
    - a truncated transition has an unknown successor and is dropped (D4RL's timeouts rule); the
      episode then ends, truncated, with the transition before it. Returns and returns-to-go
      still count its reward.

    A successor at an episode's end that equals the next episode's first observation was
    overwritten by an environment that resets itself: it counts as unknown.

    Args:
      observations: (N, *O), or dicts and tuples of arrays where `observation_space` is one.
      actions: (N, A) in the environment's units, or (N,) integers.
      rewards: (N,); None for a log without rewards, which only imitation can learn from.
      terminations: (N,) no value follows: the environment ended the episode here; none if None.
      truncations: (N,) the episode was cut here; none if None.
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
      notes: sentences that `info.notes` shall begin with.

    Raises:
      InputError: names the field, the episode or index, and what was expected.
    """
    given = {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "terminations": terminations,
        "truncations": truncations,
        "next_observations": next_observations,
        "episode_ends": episode_ends,
    }
    present = {field: value for field, value in given.items() if value is not None}
    tree, fields, guesses = _read_transitions(present, observation_space, name)
    split = _split_episodes(fields, name)
    columns = Columns(
        source=name,
        **split.columns,
        observation_space=tree,
        action_space=None if action_space is None else spaces.parse_space(action_space),
        clip_actions=clip_actions,
        environment_id=environment_id,
        reference_scores=reference_scores,
        reference_source=reference_source,
        has_rewards=rewards is not None,
        inner_stops=episode_ends is not None,
        notes=(*notes, *guesses, *split.notes),
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

    Besides, a log may hold `action_low` and `action_high` (or `num_actions`), `num_states`,
    `environment_id` and `reference_scores`; an argument of the same meaning wins over them.

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
      notes: sentences that `info.notes` shall begin with.

    Raises:
      InputError: names the episode, the field and what was expected.
    """
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
    if tree is None or not parts:
        raise InputError(f"{name}: there is no episode in it")
    arrays: dict[str, Any] = {field: np.concatenate(values) for field, values in parts.items()}
    observed = arrays["observations"]
    guesses = () if observation_space is not None else _guess_notes(observed)
    has_rewards = "rewards" in arrays
    arrays.setdefault("rewards", np.zeros(len(arrays["actions"]), np.float32))
    columns = Columns(
        source=name,
        lengths=np.array([len(part) for part in parts["actions"]]),
        observation_space=tree,
        action_space=None if action_space is None else spaces.parse_space(action_space),
        clip_actions=clip_actions,
        environment_id=environment_id,
        reference_scores=reference_scores,
        reference_source=reference_source,
        has_rewards=has_rewards,
        inner_stops=inner_stops,
        notes=(*notes, *guesses),
        **arrays,
    )
    return build(columns)


def to_episodes(dataset: Dataset) -> list[dict[str, np.ndarray]]:
    """The episodes of a dataset in the environment's units, as `from_episodes` takes them.

    Actions that were clipped at load come back up to 1e-5 half widths inside their box. A log
    without rewards has none here; one whose bootstraps stop inside episodes also has `masks`.
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


# --- Reading one array ---


def _numbers(value: Any, where: str) -> np.ndarray:
    """(N,) from (N,) or (N, 1)."""
    array = as_array(value, where)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(f"{where} has shape {array.shape}, expected one number per step")
    return array


def _flat_observations(value: Any, space: Any, where: str) -> tuple[spaces.Tree, np.ndarray]:
    """The space's tree, guessed for a plain array, and the flattened rows in the data's dtype."""
    tree = None if space is None else spaces.parse_space(space)
    if isinstance(value, (Mapping, tuple)):
        if tree is None:
            raise InputError(f"{where} is a {type(value).__name__}: give its observation_space")
    else:
        value = as_array(value, where)
        if value.ndim == 1 and (tree is None or tree["type"] == "Box"):
            value = value[:, None]
        if tree is None:
            tree = spaces.unbounded_box(value.shape[1:], value.dtype)
        elif tree["type"] == "Discrete" and value.ndim == 2 and value.shape[1] == 1:
            value = value[:, 0]
    columns = [
        as_array(spaces.pick(value, leaf, where), leaf.name(where)) for leaf in spaces.leaves(tree)
    ]
    rows = [len(column) for column in columns]
    if len(set(rows)) > 1:
        raise InputError(f"{where} has parts of {min(rows)} and of {max(rows)} rows")
    return tree, spaces.flatten(tree, columns, where, dtype=None)


def _guess_notes(observations: np.ndarray) -> tuple[str, ...]:
    """What is said of observations without a space that could be states."""
    if observations.dtype.kind not in "iu" or observations.shape[1:] != (1,):
        return ()
    states = int(observations.max()) + 1
    return (
        f"the observations are single integers ({observations.min()} to {states - 1}) and are "
        "taken for numbers; if they are states, which tables need, give "
        f"observation_space=Discrete({states}), or num_states={states} in the file",
    )


def _settings(arrays: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The arguments of `from_arrays` that stand in the log itself."""
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


# --- Transitions ---


def _read_transitions(
    given: Mapping[str, Any], observation_space: Any, name: str
) -> tuple[spaces.Tree, dict[str, np.ndarray], tuple[str, ...]]:
    """The space, fields of N rows each as the data has them, and what was guessed.

    `next_observations` and `episode_ends` are among the fields only if they are given.
    """
    counted = "rewards" if "rewards" in given else "actions"
    read = _numbers if counted == "rewards" else as_array
    rows = len(read(given[counted], f"{name}: {counted}"))
    if rows == 0:
        raise InputError(f"{name}: {counted} is empty, expected at least one transition")
    if not {"terminations", "truncations", "episode_ends"} & set(given):
        raise InputError(
            f"{name}: nothing says where episodes end, expected terminations, truncations or "
            "episode_ends"
        )
    tree, observations = _flat_observations(
        given["observations"], observation_space, f"{name}: observations"
    )
    none = np.zeros(rows, bool)
    fields = {
        "observations": observations,
        "actions": as_array(given["actions"], f"{name}: actions"),
        "rewards": _numbers(given.get("rewards", none.astype(np.float32)), f"{name}: rewards"),
        "terminations": as_flags(given.get("terminations", none), f"{name}: terminations"),
        "truncations": as_flags(given.get("truncations", none), f"{name}: truncations"),
    }
    if "next_observations" in given:
        where = f"{name}: next_observations"
        fields["next_observations"] = _flat_observations(given["next_observations"], tree, where)[1]
    for field, array in fields.items():
        if len(array) != rows:
            raise InputError(f"{name}: {field} has {len(array)} rows, {counted} has {rows}")
    if "episode_ends" in given:
        fields["episode_ends"] = as_ends(given["episode_ends"], rows, f"{name}: episode_ends")
    guesses = () if observation_space is not None else _guess_notes(observations)
    return tree, fields, guesses


class _Split(NamedTuple):
    columns: dict[str, Any]  # arguments of `Columns`
    notes: tuple[str, ...]


def _split_episodes(fields: Mapping[str, np.ndarray], name: str) -> _Split:
    """The columns of flat transitions, by the rule that `from_arrays` states."""
    last, truncations, data_cut = _find_ends(fields, name)
    terminations, starts = fields["terminations"], np.concatenate([[0], np.flatnonzero(last) + 1])
    lengths = np.diff(starts)
    numbers = ("observations", "next_observations", "actions", "rewards")
    checked = {field: fields[field] for field in numbers if field in fields}
    check_values(checked, dict.fromkeys(checked, lengths), name)
    successors = _find_successors(fields, last, bool(data_cut), name)
    kept = terminations | ~last | successors.known
    if not kept.any():
        raise InputError(
            f"{name}: every episode is one truncated transition whose successor is unknown; "
            "give next_observations"
        )
    # The transition before a dropped one ends its episode now.
    truncations[:-1] |= ~kept[1:] & ~last[:-1]
    to_go = returns_to_go(fields["rewards"].astype(np.float64), starts)
    kept_lengths = np.add.reduceat(kept.astype(np.int64), starts[:-1])
    stays = kept_lengths > 0
    columns = {
        "observations": _place_successors(fields["observations"], successors, last, kept),
        "actions": fields["actions"][kept],
        "rewards": fields["rewards"][kept],
        "terminations": terminations[kept],
        "truncations": truncations[kept],
        "lengths": kept_lengths[stays],
        "recorded_lengths": lengths[stays],
        "raw_returns": to_go[starts[:-1]][stays],
        "returns_to_go": to_go[kept],
        "dropped_transitions": int((~kept).sum()),
        "data_cuts": int(data_cut),
    }
    return _Split(columns, successors.notes)


def _find_ends(
    fields: Mapping[str, np.ndarray], name: str
) -> tuple[np.ndarray, np.ndarray, np.bool_]:
    """(N,) each episode's last step, (N,) truncations, and whether the data end unflagged."""
    terminations, truncations = fields["terminations"], fields["truncations"].copy()
    last = fields.get("episode_ends", terminations | truncations).copy()
    data_cut = ~last[-1]
    last[-1] = True
    inside = np.flatnonzero(truncations & ~last)
    if inside.size:
        raise InputError(
            f"{name}: truncations is set at row {inside[0]}, where episode_ends is not "
            f"({inside.size} such rows)"
        )
    return last, truncations | (last & ~terminations), data_cut


class _Successors(NamedTuple):
    """What follows each episode's last step."""

    known: np.ndarray  # (N,) bool; only looked at where an episode ends
    values: np.ndarray | None  # (N, *O) where some are known
    notes: tuple[str, ...]


def _find_successors(
    fields: Mapping[str, np.ndarray], last: np.ndarray, data_cut: bool, name: str
) -> _Successors:
    if "next_observations" not in fields:
        return _Successors(np.zeros(len(last), bool), None, ())
    observations, values = fields["observations"], fields["next_observations"]
    _check_successors(observations, values, last, name)
    overwritten = _find_overwritten(observations, values, last, data_cut)
    notes = ()
    if overwritten.any():
        dropped = int((overwritten & ~fields["terminations"]).sum())
        notes = (
            f"next_observations of {int(overwritten.sum())} of {int(last.sum())} episode ends are "
            "the next episode's first observation, as where an environment resets itself: they "
            f"count as unknown, and {dropped} truncated transitions are dropped",
        )
    return _Successors(~overwritten, values, notes)


def _find_overwritten(
    observations: np.ndarray, successors: np.ndarray, last: np.ndarray, data_cut: bool
) -> np.ndarray:
    """(N,) ends whose successor is the first observation of the next episode, by exact equality.

    Real numbers do not coincide by chance. States from a few do: where all observations are whole
    numbers, all ends must coincide before any counts. An observation that did not change at all
    says nothing either way. The last end has no next episode to compare with: it counts where all
    others do, unless the data just stop there.
    """
    ends = np.flatnonzero(last[:-1])
    following = observations[ends + 1]
    equal = _same_rows(successors[ends], following) & ~_same_rows(observations[ends], following)
    if not equal.all() and _is_whole(observations):
        equal[:] = False
    overwritten = np.zeros(len(last), bool)
    overwritten[ends] = equal
    overwritten[-1] = len(ends) > 0 and equal.all() and not data_cut
    return overwritten


def _is_whole(array: np.ndarray) -> bool:
    return array.dtype.kind in "biu" or np.array_equal(array, np.round(array))


def _same_rows(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    equal = a.astype(np.float32) == b.astype(np.float32)  # the two may be stored in other dtypes
    return equal.reshape(len(a), math.prod(a.shape[1:])).all(axis=1)


def _place_successors(
    observations: np.ndarray, successors: _Successors, last: np.ndarray, kept: np.ndarray
) -> np.ndarray:
    """(kept + E, *O) rows: those of each kept step, and what follows each episode's last one.

    A known successor is that row. After a terminal step, on which nothing depends, its own
    observation is repeated. The observation of a dropped step is the successor of the one before.
    """
    ends = last & kept
    copies = 1 + ends.astype(np.int64)
    first = np.concatenate([[True], last[:-1]])
    copies[first & ~kept] = 0  # an episode of a single dropped step leaves nothing
    rows = np.repeat(observations, copies, axis=0)
    if successors.values is not None:
        known = ends & successors.known
        rows = rows.astype(np.result_type(rows, successors.values), copy=False)
        rows[(np.cumsum(copies) - 1)[known]] = successors.values[known]
    return rows


def _check_successors(
    observations: np.ndarray, successors: np.ndarray, last: np.ndarray, name: str
) -> None:
    inside = np.flatnonzero(~last)
    expected, given = observations[inside + 1], successors[inside]
    tolerance = SUCCESSOR_TOLERANCE
    equal = np.isclose(given, expected, rtol=tolerance, atol=tolerance)
    differs = np.flatnonzero(~equal.reshape(len(inside), math.prod(equal.shape[1:])).all(axis=1))
    if differs.size:
        row = int(inside[differs[0]])
        lengths = np.diff(np.flatnonzero(last), prepend=-1)
        raise InputError(
            f"{name}: next_observations[{row}] differs from observations[{row + 1}] at "
            f"{locate(row, lengths)} ({differs.size} such rows); set truncations where an episode "
            "was cut"
        )


# --- Episodes ---


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
        fields["rewards"] = _numbers(stored["rewards"], f"{where}: rewards")
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
    tree, observations = _flat_observations(stored["observations"], tree, f"{where}: observations")
    if len(observations) != steps or "next_observations" not in stored:
        return tree, observations
    where = f"{where}: next_observations"
    successors = _flat_observations(stored["next_observations"], tree, where)[1]
    if len(successors) != steps:
        raise InputError(f"{where} has {len(successors)} rows, expected {steps}")
    _check_successors(observations, successors, np.arange(steps) == steps - 1, where)
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
