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
    its first and its last call of the device may be shorter than the others. Where an update has
    several gradient steps, what is due inside it happens at its end.
    """

    num_updates: int
    log_every: int
    eval_every: int  # 0: only at the end
    checkpoint_every: int  # 0: only at the end
    stage_ends: tuple[int, ...] = ()  # gradient steps at which one stage ends and another begins
    minibatches: tuple[int, ...] = (1,)  # gradient steps of one update, in each stage

    def next_step(self, step: int) -> int:
        """The gradient step up to which the device runs in one call, from `step`."""
        begin, size = self._stage_of(step + 1)
        due = (step // self.log_every + 1) * self.log_every
        due = begin + _round_up(due - begin, size)
        return min(due, self.num_updates, *(end for end in self.stage_ends if end > step))

    def evaluates_at(self, step: int) -> bool:
        """Whether the policies are evaluated after gradient step `step`."""
        return self._is_due(step, self.eval_every)

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is written after gradient step `step`."""
        return self._is_due(step, self.checkpoint_every)

    def _is_due(self, step: int, every: int) -> bool:
        """Whether the run ends here, or the last update passed a multiple of the interval."""
        if step == self.num_updates or not every:
            return step == self.num_updates
        return step // every > (step - self._stage_of(step)[1]) // every

    def _stage_of(self, step: int) -> tuple[int, int]:
        """Where the stage of gradient step `step` begins, and the size of its updates."""
        passed = sum(end < step for end in self.stage_ends)
        sizes = self.minibatches
        return (0, *self.stage_ends)[passed], sizes[min(passed, len(sizes) - 1)]


def make_schedule(
    options: Options, minibatches: tuple[int, ...] = (1,), stage_ends: tuple[int, ...] = ()
) -> tuple[Schedule, list[str]]:
    """Fits the intervals of the options together.

    The device runs `log_every` gradient steps in one call, so `log_every` becomes the greatest
    common divisor of all intervals. If that would be a small fraction of it (or not a multiple of
    an update's gradient steps), `log_every` stays and the others are rounded up to its multiples.
    The last stage has the requested length, in whole updates; earlier ones come in addition.

    Args:
      options: the requested intervals.
      minibatches: gradient steps of one update, in each stage of the algorithm.
      stage_ends: gradient steps at which the algorithm's stages end; no interval crosses one.

    Returns:
      The schedule, and a sentence for each interval that was changed.

    Raises:
      InputError: the run would have more steps than can be counted.
    """
    asked = {"num_updates": options.num_updates, "log_every": options.log_every}
    asked |= {"eval_every": options.eval_every, "checkpoint_every": options.checkpoint_every}
    before = (0, *stage_ends)[len(minibatches) - 1]
    length = before + _round_up(asked["num_updates"], minibatches[-1])
    if len(stage_ends) == len(minibatches):  # the last stage has an end of its own
        length = min(length, stage_ends[-1]) if asked["num_updates"] else stage_ends[-1]
    elif not asked["num_updates"]:
        raise InputError("num_updates is 0, expected at least 1")
    if length > LARGEST:
        raise InputError(
            f"num_updates is {asked['num_updates']}, which updates of {minibatches[-1]} gradient "
            f"steps{' after earlier stages' if before else ''} round up to {length}, expected at "
            f"most {LARGEST}"
        )
    # Intervals fit updates of one size; where stages differ, they are met at the next update.
    size = minibatches[0] if len(set(minibatches)) == 1 else 1
    # An interval longer than the run means "only at the end".
    fitted = {name: value if value <= length else 0 for name, value in asked.items()}
    fitted |= {"num_updates": length, "log_every": min(asked["log_every"], length)}
    intervals = {name: value for name, value in fitted.items() if name != "num_updates"}
    common = math.gcd(*intervals.values())
    if common % size == 0 and common >= _SMALLEST_SHARE * fitted["log_every"]:
        fitted["log_every"] = common
    else:
        unit = _round_up(fitted["log_every"], size)
        fitted |= {name: _round_up(value, unit) for name, value in intervals.items()}
    chosen = fitted | {"num_updates": length - before}
    notices = [
        f"{name} is {chosen[name]} instead of {asked[name]}, so that the intervals fit together"
        for name in asked
        if chosen[name] and asked[name] and chosen[name] != asked[name]
    ]
    if before:
        notices.append(f"the stages before the last take {before} gradient steps in addition")
    return Schedule(**fitted, stage_ends=stage_ends, minibatches=minibatches), notices


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
