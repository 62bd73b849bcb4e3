"""TD3+BC between its two ends: cloning and TD3."""

import contract
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

from ddm import networks
from ddm.off_policy import td3
from ddm.policy_constraint import td3_bc

CONTRACT = contract.Contract(
    other={"target_noise_clip": 0.01, "policy_delay": 3},
)

CONFIG = td3_bc.Config(
    hidden_sizes=(32, 32), discount=0.9, actor_learning_rate=1e-3, critic_learning_rate=3e-3,
    target_rate=0.02, target_noise=0.02,
)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    """Logged actions have mean 0 at the end; the best is 0.5."""
    return probes.two_steps(td3_bc.batch_spec(CONFIG), rows=2000, seed=0)


def test_without_values_it_is_behaviour_cloning(data):
    state, metrics = probes.train(td3_bc, CONFIG.replace(alpha=0.0), data, steps=500)
    assert probes.mode(td3_bc, CONFIG, state, 1.0) == pytest.approx(0.0, abs=0.1)
    assert metrics["bc_loss"] == pytest.approx(1.0 / 3.0, abs=0.05)  # variance of U(-1, 1)


def test_the_weight_moves_the_policy_from_the_data_to_the_best_action(data):
    modes = [
        probes.mode(
            td3_bc, CONFIG, probes.train(td3_bc, CONFIG.replace(alpha=a), data, steps=800)[0], 1.0
        )
        for a in (0.0, 2.5, 50.0)
    ]
    assert modes[0] + 0.1 < modes[1] < modes[2] + 0.02
    # alpha = 2.5: d/da [a^2 - lambda Q] = 0 with lambda = 2.5 / mean |Q|; the mean over both
    # observations of Q(s, pi(s)) is about 0.92, so a = 0.5 lambda / (1 + lambda).
    weight = 2.5 / 0.92
    assert modes[1] == pytest.approx(0.5 * weight / (1.0 + weight), abs=0.08)
    assert modes[2] == pytest.approx(probes.BEST_ACTION, abs=0.1)


def test_the_policy_loss_is_equation_five(data):
    batch = jax.tree.map(lambda leaf: leaf[:8], data)
    state = td3_bc.init(CONFIG, jax.random.key(0), batch)
    after, metrics = jax.jit(td3_bc.update)(CONFIG, state, batch)
    rows = td3.last_minibatch(CONFIG, batch)
    actions = td3.actor_network(CONFIG, 1).apply(state.actor.params, rows.observations)
    values = networks.first_member(after.critic, rows.observations, actions)
    cloning = float(np.mean(np.square(actions - rows.actions)))
    expected = float(cloning - 2.5 / np.abs(values).mean() * np.mean(values))
    assert metrics["bc_loss"] == pytest.approx(cloning, rel=1e-4)
    assert metrics["actor_loss"] == pytest.approx(expected, rel=1e-4)


def test_zero_values_leave_a_finite_loss(data):
    batch = jax.tree.map(lambda leaf: leaf[:4], data).replace(rewards=jnp.zeros(4))
    state = td3_bc.init(CONFIG, jax.random.key(0), batch)
    zeros = jax.tree.map(jnp.zeros_like, (state.critic.params, state.critic.target_params))
    state = state.replace(critic=state.critic.replace(params=zeros[0], target_params=zeros[1]))
    _, metrics = td3_bc.update(CONFIG, state, batch)
    assert np.isfinite(metrics["actor_loss"])
