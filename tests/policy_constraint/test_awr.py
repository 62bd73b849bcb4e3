"""AWR: returns of windows by hand, its losses by numpy, and regressions with known answers."""

import contract
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

from ddm import networks
from ddm.errors import InputError
from ddm.policy_constraint import awr
from ddm.policy_constraint.parts import regression
from ddm.types import Batch

CONTRACT = contract.Contract(
    small={"window": 3},
    variants=[{"num_actions": contract.NUM_ACTIONS}],
    other={"window": 4},
)

CONFIG = awr.Config(
    hidden_sizes=(32, 32), discount=0.9, actor_learning_rate=3e-3, value_learning_rate=3e-3,
    window=3,
)  # fmt: skip
# Of 1 - (a - 0.5)^2 under uniform actions.
MEAN_RETURN = 5 / 12

_init, _update = jax.jit(awr.init), jax.jit(awr.update)


@pytest.fixture(scope="module")
def data():
    return probes.two_step_windows(awr.batch_spec(CONFIG), rows=2000, seed=0)


@pytest.fixture(scope="module")
def trained(data):
    """Cloning, and regression on Monte-Carlo and on one-step returns."""
    configs = [
        CONFIG.replace(inverse_temperature=rate, trace_decay=decay)
        for rate, decay in ((0.0, 0.95), (1.0, 1.0), (1.0, 0.0))
    ]
    return probes.train_lanes(awr, configs, [data] * 3, steps=1000)


def _window(mask, terminations, rewards=(1.0, 2.0, 3.0)):
    """One window over observations 0, 1, 2 and the next one after the last valid step."""
    steps = np.minimum(np.arange(3), sum(mask) - 1)
    return Batch(
        observations=jnp.asarray(steps[None, :, None], jnp.float32),
        actions=jnp.zeros((1, 3, 1)),
        rewards=jnp.asarray(rewards, jnp.float32)[steps][None],
        next_observations=jnp.asarray(steps[None, :, None] + 1, jnp.float32),
        terminations=jnp.array([terminations], bool)[:, steps],
        mask=jnp.array([mask], bool),
    )


@pytest.mark.parametrize(
    ("mask", "terminations", "decay", "expected"),
    [
        # V(s) = 10 s; the discount is 0.5.
        ((1, 1, 1), (0, 0, 0), 1.0, 1 + 0.5 * (2 + 0.5 * (3 + 0.5 * 30))),
        ((1, 1, 1), (0, 0, 0), 0.0, 1 + 0.5 * 10),
        ((1, 1, 1), (0, 0, 1), 1.0, 1 + 0.5 * (2 + 0.5 * 3)),
        # Cut after two steps: bootstrapped, or not.
        ((1, 1, 0), (0, 0, 0), 1.0, 1 + 0.5 * (2 + 0.5 * 20)),
        ((1, 1, 0), (0, 1, 0), 1.0, 1 + 0.5 * 2),
        ((1, 1, 0), (0, 0, 0), 0.5, 1 + 0.5 * (5 + 0.5 * (2 + 0.5 * 20))),
        ((1, 0, 0), (0, 0, 0), 0.95, 1 + 0.5 * 10),
        ((1, 0, 0), (1, 0, 0), 0.95, 1.0),
    ],
)
def test_returns_of_windows_by_hand(mask, terminations, decay, expected):
    config = CONFIG.replace(discount=0.5, trace_decay=decay, hidden_sizes=())
    batch = _window(mask, terminations)
    state = _init(config, jax.random.key(0), batch)
    kernel = {"kernel": jnp.array([[10.0]]), "bias": jnp.zeros(1)}
    params = {"params": {"mlp": {"output": kernel}}}
    state = state.replace(value=state.value.replace(params=params))
    values, returns = jax.jit(awr.values_and_returns)(config, state, batch)
    assert values[0] == 0.0
    assert returns[0] == pytest.approx(expected)


def test_losses_against_numpy(data):
    config = CONFIG.replace(hidden_sizes=(8,), inverse_temperature=2.0, max_weight=3.0)
    batch = jax.tree.map(lambda leaf: leaf[:16], data)
    state = _init(config, jax.random.key(0), batch)
    _, metrics = _update(config, state, batch)
    values, returns = map(np.asarray, jax.jit(awr.values_and_returns)(config, state, batch))
    assert metrics["value_loss"] == pytest.approx(float(np.square(values - returns).mean()), 1e-4)
    advantages = returns - values
    standard = (advantages - advantages.mean()) / (advantages.std() + 1e-5)
    weights = np.minimum(np.exp(2.0 * standard), 3.0)
    assert (weights < 3.0).any()
    assert (weights > 2.99).any()
    policy = regression.policy_at(config, state.actor, batch.observations[:, 0])
    expected = -np.mean(weights * np.asarray(policy.log_prob(batch.actions[:, 0])))
    assert metrics["actor_loss"] == pytest.approx(float(expected), rel=1e-3)
    assert metrics["advantage_std"] == pytest.approx(float(advantages.std()), rel=1e-3)
    assert metrics["return"] == pytest.approx(float(returns.mean()), rel=1e-4)


def test_steps_beyond_the_mask_do_not_matter(data):
    batch = jax.tree.map(lambda leaf: leaf[:16], data)
    state = _init(CONFIG, jax.random.key(0), batch)
    beyond = ~batch.mask
    assert beyond.any()
    other = batch.replace(
        rewards=jnp.where(beyond, 1e3, batch.rewards),
        observations=jnp.where(beyond[..., None], 7.0, batch.observations),
        terminations=batch.terminations ^ beyond,
    )
    one, _ = _update(CONFIG, state, batch)
    two, _ = _update(CONFIG, state, other)
    jax.tree.map(np.testing.assert_array_equal, one.value, two.value)
    jax.tree.map(np.testing.assert_array_equal, one.actor, two.actor)


def test_values_are_those_of_behaviour_whatever_the_trace(trained):
    network = networks.StateValue(CONFIG.hidden_sizes)
    for state, _ in trained:
        found = network.apply(state.value.params, jnp.array([[1.0], [-1.0]]))
        np.testing.assert_allclose(found, [MEAN_RETURN, 0.9 * MEAN_RETURN], atol=0.06)


def test_the_policy_is_the_weighted_mean_of_logged_actions(trained):
    (cloned, metrics), *regressed = trained
    assert metrics["weight"] == pytest.approx(1.0)
    assert probes.mode(awr, CONFIG, cloned, 1.0) == pytest.approx(0.0, abs=0.1)
    actions = np.linspace(-1.0, 1.0, 2001)
    advantages = 1.0 - (actions - probes.BEST_ACTION) ** 2 - MEAN_RETURN
    # Half of the rows are at the start, whose advantages are 0.9 of the end's with Monte-Carlo
    # returns, and none with one-step returns.
    for (state, metrics), share in zip(regressed, (0.9, 0.0), strict=True):
        spread = advantages.std() * np.sqrt(0.5 * (1.0 + share**2))
        assert metrics["advantage_std"] == pytest.approx(spread, rel=0.1)
        weights = np.exp(advantages / spread)
        expected = np.sum(weights * actions) / np.sum(weights)
        assert expected > 0.2
        assert probes.mode(awr, CONFIG, state, 1.0) == pytest.approx(expected, abs=0.08)
        # At the start no action is better than another.
        assert probes.mode(awr, CONFIG, state, -1.0) == pytest.approx(0.0, abs=0.15)


def test_discrete_actions_have_the_shares_that_their_advantages_give():
    # One step: four rows, three of action 0, which earns nothing, and one of 1, which earns 1.
    ones = jnp.ones((4, 3))
    batch = Batch(
        observations=ones[..., None],
        actions=jnp.tile(jnp.array([[0], [0], [0], [1]], jnp.int32), (1, 3)),
        rewards=jnp.tile(jnp.array([[0.0], [0.0], [0.0], [1.0]]), (1, 3)),
        next_observations=ones[..., None],
        terminations=ones.astype(bool),
        mask=jnp.tile(jnp.array([True, False, False]), (4, 1)),
    )
    config = CONFIG.replace(num_actions=2, hidden_sizes=(), actor_learning_rate=0.03)

    @jax.jit
    @jax.vmap
    def train(rate):
        changed = config.replace(inverse_temperature=rate)
        state = awr.init(changed, jax.random.key(0), batch)
        step = lambda state, _: awr.update(changed, state, batch)  # noqa: E731
        state, _ = jax.lax.scan(step, state, length=1500)
        return regression.policy_at(config, state.actor, jnp.ones((1, 1))).probs[0, 1]

    rates = jnp.array([0.0, 0.5, 1.0])
    # V = 1/4, advantages of -1/4 and 3/4, whose standard deviation is sqrt(3) / 4.
    odds = np.exp(rates * 4.0 / np.sqrt(3.0)) / 3.0
    np.testing.assert_allclose(train(rates), odds / (1.0 + odds), atol=0.01)


def test_a_window_without_steps_is_refused(data):
    with pytest.raises(InputError, match="awr: window is 0, expected a value in"):
        CONFIG.replace(window=0)
