"""A branch that is skipped under vmap where no row needs it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm.ops import cond_if_any


def _double(x, y):
    return {"value": 2.0 * x + y}


def _keep(x, y):
    return {"value": x - y}


PREDICATES = [[False, False], [True, False], [True, True]]


@pytest.mark.parametrize("predicate", [True, False])
def test_without_vmap_it_is_cond(predicate):
    operands = (jnp.arange(3.0), jnp.ones(3))
    got = cond_if_any(jnp.array(predicate), _double, _keep, *operands)
    expected = jax.lax.cond(predicate, _double, _keep, *operands)
    np.testing.assert_array_equal(got["value"], expected["value"])


@pytest.mark.parametrize("predicates", PREDICATES)
@pytest.mark.parametrize("axes", [(0, 0, 0), (0, 0, None), (0, None, None), (None, 0, 0)])
def test_mapped_it_is_mapped_cond(predicates, axes):
    xs, ys = jnp.arange(6.0).reshape(2, 3), jnp.arange(6.0).reshape(2, 3) / 7
    arguments = [
        each if axis == 0 else each[1]
        for each, axis in zip((jnp.array(predicates), xs, ys), axes, strict=True)
    ]
    got, expected = (
        jax.vmap(lambda p, x, y, choose=choose: choose(p, _double, _keep, x, y), in_axes=axes)(
            *arguments
        )["value"]
        for choose in (cond_if_any, jax.lax.cond)
    )
    np.testing.assert_array_equal(got, expected)


class _Counter:
    """Counts how often the expensive branch runs, whatever is mapped over it."""

    def __init__(self):
        self.calls = 0

    def branch(self, x):
        # Without operands the callback is not mapped: one call a run of the branch.
        jax.debug.callback(self._count)
        return x + 1.0

    def _count(self):
        self.calls += 1


@pytest.mark.parametrize(
    ("predicates", "calls"),
    [
        (np.zeros((2, 3), bool), 0),
        (np.array([[False, False, False], [False, True, False]]), 1),
        (np.ones((2, 3), bool), 1),
    ],
)
def test_under_nested_vmap_the_branch_runs_once_or_not_at_all(predicates, calls):
    counter = _Counter()
    function = jax.vmap(jax.vmap(lambda p, x: cond_if_any(p, counter.branch, lambda x: x, x)))
    xs = jnp.arange(6.0).reshape(2, 3)
    got = jax.jit(function)(jnp.asarray(predicates), xs)
    jax.effects_barrier()
    np.testing.assert_array_equal(got, xs + predicates)
    assert counter.calls == calls


@pytest.mark.parametrize("predicates", PREDICATES)
def test_keys_are_operands_and_results(predicates):
    keys = jax.random.split(jax.random.key(0), 2)

    def draw(key, x):
        new_key, use = jax.random.split(key)
        return new_key, jax.random.normal(use, x.shape)

    def step(predicate, key, x):
        return cond_if_any(predicate, draw, lambda key, x: (key, x), key, x)

    got_keys, got = jax.jit(jax.vmap(step))(jnp.array(predicates), keys, jnp.zeros((2, 3)))
    for row, predicate in enumerate(predicates):
        key, value = draw(keys[row], jnp.zeros(3)) if predicate else (keys[row], jnp.zeros(3))
        np.testing.assert_array_equal(jax.random.key_data(got_keys[row]), jax.random.key_data(key))
        np.testing.assert_allclose(got[row], value, rtol=1e-6)


def test_inside_a_scan_it_skips_too():
    counter = _Counter()

    def episode(start):
        def step(x, time):
            return cond_if_any(time % 4 == 0, counter.branch, lambda x: x, x), None

        return jax.lax.scan(step, start, jnp.arange(8))[0]

    got = jax.jit(jax.vmap(episode))(jnp.zeros(5))
    jax.effects_barrier()
    np.testing.assert_array_equal(got, np.full(5, 2.0))
    assert counter.calls == 2
