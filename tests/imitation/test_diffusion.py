"""The diffusion policy against densities, scores and averages that are known."""

import contract
import forks
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

from ddm import ops
from ddm.errors import InputError
from ddm.imitation import diffusion
from ddm.types import Batch

CONTRACT = contract.Contract(
    variants=[
        {
            "denoiser": "transformer",
            "num_layers": 1,
            "width": 8,
            "num_heads": 2,
            "dropout_rate": 0.5,
            "sampler": "ddpm",
            "prediction": "v",
        }
    ],
    other={
        "chunk_size": 4,
        "execute_steps": 2,
        "ema_max": 0.1,
        "denoiser": "unet",
        "unet_widths": (8, 16),
        "eta": 1.0,
        "diffusion_steps": 20,
        "prediction": "v",
        "sampler": "ddpm",
        "sample_steps": 5,
        "spacing": "leading",
    },
    context={
        "execute_steps": {"chunk_size": 4},
        "unet_widths": {"denoiser": "unet"},
        "causal": {"denoiser": "transformer", "num_layers": 1, "width": 16},
    },
    draws=True,
    slow=True,
)

STEPS = 2000
CONFIG = diffusion.Config(
    hidden_sizes=(64, 64, 64),
    learning_rate=2e-3,
    decay_steps=STEPS,
    observation_steps=1,
    chunk_size=1,
    execute_steps=1,
)
POSITIONS = jax.random.uniform(jax.random.key(9), (4000, 1, 1), minval=-1.0, maxval=1.0)
ALPHA_BARS = ops.diffusion.squared_cosine(CONFIG.diffusion_steps).alpha_bars


@pytest.fixture(scope="module")
def fork():
    return probes.train(diffusion, CONFIG, forks.demonstrations(20_000, window=1), STEPS, 256)[0]


def _sample(config, state, **options):
    return jax.jit(lambda key: diffusion.sample(config, state, POSITIONS, key, **options))(
        jax.random.key(3)
    )[:, 0]


def test_ddpm_keeps_both_branches_of_the_fork(fork):
    actions = _sample(CONFIG.replace(sampler="ddpm", sample_steps=50), fork)
    valid, positive = forks.validity(POSITIONS[:, 0], actions), float((actions > 0).mean())
    print("DDPM, 50 steps:", valid, positive)
    assert valid >= 0.90
    assert 0.45 <= positive <= 0.55


def test_ten_steps_of_ddim_lose_little(fork):
    valid = forks.validity(POSITIONS[:, 0], _sample(CONFIG, fork))
    print("DDIM, 10 steps:", valid)
    assert valid >= 0.82  # 0.93 with the exact noise


def test_deterministic_acting_is_ddim_without_noise(fork):
    one = _sample(CONFIG.replace(sampler="ddpm"), fork, deterministic=True)
    np.testing.assert_allclose(one, _sample(CONFIG, fork), atol=1e-5)
    assert not np.allclose(one, _sample(CONFIG.replace(eta=1.0), fork), atol=0.1)


@pytest.mark.parametrize("level", [5, 10, 25, 40])
def test_score_of_the_fork(fork, level):
    signal, variance = ALPHA_BARS[level] ** 0.5, 1.0 - ALPHA_BARS[level]
    state_key, noise_key = jax.random.split(jax.random.key(level))
    positions = POSITIONS[:, 0]
    noise = jax.random.normal(noise_key, positions.shape)
    places = signal * forks.FORK.demonstrate(state_key, positions) + variance**0.5 * noise

    def log_density(place, position):  # of one noisy action
        offsets = place - signal * forks.FORK.centers(position)[:, 0]
        total = signal**2 * forks.FORK.default_params.noise**2 + variance
        return jax.nn.logsumexp(-0.5 * offsets**2 / total)

    exact = jax.vmap(jax.grad(log_density))(places[:, 0], positions)
    found = diffusion.score(CONFIG, fork, POSITIONS, places[:, None], level)[:, 0, 0]
    # In units of the noise, whose own mean square is 1.
    error = jnp.mean((found - exact) ** 2) * variance
    print("level", level, "error", error)
    assert error < 0.03
    assert jnp.mean(exact**2) * variance > 0.05


def _gaussian(rows):
    """A ~ N(0.4 s, 0.2^2)."""
    positions, noise = jax.random.normal(jax.random.key(0), (2, rows, 1, 1))
    positions = jnp.tanh(positions)
    actions = 0.4 * positions + 0.2 * noise
    return Batch(observations=positions, actions=actions, mask=jnp.ones((rows, 1), bool))


@pytest.mark.parametrize("prediction", ["v", pytest.param("sample", marks=pytest.mark.slow)])
def test_score_of_a_gaussian(prediction):
    config = CONFIG.replace(
        prediction=prediction, hidden_sizes=(32, 32), learning_rate=3e-3, decay_steps=1000
    )
    state, _ = probes.train(diffusion, config, _gaussian(10_000), 1000, 256)
    position = jnp.full((21, 1, 1), 0.5)
    score = jax.jit(lambda places, level: diffusion.score(config, state, position, places, level))
    for level in (5, 10, 20, 35):
        signal, variance = ALPHA_BARS[level] ** 0.5, 1.0 - ALPHA_BARS[level]
        total = signal**2 * 0.2**2 + variance
        # Two standard deviations around the mean at s = 0.5.
        offsets = jnp.linspace(-2.0, 2.0, 21)[:, None, None] * total**0.5
        found = score(signal * 0.2 + offsets, level)
        np.testing.assert_allclose(found * total**0.5, -offsets / total**0.5, atol=0.25)
        slope = jnp.sum(found * offsets) / jnp.sum(offsets**2)
        assert slope == pytest.approx(float(-1.0 / total), rel=0.1)


# Chunks.

CHUNKS = CONFIG.replace(chunk_size=4, execute_steps=3, decay_steps=800)


def whole_chunks(rows):
    """One branch for all four steps of a chunk."""
    data = forks.demonstrations(rows, window=1)
    noise = 0.05 * jax.random.normal(jax.random.key(5), (rows, 4, 1))
    branches = jnp.sign(data.actions) * jnp.abs(forks.FORK.centers(data.observations)[..., :1, 0])
    return Batch(
        observations=jnp.repeat(data.observations, 4, axis=1),
        actions=branches + noise,
        mask=jnp.ones((rows, 4), bool),
    )


@pytest.mark.slow
def test_chunks_stay_on_one_branch():
    state, _ = probes.train(diffusion, CHUNKS, whole_chunks(20_000), 800, 256)
    chunks = jax.jit(lambda key: diffusion.sample(CHUNKS, state, POSITIONS, key))(jax.random.key(3))
    positive = (chunks > 0).sum(axis=(1, 2))
    consistent = float(((positive == 0) | (positive == 4)).mean())
    valid = forks.FORK.is_valid(POSITIONS, chunks).mean()
    print("consistent", consistent, "valid", valid, "positive", (positive == 4).mean())
    assert consistent > 0.97  # 1/8 for independent steps
    assert valid > 0.80
    assert 0.4 <= (positive == 4).mean() <= 0.6


def _start(config, batch):
    return jax.jit(diffusion.init)(config, jax.random.key(0), batch)


@pytest.mark.slow
def test_a_chunk_is_executed_in_order_and_then_drawn_anew():
    config = CHUNKS.replace(observation_steps=2, hidden_sizes=(8,))
    batch = Batch(
        observations=jnp.zeros((4, 5, 3)), actions=jnp.zeros((4, 5, 2)), mask=jnp.ones((4, 5), bool)
    )
    state = _start(config, batch)
    observations = jax.random.normal(jax.random.key(1), (4, 3))
    keys = jax.random.split(jax.random.key(2), 4)
    policy_state = diffusion.initial_policy_state(config, state)
    act = jax.jit(diffusion.act)
    actions = []
    for observation, key in zip(observations, keys, strict=True):
        action, policy_state = act(config, state, observation, key, policy_state)
        actions.append(action)
    sample = jax.jit(diffusion.sample)
    first = sample(config, state, jnp.stack([observations[0]] * 2)[None], keys[0])[0]
    second = sample(config, state, observations[None, 2:4], keys[3])[0]
    np.testing.assert_allclose(jnp.stack(actions[:3]), first[:3], atol=1e-6)
    np.testing.assert_allclose(actions[3], second[0], atol=1e-6)


@pytest.mark.slow
def test_places_beyond_the_episodes_end_do_not_count():
    # A causal transformer does not see them from the places before, so that they cannot matter.
    config = CHUNKS.replace(denoiser="transformer", causal=True, num_layers=1, width=8, num_heads=2)
    batch = whole_chunks(8)
    batch = batch.replace(mask=batch.mask.at[:4, 2:].set(False))
    other = batch.replace(actions=batch.actions.at[:4, 2:].set(0.9))
    state = _start(config, batch)
    update = jax.jit(diffusion.update)
    _, metrics = update(config, state, batch)
    _, again = update(config, state, other)
    assert metrics["loss"] == pytest.approx(float(again["loss"]), rel=1e-6)
    _, counted = update(config, state, other.replace(mask=jnp.ones_like(batch.mask)))
    assert counted["loss"] != pytest.approx(float(again["loss"]), rel=1e-3)


@pytest.mark.slow
def test_what_acts_is_the_average_of_the_parameters():
    config = CONFIG.replace(hidden_sizes=(8,), learning_rate=0.1, decay_steps=0)
    batch = forks.demonstrations(16, window=1)
    state = _start(config, batch)
    update = jax.jit(diffusion.update)
    expected = None
    for decay in (0.0, 0.0, 1 - 2**-0.75, 1 - 3**-0.75):
        state, _ = update(config, state, batch)
        new = jax.tree.leaves(state.policy.params)
        old = expected or new
        expected = [decay * one + (1 - decay) * two for one, two in zip(old, new, strict=True)]
    for found, want in zip(jax.tree.leaves(state.average), expected, strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
    sample = jax.jit(diffusion.sample)
    one = sample(config, state, POSITIONS[:4], jax.random.key(0))
    moved = state.replace(policy=state.policy.replace(params=state.average))
    np.testing.assert_array_equal(one, sample(config, moved, POSITIONS[:4], jax.random.key(0)))
    moved = state.replace(average=state.policy.params)
    assert not np.allclose(one, sample(config, moved, POSITIONS[:4], jax.random.key(0)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "ode"}, "diffusion: sampler=ode is unknown; choose one of ddim, ddpm"),
        ({"prediction": "score"}, "prediction=score is unknown; choose one of epsilon, sample, v"),
        ({"spacing": "even"}, "spacing=even is unknown"),
        ({"sample_steps": 51}, "sample_steps is 51, expected at most diffusion_steps=50"),
        ({"denoiser": "lstm"}, "diffusion: denoiser=lstm is unknown"),
        ({"execute_steps": 2}, "diffusion: execute_steps is 2, expected at most chunk_size=1"),
        ({"encoder": "conv"}, "diffusion: encoder=conv is for images"),
        ({"observation_steps": 2}, "expected windows of 2 steps"),
    ],
)
def test_wrong_configurations_are_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        diffusion.init(
            CONFIG.replace(**changes), jax.random.key(0), forks.demonstrations(4, window=1)
        )


def test_discrete_actions_are_refused():
    batch = forks.demonstrations(4, window=1).replace(actions=jnp.zeros((4, 1), jnp.int32))
    with pytest.raises(InputError, match=r"diffusion: batch\.actions are integers"):
        diffusion.init(CONFIG, jax.random.key(0), batch)
