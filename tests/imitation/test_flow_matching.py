"""The flow-matching policy against densities and velocities that are known."""

import contract
import forks
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

from ddm.errors import InputError
from ddm.imitation import flow_matching
from ddm.types import Batch

CONTRACT = contract.Contract(
    variants=[{"encoder": "conv", "solver": "midpoint", "residual": True}],
    other={
        "chunk_size": 4,
        "execute_steps": 2,
        "ema_max": 0.1,
        "denoiser": "unet",
        "unet_widths": (8, 16),
        "time_distribution": "beta",
        "solver": "midpoint",
        "sample_steps": 5,
    },
    context={
        "execute_steps": {"chunk_size": 4},
        "unet_widths": {"denoiser": "unet"},
        "causal": {"denoiser": "transformer", "num_layers": 1, "width": 16},
    },
    draws=True,
    slow=True,
)

STEPS = 3000
CONFIG = flow_matching.Config(
    hidden_sizes=(64, 64, 64),
    learning_rate=2e-3,
    decay_steps=STEPS,
    observation_steps=1,
    chunk_size=1,
    execute_steps=1,
)
POSITIONS = jax.random.uniform(jax.random.key(9), (4000, 1, 1), minval=-1.0, maxval=1.0)


@pytest.fixture(scope="module")
def fork():
    data = forks.demonstrations(20_000, window=1)
    return probes.train(flow_matching, CONFIG, data, STEPS, 256)[0]


def _sample(config, state):
    sample = jax.jit(lambda key: flow_matching.sample(config, state, POSITIONS, key))
    return sample(jax.random.key(3))[:, 0]


def test_ten_euler_steps_keep_both_branches_of_the_fork(fork):
    actions = _sample(CONFIG, fork)
    valid, positive = forks.validity(POSITIONS[:, 0], actions), float((actions > 0).mean())
    print("Euler, 10 steps:", valid, positive)
    assert valid >= 0.90  # 0.978 with the exact velocity
    assert 0.45 <= positive <= 0.55


def test_one_euler_step_is_the_mean_of_the_branches(fork):
    actions = _sample(CONFIG.replace(sample_steps=1), fork)
    print("Euler, 1 step:", forks.validity(POSITIONS[:, 0], actions))
    assert forks.validity(POSITIONS[:, 0], actions) < 0.05
    assert jnp.sqrt(jnp.mean(actions**2)) < 0.2  # branches lie at 0.25 to 0.75


def test_five_midpoint_steps_beat_five_euler_steps(fork):
    config = CONFIG.replace(sample_steps=5)
    valid = [
        forks.validity(POSITIONS[:, 0], _sample(config.replace(solver=solver), fork))
        for solver in ("euler", "midpoint")
    ]
    print("5 steps of Euler, midpoint:", valid)
    assert valid[1] > valid[0] + 0.05


@pytest.mark.slow
def test_the_forks_density_integrates_to_one_and_is_near_the_demonstrators(fork):
    log_prob = jax.jit(lambda *args: flow_matching.log_prob(CONFIG, fork, *args))
    data = forks.demonstrations(1000, seed=1, window=1)
    mean = log_prob(data.observations, data.actions).mean()
    print("log-likelihood:", mean, "best:", forks.BEST_LOG_PROB)
    assert forks.BEST_LOG_PROB - 0.15 < mean < forks.BEST_LOG_PROB + 0.03
    grid = jnp.linspace(-1.25, 1.25, 1000)[:, None, None]
    for position in (-0.8, 0.3):
        density = jnp.exp(log_prob(jnp.full_like(grid, position), grid))
        assert jnp.sum(density) * 2.5 / 999 == pytest.approx(1.0, abs=0.01)


def test_density_and_score_of_a_gaussian():
    # A ~ N(0.4 s, 0.2^2).
    positions, noise = jax.random.normal(jax.random.key(0), (2, 10_000, 1, 1))
    positions = jnp.tanh(positions)
    data = Batch(
        observations=positions,
        actions=0.4 * positions + 0.2 * noise,
        mask=jnp.ones((10_000, 1), bool),
    )
    config = CONFIG.replace(
        hidden_sizes=(32, 32), layer_norm=False, learning_rate=3e-3, decay_steps=1000
    )
    state, _ = probes.train(flow_matching, config, data, 1000, 256)
    position = jnp.full((21, 1, 1), 0.5)
    offsets = jnp.linspace(-0.4, 0.4, 21)[:, None, None]
    found = jax.jit(flow_matching.log_prob)(config, state, position, 0.2 + offsets)
    exact = -0.5 * (offsets / 0.2) ** 2 - jnp.log(0.2 * jnp.sqrt(2 * jnp.pi))
    np.testing.assert_allclose(found, exact[:, 0, 0], atol=0.15)
    assert jnp.mean(found - exact[:, 0, 0]) == pytest.approx(0.0, abs=0.06)
    score = jax.jit(flow_matching.score)
    for time in (0.2, 0.5, 0.8):
        std = (time**2 * 0.2**2 + (1 - time) ** 2) ** 0.5
        places = time * 0.2 + std * offsets / 0.2
        found = score(config, state, position, places, time) * std
        np.testing.assert_allclose(found, -offsets / 0.2, atol=0.25)


@pytest.mark.slow
def test_chunks_stay_on_one_branch():
    config = CONFIG.replace(chunk_size=4, decay_steps=1200, solver="midpoint")
    data = forks.demonstrations(20_000, window=1)
    noise = 0.05 * jax.random.normal(jax.random.key(5), (20_000, 4, 1))
    branches = jnp.sign(data.actions) * jnp.abs(forks.FORK.centers(data.observations)[..., :1, 0])
    chunks = Batch(
        observations=jnp.repeat(data.observations, 4, axis=1),
        actions=branches + noise,
        mask=jnp.ones((20_000, 4), bool),
    )
    state, _ = probes.train(flow_matching, config, chunks, 1200, 256)
    sample = jax.jit(lambda key: flow_matching.sample(config, state, POSITIONS, key))
    found = sample(jax.random.key(3))
    positive = (found > 0).sum(axis=(1, 2))
    consistent = float(((positive == 0) | (positive == 4)).mean())
    valid = forks.FORK.is_valid(POSITIONS, found).mean()
    print("consistent", consistent, "valid", valid, "positive", (positive == 4).mean())
    assert consistent > 0.96  # 1/8 for independent steps
    assert valid > 0.70
    assert 0.4 <= (positive == 4).mean() <= 0.6


@pytest.mark.slow
def test_a_chunk_is_executed_in_order_and_then_drawn_anew():
    config = CONFIG.replace(observation_steps=2, chunk_size=4, execute_steps=3, hidden_sizes=(8,))
    batch = Batch(
        observations=jnp.zeros((4, 5, 3)), actions=jnp.zeros((4, 5, 2)), mask=jnp.ones((4, 5), bool)
    )
    state = jax.jit(flow_matching.init)(config, jax.random.key(0), batch)
    observations = jax.random.normal(jax.random.key(1), (4, 3))
    keys = jax.random.split(jax.random.key(2), 4)
    policy_state = flow_matching.initial_policy_state(config, state)
    act = jax.jit(flow_matching.act)
    actions = []
    for observation, key in zip(observations, keys, strict=True):
        action, policy_state = act(config, state, observation, key, policy_state)
        actions.append(action)
    sample = jax.jit(flow_matching.sample)
    first = sample(config, state, jnp.stack([observations[0]] * 2)[None], keys[0])[0]
    second = sample(config, state, observations[None, 2:4], keys[3])[0]
    np.testing.assert_allclose(jnp.stack(actions[:3]), first[:3], atol=1e-6)
    np.testing.assert_allclose(actions[3], second[0], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solver": "rk4"}, "flow_matching: solver=rk4 is unknown; choose one of euler, midpoint"),
        ({"time_distribution": "cosine"}, "time_distribution=cosine is unknown; choose one of uni"),
        ({"sample_steps": 0}, "flow_matching: sample_steps is 0, expected a value in"),
        ({"denoiser": "lstm"}, "flow_matching: denoiser=lstm is unknown"),
        ({"execute_steps": 2}, "flow_matching: execute_steps is 2, expected at most chunk_size=1"),
        ({"observation_steps": 2}, "expected windows of 2 steps"),
    ],
)
def test_wrong_configurations_are_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        flow_matching.init(
            CONFIG.replace(**changes), jax.random.key(0), forks.demonstrations(4, window=1)
        )


def test_discrete_actions_are_refused():
    batch = forks.demonstrations(4, window=1).replace(actions=jnp.zeros((4, 1), jnp.int32))
    with pytest.raises(InputError, match=r"flow_matching: batch\.actions are integers"):
        flow_matching.init(CONFIG, jax.random.key(0), batch)
