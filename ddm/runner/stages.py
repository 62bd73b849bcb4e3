"""Which stage of an algorithm a gradient step belongs to."""

from __future__ import annotations

import itertools
from typing import Any

from ddm import data
from ddm.errors import InputError
from ddm.runner import sources
from ddm.types import Algorithm, Stage, num_minibatches, stages_of


class StagePlan:
    """The stages of an algorithm along a run.

    Raises:
      InputError: a stage has no length; see :func:`ddm.types.stages_of`.
    """

    def __init__(self, algorithm: Algorithm, config: Any):
        self.stages = stages_of(algorithm, config)
        lengths = [stage.num_steps for stage in self.stages if stage.num_steps is not None]
        self.ends = tuple(itertools.accumulate(lengths))  # gradient steps at which a stage ends
        self.minibatches = tuple(num_minibatches(stage.batch_spec) for stage in self.stages)

    def index(self, step: int) -> int:
        """Index of the stage of the update after gradient step `step`."""
        passed = sum(end <= step for end in self.ends)
        return min(passed, len(self.stages) - 1)

    def at(self, step: int) -> Stage:
        """The stage of the update after gradient step `step`."""
        return self.stages[self.index(step)]

    def before(self, step: int) -> Stage:
        """The stage of the update that led to gradient step `step`; the first one at step 0."""
        return self.at(max(step - 1, 0))

    def check(self, shared: sources.Shared, batch_size: int, holdout: Any = None) -> None:
        """Refuses sources that cannot give what a stage asks for.

        Raises:
          InputError: naming the source, or a report that methods with several sources do not have.
        """
        for stage in self.stages:
            sources.check(shared, stage.batch_spec, batch_size)
            if holdout is None:
                continue
            if data.is_named(stage.batch_spec):
                raise InputError("holdout is for methods that learn from one log, not from several")
            data.check_sources(holdout, stage.batch_spec)
