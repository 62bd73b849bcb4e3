"""A report of the contents of a dataset, and of possible problems in it."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import textwrap

import numpy as np

from ddm.data.dataset import Dataset
from ddm.data.references import normalized_score, why_incomparable
from ddm.data.transforms import measure_spread
from ddm.data.values import ranges

WIDTH = 100  # of the report, without its labels
NO_REWARDS = "no rewards in the data"
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
JUMP_SIGMAS = 15.0  # contacts change a velocity by up to some 10 standard deviations of its steps


@dataclasses.dataclass(frozen=True)
class Description:
    """What `describe` found; `str` of it is the report."""

    name: str
    environment_id: str | None
    transitions: int
    episodes: int
    observation_shape: tuple[int, ...]
    action_shape: tuple[int, ...]  # empty for discrete actions
    num_bytes: int
    lengths: tuple[int, float, int]  # shortest, median, longest
    return_quantiles: tuple[float, ...]  # at QUANTILES, undiscounted, in the environment's units
    score_quantiles: tuple[float, ...] | None  # the same in percent of the reference scores
    reference_scores: tuple[float, float] | None
    reference_source: str | None
    reference_note: str | None  # why there is no reference although one might be expected
    has_rewards: bool  # False: returns and scores mean nothing
    terminations: int  # episodes that the environment ended
    inner_stops: int  # bootstraps that stop although their episode continues
    truncations: int  # episodes that were cut and not terminated
    data_cuts: int  # of these, cut without a flag in the file
    dropped_transitions: int
    action_range: tuple[float, float]  # in the environment's units
    bounds_guessed: bool  # the action box, or the number of actions, was not declared
    clipped_actions: int
    moved_actions: int  # of these, outside the box before
    constant_dimensions: tuple[int, ...]  # of the observation
    nearly_constant_dimensions: tuple[int, ...]  # spread far below that of the others
    duplicated_episodes: int  # equal to an earlier one, byte for byte
    discontinuities: int  # steps beyond JUMP_SIGMAS standard deviations of the steps
    first_discontinuity: tuple[int, int] | None  # episode, step
    notes: tuple[str, ...]  # guesses made at load, one sentence each

    def __str__(self) -> str:
        lines = []
        for label, text in _lines(self):
            first, *others = textwrap.wrap(text, WIDTH)
            lines += [f"{label:<16} {first}", *(f"{'':<16} {line}" for line in others)]
        return "\n".join(lines)


def describe(dataset: Dataset) -> Description:
    """Counts, ranges and anomalies of a dataset; runs on the host in one pass over the arrays."""
    info = dataset.info
    lengths, returns = dataset.episode_lengths, dataset.episode_returns
    quantiles = np.quantile(returns.astype(np.float64), QUANTILES)
    scores = None
    if info.reference_scores is not None and info.has_rewards:
        scores = tuple(normalized_score(quantiles, info.reference_scores).tolist())
    inner_stops = dataset.num_inner_stops
    terminations = int(np.asarray(dataset.terminations).sum()) - inner_stops
    actions = np.asarray(dataset.normalization.denormalize_actions(dataset.actions))
    constant, nearly_constant = _still_dimensions(dataset)
    jumps = _find_jumps(dataset)
    return Description(
        name=info.name,
        environment_id=info.environment_id,
        transitions=dataset.num_transitions,
        episodes=dataset.num_episodes,
        observation_shape=dataset.observations.shape[1:],
        action_shape=dataset.actions.shape[1:],
        num_bytes=dataset.num_bytes,
        lengths=(int(lengths.min()), float(np.median(lengths)), int(lengths.max())),
        return_quantiles=tuple(quantiles.tolist()),
        score_quantiles=scores,
        reference_scores=info.reference_scores,
        reference_source=info.reference_source,
        reference_note=why_incomparable(info.name),
        has_rewards=info.has_rewards,
        terminations=terminations,
        inner_stops=inner_stops,
        truncations=dataset.num_episodes - terminations,
        data_cuts=info.data_cuts,
        dropped_transitions=info.dropped_transitions,
        action_range=(float(actions.min()), float(actions.max())),
        bounds_guessed=info.bounds_guessed,
        clipped_actions=info.clipped_actions,
        moved_actions=info.moved_actions,
        constant_dimensions=constant,
        nearly_constant_dimensions=nearly_constant,
        duplicated_episodes=_count_duplicates(dataset),
        discontinuities=len(jumps),
        first_discontinuity=_locate(dataset, jumps[0]) if len(jumps) else None,
        notes=info.notes,
    )


def _still_dimensions(dataset: Dataset) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Constant observation dimensions, and nearly constant ones; images have neither."""
    observations = dataset.normalization.denormalize_observations(dataset.observations)
    if observations.ndim != 2:
        return (), ()
    spread = measure_spread(np.asarray(observations))
    constant, nearly_constant = (
        np.flatnonzero(found) for found in (spread.constant, spread.nearly_constant)
    )
    return tuple(constant.tolist()), tuple(nearly_constant.tolist())


def _find_jumps(dataset: Dataset) -> np.ndarray:
    """The transitions that jump; images are not checked."""
    observations = np.asarray(dataset.observations)
    if observations.ndim != 2:
        return np.zeros(0, np.int64)
    rows = np.arange(dataset.num_transitions) + np.asarray(dataset.episode_ids)
    steps = observations[rows + 1] - observations[rows]
    sigma = steps.std(axis=0, dtype=np.float64).astype(np.float32)
    return np.flatnonzero((np.abs(steps) > JUMP_SIGMAS * sigma).any(axis=1))


def _locate(dataset: Dataset, transition: int) -> tuple[int, int]:
    episode = int(np.asarray(dataset.episode_ids)[transition])
    return episode, int(transition - np.asarray(dataset.episode_starts)[episode])


def _count_duplicates(dataset: Dataset) -> int:
    observations, actions = np.asarray(dataset.observations), np.asarray(dataset.actions)
    starts = np.asarray(dataset.episode_starts)
    seen = set()
    for episode, (start, end) in enumerate(itertools.pairwise(starts)):
        digest = hashlib.blake2b(actions[start:end].tobytes(), digest_size=16)
        digest.update(observations[start + episode : end + episode + 1].tobytes())
        seen.add(digest.digest())
    return dataset.num_episodes - len(seen)


def _lines(d: Description) -> list[tuple[str, str]]:
    quantiles = "  ".join(f"{x:.4g}" for x in d.return_quantiles)
    labels = "/".join(f"{100 * q:.0f}" for q in QUANTILES)
    returns = f"{quantiles}  (quantiles {labels} %)" if d.has_rewards else NO_REWARDS
    if not d.has_rewards:
        scores = NO_REWARDS
    elif d.score_quantiles is None or d.reference_scores is None:
        reason = f": {d.reference_note}" if d.reference_note else " (no reference scores)"
        scores = f"raw returns only{reason}"
    else:
        values = "  ".join(f"{x:.1f}" for x in d.score_quantiles)
        scores = f"{values}  (0 = {d.reference_scores[0]:g}, 100 = {d.reference_scores[1]:g}"
        scores += f"; {d.reference_source})" if d.reference_source else ")"
    actions = f"{d.action_shape[0]} in " if d.action_shape else "integers in "
    lines = [
        ("dataset", d.name),
        ("environment", d.environment_id or "none: a policy trained on it has no score"),
        ("transitions", f"{d.transitions} in {d.episodes} episodes, {d.num_bytes / 2**20:.1f} MiB"),
        ("episode length", f"{d.lengths[0]} to {d.lengths[2]}, median {d.lengths[1]:g}"),
        ("returns", returns),
        ("scores", scores),
        ("episode ends", _ends(d)),
        ("observations", "x".join(map(str, d.observation_shape)) + _constant(d)),
        ("actions", f"{actions}[{d.action_range[0]:g}, {d.action_range[1]:g}]" + _clipped(d)),
        ("duplicates", f"{d.duplicated_episodes} episodes equal an earlier one"),
        ("discontinuities", _jumps(d)),
    ]
    return lines + [("note", note) for note in d.notes]


def _ends(d: Description) -> str:
    text = (
        f"{d.terminations} terminated ({100 * d.terminations / d.episodes:.1f} %), "
        f"{d.truncations} truncated ({100 * d.truncations / d.episodes:.1f} %)"
    )
    if d.data_cuts:
        text += f", {d.data_cuts} of these by the end of the data"
    if d.inner_stops:
        text += f"; {d.inner_stops} bootstraps stop before the end of their episode"
    if d.dropped_transitions:
        text += f"; {d.dropped_transitions} last transitions dropped, their successor is unknown"
    return text


def _constant(d: Description) -> str:
    text = ""
    if d.constant_dimensions:
        text += f", constant in dimension {ranges(d.constant_dimensions)}"
    if d.nearly_constant_dimensions:
        text += f", nearly constant in dimension {ranges(d.nearly_constant_dimensions)}"
    return text


def _clipped(d: Description) -> str:
    guess = ", the number is a guess" if d.bounds_guessed else ""
    if not d.action_shape:
        return guess
    share = 100 * d.clipped_actions / d.transitions
    text = f", {d.clipped_actions} ({share:.1f} %) on the edge of the box, clipped"
    if d.moved_actions:
        text += f", {d.moved_actions} of them moved there from outside"
    return text + (", the box is a guess" if d.bounds_guessed else "")


def _jumps(d: Description) -> str:
    text = f"{d.discontinuities} steps beyond {JUMP_SIGMAS:g} standard deviations"
    if d.first_discontinuity is not None:
        text += (
            f", the first in episode {d.first_discontinuity[0]}, step {d.first_discontinuity[1]}"
        )
    return text
