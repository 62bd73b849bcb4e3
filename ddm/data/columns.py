"""From host arrays in the environment's units to a validated `Dataset` on the device."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from ddm.data.actions import locate, prepare_actions
from ddm.data.dataset import Dataset, DatasetInfo
from ddm.data.memory import check_fits
from ddm.data.normalization import Normalization, identity_normalization
from ddm.data.spaces import Tree, flat_space
from ddm.errors import InputError
from ddm.types import Discrete


@dataclasses.dataclass
class Columns:
    """What every reader produces: T + 1 observations per episode, flattened, nothing validated."""

    source: str  # what error messages call it
    observations: np.ndarray  # (N + E, *O) float32 or uint8
    actions: np.ndarray  # (N, *A) in the environment's units
    rewards: np.ndarray  # (N,)
    terminations: np.ndarray  # (N,) bool
    truncations: np.ndarray  # (N,) bool
    lengths: np.ndarray  # (E,) transitions per episode
    observation_space: Tree
    action_space: Tree | None = None  # None: actions must lie in [-1, 1]
    clip_actions: bool = False  # move actions outside their box onto its edge
    environment_id: str | None = None
    environment_spec: str | None = None  # gymnasium's whole specification of it, as JSON
    environment_source: str | None = None  # which field of the data named it
    reference_scores: tuple[float, float] | None = None
    reference_source: str | None = None
    notes: tuple[str, ...] = ()  # what was guessed or chosen by the reader, a sentence each
    # Filled where transitions were dropped, because these are of the episodes as recorded.
    raw_returns: np.ndarray | None = None  # (E,)
    returns_to_go: np.ndarray | None = None  # (N,)
    dropped_transitions: int = 0
    data_cuts: int = 0


def build(columns: Columns) -> Dataset:
    """Validates the columns and puts them on the default device.

    Raises:
      InputError: names the source, the field, the episode and what was expected.
    """
    check_lengths(columns)
    check_finite(columns)
    truncations = close_episodes(columns)
    actions = prepare_actions(
        columns.actions,
        columns.action_space,
        columns.lengths,
        columns.source,
        columns.clip_actions,
    )
    starts = np.concatenate([[0], np.cumsum(columns.lengths)])
    to_go, raw_returns = columns.returns_to_go, columns.raw_returns
    if to_go is None:
        to_go = returns_to_go(columns.rewards.astype(np.float64), starts)
    if raw_returns is None:
        raw_returns = to_go[starts[:-1]]
    observations = columns.observations
    info = DatasetInfo(
        name=columns.source,
        observation_space=flat_space(columns.observation_space),
        action_space=actions.space,
        environment_id=columns.environment_id,
        environment_spec=columns.environment_spec,
        environment_source=columns.environment_source,
        reference_scores=columns.reference_scores,
        reference_source=columns.reference_source,
        clipped_actions=actions.clipped,
        dropped_transitions=columns.dropped_transitions,
        data_cuts=columns.data_cuts + int((truncations != columns.truncations).sum()),
        notes=tuple(columns.notes),
    )
    return to_device(
        info,
        identity_normalization(
            observations.shape[1:],
            byte_observations=observations.dtype == np.uint8,
            action_center=actions.center,
            action_scale=actions.scale,
        ),
        observations=observations,
        actions=actions.values,
        rewards=columns.rewards,
        terminations=columns.terminations,
        truncations=truncations,
        episode_starts=starts,
        returns_to_go=to_go,
        raw_returns=raw_returns,
    )


def to_device(info: DatasetInfo, normalization: Normalization, **arrays: np.ndarray) -> Dataset:
    """A dataset from host arrays whose values are already right; the indices are derived.

    The arrays are copied: the dataset never aliases what a caller may overwrite, nor a mapped
    file.

    Raises:
      InputError: they do not fit the device.
    """
    starts = arrays["episode_starts"]
    byte_observations = arrays["observations"].dtype == np.uint8
    discrete = isinstance(info.action_space, Discrete)
    dtypes = {
        "observations": np.uint8 if byte_observations else np.float32,
        "actions": np.int32 if discrete else np.float32,
        "rewards": np.float32,
        "terminations": bool,
        "truncations": bool,
        "episode_starts": np.int32,
        "returns_to_go": np.float32,
        "raw_returns": np.float32,
    }
    derived = {
        "episode_ids": np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts)),
        "next_action_ids": known_next_action(arrays["terminations"], starts),
    }
    sizes = [arrays[name].size * np.dtype(dtype).itemsize for name, dtype in dtypes.items()]
    check_fits(sum(sizes) + sum(array.nbytes for array in derived.values()), name=info.name)
    device = {name: jnp.array(arrays[name], dtype) for name, dtype in dtypes.items()}
    device |= {name: jnp.array(array) for name, array in derived.items()}
    return Dataset(**device, normalization=normalization, info=info)


def returns_to_go(rewards: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(N,) undiscounted sum of rewards from each transition to its episode's end.

    Args:
      rewards: (N,) float64; the sums over the whole dataset cancel, float32 would lose them.
      starts: (E + 1,) first transition of each episode, and N.
    """
    before = np.concatenate([[0.0], np.cumsum(rewards)])
    return np.repeat(before[starts[1:]], np.diff(starts)) - before[:-1]


def known_next_action(terminations: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(M,) int32 transitions with a next action in their episode, or none needed (terminal)."""
    known = np.ones(len(terminations), bool)
    known[starts[1:] - 1] = terminations[starts[1:] - 1]
    return np.flatnonzero(known).astype(np.int32)


# --- Validation ---


def check_lengths(columns: Columns) -> None:
    """Refuses fields of other lengths than the episodes', and datasets without transitions."""
    name, lengths = columns.source, columns.lengths
    if len(lengths) == 0:
        raise InputError(f"{name}: there is no episode in it")
    empty = np.flatnonzero(np.asarray(lengths) < 1)
    if empty.size:
        raise InputError(f"{name}: episode {empty[0]} is empty, expected at least one transition")
    total = int(np.sum(lengths))
    for field in ("actions", "rewards", "terminations", "truncations"):
        rows = len(getattr(columns, field))
        if rows != total:
            raise InputError(f"{name}: {field} has {rows} rows, expected {total}")
    expected = total + len(lengths)
    if len(columns.observations) != expected:
        raise InputError(
            f"{name}: observations has {len(columns.observations)} rows, expected {expected} "
            f"({total} transitions and the last observation of each of {len(lengths)} episodes)"
        )
    for field in ("rewards", "terminations", "truncations"):
        shape = getattr(columns, field).shape
        if len(shape) != 1:
            raise InputError(f"{name}: {field} has shape {shape}, expected one number per step")


def check_finite(columns: Columns) -> None:
    """Refuses NaN and infinite observations, actions and rewards."""
    row_lengths = np.asarray(columns.lengths)
    for field, lengths in (
        ("observations", row_lengths + 1),
        ("actions", row_lengths),
        ("rewards", row_lengths),
    ):
        array = getattr(columns, field)
        if not np.issubdtype(array.dtype, np.floating) or np.isfinite(array).all():
            continue
        bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"{columns.source}: {field} of {locate(row, lengths)} is NaN or infinite "
            f"({int(bad.sum())} such rows), expected finite numbers"
        )


def close_episodes(columns: Columns) -> np.ndarray:
    """(N,) truncations, with episodes that end without a flag counted as cut.

    Raises:
      InputError: an episode goes on after a step that ended it.
    """
    ends = np.cumsum(columns.lengths) - 1
    flags = columns.terminations | columns.truncations
    inside = flags.copy()
    inside[ends] = False
    if inside.any():
        row = int(np.flatnonzero(inside)[0])
        field = "terminations" if columns.terminations[row] else "truncations"
        raise InputError(
            f"{columns.source}: {field} is set at {locate(row, columns.lengths)}, before the "
            "episode's last step: split the episode there"
        )
    truncations = columns.truncations.copy()
    truncations[ends] |= ~columns.terminations[ends]
    return truncations
