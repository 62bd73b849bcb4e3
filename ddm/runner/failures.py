"""Lanes that diverged: which ones, at which step, in which metric, and the sentence about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ddm.errors import InputError
from ddm.runner.program import STATE
from ddm.runner.sweep import Lane


class Failures:
    """The lanes of a run that diverged, by index; each keeps its first failure."""

    def __init__(self, lanes: Sequence[Lane], record: Mapping[str, Any] | None = None):
        """Starts with none, or with those of a checkpoint's header.

        Raises:
          InputError: the header is of another shape.
        """
        self._lanes = lanes
        try:
            self._found: dict[int, tuple[str, int]] = {
                range(len(lanes))[int(i)]: (str(metric), int(step))
                for i, (metric, step) in (record or {}).items()
            }
        except (IndexError, TypeError, ValueError) as error:
            raise InputError(f"failures of the checkpoint are {record}, unreadable") from error

    def add_updates(
        self, not_finite: Mapping[str, np.ndarray], updates: int, step: int, minibatches: int
    ) -> list[int]:
        """Notes the lanes in which a metric of the last interval was not finite.

        Args:
          not_finite: for each metric, (L,) indices of the first bad update.
          updates: of the interval; this number as an index means that all were good.
          step: gradient steps before the interval.
          minibatches: gradient steps of one update.

        Returns:
          The lanes that are new, the one that failed first at the head.
        """
        # If both fail in one update, a metric says more than the state.
        found = sorted(
            (int(index), i, name == STATE, name)
            for name, indices in not_finite.items()
            for i, index in enumerate(indices)
            if index < updates and i not in self._found
        )
        for index, i, _, name in found:
            self._found.setdefault(i, (name, step + (index + 1) * minibatches))
        return list(dict.fromkeys(i for _, i, *_ in found))

    def add_scores(self, name: str, scores: np.ndarray, step: int) -> list[int]:
        """Notes the lanes whose score, (L,), is not finite; returns those that are new."""
        new = [i for i in np.flatnonzero(~np.isfinite(scores)).tolist() if i not in self._found]
        self._found |= dict.fromkeys(new, (name, step))
        return new

    def sentence(self, lane: int) -> str:
        """What happened to a lane."""
        metric, step = self._found[lane]
        if not step:
            return (
                f"{metric} of {self._lanes[lane]} is not finite before the first update: the "
                "environment gives rewards that are not"
            )
        return f"{metric} of {self._lanes[lane]} is not finite at gradient step {step}"

    def record(self) -> dict[str, list[Any]]:
        """For the header of a checkpoint."""
        return {str(i): list(facts) for i, facts in self._found.items()}

    def sentences(self) -> dict[str, str]:
        """For the summary: lane -> what happened."""
        return {str(self._lanes[i]): self.sentence(i) for i in sorted(self._found)}

    @property
    def alive(self) -> np.ndarray:
        """(L,) bool: which lanes have not failed."""
        return ~np.isin(np.arange(len(self._lanes)), list(self._found))

    def __contains__(self, lane: object) -> bool:
        return lane in self._found

    def __iter__(self) -> Iterator[int]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)
