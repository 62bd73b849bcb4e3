"""A report of what is in a dataset, and of what may be wrong with it."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools

import numpy as np

from ddm.data.dataset import Dataset
from ddm.data.references import normalized_score, why_incomparable

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
    reference_note: str | None  # why there is none where one might be expected
    terminations: int
    truncations: int  # episodes that were cut and not terminated
    data_cuts: int  # of these, cut without a flag in the file
    dropped_transitions: int
    action_range: tuple[float, float]  # in the environment's units
    clipped_actions: int
    constant_dimensions: tuple[int, ...]  # of the observation
    duplicated_episodes: int  # equal to an earlier one, byte for byte
    discontinuities: int  # steps beyond JUMP_SIGMAS standard deviations of the steps
    first_discontinuity: tuple[int, int] | None  # episode, step

    def __str__(self) -> str:
        return "\n".join(f"{label:<16} {text}" for label, text in _lines(self))


def describe(dataset: Dataset) -> Description:
    """Counts, ranges and anomalies of a dataset; runs on the host in a pass over the arrays."""
    info = dataset.info
    lengths, returns = dataset.episode_lengths, dataset.episode_returns
    quantiles = np.quantile(returns.astype(np.float64), QUANTILES)
    scores = None
    if info.reference_scores is not None:
        scores = tuple(normalized_score(quantiles, info.reference_scores).tolist())
    terminations = int(np.asarray(dataset.terminations).sum())
    actions = np.asarray(dataset.normalization.denormalize_actions(dataset.actions))
    constant, jumps = _anomalies(dataset)
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
        terminations=terminations,
        truncations=dataset.num_episodes - terminations,
        data_cuts=info.data_cuts,
        dropped_transitions=info.dropped_transitions,
        action_range=(float(actions.min()), float(actions.max())),
        clipped_actions=info.clipped_actions,
        constant_dimensions=constant,
        duplicated_episodes=_count_duplicates(dataset),
        discontinuities=len(jumps),
        first_discontinuity=_locate(dataset, jumps[0]) if len(jumps) else None,
    )


def _anomalies(dataset: Dataset) -> tuple[tuple[int, ...], np.ndarray]:
    """Constant observation dimensions, and the transitions that jump. Images have neither."""
    observations = np.asarray(dataset.observations)
    if observations.ndim != 2:
        return (), np.zeros(0, np.int64)
    constant = np.flatnonzero(observations.max(axis=0) == observations.min(axis=0))
    rows = np.arange(dataset.num_transitions) + np.asarray(dataset.episode_ids)
    steps = observations[rows + 1] - observations[rows]
    # A one-step scale, not the spread of the states: a jump across a maze lies well inside that.
    sigma = steps.std(axis=0, dtype=np.float64).astype(np.float32)
    jumps = np.flatnonzero((np.abs(steps) > JUMP_SIGMAS * sigma).any(axis=1))
    return tuple(constant.tolist()), jumps


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
    if d.score_quantiles is None or d.reference_scores is None:
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
        ("returns", f"{quantiles}  (quantiles {labels} %)"),
        ("scores", scores),
        ("episode ends", _ends(d)),
        ("observations", "x".join(map(str, d.observation_shape)) + _constant(d)),
        ("actions", f"{actions}[{d.action_range[0]:g}, {d.action_range[1]:g}]" + _clipped(d)),
        ("duplicates", f"{d.duplicated_episodes} episodes equal an earlier one"),
        ("discontinuities", _jumps(d)),
    ]
    return lines


def _ends(d: Description) -> str:
    text = (
        f"{d.terminations} terminated ({100 * d.terminations / d.episodes:.1f} %), "
        f"{d.truncations} truncated ({100 * d.truncations / d.episodes:.1f} %)"
    )
    if d.data_cuts:
        text += f", {d.data_cuts} of these by the end of the data"
    if d.dropped_transitions:
        text += f"; {d.dropped_transitions} last transitions dropped, their successor is unknown"
    return text


def _constant(d: Description) -> str:
    if not d.constant_dimensions:
        return ""
    return f", constant in dimension {', '.join(map(str, d.constant_dimensions))}"


def _clipped(d: Description) -> str:
    if not d.action_shape:
        return ""
    share = 100 * d.clipped_actions / d.transitions
    return f", {d.clipped_actions} ({share:.1f} %) on the edge of the box, clipped"


def _jumps(d: Description) -> str:
    text = f"{d.discontinuities} steps beyond {JUMP_SIGMAS:g} standard deviations"
    if d.first_discontinuity is not None:
        text += (
            f", the first in episode {d.first_discontinuity[0]}, step {d.first_discontinuity[1]}"
        )
    return text
