from __future__ import annotations

import pytest

from ddm.errors import InputError
from ddm.runner import Options
from ddm.runner.schedule import Schedule, make_schedule


def schedule(num_updates, log_every, eval_every, checkpoint_every, minibatches=1):
    options = Options(
        num_updates=num_updates,
        log_every=log_every,
        eval_every=eval_every,
        checkpoint_every=checkpoint_every,
    )
    return make_schedule(options, (minibatches,))


@pytest.mark.parametrize(
    ("asked", "fitted"),
    [
        ((50_000, 1_000, 5_000, 10_000), (50_000, 1_000, 5_000, 10_000)),
        ((50_000, 1_000, 2_500, 0), (50_000, 500, 2_500, 0)),  # the common divisor
        ((500, 1_000, 5_000, 10_000), (500, 500, 0, 0)),  # shorter than its intervals
        ((10_007, 1_000, 5_000, 0), (10_007, 1_000, 5_000, 0)),  # the last interval is shorter
        ((50_000, 1_000, 5_007, 0), (50_000, 1_000, 6_000, 0)),  # no useful common divisor
    ],
)
def test_intervals_are_fitted_together(asked, fitted):
    result, notices = schedule(*asked)
    assert result == Schedule(*fitted)
    changed = [(a, f) for a, f in zip(asked, fitted, strict=True) if f not in (0, a)]
    assert len(notices) == len(changed)
    assert all(
        f"is {f} instead of {a}" in text for (a, f), text in zip(changed, notices, strict=True)
    )


def test_intervals_are_multiples_of_the_minibatches():
    result, _ = schedule(9, 3, 3, 9, minibatches=2)
    assert result == Schedule(10, 4, 4, 12, minibatches=(2,))
    assert [result.next_step(step) for step in (0, 4, 8)] == [4, 8, 10]


def test_steps_and_seeds_that_32_bits_do_not_hold_are_refused():
    largest = 2**31 - 1
    with pytest.raises(InputError, match="num_updates is 2147483648, expected at most 2147483647"):
        Options(num_updates=largest + 1)
    with pytest.raises(InputError, match="round up to 2147483648, expected at most 2147483647"):
        schedule(largest, 1_000, 0, 0, minibatches=2)
    assert schedule(largest, largest, 0, 0)[0].num_updates == largest
    assert Options(seed=2**32 - 2, seeds=2).seed == 2**32 - 2
    for wrong in ({"seed": 2**32}, {"seed": 2**32 - 1, "seeds": 2}, {"eval_seed": 2**32}):
        with pytest.raises(InputError, match=r"expected .*at most 4294967295"):
            Options(**wrong)


def test_what_is_due_when():
    result, _ = schedule(10, 2, 4, 0)
    assert [step for step in range(1, 11) if result.evaluates_at(step)] == [4, 8, 10]
    assert [step for step in range(1, 11) if result.saves_at(step)] == [10]


@pytest.mark.parametrize("first", [0, 1, 6, 9])
def test_wherever_a_run_begins_it_meets_the_grid_and_ends_at_its_end(first):
    result, notices = schedule(11, 4, 4, 8)
    assert not notices
    steps = [first]
    while steps[-1] < 11:
        steps.append(result.next_step(steps[-1]))
    assert steps[1:] == [step for step in (4, 8, 11) if step > first]


def staged(num_updates, minibatches, ends, **intervals):
    options = Options(
        num_updates=num_updates, **{"eval_every": 0, "checkpoint_every": 0} | intervals
    )
    return make_schedule(options, minibatches, ends)


def stops(schedule):
    steps = [0]
    while steps[-1] < schedule.num_updates:
        steps.append(schedule.next_step(steps[-1]))
    return steps[1:]


def test_stages_with_updates_of_different_sizes_meet_what_is_due_at_the_next_update():
    """A model whose epoch has 7 gradient steps, three times, and a policy in rounds of 10."""
    result, notices = staged(40, (7, 10), (21,), log_every=5, eval_every=20, checkpoint_every=10)
    assert stops(result) == [7, 14, 21, 31, 41, 51, 61]
    assert [step for step in stops(result) if result.evaluates_at(step)] == [21, 41, 61]
    assert [step for step in stops(result) if result.saves_at(step)] == [14, 21, 31, 41, 51, 61]
    assert notices == ["the stages before the last take 21 gradient steps in addition"]


@pytest.mark.parametrize(("asked", "length"), [(0, 21), (7, 7), (8, 14), (100, 21)])
def test_a_last_stage_with_an_end_of_its_own_ends_the_run(asked, length):
    assert staged(asked, (7,), (21,))[0].num_updates == length


def test_no_steps_are_refused_where_the_last_stage_has_no_end():
    with pytest.raises(InputError, match="num_updates is 0, expected at least 1"):
        staged(0, (7, 10), (21,))
