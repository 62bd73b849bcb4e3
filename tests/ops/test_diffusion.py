"""Samplers with the closed-form noise and velocity of known densities; no network is trained."""

import forks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm.errors import InputError
from ddm.ops import denoising, diffusion, flows

POSITIONS = jax.random.uniform(jax.random.key(0), (20_000, 1), minval=-1.0, maxval=1.0)
CENTERS = forks.FORK.centers(POSITIONS)[..., 0]  # (B, 2)
VARIANCE = forks.FORK.default_params.noise**2


def _posterior(x, signal, noise_variance, scale=1.0):
    """For x = signal * A + noise: each branch's weight (B, 2), and offset over variance (B, 2)."""
    offsets = x - signal * scale * CENTERS
    total = (signal * scale) ** 2 * VARIANCE + noise_variance
    return jax.nn.softmax(-0.5 * offsets**2 / total, axis=-1), offsets / total


def _exact_noise(schedule):
    """E[eps | x_k] for the fork's demonstrator."""

    def predict(noisy, step):
        alpha_bar = schedule.alpha_bars[step]
        weights, pulls = _posterior(noisy, jnp.sqrt(alpha_bar), 1.0 - alpha_bar)
        return jnp.sqrt(1.0 - alpha_bar) * jnp.sum(weights * pulls, axis=-1, keepdims=True)

    return predict


def _exact_velocity(noisy, time, scale=2.0):
    """E[A - eps | x_t] for the demonstrator of the fork of double size."""
    weights, pulls = _posterior(noisy, time, (1.0 - time) ** 2, scale)
    each = scale * CENTERS + time * scale**2 * VARIANCE * pulls - (1.0 - time) * pulls
    return jnp.sum(weights * each, axis=-1, keepdims=True)


def _error(share):
    return np.sqrt(2 * share * (1.0 - share) / len(POSITIONS))


def _judged(actions):
    """Share of valid actions, and twice the root mean square distance to the nearest branch.

    Twice, because the reference numbers were measured on the fork of double size.
    """
    distances = jnp.min(jnp.abs(actions - CENTERS), axis=-1)
    return forks.validity(POSITIONS, actions), 2 * float(jnp.sqrt(jnp.mean(distances**2)))


# Reference numbers of an independent implementation with 20,000 samples. The tolerances are four
# standard errors of the difference of two such shares, and the reference's rounding.


@pytest.mark.parametrize(
    ("num_steps", "valid", "distance"), [(20, 0.992, 0.069), (50, 0.999, 0.070), (100, 1.0, 0.079)]
)
def test_ddpm_with_the_exact_noise_samples_the_fork(num_steps, valid, distance):
    schedule = diffusion.squared_cosine(num_steps)
    actions = denoising.sample_ddpm(
        _exact_noise(schedule), schedule, jax.random.key(1), POSITIONS.shape
    )
    found = _judged(actions)
    assert found[0] == pytest.approx(valid, abs=4 * _error(valid) + 5e-4)
    assert found[1] == pytest.approx(distance, abs=0.003)
    assert jnp.mean(actions > 0) == pytest.approx(0.5, abs=0.015)  # 4 standard errors


@pytest.mark.parametrize(
    ("num_sample", "valid", "distance"), [(5, 0.77, 0.28), (10, 0.942, 0.145), (20, 0.987, 0.093)]
)
def test_ddim_with_the_exact_noise_and_leading_levels(num_sample, valid, distance):
    schedule = diffusion.squared_cosine(100)
    actions = denoising.sample_ddim(
        _exact_noise(schedule),
        schedule,
        jax.random.key(1),
        POSITIONS.shape,
        timesteps=denoising.ddim_timesteps(100, num_sample, "leading"),
    )
    found = _judged(actions)
    assert found[0] == pytest.approx(valid, abs=4 * _error(valid) + 5e-3)
    assert found[1] == pytest.approx(distance, rel=0.04)
    assert jnp.mean(actions > 0) == pytest.approx(0.5, abs=0.015)  # 4 standard errors


@pytest.mark.parametrize(
    ("num_steps", "valid", "distance"),
    [(1, 0.0, 1.04), (2, 0.40, 0.53), (5, 0.960, 0.129), (10, 0.993, 0.087), (20, 0.995, 0.091)],
)
def test_euler_with_the_exact_velocity(num_steps, valid, distance):
    noise = jax.random.normal(jax.random.key(1), POSITIONS.shape)
    # The reference numbers of flows are of the fork of double size, whose flow is another one.
    actions = flows.integrate(_exact_velocity, noise, num_steps) / 2
    found = _judged(actions)
    assert found[0] == pytest.approx(valid, abs=4 * _error(valid) + 5e-3)
    assert found[1] == pytest.approx(distance, rel=0.03)
    if num_steps == 1:  # the conditional mean
        np.testing.assert_allclose(actions, 0.0, atol=1e-6)
    else:
        assert jnp.mean(actions > 0) == pytest.approx(0.5, abs=0.015)


def test_midpoint_steps_are_worth_more_than_twice_as_many_euler_steps():
    noise = jax.random.normal(jax.random.key(1), POSITIONS.shape)
    halves = flows.integrate(_exact_velocity, noise, 5, "midpoint") / 2
    assert _judged(halves)[0] > 0.99
    assert _judged(flows.integrate(_exact_velocity, noise, 5) / 2)[0] < 0.97


# Diffusion by hand.


def test_the_squared_cosine_schedule():
    schedule = diffusion.squared_cosine(50)
    signal = np.cos((np.arange(51) / 50 + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(schedule.alpha_bars[:-1], signal[1:-1] / signal[0], rtol=1e-5)
    assert schedule.betas[-1] == pytest.approx(0.999)  # 1 without the cap
    np.testing.assert_allclose(schedule.alphas + schedule.betas, 1.0, rtol=1e-6)
    with pytest.raises(InputError, match="a noise schedule has 0 steps, expected at least 1"):
        diffusion.squared_cosine(0)


def test_noisy_variables_have_the_published_mean_and_variance():
    schedule = diffusion.squared_cosine(10)
    noise = jax.random.normal(jax.random.key(0), (10, 40_000))
    noisy = diffusion.add_noise(schedule, jnp.full_like(noise, 0.5), noise, jnp.arange(10))
    np.testing.assert_allclose(
        noisy.mean(axis=1), 0.5 * np.sqrt(schedule.alpha_bars), atol=4 / np.sqrt(40_000)
    )
    np.testing.assert_allclose(
        noisy.var(axis=1), 1.0 - schedule.alpha_bars, rtol=4 * np.sqrt(2 / 40_000)
    )


@pytest.mark.parametrize("name", diffusion.PREDICTIONS)
def test_each_prediction_tells_data_and_noise_apart(name):
    schedule = diffusion.squared_cosine(8)
    steps = jnp.arange(8)
    clean, noise = jax.random.normal(jax.random.key(0), (2, 8, 3, 2))
    noisy = diffusion.add_noise(schedule, clean, noise, steps)
    kind, alpha_bar = diffusion.PREDICTIONS[name], schedule.alpha_bars[steps]
    target = kind.target(clean, noise, alpha_bar)
    if name == "v":
        k = 3
        expected = np.sqrt(alpha_bar[k]) * noise[k] - np.sqrt(1 - alpha_bar[k]) * clean[k]
        np.testing.assert_allclose(target[k], expected, rtol=1e-5)
    # At the last level a thousandth of the signal is left, and of the digits.
    np.testing.assert_allclose(kind.clean(target, noisy, alpha_bar), clean, atol=2e-4)
    np.testing.assert_allclose(kind.noise(target, noisy, alpha_bar), noise, atol=2e-4)


def test_noise_and_velocity_are_scores():
    # A ~ N(0.3, 0.5^2): x = signal A + spread eps has mean 0.3 signal and variance below.
    x, mean, variance = jnp.linspace(-2.0, 2.0, 9)[:, None], 0.3, 0.25
    schedule = diffusion.squared_cosine(20)
    for alpha_bar in schedule.alpha_bars[jnp.array([0, 5, 12])]:
        total = alpha_bar * variance + 1.0 - alpha_bar
        pull = (x - jnp.sqrt(alpha_bar) * mean) / total
        noise = jnp.sqrt(1.0 - alpha_bar) * pull  # E[eps | x]
        np.testing.assert_allclose(diffusion.score_from_noise(noise, alpha_bar), -pull, rtol=1e-5)
    for time in (0.0, 0.4, 0.9):
        velocity = _gaussian_velocity(x, time, mean, variance)
        pull = (x - time * mean) / (time**2 * variance + (1.0 - time) ** 2)
        score = flows.score_from_velocity(velocity, x, jnp.float32(time))
        np.testing.assert_allclose(score, -pull, rtol=1e-4, atol=1e-5)


def _gaussian_velocity(x, time, mean, variance):
    pull = (x - time * mean) / (time**2 * variance + (1.0 - time) ** 2)
    return mean + time * variance * pull - (1.0 - time) * pull


def test_a_ddpm_step_is_the_posterior_of_two_gaussians():
    schedule = diffusion.squared_cosine(10)
    table = denoising.levels(schedule)
    row = jax.tree.map(lambda leaf: leaf[3], table)  # level 6
    assert row.step == 6
    betas, alpha_bars = np.asarray(schedule.betas, float), np.asarray(schedule.alpha_bars, float)
    # Prior N(sqrt(abar_5) x, 1 - abar_5) of x_5; likelihood N(sqrt(alpha_6) x_5, beta_6) of x_6.
    precision = 1 / (1 - alpha_bars[5]) + (1 - betas[6]) / betas[6]
    x, noisy = 0.7, -0.4
    mean = np.sqrt(alpha_bars[5]) * x / (1 - alpha_bars[5])
    mean = (mean + np.sqrt(1 - betas[6]) * noisy / betas[6]) / precision
    found = denoising.ddpm_step(row, jnp.array([noisy]), jnp.array([x]), jnp.array([2.0]))
    np.testing.assert_allclose(found, mean + 2.0 / np.sqrt(precision), rtol=1e-5)
    last = jax.tree.map(lambda leaf: leaf[-1], table)
    found = denoising.ddpm_step(last, jnp.array([5.0]), jnp.array([0.3]), jnp.array([9.0]))
    np.testing.assert_allclose(found, 0.3, rtol=1e-6)
    found = denoising.ddim_step(last, jnp.array([0.3]), jnp.array([5.0]), jnp.array([9.0]), 1.0)
    np.testing.assert_allclose(found, 0.3, rtol=1e-6)


def test_ddim_with_eta_one_is_ddpm():
    schedule = diffusion.squared_cosine(12)
    shape = (6, 4, 2)

    def predict(noisy, step):
        return jnp.sin(noisy + step)

    options = {"timesteps": denoising.ddim_timesteps(12, 6), "clip": False}
    one = denoising.sample_ddpm(predict, schedule, jax.random.key(0), shape, **options)
    other = denoising.sample_ddim(predict, schedule, jax.random.key(0), shape, eta=1.0, **options)
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
    none = denoising.sample_ddim(predict, schedule, jax.random.key(0), shape, **options)
    assert not np.allclose(one, none, atol=0.1)


def test_a_known_clean_chunk_is_what_every_sampler_returns():
    schedule, clean = diffusion.squared_cosine(10), jnp.linspace(-0.9, 0.9, 12).reshape(2, 3, 2)
    for sampler in (denoising.sample_ddpm, denoising.sample_ddim):
        found = sampler(
            lambda noisy, step: clean,
            schedule,
            jax.random.key(0),
            clean.shape,
            prediction="sample",
        )
        np.testing.assert_allclose(found, clean, rtol=1e-6)


def test_without_clipping_a_small_error_of_the_noise_explodes():
    schedule = diffusion.squared_cosine(100)
    exact = _exact_noise(schedule)

    def predict(noisy, step):
        return exact(noisy, step) + 0.05

    shares = [
        forks.validity(
            POSITIONS,
            denoising.sample_ddim(
                predict,
                schedule,
                jax.random.key(0),
                POSITIONS.shape,
                timesteps=denoising.ddim_timesteps(100, 10),
                clip=clip,
            ),
        )
        for clip in (True, False)
    ]
    assert shares[0] > 0.85
    assert shares[1] < 0.1


def test_levels_that_a_short_sampler_visits():
    assert denoising.ddim_timesteps(100, 5, "leading") == (80, 60, 40, 20, 0)
    assert denoising.ddim_timesteps(100, 5) == (99, 79, 59, 39, 19)
    assert denoising.ddim_timesteps(10, 3) == (9, 6, 2)
    for spacing in denoising.SPACINGS:
        assert denoising.ddim_timesteps(4, 4, spacing) == (3, 2, 1, 0)
    table = denoising.levels(diffusion.squared_cosine(4), (3, 1))
    alpha_bars = diffusion.squared_cosine(4).alpha_bars
    np.testing.assert_array_equal(table.step, [3, 1])
    np.testing.assert_array_equal(table.previous_alpha_bar, [alpha_bars[1], 1.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 11), "a sampler of 11 steps was asked for, expected 1 to 10"),
        ((10, 0), "a sampler of 0 steps"),
        ((10, 5, "random"), "spacing=random is unknown; choose one of trailing, leading"),
    ],
)
def test_impossible_levels_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        denoising.ddim_timesteps(*arguments)


def test_places_outside_the_mask_do_not_count():
    predictions = jnp.array([[[1.0, 1.0], [100.0, 100.0]], [[0.0, 2.0], [3.0, 3.0]]])
    mask = jnp.array([[True, False], [True, True]])
    error = diffusion.masked_squared_error(predictions, jnp.zeros_like(predictions), mask)
    assert error == pytest.approx((1.0 + 2.0 + 9.0) / 3)
    full = diffusion.masked_squared_error(predictions, jnp.zeros_like(predictions))
    assert full == pytest.approx((1.0 + 10_000.0 + 2.0 + 9.0) / 4)


# Flows by hand.


def test_the_straight_path():
    noise, clean = jnp.array([[1.0], [1.0]]), jnp.array([[3.0], [5.0]])
    path = flows.interpolate(noise, clean, jnp.array([0.25, 1.0]))
    np.testing.assert_allclose(path, [[1.5], [5.0]])
    np.testing.assert_allclose(flows.target_velocity(noise, clean), [[2.0], [4.0]])


@pytest.mark.parametrize(
    ("solver", "factor"), [("euler", 1.0 + 0.25), ("midpoint", 1.0 + 0.25 + 0.25**2 / 2)]
)
def test_solvers_of_exponential_growth(solver, factor):
    def rate(state, time):
        return {"x": state["x"], "t": 2.0 * time}

    start = {"x": jnp.ones(2), "t": jnp.zeros(())}
    end = flows.integrate(rate, start, 4, solver)
    np.testing.assert_allclose(end["x"], factor**4, rtol=1e-6)
    # Left ends for Euler, the exact integral of 2 t for the midpoint rule.
    assert end["t"] == pytest.approx(0.75 if solver == "euler" else 1.0)
    back = flows.integrate(rate, {**start, "t": jnp.ones(())}, 4, solver, begin=1.0, end=0.0)
    assert back["t"] == pytest.approx(-0.25 if solver == "euler" else 0.0, abs=1e-6)


def test_divergences_of_a_linear_field():
    matrix = jnp.array([[1.0, 2.0], [-3.0, 0.5]])
    points = jax.random.normal(jax.random.key(0), (5, 1, 2))
    field = lambda x: x @ matrix.T  # noqa: E731
    values, exact = flows.exact_divergence(field, points)
    np.testing.assert_allclose(values, field(points), rtol=1e-6)
    np.testing.assert_allclose(exact, 1.5, rtol=1e-5)
    # z^T M z is 1.5 -+ 1 for equal and opposite signs: their mean is the trace.
    signs = jnp.array([[1.0, 1.0], [1.0, -1.0]])[:, None, None]
    signs = jnp.broadcast_to(signs, (2, 5, 1, 2))
    for probes, expected in ((signs[:1], 0.5), (signs[1:], 2.5), (signs, 1.5)):
        _, estimate = flows.hutchinson_divergence(probes)(field, points)
        np.testing.assert_allclose(estimate, expected, rtol=1e-5)


def test_the_density_of_a_gaussian_flow():
    means, std = jnp.array([0.3, -0.5]), 0.4
    points = means + std * jax.random.normal(jax.random.key(0), (50, 1, 2))

    def velocity(x, time):
        return _gaussian_velocity(x, time, means, std**2)

    expected = -0.5 * ((points - means) / std) ** 2 - jnp.log(std * jnp.sqrt(2 * jnp.pi))
    expected = expected.sum(axis=(1, 2))
    found = flows.log_density(velocity, points, 50)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    # The field's Jacobian is a multiple of the identity: every probe gives its trace.
    probes = jnp.ones((1, *points.shape))
    estimate = flows.hutchinson_divergence(probes)
    again = flows.log_density(velocity, points, 50, divergence=estimate)
    np.testing.assert_allclose(again, found, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "place", "share"),
    [
        ("uniform", 0.3, 0.3),
        ("beta", 0.3, 1 - (1 - 0.3 / 0.999) ** 1.5),  # 0.414 by Beta(1.5, 1)'s u^1.5
        ("logit_normal", 1 / (1 + np.exp(1.0)), 0.1587),  # sigmoid(-1)
    ],
)
def test_distributions_of_the_training_times(name, place, share):
    times = flows.TIMES[name](jax.random.key(0), (40_000,))
    assert times.min() >= 0.0
    assert times.max() <= 1.0
    assert jnp.mean(times < place) == pytest.approx(share, abs=0.01)  # 4 standard errors
