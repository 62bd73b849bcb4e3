"""CQL: values below the truth off the data, and SAC where the penalty is switched off."""

import contract
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

from ddm.lower_bound import cql
from ddm.off_policy import sac

CONTRACT = contract.Contract(
    variants=[{"lagrange": True}, {"max_target_backup": True}],
    other={
        "temperature_min": 1.0,
        "temperature_max": 1.0,
        "backup_entropy": 0.5,
        "alpha_min": 5.0,
        "alpha_max": 0.5,
        "bc_steps": 10,
    },
    context={
        "temperature_min": {"target_entropy": -50.0},
        "temperature_max": {"target_entropy": 50.0},
        "alpha_min": {"lagrange": True, "target_gap": 100.0},
        "alpha_max": {"lagrange": True},
        "target_gap": {"lagrange": True},
        "alpha_learning_rate": {"lagrange": True},
    },
)

CONFIG = cql.Config(
    hidden_sizes=(32, 32), discount=0.9, actor_learning_rate=1e-3, critic_learning_rate=3e-3,
    target_rate=0.02, initial_temperature=0.01, temperature_learning_rate=0.0, num_samples=4,
    alpha=0.1,
)  # fmt: skip


@pytest.fixture(scope="module")
def left_half():
    """The probe with logged actions in [-1, 0] only: 0.5 is never tried."""
    data = probes.two_steps(cql.batch_spec(CONFIG), rows=2000, seed=0)
    actions = -jnp.abs(data.actions)
    at_end = data.observations[:, 0] > 0
    rewards = jnp.where(at_end, 1.0 - (actions[:, 0] - probes.BEST_ACTION) ** 2, 0.0)
    return data.replace(actions=actions, rewards=rewards)


@pytest.fixture(scope="module")
def trained(left_half):
    return {alpha: _train(alpha, left_half) for alpha in (0.0, 1.0)}


def _train(alpha, data):
    return probes.train(cql, CONFIG.replace(alpha=alpha), data, steps=1200)


def _values(state, actions):
    observations = jnp.ones((len(actions), 1))
    return (
        sac.critic_network(CONFIG, 1)
        .apply(state.critic.params, observations, jnp.array(actions)[:, None])
        .mean(axis=0)
    )


def test_equation_1_bounds_the_value_of_each_pair_and_equation_2_that_of_the_policy(left_half):
    """At the end, where Q is a reward: theorems 3.1 and 3.2, with the policy of the same step."""
    actions = np.linspace(-0.95, -0.05, 19)  # those of the log
    truth = 1.0 - (actions - probes.BEST_ACTION) ** 2
    believed, of_policy, true_of_policy = {}, {}, {}
    for penalty in ("expected", "pointwise"):
        config = CONFIG.replace(penalty=penalty, alpha=0.3)
        state, _ = probes.train(cql, config, left_half, steps=1200)
        believed[penalty] = _values(state, actions)
        policy = sac.policy_at(config, state.actor, jnp.ones((400, 1)))
        own = policy.sample(seed=jax.random.key(0))[:, 0]
        of_policy[penalty] = _values(state, own).mean()
        true_of_policy[penalty] = (1.0 - (own - probes.BEST_ACTION) ** 2).mean()
    below = {penalty: np.asarray(truth - values) for penalty, values in believed.items()}
    # Exact for tables; a network of 32 units bends where it has to.
    assert below["pointwise"].min() > -0.1
    assert below["pointwise"].mean() > 0.1
    assert below["pointwise"].mean() > below["expected"].mean() + 0.1
    for penalty in ("expected", "pointwise"):
        assert of_policy[penalty] < true_of_policy[penalty]


def test_a_penalty_of_ones_own(left_half):
    """The mean over uniform actions: eq. 1 with another mu."""
    batch = jax.tree.map(lambda leaf: leaf[:16], left_half)
    config = CONFIG.replace(penalty=_uniform_mean)
    state = cql.init(config, jax.random.key(0), batch)
    _, metrics = jax.jit(cql.update)(config, state, batch)
    _, _, _, sample_key = jax.random.split(state.key, 4)
    actions, _ = cql.penalised_actions(config, state, batch, sample_key)
    expected = state.critic(batch.observations, actions[:, :4]).mean()
    assert metrics["gap"] == pytest.approx(expected, abs=1e-5)


def _uniform_mean(config, sampled, log_densities, logged):
    return sampled[..., : config.num_samples].mean(axis=-1)


def test_untried_actions_are_valued_below_the_truth(trained):
    unpenalised, penalised = trained[0.0][0], trained[1.0][0]
    untried = [0.3, 0.5, 0.8]
    truth = 1.0 - (np.array(untried) - 0.5) ** 2
    assert (_values(penalised, untried) < truth).all()
    assert (_values(penalised, untried) < _values(unpenalised, untried)).all()


def test_the_penalised_policy_stays_in_the_data(trained):
    assert probes.mode(cql, CONFIG, trained[0.0][0], 1.0) > 0.1
    assert probes.mode(cql, CONFIG, trained[1.0][0], 1.0) < 0.1


def test_the_gap_falls_with_the_weight(trained):
    assert trained[1.0][1]["gap"] < trained[0.0][1]["gap"]


def test_without_penalty_the_critic_gradient_is_that_of_sac(left_half):
    batch = jax.tree.map(lambda leaf: leaf[:16], left_half)
    config = CONFIG.replace(alpha=0.0)
    state = cql.init(config, jax.random.key(0), batch)
    _, metrics = jax.jit(cql.update)(config, state, batch)
    _, target_key, _, _ = jax.random.split(state.key, 4)
    targets = sac.critic_targets(config, state, batch, target_key)
    values = sac.critic_network(config, 1).apply(
        state.critic.params, batch.observations, batch.actions
    )
    expected = np.square(values - targets).mean(axis=1).sum()
    assert metrics["critic_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("target_gap", "rises"), [(-100.0, True), (100.0, False)])
def test_the_dual_variable_rises_while_the_gap_is_above_its_target(left_half, target_gap, rises):
    config = CONFIG.replace(lagrange=True, target_gap=target_gap)
    batch = jax.tree.map(lambda leaf: leaf[:16], left_half)
    state = cql.init(config, jax.random.key(0), batch)
    assert jnp.exp(state.alpha.params) == pytest.approx(0.1, rel=1e-5)
    after, _ = jax.jit(cql.update)(config, state, batch)
    assert (after.alpha.params > state.alpha.params) == rises


def test_the_default_gap_is_the_authors_and_below_that_of_fresh_networks(left_half):
    config = cql.Config(lagrange=True, hidden_sizes=(8,))
    # Theirs: alpha' (5 P - 5), P a log-sum over 30 samples; here alpha (P - log 30 - target).
    assert config.target_gap == pytest.approx(5.0 / 5.0 - np.log(30.0))
    batch = jax.tree.map(lambda leaf: leaf[:64], left_half)
    state = cql.init(config, jax.random.key(0), batch)
    assert jnp.exp(state.alpha.params) == pytest.approx(5.0)
    after, metrics = jax.jit(cql.update)(config, state, batch)
    assert metrics["gap"] > 0.3  # log 2 for constant values and one action dimension
    assert after.alpha.params > state.alpha.params


def test_max_target_backup_is_not_below_the_plain_one_on_average(left_half):
    batch = jax.tree.map(lambda leaf: leaf[:256], left_half)
    state = cql.init(CONFIG, jax.random.key(0), batch)
    key = jax.random.key(1)
    plain = cql.critic_targets(CONFIG, state, batch, key)
    best = cql.critic_targets(
        CONFIG.replace(max_target_backup=True, num_samples=16), state, batch, key
    )
    moving = ~np.asarray(batch.terminations)
    assert best[moving].mean() > plain[moving].mean()


def test_the_first_steps_clone(left_half):
    config = CONFIG.replace(bc_steps=10**6)
    state, _ = probes.train(cql, config, left_half, steps=600)
    assert probes.mode(cql, config, state, 1.0) == pytest.approx(-0.5, abs=0.2)


def test_sampled_actions_carry_their_own_densities(left_half):
    batch = jax.tree.map(lambda leaf: leaf[:8], left_half)
    state = cql.init(CONFIG, jax.random.key(0), batch)
    actions, log_densities = cql.penalised_actions(CONFIG, state, batch, jax.random.key(1))
    assert actions.shape == (8, 12, 1)
    np.testing.assert_allclose(log_densities[:, :4], -np.log(2.0), rtol=1e-6)
    policy = sac.policy_at(CONFIG, state.actor, batch.observations)
    current = jnp.moveaxis(actions[:, 4:8], 1, 0)
    np.testing.assert_allclose(policy.log_prob(current).T, log_densities[:, 4:8], atol=1e-3)
