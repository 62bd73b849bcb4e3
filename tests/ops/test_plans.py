"""Frames, plans and ensembles, step by step by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import data
from ddm.ops import plans
from ddm.types import BatchSpec

ACTION = jnp.zeros(1)


def _play(execute, chunks, steps):
    """Actions of `steps` steps; the t-th call of `make` would give chunks[t]."""
    plan, actions = plans.no_plan(chunks.shape[1], ACTION), []
    for step in range(steps):
        action, plan = plans.next_action(plan, execute, lambda chunk: chunk, chunks[step])
        actions.append(float(action[0]))
    return actions


def test_the_first_frame_fills_the_buffer_and_later_ones_push_it_out():
    frames = plans.no_frames(3, jnp.zeros(2))
    seen, valid = [], []
    for step in range(4):
        frames = plans.push(frames, jnp.array([step + 1.0, -step]))
        seen.append(frames.observations[:, 0].tolist())
        valid.append(frames.valid.tolist())
    assert seen == [[1, 1, 1], [1, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert valid == [
        [False, False, True],
        [False, True, True],
        [True, True, True],
        [True, True, True],
    ]


def test_frames_are_what_the_sampler_gives_for_a_window_with_history():
    observations = np.arange(5, dtype=np.float32)[:, None] + 7
    episode = {
        "observations": observations,
        "actions": np.zeros((4, 1), np.float32),
        "rewards": np.zeros(4, np.float32),
        "terminations": np.zeros(4, bool),
        "truncations": np.arange(4) == 3,
    }
    dataset = data.from_episodes([episode], name="line")
    spec = BatchSpec(fields=("observations", "mask"), window=3, history=2)
    windows = data.sample(dataset, jax.random.key(0), 32, spec)
    frames, buffers = plans.no_frames(3, jnp.zeros(1)), {}
    for observation in observations[:4]:
        frames = plans.push(frames, jnp.asarray(observation))
        buffers[float(observation[0])] = frames
    last = [float(each) for each in windows.observations[:, -1, 0]]
    assert set(last) == set(buffers)
    for row, each in enumerate(last):
        np.testing.assert_array_equal(windows.observations[row], buffers[each].observations)
        np.testing.assert_array_equal(windows.mask[row], buffers[each].valid)


def test_bytes_stay_bytes_and_other_shapes_are_refused():
    frames = plans.push(plans.no_frames(2, jnp.zeros(3, jnp.uint8)), jnp.full(3, 200, jnp.uint8))
    assert frames.observations.dtype == jnp.uint8
    assert frames.observations.tolist() == [[200] * 3] * 2
    with pytest.raises(AssertionError):
        plans.push(frames, jnp.zeros((1, 3), jnp.uint8))


CHUNKS = jnp.arange(24.0).reshape(6, 4, 1)  # the chunk of step t is 4 t, 4 t + 1, ..


@pytest.mark.parametrize(
    ("execute", "expected"),
    [
        (4, [0, 1, 2, 3, 16, 17]),
        (3, [0, 1, 2, 12, 13, 14]),
        (1, [0, 4, 8, 12, 16, 20]),
    ],
)
def test_a_plan_is_played_and_then_made_anew(execute, expected):
    assert _play(execute, CHUNKS, 6) == expected


def test_mapped_plans_that_end_at_different_times_equal_single_ones():
    def step(plan, chunk):
        return plans.next_action(plan, 3, lambda chunk: chunk, chunk)

    single = [plans.no_plan(4, ACTION)] * 2
    _, single[1] = step(single[1], CHUNKS[5])  # one step ahead of the other
    both = jax.tree.map(lambda *rows: jnp.stack(rows), *single)
    mapped = jax.jit(jax.vmap(step, in_axes=(0, None)))
    for chunk in CHUNKS[:5]:
        actions, both = mapped(both, chunk)
        for row in range(2):
            action, single[row] = step(single[row], chunk)
            np.testing.assert_array_equal(actions[row], action)
            np.testing.assert_array_equal(both.actions[row], single[row].actions)
            assert both.used[row] == single[row].used


def _ensemble(chunks, decay):
    ensemble, actions = plans.no_ensemble(chunks.shape[1], ACTION), []
    for chunk in chunks:
        action, ensemble = plans.ensemble_action(ensemble, chunk, decay)
        actions.append(float(action[0]))
    return actions


def test_three_predictions_have_the_published_weights_oldest_first():
    # The three chunks predict for step 2 at their places 2, 1 and 0: one-hot in turn.
    for place, weight in ((2, 0.3367), (1, 0.3333), (0, 0.3300)):
        chunks = jnp.zeros((3, 3, 1)).at[2 - place, place, 0].set(1.0)
        assert _ensemble(chunks, 0.01)[2] == pytest.approx(weight, abs=5e-5)


@pytest.mark.parametrize("decay", [0.0, 0.5, -0.5])
def test_ensembles_equal_the_weighted_mean_of_stored_predictions(decay):
    chunks = jax.random.normal(jax.random.key(0), (7, 3, 1))
    expected = []
    for step in range(7):
        stored = [chunks[made, step - made, 0] for made in range(max(step - 2, 0), step + 1)]
        weights = np.exp(-decay * np.arange(len(stored)))
        expected.append(np.sum(weights * stored) / np.sum(weights))
    np.testing.assert_allclose(_ensemble(chunks, decay), expected, rtol=1e-5)


def test_an_ensemble_of_constant_chunks_is_the_constant():
    np.testing.assert_allclose(_ensemble(jnp.full((6, 4, 1), 0.7), 0.3), [0.7] * 6, rtol=1e-6)
    np.testing.assert_array_equal(_ensemble(jnp.zeros((6, 4, 1)), 0.3), np.zeros(6))


def test_an_ensemble_of_chunks_of_one_is_plain_acting():
    chunks = jax.random.normal(jax.random.key(0), (5, 1, 1))
    np.testing.assert_array_equal(_ensemble(chunks, 0.01), _play(1, chunks, 5))


def test_a_chunk_of_another_length_is_refused():
    with pytest.raises(AssertionError):
        plans.ensemble_action(plans.no_ensemble(3, ACTION), jnp.zeros((4, 1)), 0.0)
