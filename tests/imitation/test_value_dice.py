"""ValueDICE: the divergence of occupancies on a table, its saddle point, and every option."""

from __future__ import annotations

import contract
import jax
import jax.numpy as jnp
import numpy as np
import occupancies
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree

from ddm.envs import tabular
from ddm.errors import InputError
from ddm.imitation import value_dice
from ddm.imitation.parts import interpolation
from ddm.networks import policies
from ddm.ops import matching

DISCRETE = {"num_actions": contract.NUM_ACTIONS}
ONLINE = {"own_rows": True, "absorbing": True, "absorbing_copies": 10.0}
CONTRACT = contract.Contract(
    variants=[DISCRETE, ONLINE, {"initial": "first", "absorbing": True}],
    other={"actor_learning_rate": 1e-2, "initial": "first"},
    context={
        "num_actions": DISCRETE,
        "replay_share": ONLINE,
        "absorbing_copies": {"absorbing": True},
    },
)
KEY = jax.random.key(0)
DISCOUNT = 0.9


def _table_policy(config, num_actions):
    return policies.TabularPolicy(num_actions)


CONFIG = value_dice.Config(
    num_actions=3, discount=DISCOUNT, gradient_penalty_weight=0.0, orthogonal_weight=0.0,
    critic_learning_rate=0.03, actor_learning_rate=0.01,
    critic_network=occupancies.table, actor_network=_table_policy,
)  # fmt: skip


@pytest.fixture(scope="module")
def demonstrated():
    """A world that goes on for ever, and rows of an expert in the long run; (6, 3) their shares."""
    random = np.random.default_rng(3)
    # Each action permutes the states, so that none is rare.
    transitions = np.eye(6)[np.stack([random.permutation(6) for _ in range(3)], axis=1)]
    mdp = tabular.make_mdp(transitions, random.normal(size=(6, 3)), np.full(6, 1 / 6), DISCOUNT)
    _, policy = occupancies.soft_optimal(mdp, sweeps=400)
    policy = 0.8 * policy + 0.2 / 3
    chain = np.einsum("sa,san->sn", policy, transitions)
    states = np.linalg.matrix_power(chain, 1000)[0]
    batch, _ = occupancies.rows_of(mdp, policy, 1000, pairs=states[:, None] * policy)
    shares = np.zeros((6, 3))
    np.add.at(shares, (np.asarray(batch.observations).argmax(axis=1), batch.actions), 1)
    return transitions, batch, shares / shares.sum()


@pytest.fixture(scope="module")
def lowest(demonstrated):
    """(state, logits of a policy) -> (J, log ratios (6, 3)) at the best nu, by L-BFGS."""
    transitions, batch, _ = demonstrated
    state = value_dice.init(CONFIG, KEY, batch)
    start, unravel = ravel_pytree(state.critic.params)

    @jax.jit
    def objective(x, logits):
        actor = jax.tree.map(lambda leaf: logits.astype(leaf.dtype), state.actor.params)

        def of_nu(x):
            return value_dice.objective(CONFIG, state, actor, unravel(x), batch, None, KEY)[0]

        return jax.value_and_grad(of_nu)(x)

    def solve(logits):
        logits = jnp.asarray(logits, jnp.float32)
        found = scipy.optimize.minimize(
            lambda x: [np.asarray(y, float) for y in objective(jnp.float32(x), logits)],
            np.asarray(start, float), jac=True, method="L-BFGS-B",
            options={"maxiter": 400, "ftol": 1e-12, "gtol": 1e-7},
        )  # fmt: skip
        nu = found.x.reshape(6, 3)
        policy = np.asarray(jax.nn.softmax(logits))
        following = transitions @ np.sum(policy * nu, axis=1)
        return found.fun, nu - DISCOUNT * following

    return solve


def _occupancy(transitions, policy, first):
    """Shares (6, 3) of a policy (6, 3) whose episodes begin in states `first` (6,)."""
    chain = np.einsum("sa,san->sn", policy, transitions)
    states = (1 - DISCOUNT) * np.linalg.solve(np.eye(6) - DISCOUNT * chain.T, first)
    return states[:, None] * policy


@pytest.mark.parametrize("seed", [0, 1])
def test_the_best_nu_gives_the_divergence_of_occupancies(demonstrated, lowest, seed):
    transitions, _, shares = demonstrated
    logits = np.random.default_rng(seed).normal(size=(6, 3))
    policy = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    own = _occupancy(transitions, policy, shares.sum(axis=1))
    divergence = np.sum(own * np.log(own / shares))
    value, log_ratios = lowest(logits)
    assert divergence > 0.1
    assert -value == pytest.approx(divergence, rel=2e-3)
    # nu says the log ratio of occupancies, up to a constant.
    gap = log_ratios - np.log(own / shares)
    often = shares > 0.01
    assert np.ptp(gap[often]) < 0.1
    assert np.ptp(log_ratios[often]) > 1.0


def test_at_the_experts_policy_the_ratio_is_one(demonstrated, lowest):
    _, _, shares = demonstrated
    value, log_ratios = lowest(np.log(shares / shares.sum(axis=1, keepdims=True)))
    assert abs(value) < 2e-3
    assert np.ptp(log_ratios[shares > 0.01]) < 0.1


def test_both_players_meet_at_the_experts_policy(demonstrated):
    _, batch, shares = demonstrated

    @jax.jit
    def train(state):
        return jax.lax.scan(
            lambda state, _: value_dice.update(CONFIG, state, batch), state, length=1500
        )

    state, metrics = train(value_dice.init(CONFIG, KEY, batch))
    learned = np.asarray(jax.nn.softmax(jax.tree.leaves(state.actor.params)[0]))
    policy = shares / shares.sum(axis=1, keepdims=True)
    assert np.abs(learned - policy).max() < 0.05
    assert np.abs(policy - 1 / 3).max() > 0.3  # where it began
    assert metrics["nu_spread"][-1] < 0.1 < metrics["nu_spread"][100]
    assert abs(metrics["divergence"][-1]) < 0.01
    assert metrics["effective_share"][-1] > 0.99


def test_own_rows_are_mixed_into_both_occupancies():
    config = contract.small_config(
        value_dice, **DISCRETE, own_rows=True, gradient_penalty_weight=0.0, orthogonal_weight=0.0,
        replay_share=0.25,
    )  # fmt: skip
    batch = contract.make_batch(value_dice, config)
    state = contract.jitted_init(value_dice)(config, KEY, batch)

    def ratios(rows):
        nu = np.asarray(state.critic(rows.observations)[0], float)
        following, first = (
            np.sum(
                np.asarray(jax.nn.softmax(state.actor(x).logits)) * np.asarray(state.critic(x)[0]),
                axis=1,
            )
            for x in (rows.next_observations, rows.observations)
        )
        taken = np.take_along_axis(nu, np.asarray(rows.actions)[:, None], 1)[:, 0]
        return taken - 0.99 * np.where(rows.terminations, 0.0, following), first

    (expert, first), (own, _) = ratios(batch["expert"]), ratios(batch["own"])
    mixed = 0.75 * np.mean(np.exp(expert)) + 0.25 * np.mean(np.exp(own))
    linear = 0.75 * 0.01 * np.mean(first) + 0.25 * np.mean(own)
    _, metrics = contract.jitted_update(value_dice)(config, state, batch)
    assert float(metrics["divergence"]) == pytest.approx(linear - np.log(mixed), abs=1e-5)


def test_each_player_sees_its_own_penalty_only():
    config = contract.small_config(value_dice, exploration_noise=0.0)
    batch = contract.make_batch(value_dice, config)
    state = contract.jitted_init(value_dice)(config, KEY, batch)
    both = jax.jit(jax.grad(value_dice.objective, (2, 3), has_aux=True), static_argnums=5)

    def gradients(**weights):
        inputs = config.replace(**weights), state, state.actor.params, state.critic.params
        return both(*inputs, batch, None, KEY)[0]

    plain = gradients()
    steep = gradients(gradient_penalty_weight=20.0)
    features = gradients(orthogonal_weight=1.0)
    differ = lambda one, two: any(  # noqa: E731
        not np.allclose(a, b, rtol=1e-4, atol=1e-6)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    )
    assert not differ(plain[0], steep[0])
    assert differ(plain[1], steep[1])
    assert differ(plain[0], features[0])
    assert not differ(plain[1], features[1])


def test_the_penalty_on_slopes_of_a_known_function():
    weights = jnp.array([[3.0, 4.0], [0.0, 0.5]])  # slopes of 5 and 1/2
    rows = jax.random.normal(KEY, (4, 2))
    found = interpolation.slope_penalty(lambda x: weights @ x.T, rows, -rows, KEY)
    assert float(found) == pytest.approx((16.0 + 0.25) / 2)
    # |x|^2 has slope 2 |x|: between two equal rows there is but one point.
    same = interpolation.slope_penalty(lambda x: jnp.sum(x**2, axis=1), rows, rows, KEY)
    expected = np.mean((2 * np.linalg.norm(rows, axis=1) - 1) ** 2)
    assert float(same) == pytest.approx(expected, rel=1e-5)


def test_weights_of_a_mean_of_exponentials():
    residuals, weights = jnp.array([0.0, 1.0, 5.0]), jnp.array([0.5, 0.5, 0.0])
    assert float(matching.log_mean_exp(residuals, weights)) == pytest.approx(
        np.log(0.5 + 0.5 * np.e), rel=1e-6
    )
    assert float(matching.effective_share(jnp.zeros(4), jnp.full(4, 0.25))) == pytest.approx(1.0)
    one = matching.effective_share(jnp.array([50.0, 0.0, 0.0, 0.0]), jnp.full(4, 0.25))
    assert float(one) == pytest.approx(0.25, rel=1e-5)


def test_collection_adds_noise_to_the_mean():
    config = contract.small_config(value_dice)
    batch = contract.make_batch(value_dice, config)
    state = contract.jitted_init(value_dice)(config, KEY, batch)
    mean, _ = value_dice.act(config, state, batch.observations[0], KEY, deterministic=True)
    keys = jax.random.split(KEY, 2000)
    draw = jax.vmap(lambda key: value_dice.act(config, state, batch.observations[0], key)[0])
    noise = np.asarray(jax.jit(draw)(keys)) - np.asarray(mean)
    assert noise.std() == pytest.approx(0.1, rel=0.1)
    assert np.abs(noise.mean(axis=0)).max() < 0.01


def test_bad_input_and_trouble_are_named():
    config = contract.small_config(value_dice)
    batch = contract.make_batch(value_dice, config)
    with pytest.raises(InputError, match=r"value_dice: batch.actions are integers"):
        value_dice.init(config, KEY, batch.replace(actions=jnp.zeros(8, jnp.int32)))
    with pytest.raises(InputError, match=r"value_dice: discount is 1.0"):
        value_dice.Config(discount=1.0)
    quiet = {"effective_share": 0.5, "nu_spread": 0.5, "action_error": 0.5}
    assert value_dice.diagnose(config, quiet) == []
    [few] = value_dice.diagnose(config, {**quiet, "effective_share": 0.01})
    assert "value_dice: values run away: 1 % of a batch" in few
    [flat] = value_dice.diagnose(config, {**quiet, "nu_spread": 1e-4})
    assert "value_dice: nu has collapsed" in flat
    assert value_dice.diagnose(config, {**quiet, "nu_spread": 1e-4, "action_error": 0.01}) == []
