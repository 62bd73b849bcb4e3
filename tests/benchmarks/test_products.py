"""The products of traced functions against counts by hand, and every algorithm is found."""

from __future__ import annotations

import collections
import itertools
import pathlib
import sys

import jax
import jax.numpy as jnp
import pytest

import ddm

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
ROWS, SIZES = 32, (5, 8, 7, 3)  # of a perceptron with two hidden layers


@pytest.fixture(scope="module")
def products():
    yield from _imported("products")


@pytest.fixture(scope="module")
def algorithms():
    yield from _imported("algorithms")


def _imported(name):
    """Imported as its script does: with its own folder on the path."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield __import__(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


def _forward(kernels, inputs):
    for kernel in kernels[:-1]:
        inputs = jax.nn.relu(inputs @ kernel)
    return inputs @ kernels[-1]


def _loss(kernels, inputs):
    return jnp.mean(jnp.square(_forward(kernels, inputs)))


def _network():
    kernels = [jnp.ones(pair) for pair in itertools.pairwise(SIZES)]
    return kernels, jnp.ones((ROWS, SIZES[0]))


def _either_side_first(counted):
    """A product and its transpose are the same work."""
    found = collections.Counter()
    for (members, rows, inner, columns), times in counted.items():
        found[members, *sorted((rows, columns)), inner] += times
    return found


def _by_hand(*, gradient, times=1, members=1):
    """A product per layer; the gradient has one more per kernel, and per layer's input but one."""
    found = collections.Counter()
    for layer, (inner, columns) in enumerate(itertools.pairwise(SIZES)):
        found[members, ROWS, inner, columns] += times
        if gradient:
            found[members, inner, ROWS, columns] += times
        if gradient and layer > 0:
            found[members, ROWS, columns, inner] += times
    return _either_side_first(found)


def test_a_perceptron_and_its_gradient(products):
    kernels, inputs = _network()
    forward = products.count(_forward, kernels, inputs)
    assert _either_side_first(forward) == _by_hand(gradient=False)
    assert products.operations(forward) == 2 * ROWS * (5 * 8 + 8 * 7 + 7 * 3)
    both = products.count(jax.value_and_grad(_loss), kernels, inputs)
    assert _either_side_first(both) == _by_hand(gradient=True)


def test_shapes_are_enough_and_functions_are_looked_into(products):
    arguments = jax.eval_shape(_network)
    counted = products.count(jax.jit(jax.checkpoint(_forward)), *arguments)
    assert _either_side_first(counted) == _by_hand(gradient=False)


def test_a_scan_counts_every_turn_and_an_ensemble_its_members(products):
    kernels, inputs = _network()

    def train(kernels):
        def step(kernels, _):
            slopes = jax.vmap(jax.grad(_loss), (0, None))(kernels, inputs)
            return jax.tree.map(jnp.subtract, kernels, slopes), None

        return jax.lax.scan(step, kernels, length=6)[0]

    ensemble = [jnp.stack([kernel, kernel]) for kernel in kernels]
    counted = products.count(train, ensemble)
    expected = _by_hand(gradient=True, times=6, members=2)
    # The first layer of both members is one product, because they share their inputs.
    del expected[2, *sorted((ROWS, 8)), 5], expected[2, *sorted((5, 8)), ROWS]
    expected += collections.Counter(
        {(1, *sorted((ROWS, 2 * 8)), 5): 6, (1, *sorted((5, 2 * 8)), ROWS): 6}
    )
    assert _either_side_first(counted) == expected


def test_of_a_branch_the_expensive_one_and_nothing_that_no_output_needs(products):
    kernels, inputs = _network()

    def choose(flag):
        _forward(kernels, 2.0 * inputs)
        return jax.lax.cond(
            flag, lambda: _forward(kernels, inputs), lambda: inputs[:, :3] @ jnp.eye(3)
        )

    assert _either_side_first(products.count(choose, True)) == _by_hand(gradient=False)


def test_a_convolution_is_the_product_of_its_patches(products):
    images, kernel = jnp.ones((4, 8, 8, 6)), jnp.ones((3, 3, 6, 10))

    def convolve(kernel, images, groups=1):
        return jax.lax.conv_general_dilated(
            images, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )  # fmt: skip

    forward = (1, 4 * 4 * 4, 3 * 3 * 6, 10)
    assert products.count(convolve, kernel, images) == {forward: 1}
    grouped = products.count(lambda k, x: convolve(k, x, 2), kernel[:, :, :3], images)
    assert grouped == {(2, 4 * 4 * 4, 3 * 3 * 3, 5): 1}
    # Its gradients do the same work: for the kernel and, in spite of the strides, for the input.
    loss = lambda kernel, images: convolve(kernel, images).sum()  # noqa: E731
    for argument in (0, 1):
        counted = products.count(jax.grad(loss, argument), kernel, images)
        assert products.operations(counted) == products.operations({forward: 1})


def test_the_floor_times_rare_and_frequent_products(products):
    floor = products.floor_timer({(1, 4, 3, 2): 2, (2, 3, 4, 5): products.UNROLLED + 1}, 1, 1e-6)
    assert 0.0 < floor() < 1.0


@pytest.mark.parametrize(
    ("name", "log", "rows"),
    [("bc", 0, 100_000), ("discrete_bcq", 1, 100_000), ("spibb", 2, 16), ("alvinn", 3, 10_000)],
)
def test_each_gets_the_first_log_that_it_accepts(algorithms, name, log, rows):
    module = ddm.algorithms()[name]
    config, dataset = algorithms.configure(name, module, 16, hidden_sizes=(4,), no_such_field=1)
    assert dataset is algorithms.LOGS[log](16 if rows == 16 else algorithms.TRANSITIONS)
    assert dataset.num_transitions == pytest.approx(rows, rel=0.07)
    if name == "bc":
        counted = algorithms.count_products(module, config, dataset, 16)
        assert config.hidden_sizes == (4,)
        assert counted.total() == 2 + 3  # two layers
    if name == "discrete_bcq":
        assert config.num_actions == algorithms.ACTION_SIZE


def test_of_an_algorithm_with_stages_the_last_is_measured(algorithms):
    import timing

    from ddm.imitation import bc
    from ddm.types import Stage

    class Staged:
        Config, init = bc.Config, staticmethod(bc.init)

        @staticmethod
        def stages(config):
            first = Stage("first", None, bc.batch_spec(config), num_steps=3)
            return first, Stage("last", bc.update, bc.batch_spec(config))

    config = bc.Config(hidden_sizes=(4,))
    last = timing.last_stage(Staged, config)
    assert (last.init, last.update) == (bc.init, bc.update)
    assert last.batch_spec(config) == bc.batch_spec(config)
    assert timing.last_stage(bc, config) is bc
    run, compiling, steps = timing.compile_updates(
        Staged, config, timing.random_dataset(3, 2, 50), 4, 1e-3
    )
    assert run() > 0.0
    assert compiling > 0.0
    assert steps >= 4
