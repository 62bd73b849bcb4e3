"""The ring buffer: what was written is drawn, and nothing else."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import data
from ddm.errors import InputError
from ddm.types import TRANSITION_FIELDS, Batch, BatchSpec, Box, Discrete

OBSERVATIONS = Box((2,), (-1.0,) * 2, (1.0,) * 2)
ACTIONS = Box((1,), (-2.0,), (4.0,))
SPEC = BatchSpec(fields=TRANSITION_FIELDS)


def rows(first: int, count: int) -> Batch:
    """Rows whose rewards are first, first + 1, ...; all other fields follow from them."""
    number = jnp.arange(first, first + count, dtype=jnp.float32)
    return Batch(
        observations=jnp.stack([number, -number], axis=1),
        actions=number[:, None] / 100,
        rewards=number,
        next_observations=jnp.stack([number + 1, -number - 1], axis=1),
        terminations=number % 2 == 0,
        truncations=number % 3 == 0,
    )


def filled(capacity: int, *counts: int) -> data.Buffer:
    buffer, first = data.Buffer.empty(capacity, OBSERVATIONS, ACTIONS), 1
    for count in counts:
        buffer, first = buffer.insert(rows(first, count)), first + count
    return buffer


@pytest.mark.parametrize(
    ("counts", "kept"),
    [
        ((3,), [1, 2, 3]),
        ((3, 2), [1, 2, 3, 4, 5]),
        ((3, 4), [3, 4, 5, 6, 7]),
        ((5, 5), range(6, 11)),
    ],
)
def test_the_newest_rows_are_kept_in_their_order(counts, kept):
    """A ring of five: the oldest rows give way, and every field follows its row."""
    stored = filled(5, *counts).ordered()
    np.testing.assert_array_equal(stored.rewards, list(kept))
    expected = rows(int(stored.rewards[0]), len(stored.rewards))
    for name in ("observations", "actions", "next_observations", "terminations", "truncations"):
        np.testing.assert_array_equal(getattr(stored, name), getattr(expected, name))


def test_a_slot_that_was_not_written_is_never_drawn():
    """Every written row is drawn about equally often, under jit, whatever the size."""
    draw = jax.jit(lambda buffer, key: buffer.sample(key, 4_000, SPEC).rewards)
    for counts in ((1,), (7,), (30, 40, 25)):
        buffer = filled(64, *counts)
        drawn = np.asarray(draw(buffer, jax.random.key(0)))
        found, times = np.unique(drawn, return_counts=True)
        np.testing.assert_array_equal(found, np.sort(buffer.ordered().rewards))
        expected = 4_000 / len(found)
        assert np.all(np.abs(times - expected) < 6 * np.sqrt(expected) + 1)


def test_rows_that_are_masked_take_no_slot():
    """What follows an imagined end is left out, and the next row stands where it would."""
    buffer = filled(4, 1)
    mask = jnp.array([True, False, True, False])
    buffer = jax.jit(lambda b: b.insert(rows(10, 4), mask))(buffer)
    np.testing.assert_array_equal(buffer.ordered().rewards, [1, 10, 12])
    none = buffer.insert(rows(20, 2), jnp.zeros(2, bool))
    np.testing.assert_array_equal(none.ordered().rewards, [1, 10, 12])
    assert (int(none.position), int(none.size)) == (3, 3)


def test_it_is_carried_by_a_scan_and_by_vmap():
    """Ten inserts of a scan equal ten by hand; lanes are separate."""

    def grow(first):
        def step(buffer, i):
            return buffer.insert(jax.tree.map(lambda x: x[None], row(first + i))), None

        return jax.lax.scan(step, filled(6), jnp.arange(10))[0]

    def row(number):
        return jax.tree.map(lambda x: x[0], shifted(number))

    def shifted(number):
        one = rows(0, 1)
        return one.replace(rewards=one.rewards + number)

    lanes = jax.vmap(grow)(jnp.array([0, 100]))
    for lane, first in enumerate((0, 100)):
        own = jax.tree.map(lambda x, lane=lane: x[lane], lanes)
        np.testing.assert_array_equal(own.ordered().rewards, first + np.arange(4, 10))


def test_units_are_those_of_an_algorithm():
    """Actions of a box are mapped to [-1, 1], as a dataset's are; of a dataset, by its own maps."""
    maps = filled(2).normalization
    np.testing.assert_allclose(
        maps.normalize_actions(jnp.array([[-2.0], [1.0], [4.0]])).T, [[-1, 0, 1]]
    )
    log = data.from_arrays(
        np.arange(20, dtype=np.float32).reshape(10, 2), np.zeros((10, 1)), np.zeros(10),
        np.zeros(10, bool), np.arange(10) == 9,
    )  # fmt: skip
    log = data.normalize(log, observations="standardize")
    alike = data.Buffer.like(log, 3)
    np.testing.assert_array_equal(
        alike.normalization.observation_mean, log.normalization.observation_mean
    )
    discrete = data.Buffer.empty(3, OBSERVATIONS, Discrete(4, start=1))
    assert discrete.rows.actions.dtype == jnp.int32
    assert int(discrete.normalization.normalize_actions(jnp.array(1))) == 0


def windows_of(copies, spec=None, *, window=3, count=6, first=0):
    """All rows of a buffer of six, from `first` on, that were inserted copy by copy."""
    buffer = data.Buffer.empty(6, OBSERVATIONS, ACTIONS, copies=copies)
    for step in range(first, first + count, 2):
        buffer = buffer.insert(rows(step, 2))
    spec = spec or BatchSpec(("rewards", "observations"), window=window, whole_dataset=True)
    return buffer.sample(jax.random.key(0), 1, spec)


@pytest.mark.parametrize("count", [6, 8, 12])
def test_the_steps_of_each_copy_are_a_window_in_time(count):
    """Whether the ring has begun again or not."""
    batch = windows_of(2, count=count)
    last = np.arange(count)[-6:]
    np.testing.assert_array_equal(batch.rewards, [last[0::2], last[1::2]])
    assert batch.observations.shape == (2, 3, 2)
    spec = BatchSpec(("rewards",), whole_dataset=True)
    np.testing.assert_array_equal(windows_of(2, spec, count=count).rewards, last)


@pytest.mark.parametrize("steps", [5, 9, 14])
def test_windows_of_labelled_steps_stay_in_their_episodes(steps):
    """Against a search in each copy's own list of steps, before and after the ring begins again.

    Step t of copy c has the reward 10 t + c; an episode ends where (t + c) % 4 is 3.
    """
    copies, capacity, history, window = 2, 18, 1, 4
    buffer = data.Buffer.empty(capacity, OBSERVATIONS, ACTIONS, copies=copies)
    for t in range(steps):
        number = 10.0 * t + jnp.arange(copies)
        ends = (t + jnp.arange(copies)) % 4 == 3
        row = rows(0, copies).replace(rewards=number, terminations=ends & (t % 2 == 0))
        buffer = buffer.insert(row.replace(truncations=ends & (t % 2 == 1)))
    spec = BatchSpec(("rewards", "actions", "mask"), window=window, history=history)
    batch = buffer.sample(jax.random.key(0), 200, spec)
    assert batch.actions.shape == (200, window, 1)
    seen = set()
    for rewards, mask in zip(np.asarray(batch.rewards), np.asarray(batch.mask), strict=True):
        t, c = divmod(int(rewards[history]), 10)
        seen.add((t, c))
        oldest = max(steps - capacity // copies, 0)
        first = max([s + 1 for s in range(oldest, t) if (s + c) % 4 == 3], default=oldest)
        last = min([s for s in range(t, steps) if (s + c) % 4 == 3], default=steps - 1)
        wanted = np.arange(t - history, t - history + window)
        np.testing.assert_array_equal(mask, (wanted >= first) & (wanted <= last))
        np.testing.assert_array_equal(rewards, 10.0 * np.clip(wanted, first, last) + c)
    assert len(seen) == copies * min(steps, capacity // copies)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: filled(0), "capacity is 0"),
        (lambda: filled(3, 4), "4 rows at once do not fit a capacity of 3"),
        (lambda: filled(3).sample(jax.random.key(0), 2, SPEC), "is empty"),
        (
            lambda: filled(3, 1).sample(jax.random.key(0), 2, BatchSpec(fields=("next_actions",))),
            "'next_actions' is not known",
        ),
        (
            lambda: filled(3, 1).sample(jax.random.key(0), 2, BatchSpec(("actions",), window=2)),
            "a window",
        ),
        (lambda: filled(3).insert(rows(0, 1).replace(rewards=None)), "batch.rewards is missing"),
        (lambda: windows_of(0, BatchSpec(("actions",), whole_dataset=True)), "the whole log"),
        (lambda: windows_of(0), "steps of older policies.*on_policy=True"),
        (lambda: windows_of(2, window=2), "holds 3 steps of each copy.*windows of 2"),
        (lambda: windows_of(2, count=4), "holds 4 of 6 rows"),
        (lambda: windows_of(4), "capacity is 6, expected a multiple of the 4 copies"),
    ],
)
def test_what_single_transitions_cannot_give_is_refused(call, words):
    """One sentence each."""
    with pytest.raises(InputError, match=words):
        call()
