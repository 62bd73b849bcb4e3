"""Behaviour cloning against closed-form maximum likelihood."""

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

from ddm.errors import InputError
from ddm.imitation import bc
from ddm.types import Batch

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
    smoothed = float(bc.log_prob(config, state, batch.observations, batch.actions)[0])
    assert smoothed == pytest.approx(0.9 * both[1] + 0.1 * both[0], rel=1e-5)


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
        ("mixture", jnp.zeros((4, 1)), "head=mixture is unknown; choose one of mse, gaussian"),
    ],
)
def test_wrong_heads_are_refused_by_name(head, actions, message):
    batch = Batch(observations=jnp.zeros((4, 1)), actions=actions)
    with pytest.raises(InputError, match=message):
        bc.init(CONFIG.replace(head=head), jax.random.key(0), batch)
