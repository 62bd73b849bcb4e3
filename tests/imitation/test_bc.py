"""Behaviour cloning against closed-form maximum likelihood."""

import contract
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
import scipy.integrate
import scipy.optimize
from flax import linen as nn

from ddm import networks
from ddm.envs import tabular
from ddm.errors import InputError
from ddm.imitation import bc
from ddm.networks import heads
from ddm.types import Batch

CONTRACT = contract.Contract(
    variants=[
        {"head": "mse"},
        {"head": "tanh_gaussian"},
        {"head": "categorical", "num_actions": contract.NUM_ACTIONS},
        {"head": "mixture", "num_components": 2},
        {"head": "linear_gaussian"},
        {"head": "tabular", "num_actions": contract.NUM_ACTIONS},
        {
            "head": "linear_softmax",
            "num_actions": contract.NUM_ACTIONS,
            "features": contract.pair_features,
        },
        {"encoder": "conv"},
    ],
    other={
        "head": "tanh_gaussian",
        "features": lambda observations: 2.0 * contract.pair_features(observations),
        "label_smoothing": 0.3,
    },
    context={
        "features": {
            "head": "linear_softmax",
            "num_actions": contract.NUM_ACTIONS,
            "features": contract.pair_features,
        },
        "label_smoothing": {"head": "categorical", "num_actions": contract.NUM_ACTIONS},
    },
)

CONFIG = bc.Config(hidden_sizes=(32, 32), learning_rate=3e-3)


def _fork(rows, seed=0):
    """The fork bandit: a = +-(1 + s / 2) / 2 + noise, the sign a fair coin (scaled to the box)."""
    random = np.random.default_rng(seed)
    states = random.uniform(-1.0, 1.0, (rows, 1))
    signs = np.where(random.random((rows, 1)) < 0.5, -1.0, 1.0)
    actions = 0.5 * (signs * (1.0 + 0.5 * states) + 0.1 * random.normal(size=(rows, 1)))
    return Batch(
        observations=jnp.asarray(states, jnp.float32), actions=jnp.asarray(actions, jnp.float32)
    )


def _valid(states, actions):
    distance = np.abs(np.abs(2.0 * actions) - (1.0 + 0.5 * states))
    return float(np.mean(distance < 0.3))


def test_gaussian_head_reaches_the_likelihood_of_the_generating_law():
    random = np.random.default_rng(0)
    states = random.uniform(-1.0, 1.0, (4000, 1))
    std = 0.1 + 0.05 * (states + 1.0)
    actions = 0.3 * states + std * random.normal(size=(4000, 1))
    data = Batch(
        observations=jnp.asarray(states, jnp.float32), actions=jnp.asarray(actions, jnp.float32)
    )
    state, _ = probes.train(bc, CONFIG, data, steps=2000, batch_size=128)
    log_prob = float(bc.log_prob(CONFIG, state, data.observations, data.actions).mean())
    truth = np.mean(
        -0.5 * ((actions - 0.3 * states) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    )
    assert log_prob == pytest.approx(truth, abs=0.03)
    assert probes.mode(bc, CONFIG, state, 0.8) == pytest.approx(0.24, abs=0.05)


def test_categorical_head_matches_counts():
    # In state 0 actions 0, 1, 2 appear 5 : 3 : 2; in state 1 only action 2.
    observations = jnp.array([[1.0, 0.0]] * 10 + [[0.0, 1.0]] * 10)
    actions = jnp.array([0] * 5 + [1] * 3 + [2] * 2 + [2] * 10, jnp.int32)
    config = CONFIG.replace(head="categorical", num_actions=3)
    data = Batch(observations=observations, actions=actions)
    state, _ = probes.train(bc, config, data, steps=1500, batch_size=256)
    probabilities = np.exp(
        bc.log_prob(config, state, jnp.tile(jnp.array([[1.0, 0.0]]), (3, 1)), jnp.arange(3))
    )
    np.testing.assert_allclose(probabilities, [0.5, 0.3, 0.2], atol=0.05)
    assert bc.log_prob(config, state, observations[10:11], actions[10:11])[0] > np.log(0.97)


def test_label_smoothing_by_hand():
    config = CONFIG.replace(head="categorical", num_actions=2, label_smoothing=0.2)
    batch = Batch(observations=jnp.ones((1, 1)), actions=jnp.array([1], jnp.int32))
    state = bc.init(config, jax.random.key(0), batch)
    plain = config.replace(label_smoothing=0.0)
    both = [float(bc.log_prob(plain, state, batch.observations, jnp.array([a]))[0]) for a in (0, 1)]
    _, metrics = bc.update(config, state, batch)
    assert metrics["loss"] == pytest.approx(-0.9 * both[1] - 0.1 * both[0], rel=1e-5)
    # The policy that was fitted by a smoothed loss is a policy like any other.
    assert bc.log_prob(config, state, batch.observations, batch.actions)[0] == both[1]


@pytest.mark.parametrize("head", list(heads.HEADS))
def test_log_probabilities_of_each_head_sum_or_integrate_to_one(head):
    discrete = heads.HEADS[head].discrete
    config = bc.Config(
        head=head, hidden_sizes=(8,), label_smoothing=0.3, num_actions=3 if discrete else 0,
        features=_pairs if head == "linear_softmax" else None,
    )  # fmt: skip
    grid = jnp.arange(3, dtype=jnp.int32) if discrete else jnp.linspace(-8.0, 8.0, 4001)[:, None]
    if head == "tanh_gaussian":
        grid = jnp.linspace(-0.9999, 0.9999, 4001)[:, None]
    batch = Batch(observations=jnp.eye(4)[jnp.zeros(len(grid), int)], actions=grid)
    state = jax.jit(bc.init)(config, jax.random.key(0), batch)
    params = jax.tree.map(lambda leaf: leaf + 0.1, state.policy.params)  # off the uniform start
    state = state.replace(policy=state.policy.replace(params=params))
    if head == "mse":
        with pytest.raises(InputError, match="head=mse is one action at each observation"):
            bc.log_prob(config, state, batch.observations, grid)
        return
    probabilities = np.exp(jax.jit(bc.log_prob)(config, state, batch.observations, grid))
    total = (
        probabilities.sum() if discrete else scipy.integrate.trapezoid(probabilities, grid[:, 0])
    )
    assert total == pytest.approx(1.0, abs=1e-5 if discrete else 2e-3)


def test_mse_head_averages_the_branches_of_a_fork():
    data = _fork(4000)
    config = CONFIG.replace(head="mse")
    state, metrics = probes.train(bc, config, data, steps=1500, batch_size=128)
    # The conditional variance, (E[(1 + s / 2)^2] + 0.01) / 4 = 0.273.
    assert metrics["loss"] == pytest.approx(0.273, abs=0.02)
    states = np.linspace(-1.0, 1.0, 50)
    actions = np.array([probes.mode(bc, config, state, each) for each in states])
    assert _valid(states, actions) < 0.02


@pytest.mark.parametrize("head", ["gaussian", "tanh_gaussian"])
def test_unimodal_likelihoods_of_a_fork_are_the_best_single_gaussian(head):
    data = _fork(4000)
    config = CONFIG.replace(head=head)
    state, metrics = probes.train(bc, config, data, steps=2000, batch_size=128)
    keys = jax.random.split(jax.random.key(7), 2000)
    states = data.observations[:2000]
    actions = jax.vmap(lambda s, key: bc.act(config, state, s, key)[0])(states, keys)
    if head == "gaussian":
        # Optimum 1.38 for the unscaled fork, log 2 less for actions of half the size.
        assert metrics["loss"] == pytest.approx(1.38 - np.log(2.0), abs=0.05)
        assert 0.25 < _valid(states, actions) < 0.40
    assert np.abs(actions).max() <= (1.0 if head == "tanh_gaussian" else 5.0)


@pytest.mark.parametrize("components", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_a_mixture_keeps_both_branches_of_a_fork(components):
    data = _fork(4000)
    config = CONFIG.replace(head="mixture", num_components=components)
    state, _ = probes.train(bc, config, data, steps=2000, batch_size=128)
    test = _fork(4000, seed=1)
    log_prob = bc.log_prob(config, state, test.observations, test.actions).mean()
    # Minus the entropy of a fair coin and a Gaussian of width 0.05.
    best = -np.log(2.0) - np.log(0.05) - 0.5 * np.log(2 * np.pi * np.e)
    assert log_prob == pytest.approx(best, abs=0.05)
    keys = jax.random.split(jax.random.key(2), len(test.observations))
    for deterministic, valid in ((True, 0.99), (False, 0.97)):
        actions, _ = jax.jit(
            jax.vmap(
                lambda observation, key, d=deterministic: bc.act(
                    config, state, observation, key, deterministic=d
                )
            )
        )(test.observations, keys)
        assert _valid(test.observations, actions) > valid
        assert np.mean(actions > 0) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("head", ["mse", "gaussian", "mixture"])
def test_actions_that_would_broadcast_are_refused(head):
    config = bc.Config(head=head, hidden_sizes=(4,))
    batch = Batch(observations=jnp.ones((4, 3)), actions=jnp.zeros((4, 2)))
    state = jax.jit(bc.init)(config, jax.random.key(0), batch)
    for actions, message in (
        (jnp.zeros((4, 1)), r"bc: batch.actions has shape \(4, 1\) .*, expected \(4, 2\)"),
        (jnp.zeros(4), r"bc: batch.actions has shape \(4,\) .*, expected \(B, A\)"),
        (jnp.zeros(4, jnp.int32), r"bc: batch.actions has shape \(4,\) and dtype int32"),
    ):
        with pytest.raises(InputError, match=message):
            bc.update(config, state, batch.replace(actions=actions))
    with pytest.raises(InputError, match=r"expected \(B, A\)"):
        bc.init(config, jax.random.key(0), batch.replace(actions=jnp.zeros(4)))


def test_tables_and_actions_are_checked_where_values_are_known():
    config = bc.Config(head="tabular", num_actions=2)
    batch = Batch(observations=jnp.array([[0.0], [3.0]]), actions=jnp.array([0, 1], jnp.int32))
    with pytest.raises(InputError, match=r"bc: head=tabular: observation 0 is \(0\), .*Discrete"):
        bc.init(config, jax.random.key(0), batch)
    batch = Batch(observations=jnp.eye(2), actions=jnp.array([0, 2], jnp.int32))
    with pytest.raises(InputError, match="bc: the log has action 2 and num_actions is 2"):
        bc.init(config, jax.random.key(0), batch)
    assert bc.batch_spec(config).one_hot_observations
    assert bc.batch_spec(config).num_actions == 2


def test_a_mixture_needs_a_component():
    with pytest.raises(InputError, match="bc: num_components is 0, expected a value in"):
        CONFIG.replace(head="mixture", num_components=0)


def test_weight_decay_shrinks_the_policy():
    data = _fork(500)
    sizes = []
    for decay in (0.0, 1.0):
        config = CONFIG.replace(head="mse", weight_decay=decay)
        state, _ = probes.train(bc, config, data, steps=300)
        sizes.append(
            float(jnp.abs(state.policy.params["params"]["mlp"]["hidden_1"]["kernel"]).sum())
        )
    assert sizes[1] < 0.7 * sizes[0]


@pytest.mark.parametrize(
    ("head", "actions", "message"),
    [
        ("gaussian", jnp.zeros(4, jnp.int32), "head=gaussian does not fit discrete actions"),
        ("categorical", jnp.zeros((4, 1)), "head=categorical does not fit continuous actions"),
        ("categorical", jnp.zeros(4, jnp.int32), "needs num_actions"),
        ("spline", jnp.zeros((4, 1)), "head=spline is unknown; choose one of mse, gaussian"),
        ("tabular", jnp.zeros((4, 1)), "head=tabular does not fit continuous actions"),
        ("linear_softmax", jnp.zeros((4, 1)), "head=linear_softmax does not fit continuous"),
        ("tabular", jnp.zeros(4, jnp.int32), "head=tabular needs num_actions"),
    ],
)
def test_wrong_heads_are_refused_by_name(head, actions, message):
    batch = Batch(observations=jnp.zeros((4, 1)), actions=actions)
    with pytest.raises(InputError, match=message):
        bc.init(CONFIG.replace(head=head), jax.random.key(0), batch)


# The classes without a network, fitted by full-batch descent.

COUNTS = np.array(
    [[5, 3, 2], [0, 4, 0], [0, 0, 0], [1, 1, 6]]
)  # rows of each state and action; state 2 is unseen


def _counted():
    states, actions = np.nonzero(COUNTS)
    rows = np.repeat(np.arange(len(states)), COUNTS[states, actions])
    return Batch(
        observations=jnp.eye(4)[states[rows]], actions=jnp.asarray(actions[rows], jnp.int32)
    )


def _fit(config, data, steps=1000, learning_rate=0.1):
    config = config.replace(learning_rate=learning_rate, decay_steps=steps)
    state = bc.init(config, jax.random.key(0), data)
    state, metrics = jax.jit(
        lambda state: jax.lax.scan(
            lambda state, _: bc.update(config, state, data), state, length=steps
        )
    )(state)
    return state, float(metrics["loss"][-1])


def _probabilities(config, state, observations, num_actions):
    rows = jnp.repeat(observations, num_actions, axis=0)
    actions = jnp.tile(jnp.arange(num_actions, dtype=jnp.int32), len(observations))
    return np.exp(bc.log_prob(config, state, rows, actions)).reshape(-1, num_actions)


def _pairs(observations):
    """One-hot features (..., 3, 12) of each pair of the four states and three actions."""
    blocks = observations[..., None, None, :] * jnp.eye(3)[..., None]
    return blocks.reshape(*observations.shape[:-1], 3, -1)


@pytest.mark.parametrize(("head", "features"), [("tabular", None), ("linear_softmax", _pairs)])
def test_tables_and_one_hot_pairs_become_the_share_of_each_action(head, features):
    config = bc.Config(head=head, num_actions=3, features=features)
    state, loss = _fit(config, _counted(), steps=2000)
    totals = COUNTS.sum(axis=1, keepdims=True)
    shares = np.where(totals > 0, COUNTS / np.maximum(totals, 1), 1 / 3)  # unseen: as it started
    np.testing.assert_allclose(_probabilities(config, state, jnp.eye(4), 3), shares, atol=2e-3)
    log_shares = np.log(np.where(COUNTS > 0, shares, 1.0))
    assert loss == pytest.approx(-np.sum(COUNTS * log_shares) / COUNTS.sum(), abs=1e-3)
    action, _ = bc.act(config, state, jnp.eye(4)[3], jax.random.key(0), deterministic=True)
    assert action == 2
    assert action.dtype == jnp.int32


# (row, column, 1) of each state of the grid, in the block of each of the four moves.
_PLACES = np.c_[tabular.grid_cells(tabular.DISCOUNT_GRID), np.ones(22)]
_PLACES = np.concatenate([_PLACES, np.zeros((1, 3))])  # the end


def _places(observations):
    blocks = (observations @ jnp.asarray(_PLACES))[..., None, None, :] * jnp.eye(4)[..., None]
    return blocks.reshape(*observations.shape[:-1], 4, -1)


def _grid_demonstrations(wrong):
    """30 rows of each cell of the discount grid but exits, `wrong` of each but the best move."""
    policy = np.asarray(tabular.value_iteration(tabular.discount_grid()).policy)
    free = [state for state in range(22) if _is_free(state)]
    counts = np.full((len(free), 4), wrong)
    counts[np.arange(len(free)), policy[free].argmax(axis=1)] = 30 - 3 * wrong
    states, actions = np.nonzero(counts)
    rows = np.repeat(np.arange(len(states)), counts[states, actions])
    data = Batch(
        observations=jnp.eye(23)[np.array(free)[states[rows]]],
        actions=jnp.asarray(actions[rows], jnp.int32),
    )
    return data, counts, _PLACES[free]


def _is_free(state):
    row, column = tabular.grid_cells(tabular.DISCOUNT_GRID)[state]
    return row < 4 and (row, column) not in ((2, 2), (2, 4))


def test_three_numbers_a_move_do_not_hold_a_soft_policy_of_the_grid():
    data, counts, places = _grid_demonstrations(wrong=1)  # 0.1-soft around the optimal policy

    def loss(weights):
        logits = places @ weights.reshape(4, 3).T
        log_probs = logits - scipy.special.logsumexp(logits, axis=1, keepdims=True)
        return -np.sum(counts * log_probs) / counts.sum()

    best = scipy.optimize.minimize(loss, np.zeros(12)).fun
    entropy = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1 / 3))
    assert entropy == pytest.approx(0.4349, abs=1e-4)
    assert best == pytest.approx(0.6302, abs=1e-4)
    config = bc.Config(head="linear_softmax", num_actions=4, features=_places)
    state, fitted = _fit(config, data, steps=3000)
    assert fitted == pytest.approx(best, abs=1e-3)
    # At the optimum the mean features of the policy are those of the data.
    features = _places(data.observations)
    probabilities = _probabilities(config, state, data.observations, 4)
    logged = np.take_along_axis(np.asarray(features), np.asarray(data.actions)[:, None, None], 1)
    np.testing.assert_allclose(
        np.einsum("ba,baf->f", probabilities, features) / len(probabilities),
        logged[:, 0].mean(axis=0),
        atol=5e-3,
    )


def test_three_numbers_a_move_do_hold_the_optimal_policy_of_the_grid():
    # Its moves are linearly separable, so the loss has the infimum 0 at infinite weights.
    data, _, _ = _grid_demonstrations(wrong=0)
    config = bc.Config(head="linear_softmax", num_actions=4, features=_places)
    _, loss = _fit(config, data, steps=3000, learning_rate=1.0)
    assert loss < 0.02


def _and_squares(observations):
    return jnp.concatenate([observations, jnp.square(observations)], axis=-1)


@pytest.mark.parametrize("features", [None, _and_squares])
def test_linear_gaussian_is_least_squares_and_its_residual(features):
    random = np.random.default_rng(0)
    states = random.normal(size=(300, 2))
    actions = states @ np.array([[0.5, -1.0], [0.3, 2.0]]) + [0.2, -0.4] + 0.3 * states**2
    actions += np.array([0.1, 0.5]) * random.normal(size=(300, 2))
    data = Batch(
        observations=jnp.asarray(states, jnp.float32), actions=jnp.asarray(actions, jnp.float32)
    )
    design = np.c_[states, states**2, np.ones(300)] if features else np.c_[states, np.ones(300)]
    solution = np.linalg.lstsq(design, actions, rcond=None)[0]
    std = np.sqrt(np.mean((design @ solution - actions) ** 2, axis=0))
    config = bc.Config(head="linear_gaussian", features=features)
    state, loss = _fit(config, data, steps=2000, learning_rate=0.02)
    params = state.policy.params["params"]
    np.testing.assert_allclose(params["output"]["kernel"], solution[:-1], atol=2e-3)
    np.testing.assert_allclose(params["output"]["bias"], solution[-1], atol=2e-3)
    np.testing.assert_allclose(np.exp(params["log_std"]), std, rtol=2e-3)
    assert loss == pytest.approx(np.sum(np.log(std) + 0.5 * np.log(2 * np.pi) + 0.5), abs=1e-3)


@pytest.mark.parametrize(
    ("head", "features", "actions", "message"),
    [
        ("linear_softmax", None, jnp.zeros(5, jnp.int32), "needs features, a function"),
        ("linear_softmax", _pairs, jnp.zeros(5, jnp.int32), r"shape \(5, 3, 12\), expected \(5, 2"),
        ("linear_gaussian", _pairs, jnp.zeros((5, 1)), r"shape \(5, 3, 12\), expected \(5, feat"),
    ],
)
def test_features_that_do_not_fit_are_refused(head, features, actions, message):
    batch = Batch(observations=jnp.zeros((5, 4)), actions=actions)
    config = bc.Config(head=head, num_actions=2, features=features)
    with pytest.raises(InputError, match=message):
        bc.init(config, jax.random.key(0), batch)


class Brightness(nn.Module):
    """A Gaussian around a multiple of an image's mean."""

    action_size: int

    @nn.compact
    def __call__(self, images, log_std_min, log_std_max):
        mean = nn.Dense(self.action_size, use_bias=False)(images.mean(axis=(-3, -2)))
        log_std = jnp.clip(jnp.float32(-9.0), log_std_min, log_std_max)
        return networks.diagonal_gaussian(mean, log_std)


def test_a_network_of_ones_own_reads_images_without_an_encoder():
    config = bc.Config(policy_network=lambda config, action_size: Brightness(action_size))
    images = jnp.linspace(0.0, 1.0, 4)[:, None, None, None] * jnp.ones((4, 5, 5, 1))
    data = Batch(observations=images, actions=jnp.linspace(0.0, 0.5, 4)[:, None])
    state, _ = _fit(config, data, steps=300)
    [kernel] = jax.tree.leaves(state.policy.params)
    assert kernel == pytest.approx(0.5, abs=1e-3)
    action, _ = bc.act(config, state, 0.4 * images[-1], jax.random.key(0), deterministic=True)
    assert action[0] == pytest.approx(0.2, abs=1e-3)
    # The floor of its width is the configured one.
    peak = bc.log_prob(config, state, images, kernel[0] * images.mean(axis=(1, 2)))
    np.testing.assert_allclose(peak, 5.0 - 0.5 * np.log(2.0 * np.pi), rtol=1e-5)
