"""TD3 on problems with known values, and its target against numpy."""

import contract
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

from ddm.off_policy import td3

CONTRACT = contract.Contract(
    other={"target_noise_clip": 0.01, "policy_delay": 3},
)

CONFIG = td3.Config(
    hidden_sizes=(32, 32), discount=0.9, actor_learning_rate=1e-3, critic_learning_rate=3e-3,
    target_rate=0.02, target_noise=0.02,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained():
    data = probes.two_steps(td3.batch_spec(CONFIG), rows=2000, seed=0)
    return probes.train(td3, CONFIG, data, steps=1000)[0]


def test_values_and_policy_of_the_two_step_probe(trained):
    observations = jnp.array([[1.0], [1.0], [-1.0]])
    actions = jnp.array([[0.5], [-0.5], [0.0]])
    values = td3.critic_network(CONFIG, 1).apply(trained.critic.params, observations, actions)
    np.testing.assert_allclose(values.mean(axis=0), [1.0, 0.0, 0.9], atol=0.1)
    assert probes.mode(td3, CONFIG, trained, 1.0) == pytest.approx(probes.BEST_ACTION, abs=0.1)


def test_targets_take_the_smaller_critic_of_the_smoothed_action(trained):
    batch = probes.two_steps(td3.batch_spec(CONFIG), rows=6, seed=1)
    config = CONFIG.replace(target_noise=10.0, target_noise_clip=0.25)
    key = jax.random.key(5)
    targets = td3.critic_targets(config, trained, batch, key)
    actions = td3.actor_network(config, 1).apply(
        trained.actor.target_params, batch.next_observations
    )
    noise = np.clip(10.0 * jax.random.normal(key, actions.shape), -0.25, 0.25)
    values = td3.critic_network(config, 1).apply(
        trained.critic.target_params, batch.next_observations, np.clip(actions + noise, -1.0, 1.0)
    )
    expected = batch.rewards + 0.9 * (1.0 - batch.terminations) * values.min(axis=0)
    np.testing.assert_allclose(targets, expected, rtol=1e-5)


def test_one_update_is_a_period_of_the_delay():
    config = CONFIG.replace(policy_delay=3)
    batch = probes.two_steps(td3.batch_spec(config), rows=12, seed=0)
    state = td3.init(config, jax.random.key(0), batch)
    after, _ = jax.jit(td3.update)(config, state, batch)
    assert after.step == 3
    assert after.critic.optimizer_state[0].count == 3
    assert after.actor.optimizer_state[0].count == 1


def test_targets_move_once_a_period_by_the_target_rate():
    batch = probes.two_steps(td3.batch_spec(CONFIG), rows=4, seed=0)
    state = td3.init(CONFIG, jax.random.key(0), batch)
    after, _ = jax.jit(td3.update)(CONFIG, state, batch)
    for old, new, target in zip(
        jax.tree.leaves(state.critic.target_params),
        jax.tree.leaves(after.critic.params),
        jax.tree.leaves(after.critic.target_params),
        strict=True,
    ):
        np.testing.assert_allclose(target, 0.98 * old + 0.02 * new, atol=1e-6)


def test_exploration_noise_stays_in_the_box(trained):
    config = CONFIG.replace(exploration_noise=5.0)
    actions = jax.vmap(lambda key: td3.act(config, trained, jnp.array([1.0]), key)[0])(
        jax.random.split(jax.random.key(0), 100)
    )
    assert np.abs(actions).max() == 1.0
    assert actions.std() > 0.5
