"""The names that logs give their fields: one table for npz, mappings, HDF5 and episodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ddm.errors import InputError

# Our own name first; then those of gymnasium, D4RL, OGBench and other libraries.
NAMES: Mapping[str, tuple[str, ...]] = {
    "observations": ("observations", "observation", "obs", "states"),
    "actions": ("actions", "action"),
    "rewards": ("rewards", "reward"),
    "terminations": (
        "terminations", "termination", "terminated", "terminateds", "terminals", "terminal",
    ),
    "truncations": (
        "truncations", "truncation", "truncated", "truncateds", "timeouts", "timeout",
    ),
    "next_observations": (
        "next_observations", "next_observation", "next_obs", "next_states",
    ),
    "episode_ends": ("episode_ends", "episode_end", "ends", "dones_float"),
    "episode_lengths": ("episode_lengths", "lengths"),
    "masks": ("masks",),  # 0 where the bootstrap stops, wherever the episode ends (OGBench)
    "dones": ("dones", "done"),  # ends of both kinds in one flag
}  # fmt: skip

# Fields that describe the whole log and are not a column of it.
SETTINGS = (
    "action_low", "action_high", "num_actions", "num_states", "environment_id", "reference_scores",
)  # fmt: skip

# Other known fields of logs, which no method uses. Of names such as `infos/qpos` the part before
# the slash counts.
GROUPS = ("infos", "info", "metadata", "agent_infos", "env_infos")
EXTRAS = ("qpos", "qvel", "button_states", "success", "behavior_log_probs", "seed", "id")

# D4RL uses this name for an end by the environment, OGBench for any end. If it is the only flag,
# the ends by a time limit may be missing.
UNCLEAR_ENDS = ("terminals", "terminal")

_FIELDS = {alias: field for field, aliases in NAMES.items() for alias in aliases}


def find_fields(names: Iterable[str], where: str) -> dict[str, str]:
    """The stored name of each field of `NAMES` that the log has.

    Args:
      names: of the log's fields.
      where: what error messages call the log.

    Raises:
      InputError: an unknown name, or two names of one field.
    """
    found: dict[str, str] = {}
    for name in names:
        if name in SETTINGS or name in EXTRAS or name.split("/")[0] in GROUPS:
            continue
        field = _FIELDS.get(name)
        if field is None:
            raise InputError(
                f"{where}: field {name} is unknown; rename it to one of {', '.join(NAMES)}, or to "
                f"infos/{name} if it is not to be used"
            )
        if field in found:
            raise InputError(
                f"{where}: {found[field]} and {name} are two names of {field}; keep one of them"
            )
        found[field] = name
    return found


def unused(names: Iterable[str]) -> tuple[str, ...]:
    """A sentence on the known fields that no method uses; none if there are no such fields."""
    extras = [name for name in names if name in EXTRAS]
    verb = "is" if len(extras) == 1 else "are"
    return (f"{' and '.join(extras)} of the data {verb} not used",) if extras else ()


def read_flags(
    arrays: Mapping[str, Any], where: str, max_episode_steps: int | None = None
) -> dict[str, np.ndarray]:
    """Where bootstraps stop and where episodes end, from the flags that a log has.

    Args:
      arrays: under any of the names of `NAMES`.
      where: what error messages call the log.
      max_episode_steps: the time limit, for logs that only say where the environment ended an
        episode.

    Returns:
      Those of `terminations` (N,), `truncations` (N,) and `episode_ends` (N,), all bool, that the
      log says. With `episode_ends`, bootstraps may stop inside an episode.

    Raises:
      InputError: a field is ambiguous or contradicts another one, or nothing says where episodes
        end; the message names what to give.
    """
    stored = find_fields(arrays, where)
    rows = len(arrays[stored["actions"]])
    named = {
        field: as_flags(arrays[name], f"{where}: {name}")
        for field, name in stored.items()
        if field in ("terminations", "truncations", "masks", "dones")
    }
    flags = {field: named[field] for field in ("terminations", "truncations") if field in named}
    for field in ("episode_ends", "episode_lengths"):
        if field in stored:
            read = as_ends if field == "episode_ends" else _ends_of_lengths
            flags["episode_ends"] = read(arrays[stored[field]], rows, f"{where}: {stored[field]}")
    if "masks" in named:
        _apply_masks(flags, ~named["masks"], stored.get("terminations"), where)
    bounded = "truncations" in flags or "episode_ends" in flags
    if "dones" in named:
        _check_dones(flags, named["dones"], bounded, f"{where}: {stored['dones']}")
    if not bounded and "terminations" in flags:
        _apply_time_limit(flags, stored["terminations"], max_episode_steps, where)
    if not flags:
        raise InputError(
            f"{where}: nothing says where episodes end, expected terminations or terminals, "
            f"truncations, or episode_ends; it has {', '.join(arrays) or 'no field'}"
        )
    return flags


def time_limit_flags(terminals: np.ndarray, max_episode_steps: int) -> np.ndarray:
    """(N,) bool: the steps at which an environment's time limit ended an episode."""
    terminals = np.asarray(terminals, bool).ravel()
    index = np.arange(len(terminals))
    first = np.concatenate([[True], terminals[:-1]])
    since_terminal = index - np.maximum.accumulate(np.where(first, index, 0))
    return (since_terminal + 1) % max_episode_steps == 0


# --- One array of flags ---


def as_flags(value: Any, where: str) -> np.ndarray:
    """(N,) bool from (N,) or (N, 1) booleans, or numbers that are 0 or 1."""
    array = np.asarray(value)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(f"{where} has shape {array.shape}, expected one number per step")
    if array.dtype == bool:  # a damaged file may hold other bytes than True and False
        array = array.view(np.uint8)
    if array.dtype.kind not in "iuf" or not np.isin(array, (0, 1)).all():
        raise InputError(f"{where} has values other than 0 and 1")
    return array.astype(bool)


def as_ends(value: Any, rows: int, where: str) -> np.ndarray:
    """(N,) bool: the last step of each episode.

    Args:
      value: one flag per step; or, for each episode, the row after its last step.
      rows: N.
      where: what error messages call the array.

    Raises:
      InputError: it is neither of these.
    """
    array = np.asarray(value).ravel()
    if len(array) == rows and array.dtype.kind in "biuf" and np.isin(array, (0, 1)).all():
        return array.astype(bool)
    whole = array.size > 0 and np.issubdtype(array.dtype, np.integer)
    if not whole or np.any(np.diff(array, prepend=0) < 1) or array[-1] != rows:
        raise InputError(
            f"{where} is neither one flag for each of the {rows} steps nor the rising row numbers "
            f"one past each episode's last step, up to {rows}"
        )
    flags = np.zeros(rows, bool)
    flags[array - 1] = True
    return flags


def _ends_of_lengths(value: Any, rows: int, where: str) -> np.ndarray:
    lengths = np.asarray(value).ravel()
    whole = lengths.size > 0 and np.issubdtype(lengths.dtype, np.integer)
    if not whole or np.any(lengths < 1) or lengths.sum() != rows:
        raise InputError(
            f"{where} is {lengths.sum() if lengths.size else 0} steps in all, expected positive "
            f"integers that sum to the {rows} steps there are"
        )
    return as_ends(np.cumsum(lengths), rows, where)


# --- What the flags mean together ---


def _apply_masks(
    flags: dict[str, np.ndarray], stops: np.ndarray, terminations_name: str | None, where: str
) -> None:
    """Takes the stops of `masks`; `terminals` then mark the episodes' ends, as in OGBench."""
    stored = flags.get("terminations")
    if stored is not None and np.array_equal(stored, stops):
        return  # both say the same
    if stored is not None and terminations_name not in UNCLEAR_ENDS:
        raise InputError(f"{where}: masks is not 1 - {terminations_name}; keep one of them")
    if stored is not None and "truncations" in flags:
        raise InputError(
            f"{where}: masks is not 1 - {terminations_name}, so {terminations_name} are the ends "
            "of episodes, and truncations say them again; rename it to episode_ends and leave "
            "truncations out"
        )
    if stored is not None and "episode_ends" not in flags:
        flags["episode_ends"] = stored
    if "episode_ends" not in flags:
        raise InputError(
            f"{where}: masks say where bootstraps stop and not where episodes end; give "
            "episode_ends"
        )
    flags["terminations"] = stops


def _check_dones(
    flags: Mapping[str, np.ndarray], dones: np.ndarray, bounded: bool, where: str
) -> None:
    if "terminations" not in flags or not bounded:
        raise InputError(
            f"{where} is ambiguous: give terminations (the environment ended the episode, no value "
            "follows) and truncations (it was only cut)"
        )
    missing = np.flatnonzero(dones & ~np.any(list(flags.values()), axis=0))
    if missing.size:
        raise InputError(
            f"{where} is set at row {missing[0]}, where {' and '.join(flags)} are not "
            f"({missing.size} such rows)"
        )


def _apply_time_limit(
    flags: dict[str, np.ndarray], name: str, max_episode_steps: int | None, where: str
) -> None:
    """The truncations of a log that does not store them."""
    if max_episode_steps is not None:
        flags["truncations"] = time_limit_flags(flags["terminations"], max_episode_steps)
    elif name in UNCLEAR_ENDS:
        raise InputError(
            f"{where}: field timeouts is missing; give max_episode_steps, the time "
            f"limit of the environment, store timeouts beside {name} (all 0 if no episode "
            f"was cut), or rename {name} to episode_ends if they say where episodes end and not "
            "where values stop"
        )
