"""Rewards and divergences of occupancies against numbers that are derived elsewhere."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm.envs import tabular
from ddm.ops import divergences, improvement
from ddm.ops import occupancy_matching as matching

LOG_2 = float(np.log(2.0))
AT_TWO = {
    "reverse_kl": LOG_2, "airl": LOG_2, "wasserstein": LOG_2, "forward_kl": 2.0, "chi2": 3.0,
    "js": np.log(3.0), "gail": np.log(3.0), "tv": 0.5, "gail_neg": np.log(2.0 / 3.0),
    "fairl": -2.0 * LOG_2,
}  # fmt: skip


@pytest.mark.parametrize("name", matching.REWARDS)
def test_rewards_where_the_expert_is_twice_as_often(name):
    logits = jnp.array([LOG_2])
    reward = matching.REWARDS[name](logits, 5.0)
    assert float(reward[0]) == pytest.approx(AT_TWO[name], rel=1e-5)


@pytest.mark.parametrize("name", ["forward_kl", "chi2", "fairl"])
def test_rewards_with_an_exponential_are_bounded(name):
    far = matching.REWARDS[name](jnp.array([3.0, 1e3]), 3.0)
    assert float(far[0]) == float(far[1])
    assert jnp.isfinite(matching.REWARDS[name](jnp.array([-1e3]), 3.0)).all()


@pytest.mark.parametrize("name", matching.GENERATORS)
def test_a_reward_is_minus_the_slope_of_its_divergence(name, float64):
    """Any small change of a policy's occupancy of five states, in both directions."""
    random = np.random.default_rng(0)
    expert, own = (jnp.asarray(random.dirichlet(np.full(5, 3.0))) for _ in range(2))
    change = jnp.asarray(random.normal(size=5))
    change, step = change - change.mean(), 1e-6
    ends = [matching.f_divergence(name, expert, own + sign * step * change) for sign in (1, -1)]
    slope = (ends[0] - ends[1]) / (2.0 * step)
    rewards = matching.REWARDS[name](matching.optimal_logits(expert, own), jnp.inf)
    assert float(slope) == pytest.approx(float(-jnp.sum(change * rewards)), rel=1e-6)
    assert float(matching.f_divergence(name, own, own)) == pytest.approx(0.0, abs=1e-12)


def test_the_best_discriminator_of_three_states():
    """D* = (2/3, 2/3, 0): value -0.954771, divergence 0.215762, rewards log 3, log 3, 0."""
    expert, own = jnp.array([0.5, 0.5, 0.0]), jnp.array([0.25, 0.25, 0.5])
    logits = matching.optimal_logits(expert, own)
    np.testing.assert_allclose(jax.nn.sigmoid(logits), [2 / 3, 2 / 3, 0.0], rtol=1e-6)
    sides = matching.logistic_loss(logits, logits)
    losses = [jnp.sum(jnp.where(p > 0.0, p * x, 0.0)) for p, x in zip((expert, own), sides)]  # noqa: B905
    assert float(-sum(losses)) == pytest.approx(-0.954771, abs=1e-6)
    estimate = float(matching.jensen_shannon(sum(losses)))
    assert estimate == pytest.approx(0.215762, abs=1e-6)
    assert estimate == pytest.approx(float(divergences.categorical_js(expert, own)), rel=1e-5)
    np.testing.assert_allclose(
        matching.gail(logits), [np.log(3.0), np.log(3.0), 0.0], rtol=1e-6, atol=1e-7
    )


def test_any_other_discriminator_shows_less_and_an_unsure_one_nothing():
    expert, own = jnp.array([0.5, 0.3, 0.2]), jnp.array([0.2, 0.3, 0.5])
    best = matching.optimal_logits(expert, own)

    def shown(logits):
        sides = matching.logistic_loss(logits, logits)
        return float(matching.jensen_shannon(expert @ sides[0] + own @ sides[1]))

    assert shown(best) > max(shown(2.0 * best), shown(0.5 * best), shown(best + 0.3))
    assert shown(jnp.zeros(3)) == pytest.approx(0.0, abs=1e-6)


def test_a_critics_loss_is_the_distance_of_two_points():
    """The best critic with slopes of 1 is the identity: |3 - 1| = 2."""
    expert, own = matching.critic_loss(jnp.array([3.0]), jnp.array([1.0]))
    assert float(expert[0] + own[0]) == -2.0


def test_entropy_of_a_discriminator_by_hand():
    logits = jnp.array([0.0, np.log(3.0), -np.log(3.0), 50.0])
    known = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    np.testing.assert_allclose(
        matching.bernoulli_entropy(logits), [LOG_2, known, known, 0.0], rtol=1e-5, atol=1e-6
    )


# The whole game without sampling: exact occupancies, exact values, policy iteration by small steps.


def _visits(mdp, policy):
    """Occupancy (S * A + 1,); the last number is that of the absorbing state."""
    visits = tabular.occupancy(mdp, policy).ravel()
    return jnp.append(visits, 1.0 - jnp.sum(visits))


def _play(mdp, expert, name, rounds, step, absorbing=True):
    """Total variation to the expert before each round, the last policy and its rewards."""
    shape = expert.shape
    goal = _visits(mdp, expert)
    ending = mdp.expected_next(mdp.terminal.astype(float))  # chance that an action ends

    @jax.jit
    def play():
        def one_round(policy, _):
            own = _visits(mdp, policy)
            rewards = matching.REWARDS[name](matching.optimal_logits(goal, own), 5.0)
            staying = rewards[-1] * mdp.discount / (1.0 - mdp.discount)
            table = rewards[:-1].reshape(shape) + absorbing * ending * staying
            values = tabular.evaluate_policy(mdp.replace(rewards=table[..., None]), policy)[1]
            better = improvement.kl_penalty(values, policy, 1.0 / step).policy
            return better, (0.5 * jnp.sum(jnp.abs(goal - own)), rewards)

        start = jnp.full(shape, 1.0 / shape[1])
        return jax.lax.scan(one_round, start, length=rounds)

    policy, (distances, rewards) = play()
    return np.asarray(distances), policy, np.asarray(rewards[-1])


@pytest.mark.parametrize("name", ["gail", "gail_neg", "airl"])
def test_the_game_on_the_grid_ends_at_the_experts_occupancy(name, float64):
    mdp = tabular.discount_grid()
    soft = jax.tree_util.Partial(improvement.soft_greedy, temperature=0.5)
    expert = tabular.value_iteration(mdp, soft).policy
    distances, _, rewards = _play(mdp, expert, name, rounds=60, step=0.3)
    assert distances[0] > 0.8
    assert distances[-1] < 1e-3  # 0.01 is already close
    assert np.argmax(distances < 0.01) < 20
    # Nothing is left to tell apart: D is a half in every state that is visited at all.
    visited = np.asarray(_visits(mdp, expert)) > 1e-4
    settled = {"gail": LOG_2, "gail_neg": -LOG_2, "airl": 0.0}[name]
    np.testing.assert_allclose(rewards[visited], settled, atol=0.02)


def _one_choice():
    """A state whose first action ends the episode, and whose second one stays."""
    transitions = np.zeros((2, 2, 2))
    transitions[0, 0, 1] = transitions[0, 1, 0] = transitions[1, :, 1] = 1.0
    return tabular.make_mdp(
        transitions, np.zeros((2, 2, 1)), np.array([1.0, 0.0]), 0.99, np.array([False, True])
    )


@pytest.mark.parametrize(
    ("name", "ending", "staying"),
    [("gail", LOG_2, 100.0 * LOG_2), ("gail_neg", -LOG_2, -100.0 * LOG_2), ("airl", 0.0, 0.0)],
)
def test_a_reward_of_one_sign_decides_how_long_episodes_are(name, ending, staying, float64):
    """With D = 1/2 the worth of an end, and of never ending; the same with absorbing states."""
    mdp, reward = _one_choice(), float(matching.REWARDS[name](jnp.zeros(()), 5.0))
    values = {}
    for after in (0.0, 0.99 / 0.01 * reward):
        table = np.array([[reward + after, reward], [0.0, 0.0]])[..., None]
        world = mdp.replace(rewards=jnp.asarray(table))
        values[after] = [
            float(tabular.evaluate_policy(world, jnp.eye(2)[jnp.array([action] * 2)])[0][0])
            for action in (0, 1)
        ]
    np.testing.assert_allclose(values[0.0], [ending, staying], atol=1e-9)
    if reward:
        np.testing.assert_allclose(values[0.99 / 0.01 * reward], [staying, staying], atol=1e-9)


def test_with_absorbing_states_every_reward_ends_as_the_expert_does(float64):
    mdp = _one_choice()
    expert = jnp.array([[0.9, 0.1], [0.5, 0.5]])
    for name in ("gail", "gail_neg", "airl"):
        _, policy, _ = _play(mdp, expert, name, rounds=200, step=0.1)
        assert float(policy[0, 0]) == pytest.approx(0.9, abs=0.01), name
    found = {
        name: float(_play(mdp, expert, name, rounds=200, step=0.1, absorbing=False)[1][0, 0])
        for name in ("gail", "gail_neg")
    }
    assert found["gail"] < 0.5  # pays for staying
    assert found["gail_neg"] > 0.98  # pays for ending
