import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm.ops import convergence


@jax.jit
def track(losses: jax.Array) -> convergence.Convergence:
    tracker, _ = jax.lax.scan(
        lambda tracker, loss: (convergence.observe(tracker, loss), None),
        convergence.start(),
        losses,
    )
    return tracker


def weighted_mean(losses: np.ndarray, rate: float) -> float:
    weights = (1.0 - rate) ** np.arange(len(losses))[::-1]
    return float(np.sum(weights * losses) / np.sum(weights))


def test_averages_are_weighted_means_from_the_first_loss_on() -> None:
    losses = np.random.default_rng(0).normal(3.0, 1.0, 300)
    tracker = track(jnp.asarray(losses))
    assert int(tracker.count) == 300
    assert float(tracker.fast) == pytest.approx(weighted_mean(losses, 0.01), abs=1e-4)
    assert float(tracker.slow) == pytest.approx(weighted_mean(losses, 0.001), abs=1e-4)


def test_first_loss_is_the_average_and_no_progress() -> None:
    tracker = track(jnp.array([7.0]))
    assert float(tracker.fast) == pytest.approx(7.0, rel=1e-5)
    assert float(convergence.progress(tracker)) == pytest.approx(0.0, abs=1e-4)
    assert float(convergence.progress(convergence.start())) == 0.0


def test_progress_of_a_line_is_its_fall_over_900_updates() -> None:
    slope = 0.002
    tracker = track(100.0 - slope * jnp.arange(12_000.0))
    assert float(convergence.progress(tracker)) == pytest.approx(900.0 * slope, rel=0.01)


def test_progress_of_a_rising_loss_is_negative_and_of_a_constant_one_zero() -> None:
    assert float(convergence.progress(track(jnp.arange(500.0)))) < -1.0
    constant = track(jnp.full(500, 5.0))
    assert float(convergence.progress(constant)) == pytest.approx(0.0, abs=1e-3)


def test_progress_vanishes_once_the_loss_has_settled() -> None:
    steps = jnp.arange(8000.0)
    settled = track(jnp.exp(-steps / 500.0))
    falling = track(jnp.exp(-steps[:500] / 500.0))
    assert float(convergence.progress(falling)) > 0.1
    assert 0.0 <= float(convergence.progress(settled)) < 1e-3


def test_no_gradient_passes() -> None:
    def fast(loss: jax.Array) -> jax.Array:
        return convergence.observe(convergence.start(), loss).fast

    assert float(jax.grad(fast)(jnp.array(2.0))) == 0.0
