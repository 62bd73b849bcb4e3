"""Named transforms of the observations and of the rewards of a whole dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np

from ddm.data.dataset import Dataset
from ddm.data.normalization import Normalization
from ddm.data.values import ranges
from ddm.errors import InputError

STANDARD_DEVIATION_EPSILON = 1e-3  # TD3+BC adds this to every standard deviation

# A dimension whose spread in the log is below this share of the others' is scaled as if it had this
# spread. A policy may meet normal values there, and these must not be multiplied by a huge factor.
# Units within a log differ less (0.04 to 5 around a median of 0.5 in MuJoCo's), so dimensions with
# information keep their own spread.
SPREAD_FLOOR = 1e-2

Row = TypeVar("Row")


class Spread(NamedTuple):
    """How far each dimension of observation vectors varies."""

    mean: np.ndarray  # (D,) float64
    std: np.ndarray  # (D,) float64
    constant: np.ndarray  # (D,) bool: no spread beyond the rounding of float32
    nearly_constant: np.ndarray  # (D,) bool: below SPREAD_FLOOR of the usual spread
    floor: float  # SPREAD_FLOOR of the usual spread: the others' median, of logarithms


def measure_spread(observations: np.ndarray) -> Spread:
    """The spread of (R, D) rows; the median is one of ratios, because units differ."""
    mean = observations.mean(axis=0, dtype=np.float64)
    std = observations.std(axis=0, dtype=np.float64)
    constant = std <= np.finfo(np.float32).eps * np.abs(mean)
    usual = np.exp(np.median(np.log(std[~constant]))) if not constant.all() else 0.0
    floor = float(SPREAD_FLOOR * usual)
    return Spread(mean, std, constant, ~constant & (std < floor), floor)


# -> mean, divisor, and notes for the user, one sentence each
ObservationTransform = Callable[[Dataset], tuple[np.ndarray, np.ndarray, tuple[str, ...]]]
RewardTransform = Callable[[Dataset], tuple[float, float]]  # -> scale, shift


def _standardize_observations(
    dataset: Dataset,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Mean, and standard deviation + 1e-3, of the observations in which an action was taken.

    A constant dimension is divided by 1, and a nearly constant one by a floor: a policy may meet
    other values there than the log has.
    """
    rows = np.arange(dataset.num_transitions) + np.asarray(dataset.episode_ids)
    observations = np.asarray(dataset.observations)[rows]
    spread = measure_spread(observations)
    divisor = np.maximum(spread.std, spread.floor) + STANDARD_DEVIATION_EPSILON
    divisor[spread.constant] = 1.0
    notes = []
    if spread.constant.any():
        notes.append(
            f"standardize leaves the scale of observation dimension "
            f"{ranges(np.flatnonzero(spread.constant))}, constant in the log"
        )
    if spread.nearly_constant.any():
        notes.append(
            f"standardize divides observation dimension "
            f"{ranges(np.flatnonzero(spread.nearly_constant))}, nearly constant in the log, by "
            f"{spread.floor + STANDARD_DEVIATION_EPSILON:.2g}, and not by less"
        )
    return spread.mean.astype(np.float32), divisor.astype(np.float32), tuple(notes)


def _iql_locomotion(dataset: Dataset) -> tuple[float, float]:
    """Multiplies by 1000 / (largest - smallest episode return), as IQL does for locomotion."""
    return 1000.0 / _return_spread(dataset, "iql_locomotion"), 0.0


def _return_range(dataset: Dataset) -> tuple[float, float]:
    """Divides by (largest - smallest episode return): the returns of the log then span 1.

    The scale of a temperature or a penalty then means the same on every task; `reward_scale` sets
    another span (1000 is `iql_locomotion`, for episodes of 1000 steps).
    """
    return 1.0 / _return_spread(dataset, "return_range"), 0.0


def _return_spread(dataset: Dataset, name: str) -> float:
    returns = np.asarray(dataset.episode_returns, np.float64)
    spread = returns.max() - returns.min()
    if spread <= 0:
        raise InputError(
            f"{dataset.info.name}: reward transform {name!r} divides by the spread of the "
            f"episode returns, and all {len(returns)} episodes have the same return"
        )
    return float(spread)


def _standardize_rewards(dataset: Dataset) -> tuple[float, float]:
    """Subtracts the mean reward and divides by the standard deviation."""
    rewards = np.asarray(dataset.rewards, np.float64)
    if rewards.min() == rewards.max():
        raise InputError(
            f"{dataset.info.name}: all rewards are {rewards[0]:g}, and reward transform "
            "'standardize' would turn them into zeros, with which nothing can be learned; use "
            "reward_scale"
        )
    return 1.0 / rewards.std(), -rewards.mean() / rewards.std()


def _affine(scale: float, shift: float) -> RewardTransform:
    return lambda dataset: (scale, shift)


AUTO = "auto"  # the transform that suits the kind of observations

OBSERVATION_TRANSFORMS: Mapping[str, ObservationTransform | None] = {
    "none": None,
    "standardize": _standardize_observations,
}

REWARD_TRANSFORMS: Mapping[str, RewardTransform | None] = {
    "none": None,
    "return_range": _return_range,
    "iql_locomotion": _iql_locomotion,
    "minus_one": _affine(1.0, -1.0),
    "antmaze_iql": _affine(1.0, -1.0),  # r - 1: IQL, TD3+BC, AWAC on AntMaze
    "antmaze_cql": _affine(4.0, -2.0),  # (r - 0.5) * 4: CQL's first code
    "antmaze_calql": _affine(10.0, -5.0),  # 10 r - 5: later CQL, Cal-QL
    "times_100": _affine(100.0, 0.0),  # ReBRAC on AntMaze
    "standardize": _standardize_rewards,
}


def normalize(
    dataset: Dataset,
    observations: str = "none",
    rewards: str = "none",
    reward_scale: float = 1.0,
    like: Normalization | None = None,
) -> Dataset:
    """Applies a named observation transform and a named reward transform to a whole dataset.

    The statistics are kept in `dataset.normalization`, from where the policy takes them.
    `episode_returns` stays in the environment's units. A reward transform with a shift adds to
    `returns_to_go` the shift of every step left in the episode as recorded.

    Args:
      dataset: as loaded; a second transform on top of the first is refused.
      observations: a name in `OBSERVATION_TRANSFORMS`; "none" leaves them; "auto" is "standardize"
        for real vectors, and "none" for images and for vectors of zeros and ones. In every method,
        initial weights and step sizes are made for numbers around 1. One-hot vectors have such
        numbers already, and name a state.
      rewards: a name in `REWARD_TRANSFORMS`; "none" leaves them.
      reward_scale: positive factor on the rewards, after the transform.
      like: the normalization of a trained policy that will continue on this dataset: observations
        get its units, and `observations` is not used.

    Raises:
      InputError: an unknown name, a second transform of the same kind, "standardize" of bytes or
        of equal rewards, or a transform of rewards that the log does not have.
    """
    if like is not None:
        dataset, observations = _observe_like(dataset, like), "none"
    elif observations == AUTO:
        observations, dataset = _choose(dataset)
    observation_transform = _lookup(OBSERVATION_TRANSFORMS, observations, "observation transform")
    reward_transform = _lookup(REWARD_TRANSFORMS, rewards, "reward transform")
    if observation_transform is not None:
        dataset = _transform_observations(dataset, observation_transform, observations)
    if not (reward_scale > 0 and np.isfinite(reward_scale)):
        raise InputError(f"reward_scale is {reward_scale}, expected a positive number")
    if reward_transform is not None or reward_scale != 1.0:
        transform = reward_transform or _affine(1.0, 0.0)
        dataset = _transform_rewards(dataset, transform, rewards, reward_scale)
    return dataset


def _observe_like(dataset: Dataset, like: Normalization) -> Dataset:
    """The dataset with observations in the units of another normalization."""
    ours, name = dataset.normalization, dataset.info.name
    shapes = [
        None if x.observation_mean is None else x.observation_mean.shape for x in (ours, like)
    ]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{name}: observations have shape {shapes[0]}, those of the policy {shapes[1]} (None: "
            "bytes)"
        )
    if ours.observation_mean is None:
        return dataset
    raw = ours.denormalize_observations(dataset.observations)
    kept = dataclasses.replace(
        ours,
        observation_mean=jnp.asarray(like.observation_mean),
        observation_std=jnp.asarray(like.observation_std),
    )
    observations = kept.normalize_observations(raw)
    return dataclasses.replace(dataset, observations=observations, normalization=kept)


def _choose(dataset: Dataset) -> tuple[str, Dataset]:
    """The transform that "auto" means for these observations, and the dataset with a note of it."""
    observations = np.asarray(dataset.observations)
    if observations.dtype == np.uint8 or np.isin(observations, (0, 1)).all():
        return "none", dataset
    note = (
        "observations are standardised: normalize_observations is auto, and they are real vectors"
    )
    info = dataclasses.replace(dataset.info, notes=(*dataset.info.notes, note))
    return "standardize", dataclasses.replace(dataset, info=info)


def _lookup(table: Mapping[str, Row], name: str, what: str) -> Row:
    if name not in table:
        raise InputError(f"unknown {what} {name!r}; known: {', '.join(table)}")
    return table[name]


def _transform_observations(
    dataset: Dataset, transform: ObservationTransform, name: str
) -> Dataset:
    statistics = dataset.normalization
    if statistics.observation_mean is None:
        raise InputError(
            f"{dataset.info.name}: observation transform {name!r} is for vectors, and these "
            f"observations are bytes of shape {dataset.observations.shape[1:]}"
        )
    if np.any(np.asarray(statistics.observation_mean) != 0) or np.any(
        np.asarray(statistics.observation_std) != 1
    ):
        raise InputError(
            f"{dataset.info.name}: the observations are already transformed; "
            f"apply {name!r} to the dataset as loaded"
        )
    mean, std, notes = transform(dataset)
    statistics = dataclasses.replace(
        statistics, observation_mean=jnp.asarray(mean), observation_std=jnp.asarray(std)
    )
    return dataclasses.replace(
        dataset,
        observations=statistics.normalize_observations(dataset.observations),
        normalization=statistics,
        info=dataclasses.replace(dataset.info, notes=dataset.info.notes + notes),
    )


def _transform_rewards(
    dataset: Dataset, transform: RewardTransform, name: str, factor: float
) -> Dataset:
    if not dataset.info.has_rewards:
        raise InputError(f"{dataset.info.name} has no rewards, so that there are none to transform")
    statistics = dataset.normalization
    if float(statistics.reward_scale) != 1 or float(statistics.reward_shift) != 0:
        raise InputError(
            f"{dataset.info.name}: the rewards are already transformed; "
            f"apply {name!r} to the dataset as loaded"
        )
    scale, shift = (jnp.asarray(factor * x, jnp.float32) for x in transform(dataset))
    # The reward of a dropped last step counts in the returns, and so does its shift.
    ends = dataset.episode_starts[:-1] + dataset.recorded_lengths
    ends = ends[dataset.episode_ids]
    steps_left = ends - jnp.arange(dataset.num_transitions, dtype=jnp.int32)
    return dataclasses.replace(
        dataset,
        rewards=scale * dataset.rewards + shift,
        returns_to_go=scale * dataset.returns_to_go + shift * steps_left.astype(jnp.float32),
        normalization=dataclasses.replace(statistics, reward_scale=scale, reward_shift=shift),
    )
