"""ReBRAC between TD3 and cloning, with its penalty in the targets."""

import contract
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

from ddm.errors import InputError
from ddm.off_policy import td3
from ddm.policy_constraint import rebrac

CONTRACT = contract.Contract(
    other={"target_noise_clip": 0.01, "policy_delay": 3},
)

CONFIG = rebrac.Config(
    hidden_sizes=(32, 32), discount=0.9, actor_learning_rate=1e-3, critic_learning_rate=3e-3,
    target_rate=0.02, target_noise=0.02, layer_norm=False,
)  # fmt: skip
BC_WEIGHTS = [(0.0, 0.0), (0.4, 0.0), (1e4, 0.0), (1e4, 1.0)]


@pytest.fixture(scope="module")
def data():
    """Logged actions have mean 0 at the end; the best is 0.5."""
    return probes.two_steps(rebrac.batch_spec(CONFIG), rows=2000, seed=0)


@pytest.fixture(scope="module")
def trained(data):
    """States and metrics for each pair of weights, from one compilation."""
    configs = [
        CONFIG.replace(actor_bc_weight=actor, critic_bc_weight=critic)
        for actor, critic in BC_WEIGHTS
    ]
    return probes.train_lanes(rebrac, configs, [data] * len(configs), steps=800)


def _batch(data, rows=8):
    return jax.tree.map(lambda leaf: leaf[:rows], data)


def test_losses_against_numpy(data):
    config = CONFIG.replace(actor_bc_weight=0.3, critic_bc_weight=0.7, layer_norm=True)
    wide = jnp.tile(data.actions, (1, 2)) * jnp.array([1.0, 0.3])  # sums differ from means
    batch = _batch(data.replace(actions=wide, next_actions=wide[::-1]))
    state = jax.jit(rebrac.init)(config, jax.random.key(0), batch)
    targets, metrics = jax.jit(rebrac.critic_targets)(config, state, batch, jax.random.key(5))
    moves = td3.smoothed_actions(config, state, batch, jax.random.key(5))
    values = td3.critic_network(config, 1).apply(
        state.critic.target_params, batch.next_observations, moves
    )
    penalties = np.square(np.asarray(moves) - np.asarray(batch.next_actions)).sum(axis=1)
    following = np.asarray(values).min(axis=0) - 0.7 * penalties
    expected = np.where(batch.terminations, batch.rewards, batch.rewards + 0.9 * following)
    np.testing.assert_allclose(targets, expected, rtol=1e-4, atol=1e-6)
    assert metrics["next_bc_loss"] == pytest.approx(penalties.mean(), rel=1e-4)

    after, metrics = jax.jit(rebrac.update)(config, state, batch)
    rows = td3.last_minibatch(config, batch)
    actions = td3.actor_network(config, 2).apply(state.actor.params, rows.observations)
    values = td3.critic_network(config, 1).apply(after.critic.params, rows.observations, actions)
    values = np.asarray(values).min(axis=0)
    cloning = np.square(np.asarray(actions - rows.actions)).sum(axis=1).mean()
    expected = 0.3 * cloning - values.mean() / np.abs(values).mean()
    assert metrics["bc_loss"] == pytest.approx(cloning, rel=1e-4)
    assert metrics["actor_loss"] == pytest.approx(expected, rel=1e-3)


def test_without_penalties_and_scale_it_is_td3(data):
    # With one critic, whose minimum TD3's policy climbs as well.
    config = CONFIG.replace(
        actor_bc_weight=0.0, critic_bc_weight=0.0, normalize_q=False, num_critics=1,
        hidden_sizes=(8, 8),
    )  # fmt: skip
    batch = _batch(data, 16)
    ours = theirs = jax.jit(rebrac.init)(config, jax.random.key(0), batch)
    for _ in range(2):
        ours, metrics = jax.jit(rebrac.update)(config, ours, batch)
        theirs, others = jax.jit(td3.update)(config, theirs, batch)
    assert metrics["actor_loss"] == pytest.approx(float(others["actor_loss"]), rel=1e-4)
    for one, other in zip(jax.tree.leaves(ours.actor), jax.tree.leaves(theirs.actor), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_the_policy_moves_from_the_best_action_to_the_data(trained):
    best, between, cloned, _ = [probes.mode(rebrac, CONFIG, state, 1.0) for state, _ in trained]
    assert best == pytest.approx(probes.BEST_ACTION, abs=0.1)
    assert cloned == pytest.approx(0.0, abs=0.1)
    # d/da [beta a^2 - lambda Q] = 0 with lambda = 1 / mean |Q|, of about 0.92 at both
    # observations: a = 0.5 lambda / (beta + lambda).
    scale = 1.0 / 0.92
    assert between == pytest.approx(0.5 * scale / (0.4 + scale), abs=0.08)


def test_the_target_pays_for_the_distance_of_the_next_logged_action(data, trained):
    (_, free), (_, taxed) = trained[2:]
    # pi(end) = 0 and a' ~ U(-1, 1), so that the penalty is 1/3 (and the smoothing's 4e-4), and
    # Q(start) falls by 0.9 / 3 in half of the rows.
    assert free["next_bc_loss"] == pytest.approx(1 / 3, abs=0.05)
    assert taxed["q_value"] - free["q_value"] == pytest.approx(-0.5 * 0.9 / 3, abs=0.05)


def test_values_of_zero_leave_a_finite_loss_and_integers_are_refused(data):
    batch = _batch(data, 4).replace(rewards=jnp.zeros(4))
    state = jax.jit(rebrac.init)(CONFIG, jax.random.key(0), batch)
    zeros = jax.tree.map(jnp.zeros_like, (state.critic.params, state.critic.target_params))
    state = state.replace(critic=state.critic.replace(params=zeros[0], target_params=zeros[1]))
    _, metrics = jax.jit(rebrac.update)(CONFIG.replace(critic_bc_weight=0.0), state, batch)
    assert np.isfinite(metrics["actor_loss"])
    integers = batch.replace(actions=jnp.zeros(4, jnp.int32))
    with pytest.raises(InputError, match=r"rebrac: batch\.actions are integers"):
        rebrac.init(CONFIG, jax.random.key(0), integers)
