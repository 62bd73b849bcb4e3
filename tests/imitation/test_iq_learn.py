"""IQ-Learn: the expert's soft Q on tables, the offline loss in closed form, and every option."""

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
from ddm.imitation import iq_learn
from ddm.imitation.parts import soft_critic
from ddm.types import Batch

ONLINE = {"own_rows": True, "loss": "value", "chi2_on": "all"}
DISCRETE = {"num_actions": contract.NUM_ACTIONS, "num_critics": 1}
CONTRACT = contract.Contract(
    small={"temperature": 0.5},
    variants=[
        DISCRETE,
        {**ONLINE, "use_target": True, "absorbing": True, "gradient_penalty_weight": 10.0},
    ],
    other={
        "divergence": "js",
        "chi2_on": "none",
        "loss": "v0",
        "gradient_penalty_weight": 10.0,
        "chi2_coefficient": 0.1,
    },
    context={
        "num_actions": DISCRETE,
        "target_rate": {"use_target": True},
        "absorbing_copies": {"absorbing": True},
    },
)
KEY = jax.random.key(0)


def _world():
    """Six states, three actions, sure transitions, normal rewards; nothing ends."""
    random = np.random.default_rng(3)
    next_states = random.integers(6, size=(6, 3))
    transitions = np.eye(6)[next_states]
    return tabular.make_mdp(transitions, random.normal(size=(6, 3)), np.full(6, 1 / 6), 0.9)


@pytest.fixture(scope="module")
def recovered():
    """The table of Q at the minimum of the method's own loss on the expert's exact occupancy."""
    mdp = _world()
    action_values, policy = occupancies.soft_optimal(mdp, sweeps=400)
    batch, pairs = occupancies.rows_of(mdp, policy, 4000)
    config = iq_learn.Config(
        num_actions=3, num_critics=1, temperature=1.0, chi2_coefficient=500.0, discount=0.9,
        critic_network=occupancies.table,
    )  # fmt: skip
    state = iq_learn.init(config, KEY, batch)
    start, unravel = ravel_pytree(state.critic.params)

    @jax.jit
    @jax.value_and_grad
    def loss(x):
        return iq_learn.critic_loss(config, state, unravel(x), batch, None, KEY)[0]

    def with_float64(x):
        return [np.asarray(each, np.float64) for each in loss(jnp.asarray(x, jnp.float32))]

    found = scipy.optimize.minimize(
        with_float64, np.asarray(start, np.float64), jac=True, method="L-BFGS-B",
        options={"maxiter": 300, "ftol": 1e-13, "gtol": 1e-8},
    )  # fmt: skip
    return mdp, action_values, policy, pairs, config, state, found.x.reshape(6, 3)


def _policy(table):
    shares = np.exp(table - table.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def test_the_experts_policy_is_recovered_from_its_occupancy(recovered):
    _, _, policy, pairs, *_, table = recovered
    assert pairs.sum(axis=1).min() > 1e-3  # every state is visited
    divergence = np.sum(policy * np.log(policy / _policy(table)), axis=1)
    assert divergence.max() < 1e-3
    assert np.abs(np.log(policy)).max() > 2.0  # far from uniform, where the table starts


def test_q_and_the_reward_are_recovered_up_to_shaping(recovered):
    mdp, action_values, _, _, config, state, table = recovered
    # The soft Q-functions differ by a function of the state alone.
    gap = table - action_values
    assert np.abs(gap - gap.mean(axis=1, keepdims=True)).max() < 0.15
    # So do rewards by h(s) - gamma h(s'): with the best h they are the true ones.
    every = np.argwhere(np.ones((6, 3)))
    next_states = np.asarray(mdp.transitions).argmax(axis=-1)
    one_hot = np.eye(6, dtype=np.float32)
    rows = Batch(
        observations=one_hot[every[:, 0]], actions=jnp.asarray(every[:, 1], jnp.int32),
        next_observations=one_hot[next_states.ravel()], terminations=np.zeros(18, bool),
    )  # fmt: skip
    params = jax.tree.map(lambda leaf: jnp.asarray(table, leaf.dtype), state.critic.params)
    state = state.replace(critic=state.critic.replace(params=params))
    learned = np.asarray(iq_learn.reward(config, state, rows, KEY))
    true = np.asarray(mdp.expected_rewards()).ravel()
    shaping = one_hot[every[:, 0]] - 0.9 * one_hot[next_states.ravel()]
    best = np.linalg.lstsq(shaping, true - learned, rcond=None)[0]
    assert np.corrcoef(learned + shaping @ best, true)[0, 1] > 0.99
    alone = np.linalg.lstsq(shaping, true, rcond=None)[0]
    assert np.corrcoef(shaping @ alone, true)[0, 1] < 0.95  # not the work of the shaping


def _numbers(**fields):
    """A discrete state with its batch, and all Q and soft values of it in numpy."""
    config = contract.small_config(iq_learn, **DISCRETE, **fields)
    batch = contract.make_batch(iq_learn, config)
    rows = batch["expert"] if config.own_rows else batch
    state = contract.jitted_init(iq_learn)(config, KEY, batch)
    own = batch["own"] if config.own_rows else None

    def both(rows):
        values = np.asarray(state.critic(rows.observations)[0], np.float64)
        following = np.asarray(state.critic(rows.next_observations)[0], np.float64)
        soft = [0.5 * np.log(np.exp(2 * x).sum(axis=1)) for x in (values, following)]
        taken = np.take_along_axis(values, np.asarray(rows.actions)[:, None], 1)[:, 0]
        return taken, soft[0], 0.99 * np.where(rows.terminations, 0.0, soft[1])

    loss, _ = iq_learn.critic_loss(config, state, state.critic.params, rows, own, KEY)
    return float(loss), both(rows), None if own is None else both(own)


def test_offline_chi2_is_cloning_with_a_bellman_term():
    loss, (taken, soft, backup), _ = _numbers()
    expected = np.mean(soft - taken) + 0.5 * np.mean((taken - backup) ** 2)
    assert loss == pytest.approx(expected, rel=1e-5)


def test_initial_values_stand_in_for_the_return():
    loss, (taken, soft, backup), _ = _numbers(loss="v0")
    reward = taken - backup
    expected = 0.01 * np.mean(soft) - np.mean(reward) + 0.5 * np.mean(reward**2)
    assert loss == pytest.approx(expected, rel=1e-5)


def test_online_both_sources_count_alike():
    loss, expert, own = _numbers(**ONLINE)
    taken, soft, backup = (np.concatenate(pair) for pair in zip(expert, own, strict=True))
    reward = taken - backup
    expected = np.mean(soft - backup) - np.mean(reward[:8]) + 0.5 * np.mean(reward**2)
    assert loss == pytest.approx(expected, rel=1e-5)


def _gradient(**fields):
    config = contract.small_config(iq_learn, **DISCRETE, **fields)
    batch = contract.make_batch(iq_learn, config)
    state = contract.jitted_init(iq_learn)(config, KEY, batch)

    def loss(params):
        return iq_learn.critic_loss(config, state, params, batch, None, KEY)[0]

    flat, unravel = ravel_pytree(state.critic.params)
    values = jax.jit(lambda x: loss(unravel(x)))
    gradient = ravel_pytree(jax.jit(jax.grad(loss))(state.critic.params))[0]
    direction = jax.random.normal(jax.random.key(1), flat.shape)
    slope = (values(flat + 1e-3 * direction) - values(flat - 1e-3 * direction)) / 2e-3
    return float(gradient @ direction), float(slope)


def test_without_a_target_the_gradient_is_that_of_the_whole_loss():
    # A loss that stopped the gradient at V(s') would have another one than its own slope.
    gradient, slope = _gradient(loss="v0")
    assert gradient == pytest.approx(slope, rel=2e-2)
    cut, slope_with_target = _gradient(loss="v0", use_target=True)
    assert cut == pytest.approx(slope_with_target, rel=2e-2)  # its target does not move
    assert abs(cut - gradient) > 0.1 * abs(gradient)


def test_values_after_the_clip_are_inside_the_bound_of_the_rewards():
    config = contract.small_config(iq_learn, **DISCRETE, clip_values=True, chi2_coefficient=1e-6)
    batch = contract.make_batch(iq_learn, config)
    state = contract.jitted_init(iq_learn)(config, KEY, batch)
    going = batch.replace(terminations=jnp.zeros(8, bool))
    taken = soft_critic.action_values(config, state.critic, state.critic.params, going)[0]
    backups = np.asarray(taken - iq_learn.reward(config, state, going, KEY))
    assert np.abs(backups).max() <= 0.99 * 4e-6 / 0.01 * 1.001
    assert np.abs(backups).min() > 0.0


@pytest.mark.parametrize(("field", "value"), [("loss", "value"), ("chi2_on", "all")])
def test_what_needs_own_rows_is_refused_offline(field, value):
    config = contract.small_config(iq_learn, **{field: value})
    batch = contract.make_batch(iq_learn, config)
    with pytest.raises(InputError, match=f"iq_learn: {field}={value} needs the policy's own rows"):
        iq_learn.init(config, KEY, batch)
    online = contract.small_config(iq_learn, **{field: value, "own_rows": True})
    assert iq_learn.collect_spec(online) is not None
    assert iq_learn.collect_spec(config) is None


def test_discrete_logs_without_a_number_of_actions_are_refused():
    config = contract.small_config(iq_learn)
    batch = contract.make_batch(iq_learn, config).replace(actions=jnp.zeros(8, jnp.int32))
    with pytest.raises(InputError, match=r"iq_learn: batch.actions are integers .*num_actions"):
        iq_learn.init(config, KEY, batch)


def test_values_that_run_away_are_reported():
    config = iq_learn.Config()  # rewards up to 2, discount 0.99: 200
    assert iq_learn.diagnose(config, {"q_value": 199.0}) == []
    for sign in (1.0, -1.0):
        [sentence] = iq_learn.diagnose(config, {"q_value": sign * 201.0})
        assert "iq_learn: values run away: q_value=" in sentence
    assert iq_learn.diagnose(config, {"q_value": 201.0, "entropy": -5.0}) == []
