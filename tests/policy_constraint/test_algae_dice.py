"""AlgaeDICE: its losses against numpy, occupancies, and a regularised problem with a known end."""

from __future__ import annotations

import contract
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from scipy import optimize

from ddm import ops
from ddm.errors import InputError
from ddm.off_policy import sac
from ddm.policy_constraint import algae_dice

CONTRACT = contract.Contract(
    other={
        "temperature_min": 1.0,
        "temperature_max": 1.0,
        "backup_entropy": 0.5,
        "exponent": 2.0,
        "orthogonal_weight": 1.0,
        "policy_delay": 3,
    },
    context={
        "temperature_min": {"target_entropy": -50.0},
        "temperature_max": {"target_entropy": 50.0},
    },
)

GAMMA = 0.9
# The paper's objective with f*(x) = x^2 / 2: no target in the bootstrap, no entropy term.
PAPER = algae_dice.Config(
    hidden_sizes=(32, 32), discount=GAMMA, exponent=2.0, online_share=1.0, backup_entropy=0.0,
    orthogonal_weight=0.0, actor_learning_rate=1e-3, critic_learning_rate=3e-3, target_rate=0.05,
    policy_delay=1, num_critics=1,
)  # fmt: skip
SMALL = algae_dice.Config(hidden_sizes=(8, 8), discount=GAMMA, policy_delay=1)


@pytest.fixture(scope="module")
def data():
    """Uniform actions; half of the rows at the start, half at the end."""
    return probes.two_steps(algae_dice.batch_spec(PAPER), rows=2000, seed=0)


@pytest.fixture(scope="module")
def start(data):
    example = jax.tree.map(lambda leaf: leaf[:6], data)
    state = jax.jit(algae_dice.init)(SMALL, jax.random.key(3), example)
    return state.replace(
        critic=state.critic.replace(
            target_params=jax.tree.map(lambda x: 1.3 * x, state.critic.params)
        )
    )


# Losses.


def by_hand(config, state, batch, key):
    """Residuals (E, B), initial values (E, B) and log-densities, by the equations."""
    next_key, initial_key = jax.random.split(key)
    network = sac.critic_network(config, 1)
    policy = lambda observations: sac.policy_at(config, state.actor, observations)  # noqa: E731
    actions, log_probs = policy(batch.next_observations).sample_and_log_prob(seed=next_key)
    online = np.asarray(network.apply(state.critic.params, batch.next_observations, actions))
    target = np.asarray(network.apply(state.critic.target_params, batch.next_observations, actions))
    bootstrap = config.online_share * online + (1 - config.online_share) * target.min(axis=0)
    bootstrap = bootstrap - np.exp(float(state.temperature.params)) * np.asarray(log_probs)
    values = network.apply(state.critic.params, batch.observations, batch.actions)
    going_on = 1.0 - np.asarray(batch.terminations, float)
    deltas = np.asarray(batch.rewards) + GAMMA * going_on * bootstrap - np.asarray(values)
    first = policy(batch.initial_observations).sample(seed=initial_key)
    initial = np.asarray(network.apply(state.critic.params, batch.initial_observations, first))
    return deltas, initial, np.asarray(log_probs)


@pytest.mark.parametrize("exponent", [1.5, 2.0])
def test_the_losses_by_hand(data, start, exponent):
    batch, key = jax.tree.map(lambda leaf: leaf[:40], data), jax.random.key(1)
    config = SMALL.replace(exponent=exponent, alpha=0.3, online_share=0.2)
    deltas, initial, log_probs = by_hand(config, start, batch, key)
    assert (deltas > 0).any()
    assert (deltas < 0).any()
    loss, metrics = algae_dice.critic_loss(config, start, start.critic.params, batch, key)
    costs = np.abs(deltas) ** exponent / exponent + 0.3 * (1.0 - GAMMA) * initial
    assert float(loss) == pytest.approx(costs.mean(axis=1).sum(), rel=1e-4)
    weights = np.maximum(deltas, 0.0) ** (exponent - 1.0)
    assert float(metrics["density_ratio"]) == pytest.approx(weights.mean() / 0.3, rel=1e-4)

    loss, metrics = algae_dice.actor_loss(config, start, start.actor.params, batch, key)
    gain = weights * deltas + 0.3 * (1.0 - GAMMA) * initial
    penalty = 1e-4 * float(ops.orthogonality_penalty(start.actor.params))
    assert float(loss) == pytest.approx(penalty - gain.mean(), rel=1e-4)
    assert float(metrics["entropy"]) == pytest.approx(-log_probs.mean(), rel=1e-4)


def test_the_gradient_of_the_critics_passes_through_their_share_of_the_bootstrap(data, start):
    batch, key = jax.tree.map(lambda leaf: leaf[:40], data), jax.random.key(1)

    def gradient(online_share):
        """In a constant that is added to all values, of the bootstrap and of the left side."""
        config = SMALL.replace(exponent=2.0, alpha=0.0, num_critics=2, online_share=online_share)

        def loss(params):
            return algae_dice.critic_loss(config, start, params, batch, key)[0]

        grads = jax.grad(loss)(start.critic.params)
        deltas, _, _ = by_hand(config, start, batch, key)
        going_on = 1.0 - np.asarray(batch.terminations, float)
        expected = (deltas * (online_share * GAMMA * going_on - 1.0)).mean(axis=1)
        return grads["params"]["mlp"]["output"]["bias"][:, 0], expected

    for online_share in (0.0, 0.05, 1.0):
        np.testing.assert_allclose(*gradient(online_share), rtol=1e-4, atol=1e-5)


def test_orthogonal_features_are_free():
    kernels = {"a": jnp.array([[2.0, 0.0], [0.0, 3.0]]), "bias": jnp.ones(5)}
    assert float(ops.orthogonality_penalty(kernels)) == 0.0
    # Columns (1, 0) and (1, 1) have product 1, which stands twice off the diagonal.
    slanted = {"a": jnp.array([[1.0, 1.0], [0.0, 1.0]])}
    assert float(ops.orthogonality_penalty(slanted)) == pytest.approx(2.0)


# The inner problem: residuals are ratios of occupancies.


@pytest.mark.slow
def test_residuals_of_a_fixed_policy_are_its_occupancy_over_the_datas(data):
    # The start has occupancy 1 - gamma, the end gamma times that: after it nothing follows. Where
    # the bootstrap is a target's but for a share, the end's is smaller by that share.
    shares = (1.0, 0.3)
    fixed = PAPER.replace(
        alpha=1.0, hidden_sizes=(16, 16), actor_learning_rate=0.0, critic_learning_rate=1e-3
    )
    configs = [fixed.replace(online_share=share) for share in shares]
    lanes = probes.train_lanes(algae_dice, configs, [data, data], steps=1500, batch_size=256)
    ends = np.asarray(data.terminations)
    for config, (state, _) in zip(configs, lanes, strict=True):
        params = (state.actor.params, state.critic.params)
        keys = jax.random.split(jax.random.key(5), 16)
        deltas = jax.vmap(
            lambda key, config=config, state=state, params=params: algae_dice.residuals(
                config, state, *params, data, key
            )[0][0]
        )(keys).mean(axis=0)
        at_start, at_end = np.mean(deltas * ~ends), np.mean(deltas * ends)
        assert at_start == pytest.approx(1.0 - GAMMA, abs=0.015)
        assert at_end == pytest.approx(config.online_share * GAMMA * (1.0 - GAMMA), abs=0.015)


# The outer problem: E r - alpha chi^2, in closed form for uniform data.

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
GRID = np.linspace(-8.0, 8.0, 4001)


def best_mode(alpha):
    """Of the tanh-Gaussian at the end that maximises E r - 2 alpha gamma (1 - gamma) int pi^2.

    With occupancy gamma (1 - gamma) pi(a) and data of density 1 / 4, alpha / 2 E_D w^2 is
    alpha / 2 * 4 (gamma (1 - gamma))^2 int pi^2, and the return is gamma (1 - gamma) E r.
    """

    def loss(x):
        mean, std = x[0], np.exp(x[1])
        reward = 1.0 - np.square(np.tanh(mean + std * NODES) - probes.BEST_ACTION)
        density = np.exp(-0.5 * ((GRID - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
        squares = np.trapezoid(density**2 / (1.0 - np.tanh(GRID) ** 2), GRID)
        return 2 * alpha * GAMMA * (1 - GAMMA) * squares - reward @ WEIGHTS / WEIGHTS.sum()

    return np.tanh(optimize.minimize(loss, [0.1, -0.5], method="Nelder-Mead").x[0])


@pytest.mark.slow
def test_the_policy_lies_between_the_data_and_the_best_action_as_alpha_says():
    # The last policy of a saddle point swings around it; the mean over four logs is steadier.
    alphas, logs = (0.05, 2.0, 20.0), range(4)
    configs = [PAPER.replace(alpha=alpha) for alpha in alphas for _ in logs]
    spec = algae_dice.batch_spec(PAPER)
    data = [probes.two_steps(spec, rows=2000, seed=seed) for _ in alphas for seed in logs]
    lanes = probes.train_lanes(algae_dice, configs, data, steps=1000)
    modes = [
        probes.mode(algae_dice, config, state, 1.0)
        for config, (state, _) in zip(configs, lanes, strict=True)
    ]
    modes = np.reshape(modes, (len(alphas), len(logs))).mean(axis=1)
    expected = [best_mode(alpha) for alpha in alphas]
    assert expected[0] > expected[1] + 0.05 > expected[2] + 0.3
    np.testing.assert_allclose(modes, expected, atol=0.1)


def test_the_authors_form_finds_the_best_action(data):
    config = SMALL.replace(
        hidden_sizes=(32, 32), actor_learning_rate=3e-3, critic_learning_rate=3e-3,
        target_rate=0.02, initial_temperature=0.05, num_critics=2,
    )  # fmt: skip
    state, _ = probes.train(algae_dice, config, data, steps=1000)
    mode = probes.mode(algae_dice, config, state, 1.0)
    assert mode == pytest.approx(probes.BEST_ACTION, abs=0.1)


# Edges.


def test_discrete_actions_are_refused(data):
    batch = jax.tree.map(lambda leaf: leaf[:4], data).replace(actions=jnp.zeros(4, jnp.int32))
    with pytest.raises(InputError, match=r"algae_dice: batch.actions are integers"):
        algae_dice.init(SMALL, jax.random.key(0), batch)


def test_a_discount_of_one_which_leaves_initial_states_no_weight_is_refused():
    with pytest.raises(InputError, match=r"algae_dice: discount is 1.0, expected .* \[0, 1\)"):
        SMALL.replace(discount=1.0)


def test_a_temperature_at_its_bound_is_reported_where_it_counts():
    metrics = {"temperature": SMALL.temperature_max, "entropy": -30.0}
    [sentence] = algae_dice.diagnose(SMALL.replace(backup_entropy=1.0), metrics)
    assert "temperature stands at its upper bound" in sentence
    assert algae_dice.diagnose(SMALL.replace(backup_entropy=0.0), metrics) == []
