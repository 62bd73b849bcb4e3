"""When a run logs, evaluates and saves: intervals that fit together, in gradient steps."""

from __future__ import annotations

import dataclasses
import math

from ddm.errors import InputError
from ddm.runner.options import LARGEST, Options

# A common divisor of the intervals below this share of `log_every` is too short to use.
_SMALLEST_SHARE = 0.05


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Intervals in gradient steps; `log_every` divides the others.

    From any first step, a run stops at the multiples of the intervals and ends at `num_updates`:
    its first and its last call of the device may be shorter than the others.
    """

    num_updates: int
    log_every: int
    eval_every: int  # 0: only at the end
    checkpoint_every: int  # 0: only at the end
    stage_ends: tuple[int, ...] = ()  # gradient steps at which one stage ends and another begins

    def next_step(self, step: int) -> int:
        """The gradient step up to which the device runs in one call, from `step`."""
        due = (step // self.log_every + 1) * self.log_every
        return min(due, self.num_updates, *(end for end in self.stage_ends if end > step))

    def evaluates_at(self, step: int) -> bool:
        """Whether the policies are evaluated after gradient step `step`."""
        return _is_due(step, self.eval_every, self.num_updates)

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is written after gradient step `step`."""
        return _is_due(step, self.checkpoint_every, self.num_updates)


def _is_due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def make_schedule(
    options: Options, minibatches: int = 1, stage_ends: tuple[int, ...] = ()
) -> tuple[Schedule, list[str]]:
    """Fits the intervals of the options together.

    The device runs `log_every` gradient steps in one call, so `log_every` becomes the greatest
    common divisor of all intervals. If that would be a small fraction of it (or not a multiple of
    `minibatches`), `log_every` stays and the others are rounded up to its multiples. The run itself
    has the requested length, in whole updates.

    Args:
      options: the requested intervals.
      minibatches: gradient steps of one update of the algorithm.
      stage_ends: gradient steps at which the algorithm's stages end; no interval crosses one.

    Returns:
      The schedule, and a sentence for each interval that was changed.

    Raises:
      InputError: the run would have more steps than can be counted.
    """
    asked = {"num_updates": options.num_updates, "log_every": options.log_every}
    asked |= {"eval_every": options.eval_every, "checkpoint_every": options.checkpoint_every}
    length = _round_up(asked["num_updates"], minibatches)
    if length > LARGEST:
        raise InputError(
            f"num_updates is {asked['num_updates']}, which updates of {minibatches} gradient steps "
            f"round up to {length}, expected at most {LARGEST}"
        )
    # An interval longer than the run means "only at the end".
    fitted = {name: value if value <= length else 0 for name, value in asked.items()}
    fitted |= {"num_updates": length, "log_every": min(asked["log_every"], length)}
    intervals = {name: value for name, value in fitted.items() if name != "num_updates"}
    common = math.gcd(*intervals.values())
    if common % minibatches == 0 and common >= _SMALLEST_SHARE * fitted["log_every"]:
        fitted["log_every"] = common
    else:
        unit = _round_up(fitted["log_every"], minibatches)
        fitted |= {name: _round_up(value, unit) for name, value in intervals.items()}
    notices = [
        f"{name} is {fitted[name]} instead of {asked[name]}, so that the intervals fit together"
        for name in asked
        if fitted[name] and fitted[name] != asked[name]
    ]
    return Schedule(**fitted, stage_ends=stage_ends), notices


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
