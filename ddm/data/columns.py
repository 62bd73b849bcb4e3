"""From host arrays in the environment's units to a validated `Dataset` on the device."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np

from ddm.data.actions import PreparedActions, prepare_actions
from ddm.data.dataset import Dataset, DatasetInfo
from ddm.data.memory import check_fits, fitting
from ddm.data.normalization import Normalization, identity_normalization
from ddm.data.references import check_references
from ddm.data.spaces import Tree, flat_space, is_image
from ddm.data.values import check_values, coarse_notes, locate
from ddm.errors import InputError
from ddm.types import Discrete

Known = TypeVar("Known", "Columns", DatasetInfo)

COLOURS = (1, 3, 4)  # channels of a picture


@dataclasses.dataclass
class Columns:
    """The result of every reader: T + 1 observations per episode, flattened, not yet validated."""

    source: str  # what error messages call it
    observations: np.ndarray  # (N + E, *O) real numbers, or uint8 images
    actions: np.ndarray  # (N, *A) in the environment's units
    rewards: np.ndarray  # (N,)
    terminations: np.ndarray  # (N,) bool
    truncations: np.ndarray  # (N,) bool
    lengths: np.ndarray  # (E,) transitions per episode
    observation_space: Tree
    action_space: Tree | None = None  # None: it is guessed from the actions
    clip_actions: bool = False  # move actions outside their box onto its edge
    environment_id: str | None = None
    environment_spec: str | None = None  # gymnasium's whole specification of it, as JSON
    environment_source: str | None = None  # which field of the data named it
    reference_scores: tuple[float, float] | None = None
    reference_source: str | None = None
    notes: tuple[str, ...] = ()  # the reader's guesses and choices, one sentence each
    has_rewards: bool = True  # False: the log has no rewards, and `rewards` are zeros
    inner_stops: bool = False  # the log bounds its episodes itself: terminations may lie inside
    # Set if transitions were dropped: these values are of the episodes as recorded.
    raw_returns: np.ndarray | None = None  # (E,)
    returns_to_go: np.ndarray | None = None  # (N,)
    recorded_lengths: np.ndarray | None = None  # (E,)
    dropped_transitions: int = 0
    data_cuts: int = 0


def build(columns: Columns) -> Dataset:
    """Validates the columns and puts them on the default device.

    Raises:
      InputError: names the source, the field, the episode and what was expected.
    """
    if columns.reference_scores is not None:
        check_references(columns.reference_scores, columns.source)
    check_lengths(columns)
    check_finite(columns)
    check_images(columns)
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
    check_values({"returns_to_go": to_go}, {"returns_to_go": columns.lengths}, columns.source)
    observations = columns.observations
    if not is_image(columns.observation_space) and observations.dtype == np.uint8:
        observations = observations.astype(np.float32)  # a vector of small numbers, not an image
    cuts = int((truncations != columns.truncations).sum())
    return to_device(
        _describe(columns, actions, cuts),
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
        recorded_lengths=columns.lengths
        if columns.recorded_lengths is None
        else columns.recorded_lengths,
    )


def _describe(columns: Columns, actions: PreparedActions, cuts: int) -> DatasetInfo:
    """The information on the dataset; `cuts` episodes ended without a flag."""
    numbers = {name: getattr(columns, name) for name in ("observations", "actions", "rewards")}
    return DatasetInfo(
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
        data_cuts=columns.data_cuts + cuts,
        moved_actions=actions.moved,
        bounds_guessed=actions.guessed,
        has_rewards=columns.has_rewards,
        notes=(*columns.notes, *actions.notes, *coarse_notes(numbers)),
    )


def override(
    known: Known,
    environment_id: str | None,
    reference_scores: tuple[float, float] | None,
) -> Known:
    """A reader's information on a log, with the user's values in place of some.

    Args:
      known: `Columns` or a `DatasetInfo`.
      environment_id: None keeps the environment; a new id also removes the old specification.
      reference_scores: None keeps them.
    """
    changes: dict[str, Any] = {}
    if environment_id is not None:
        changes["environment_id"] = environment_id
        changes |= {"environment_spec": None, "environment_source": "given at load"}
    if reference_scores is not None:
        check_references(reference_scores, "the arguments")
        changes |= {"reference_scores": reference_scores, "reference_source": "given at load"}
    return dataclasses.replace(known, **changes)


def to_device(info: DatasetInfo, normalization: Normalization, **arrays: np.ndarray) -> Dataset:
    """A dataset from host arrays whose values are already right; the indices are derived.

    The arrays are copied: the dataset shares no memory with the caller or with a mapped file.

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
        "recorded_lengths": np.int32,
    }
    derived = {
        "episode_ids": np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts)),
        "next_action_ids": known_next_action(arrays["terminations"], starts),
    }
    sizes = [arrays[name].size * np.dtype(dtype).itemsize for name, dtype in dtypes.items()]
    check_fits(sum(sizes) + sum(array.nbytes for array in derived.values()), name=info.name)
    with fitting(info.name):
        device = {name: jnp.array(arrays[name], dtype) for name, dtype in dtypes.items()}
        device |= {name: jnp.array(array) for name, array in derived.items()}
    return Dataset(**device, normalization=normalization, info=info)


def returns_to_go(rewards: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(N,) undiscounted sum of rewards from each transition to its episode's end.

    Args:
      rewards: (N,) float64.
      starts: (E + 1,) first transition of each episode, and N.
    """
    # Episode by episode: with differences of one sum over all rows, one huge reward would cost
    # digits in every later episode.
    to_go = np.empty(len(rewards))
    for start, end in itertools.pairwise(np.asarray(starts).tolist()):
        to_go[start:end] = np.cumsum(rewards[start:end][::-1])[::-1]
    return to_go


def known_next_action(terminations: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(M,) int32 transitions with a next action in their episode, or terminal: they need none."""
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
    """Refuses observations, actions and rewards that are not finite in float32."""
    lengths = np.asarray(columns.lengths)
    check_values(
        {name: getattr(columns, name) for name in ("observations", "actions", "rewards")},
        {"observations": lengths + 1, "actions": lengths, "rewards": lengths},
        columns.source,
    )


def check_images(columns: Columns) -> None:
    """Refuses byte images whose colours come first, as PyTorch has them."""
    observations = columns.observations
    if observations.dtype != np.uint8 or observations.ndim != 4:
        return
    first, *others = observations.shape[1:]
    if first in COLOURS and min(others) > max(COLOURS):
        raise InputError(
            f"{columns.source}: observations are bytes of shape {observations.shape[1:]}, an image "
            "with its colours first; transpose them to height x width x colours, "
            "np.moveaxis(observations, 1, -1)"
        )


def close_episodes(columns: Columns) -> np.ndarray:
    """(N,) truncations, with episodes that end without a flag counted as cut.

    Raises:
      InputError: an episode continues after a step that ended it. Where the log bounds its episodes
        itself, terminations only stop a bootstrap, and may lie inside an episode.
    """
    ends = np.cumsum(columns.lengths) - 1
    flags = columns.truncations | (columns.terminations & (not columns.inner_stops))
    inside = flags.copy()
    inside[ends] = False
    if inside.any():
        row = int(np.flatnonzero(inside)[0])
        field = "truncations" if columns.truncations[row] else "terminations"
        raise InputError(
            f"{columns.source}: {field} is set at {locate(row, columns.lengths)}, before the "
            "episode's last step: split the episode there, or give masks where only the "
            "bootstrap stops"
        )
    truncations = columns.truncations.copy()
    truncations[ends] |= ~columns.terminations[ends]
    return truncations
