import jax
import jax.numpy as jnp
import numpy as np

from ddm import ops

OPTIONS = {"max_iterations": 30, "tolerance": 1e-5}


def test_a_root_and_rows_under_vmap():
    def square(x, target):
        return x**2 - target

    targets = jnp.array([[4.0, 9.0], [2.0, 16.0]])
    solve = jax.vmap(lambda t: ops.gauss_newton(lambda x: square(x, t), jnp.ones(2), **OPTIONS))
    roots, left = solve(targets)
    np.testing.assert_allclose(roots, np.sqrt(targets), rtol=1e-5)
    assert (left <= 1e-5).all()


def test_more_residuals_than_unknowns_give_least_squares():
    random = np.random.default_rng(0)
    matrix, target = random.normal(size=(5, 2)), random.normal(size=5)
    expected, squares, _, _ = np.linalg.lstsq(matrix, target)
    matrix, target = jnp.asarray(matrix, jnp.float32), jnp.asarray(target, jnp.float32)
    x, left = ops.gauss_newton(lambda x: matrix @ x - target, jnp.zeros(2), **OPTIONS)
    np.testing.assert_allclose(x, expected, rtol=1e-4)
    np.testing.assert_allclose(left, np.sqrt(squares[0]), rtol=1e-4)


def test_a_solution_stays_in_its_box_and_says_how_much_is_left():
    x, left = ops.gauss_newton(lambda x: x - 3.0, jnp.zeros(1), low=-1.0, high=1.0, **OPTIONS)
    np.testing.assert_allclose((x[0], left), (1.0, 2.0))


def test_what_has_no_root_is_not_said_to_have_one():
    _, left = ops.gauss_newton(lambda x: x**2 + 1.0, jnp.ones(1), **OPTIONS)
    assert left > 0.9


def test_no_step_where_the_start_is_a_solution():
    _, left = ops.gauss_newton(lambda x: jnp.sqrt(x - 1.0), jnp.ones(1), **OPTIONS)  # slope inf
    assert left == 0.0
