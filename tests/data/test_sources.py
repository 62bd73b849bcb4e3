"""Batches from several sources: by name, or mixed in fixed shares."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import data
from ddm.errors import InputError
from ddm.types import BatchSpec, num_minibatches

SPEC = BatchSpec(fields=("observations", "rewards"))


def log(reward: float, name: str = "log", **normalization: str) -> data.Dataset:
    """Ten transitions that all have this reward."""
    made = data.from_arrays(
        np.arange(20, dtype=np.float32).reshape(10, 2), np.zeros((10, 1), np.float32),
        np.full(10, reward), np.zeros(10, bool), np.arange(10) == 9, name=name,
    )  # fmt: skip
    return data.normalize(made, **normalization) if normalization else made


def test_a_single_source_draws_as_before():
    """A dataset alone, or the only one of a dict: the same rows."""
    key, source = jax.random.key(3), log(1.0)
    alone, named = (data.sample(x, key, 8, SPEC) for x in (source, {"own": source}))
    np.testing.assert_array_equal(alone.observations, named.observations)


def test_a_dict_of_specs_gives_a_dict_of_batches():
    """Each from the source of its name, with other keys."""
    sources = {"own": log(1.0), "expert": log(2.0)}
    spec = {"expert": SPEC, "own": SPEC}
    batches = jax.jit(lambda s, k: data.sample(s, k, 64, spec))(sources, jax.random.key(0))
    assert set(np.asarray(batches["expert"].rewards)) == {2.0}
    assert set(np.asarray(batches["own"].rewards)) == {1.0}
    assert np.any(batches["expert"].observations != batches["own"].observations)


def test_a_mixture_fills_every_mini_batch_in_its_shares():
    """Three quarters and one, in each of the two mini-batches."""
    mixture = data.mix(log(1.0), log(2.0), shares=(0.75, 0.25))
    spec = BatchSpec(fields=("rewards",), minibatches=2)
    rewards = data.sample(mixture, jax.random.key(0), 8, spec).rewards.reshape(2, 8)
    np.testing.assert_array_equal(np.sum(rewards == 1.0, axis=1), [6, 6])
    np.testing.assert_array_equal(np.sum(rewards == 2.0, axis=1), [2, 2])


def test_a_mixture_of_a_log_and_a_buffer():
    """Half and half is the default; the buffer's rows are in the log's units."""
    logged = log(1.0)
    batch = data.sample(logged, jax.random.key(0), 4, BatchSpec(fields=data.buffer.FIELDS))
    own = data.Buffer.like(logged, 6).insert(batch.replace(rewards=jnp.full(4, 7.0)))
    drawn = data.sample(data.mix(logged, own), jax.random.key(1), 10, SPEC).rewards
    assert sorted(np.asarray(drawn).tolist()) == [1.0] * 5 + [7.0] * 5


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: data.check_sources(log(1.0), {"expert": SPEC}), "a source named 'expert'"),
        (lambda: data.check_sources({"own": log(1.0)}, {"expert": SPEC}), "given: own"),
        (
            lambda: data.check_sources({"a": log(1.0), "b": log(1.0)}, SPEC),
            "learns from one source; given: a, b",
        ),
        (lambda: data.check_sources(np.zeros(3), SPEC), "a source is a ndarray"),
        (
            lambda: data.check_sources(data.Buffer.like(log(1.0), 4), SPEC, 8),
            "capacity is 4, expected at least the 8 rows",
        ),
        (lambda: data.mix(log(1.0), log(2.0), shares=(0.5, 0.6)), "sum to 1"),
        (
            lambda: data.mix(log(1.0), log(1.0, observations="standardize")),
            "differ in observation_mean",
        ),
        (
            lambda: data.sample(
                data.mix(log(1.0), log(2.0), shares=(0.99, 0.01)), jax.random.key(0), 4, SPEC
            ),
            "leaves a source without a row",
        ),
        (
            lambda: num_minibatches({"a": SPEC, "b": BatchSpec((), minibatches=2)}),
            "different numbers of minibatches",
        ),
    ],
)
def test_sources_that_do_not_fit_are_refused(call, words):
    """One sentence each, before anything is drawn."""
    with pytest.raises(InputError, match=words):
        call()
