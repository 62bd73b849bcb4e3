"""SAC on problems with known values; its temperature against closed forms."""

import contract
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

from ddm.off_policy import sac

CONTRACT = contract.Contract(
    other={"temperature_min": 1.0, "temperature_max": 1.0, "backup_entropy": 0.5},
    context={
        "temperature_min": {"target_entropy": -50.0},
        "temperature_max": {"target_entropy": 50.0},
    },
)

CONFIG = sac.Config(
    hidden_sizes=(32, 32), discount=0.9, actor_learning_rate=1e-3, critic_learning_rate=3e-3,
    target_rate=0.02, initial_temperature=0.01, temperature_learning_rate=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return probes.two_steps(sac.batch_spec(CONFIG), rows=2000, seed=0)


def test_values_and_policy_of_the_two_step_probe(data):
    config = CONFIG.replace(backup_entropy=0.0)
    state, _ = probes.train(sac, config, data, steps=1500)
    values = sac.critic_network(config, 1).apply(
        state.critic.params, jnp.array([[1.0], [1.0], [-1.0]]), jnp.array([[0.5], [-0.5], [0.0]])
    )
    np.testing.assert_allclose(values.mean(axis=0), [1.0, 0.0, 0.9], atol=0.1)
    assert probes.mode(sac, config, state, 1.0) == pytest.approx(probes.BEST_ACTION, abs=0.1)


def test_learned_temperature_steers_the_entropy_to_its_target(data):
    config = CONFIG.replace(temperature_learning_rate=1e-2, target_entropy=-0.5)
    _, metrics = probes.train(sac, config, data, steps=1500)
    assert metrics["entropy"] == pytest.approx(-0.5, abs=0.2)
    assert metrics["temperature"] > 0.0


def test_the_policy_is_the_boltzmann_distribution_of_its_values(data):
    # At the end Q = 1 - (a - 0.5)^2; exp(Q / 0.1) is a normal of variance 0.05, cut at the box.
    config = CONFIG.replace(initial_temperature=0.1)
    state, _ = probes.train(sac, config, data, steps=1500)
    policy = sac.policy_at(config, state.actor, jnp.array([1.0]))
    samples = policy.sample(seed=jax.random.key(0), sample_shape=(4000,))
    grid = np.linspace(-1.0, 1.0, 2001)
    density = np.exp(-((grid - 0.5) ** 2) / 0.1)
    density /= density.sum()
    mean = (density * grid).sum()
    std = np.sqrt((density * (grid - mean) ** 2).sum())
    assert samples.mean() == pytest.approx(mean, abs=0.06)
    assert samples.std() == pytest.approx(std, abs=0.06)


def test_entropy_is_backed_up_with_its_weight(data):
    batch = jax.tree.map(lambda leaf: leaf[:8], data)
    state = sac.init(CONFIG, jax.random.key(0), batch)
    key = jax.random.key(1)
    plain = sac.critic_targets(CONFIG.replace(backup_entropy=0.0), state, batch, key)
    soft = sac.critic_targets(CONFIG, state, batch, key)
    policy = sac.policy_at(CONFIG, state.actor, batch.next_observations)
    _, log_probs = policy.sample_and_log_prob(seed=key)
    expected = -0.9 * 0.01 * (1.0 - batch.terminations) * log_probs
    np.testing.assert_allclose(soft - plain, expected, atol=1e-6)


@pytest.mark.parametrize(("entropy", "rises"), [(-2.0, True), (0.0, False)])
def test_temperature_rises_below_the_target_and_falls_above(data, entropy, rises):
    config = CONFIG.replace(temperature_learning_rate=1e-2)  # the target is -1
    state = sac.init(config, jax.random.key(0), data)
    moved = sac.temperature_step(config, state, jnp.array(entropy), data)
    assert (moved.params > state.temperature.params) == rises


def test_a_temperature_that_runs_away_is_bounded_and_reported(data):
    config = CONFIG.replace(
        temperature_learning_rate=0.5, target_entropy=100.0, temperature_max=3.0
    )
    _, metrics = probes.train(sac, config, data, steps=130)
    assert metrics["temperature"] == pytest.approx(3.0)
    [sentence] = sac.diagnose(config, metrics)
    assert "upper bound of 3" in sentence
    assert sac.diagnose(config, {"temperature": 1.0, "entropy": 0.0}) == []
