"""The ensemble against members trained alone, numpy, and a system whose noise is known."""

from __future__ import annotations

import functools

import chex
import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import CONTEXT, OTHER, SMALL_MODEL

import ddm
from ddm import data
from ddm.errors import InputError
from ddm.model_based import dynamics
from ddm.model_based.parts import calibration, learning, logged, members
from ddm.types import Batch

CONTRACT = contract.Contract(
    small=SMALL_MODEL,
    other=OTHER,
    context=CONTEXT,
    variants=[{"probabilistic": False}, {"bootstrap": False}],
)

CONFIG = dynamics.Config(
    model_hidden_sizes=(8,), model_weight_decay=(0.1, 0.2), num_members=3, num_elites=2,
    model_batch_size=4, steps_per_epoch=10, max_epochs=3, patience=2, holdout_share=0.2,
    termination="learned",
)  # fmt: skip
COUNT, HELD_OUT = 50, 10


@functools.cache
def make_batch() -> Batch:
    random = np.random.default_rng(0)
    observations = random.normal(size=(COUNT, 2)).astype(np.float32) * [1.0, 5.0]
    actions = random.uniform(-1.0, 1.0, (COUNT, 1)).astype(np.float32)
    following = 0.9 * observations + actions + 0.1 * random.normal(size=(COUNT, 2))
    fields = (observations, actions, observations[:, 0], following)
    return Batch(
        **dict(
            zip(
                ("observations", "actions", "rewards", "next_observations"),
                (jnp.asarray(x, jnp.float32) for x in fields),
                strict=True,
            )
        ),
        terminations=jnp.asarray(observations[:, 0] > 1.0),
    )


update = jax.jit(dynamics.update)


@functools.cache
def start() -> dynamics.State:
    return dynamics.init(CONFIG, jax.random.key(1), make_batch())


def member(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


def parts(config=CONFIG, state=None):
    """Rows, those held out and learned, scales and the order of the next epoch."""
    state, rows = state or start(), logged.rows_of(make_batch())
    held_out, learned = logged.split(config, state.split_key, rows)
    scales = logged.scales_of(jax.tree.map(lambda x: x[learned], rows))
    _, epoch_key = jax.random.split(state.key)
    order = logged.draw_order(config, state.split_key, epoch_key, learned, config.steps_per_epoch)
    return rows, held_out, learned, scales, order


# The ensemble is its members.


def test_members_equal_members_trained_alone():
    rows, _, _, scales, order = parts()
    found, metrics = update(CONFIG, start(), make_batch())
    alone = jax.jit(learning.train)
    losses = []
    for index in range(3):
        begun = member(start().members, index)
        expected, loss = alone(CONFIG, scales, begun, rows, order[index], 10)
        chex.assert_trees_all_close(
            member(found.members, index).params, expected.params, rtol=1e-4, atol=1e-6
        )
        losses.append(float(loss))
        moved = jax.tree.map(lambda x, y: jnp.abs(x - y).max(), expected.params, begun.params)
        assert max(map(float, jax.tree.leaves(moved))) > 1e-3
    assert np.ptp(losses) > 1e-3  # they are not the same member three times
    assert metrics["train_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert int(found.step) == 10


def test_the_loss_by_hand():
    rows, _, _, scales, order = parts()
    picked = jax.tree.map(lambda x: x[order[0, 0]], rows)
    one = member(start().members, 0)
    found, _ = members.loss(CONFIG, one, one.params, scales, picked)

    params = jax.tree.map(np.asarray, one.params)["params"]
    layers = params["perceptron"]
    first, second = (layers[name] for name in sorted(layers))
    inputs = np.concatenate(
        [
            (picked.observations - scales.observation_mean) / scales.observation_std,
            (picked.actions - scales.action_mean) / scales.action_std,
        ],
        axis=-1,
    )
    hidden = inputs @ first["kernel"] + first["bias"]
    hidden = hidden / (1.0 + np.exp(-hidden))
    mean, raw, logit = np.split(hidden @ second["kernel"] + second["bias"], (3, 6), axis=-1)
    softplus = lambda x: np.log1p(np.exp(x))  # noqa: E731
    low, high = params["log_variance_min"], params["log_variance_max"]
    log_variance = low + softplus(high - softplus(high - raw) - low)
    targets = np.concatenate(
        [make_batch().rewards[:, None], make_batch().next_observations - make_batch().observations],
        axis=-1,
    )
    targets = (targets - scales.target_mean) / scales.target_std
    squares = (targets[np.asarray(order[0, 0])] - mean) ** 2
    likelihood = np.mean(squares / np.exp(log_variance) + log_variance)
    labels = np.asarray(picked.terminations, float)
    ends = np.mean(softplus(logit[:, 0]) - labels * logit[:, 0])
    decay = 0.5 * (0.1 * np.sum(first["kernel"] ** 2) + 0.2 * np.sum(second["kernel"] ** 2))
    bounds = 0.01 * np.sum(high - low)
    assert found == pytest.approx(likelihood + ends + decay + bounds, rel=1e-5)
    assert min(abs(likelihood), ends, decay, bounds) > 1e-2  # each would be missed

    plain = CONFIG.replace(probabilistic=False, termination="never", model_weight_decay=(0.3,))
    found, _ = members.loss(plain, one, one.params, scales, picked)
    decay = 0.15 * (np.sum(first["kernel"] ** 2) + np.sum(second["kernel"] ** 2))
    assert found == pytest.approx(np.mean(squares) + decay, rel=1e-5)

    density = -0.5 * np.mean(squares / np.exp(log_variance) + log_variance + np.log(2 * np.pi))
    likelihood = members.log_likelihood(one, one.params, scales, picked)
    assert likelihood == pytest.approx(density, rel=1e-5)


def test_a_members_loss_is_the_mean_over_its_steps():
    rows, _, _, scales, order = parts()
    one, config = member(start().members, 0), CONFIG.replace(model_learning_rate=0.0)
    _, found = learning.train(config, scales, one, rows, order[0, :3], 3)
    steps = (jax.tree.map(lambda x, i=i: x[order[0, i]], rows) for i in range(3))
    losses = [members.loss(config, one, one.params, scales, picked)[0] for picked in steps]
    assert np.ptp(losses) > 0.01
    assert found == pytest.approx(np.mean(losses), rel=1e-5)
    _, none = learning.train(config, scales, one, rows, order[0, :3], 0)
    assert none == 0.0


# Data of the members.


def test_a_dimension_that_does_not_vary_has_the_scale_one():
    rows = logged.rows_of(make_batch())
    rows = rows.replace(observations=rows.observations.at[:, 1].set(7.0))
    scales = logged.scales_of(rows)
    np.testing.assert_allclose(scales.observation_mean[1], 7.0)
    assert scales.observation_std[1] == 1.0
    np.testing.assert_allclose(
        scales.observation_std[0], np.std(rows.observations[:, 0]), rtol=1e-5
    )


def test_what_is_held_out_is_never_learned():
    _, held_out, learned, *_ = parts()
    assert len(held_out) == HELD_OUT
    assert sorted([*held_out.tolist(), *learned.tolist()]) == list(range(COUNT))
    batch = make_batch()
    poisoned = batch.replace(
        rewards=batch.rewards.at[held_out].set(1e6),
        next_observations=batch.next_observations.at[held_out].set(-1e6),
        terminations=batch.terminations.at[held_out].set(True),
    )
    expected, found = start(), start()
    for _ in range(2):
        expected, _ = update(CONFIG, expected, batch)
        found, _ = update(CONFIG, found, poisoned)
    chex.assert_trees_all_equal(found.members.params, expected.members.params)
    chex.assert_trees_all_equal(found.scales, expected.scales)
    assert (found.holdout_errors > 1e6).all()


def test_each_member_learns_from_its_own_draws_with_replacement():
    _, _, learned, _, order = parts()
    state = start().replace(key=jax.random.key(9))
    *_, other = parts(state=state)  # another epoch of the same members
    draws = []
    for index in range(3):
        rows, again = (np.sort(x[index].ravel()) for x in (order, other))
        np.testing.assert_array_equal(rows, again)  # the bootstrap stays, its order does not
        assert not np.array_equal(order[index], other[index])
        assert set(rows) <= set(learned.tolist())
        assert 20 <= len(set(rows.tolist())) <= 32  # of 40: about 1 - 1/e
        draws.append(rows)
    assert not np.array_equal(draws[0], draws[1])
    *_, order = parts(CONFIG.replace(bootstrap=False))
    assert not np.array_equal(order[0], order[1])  # of the same rows
    for index in range(3):
        np.testing.assert_array_equal(np.sort(order[index].ravel()), np.sort(learned))


# When training ends, and what is kept.


def test_members_that_are_final_do_not_change_to_the_bit():
    state, batch = start(), make_batch()
    state = state.replace(holdout_errors=jnp.zeros(3))  # nothing can be better
    idle, _ = update(CONFIG, state, batch)
    assert int(idle.idle_epochs) == 1
    last, _ = update(CONFIG, idle, batch)
    assert int(last.idle_epochs) == 2 == CONFIG.patience
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(last.members.params, idle.members.params)
    chex.assert_trees_all_equal(last.params, state.params)  # the best were those of the start
    after, metrics = update(CONFIG, last, batch)
    chex.assert_trees_all_equal(after.members, last.members)
    chex.assert_trees_all_equal(after.params, last.params)
    assert int(after.idle_epochs) == 2
    assert metrics["train_loss"] == last.train_loss


def test_each_member_keeps_its_own_best_parameters():
    batch = make_batch()
    rows, held_out, *_ = parts()
    done, _ = update(CONFIG, start(), batch)
    held = jax.tree.map(lambda x: x[held_out], rows)
    errors = jax.vmap(lambda params: members.error(done.members, params, done.scales, held))(
        done.members.params
    )
    np.testing.assert_allclose(done.holdout_errors, errors, rtol=1e-5)
    # Better by two per cent, by half a per cent, and worse.
    before = errors / jnp.array([0.98, 0.995, 1.5])
    found, metrics = update(CONFIG, start().replace(holdout_errors=before), batch)
    expected = [done.params, start().params, start().params]
    for index, params in enumerate(expected):
        chex.assert_trees_all_equal(member(found.params, index), member(params, index))
    np.testing.assert_allclose(found.holdout_errors, [errors[0], before[1], before[2]], rtol=1e-6)
    assert int(found.idle_epochs) == 0
    best = np.sort(found.holdout_errors)[:2]
    assert metrics["holdout_error"] == pytest.approx(best.mean(), rel=1e-6)


def test_episodes_end_by_a_rule_in_the_environments_units():
    config = CONFIG.replace(
        termination="inverted_pendulum", observation_mean=(0.0, 10.0), observation_std=(1.0, 2.0)
    )
    batch = make_batch()
    rows, _ = dynamics.transition(
        config, start(), batch.observations, batch.actions, jax.random.key(2)
    )
    angles = 2.0 * np.asarray(rows.next_observations)[:, 1] + 10.0
    assert np.any(np.abs(rows.next_observations[:, 1]) <= 0.2)
    np.testing.assert_array_equal(rows.terminations, np.abs(angles) > 0.2)


def test_only_elites_imagine():
    state, _ = update(CONFIG, start(), make_batch())
    worst = int(jnp.argmax(state.holdout_errors))
    broken = jax.tree.map(lambda x: x.at[worst].set(jnp.nan), state.params)
    batch = make_batch()
    rows, prediction = dynamics.transition(
        CONFIG, state.replace(params=broken), batch.observations, batch.actions, jax.random.key(2)
    )
    assert np.isnan(prediction.means[worst]).all()
    assert np.isfinite(rows.next_observations).all()
    known = dynamics.predict(CONFIG, state, batch.observations, batch.actions)
    distance = (rows.next_observations - known.means[..., 1:]) / known.stds[..., 1:]
    assert np.abs(np.asarray(distance)[[i for i in range(3) if i != worst]]).min(axis=0).max() < 5.0


# A system with a known answer.


def test_a_linear_system_and_its_noise_are_recovered():
    random, count = np.random.default_rng(0), 3_000
    states = random.normal(size=(count, 2)).astype(np.float32) * [1.0, 3.0] + [0.0, 2.0]
    actions = random.uniform(-1.0, 1.0, (count, 1))
    noise = np.array([0.5, 0.1, 0.3])  # of the reward, and of both coordinates
    means = np.stack(
        [states @ [0.5, 0.2], states @ [0.9, 0.1] + actions[:, 0], states @ [-0.2, 0.8] + 1.0], -1
    )
    drawn = means + noise * random.normal(size=means.shape)
    log = data.from_arrays(
        states, actions, drawn[:, 0], np.zeros(count, bool), np.ones(count, bool), drawn[:, 1:],
        action_space=(-np.ones(1), np.ones(1)),
    )  # fmt: skip
    log = data.normalize(log, reward_scale=4.0)
    config = dynamics.Config(
        model_hidden_sizes=(32,), model_weight_decay=(0.0,), num_members=3, num_elites=2,
        model_batch_size=64,
    )  # fmt: skip
    config = ddm.prepare(dynamics, config, log)
    assert config.reward_unit == pytest.approx(4.0)
    assert config.steps_per_epoch == 37  # of 2,400 rows
    state, metrics = jax.jit(
        lambda key, log: ddm.fit(dynamics, config, log, key, 60 * config.steps_per_epoch)
    )(jax.random.key(0), log)
    assert metrics["idle_epochs"].shape == (60,)

    fresh = np.random.default_rng(1).normal(size=(2_000, 2)) * [1.0, 3.0] + [0.0, 2.0]
    acted = np.random.default_rng(2).uniform(-1.0, 1.0, (2_000, 1)).astype(np.float32)
    true = np.stack(
        [fresh @ [0.5, 0.2], fresh @ [0.9, 0.1] + acted[:, 0], fresh @ [-0.2, 0.8] + 1.0], -1
    )
    seen = log.normalization.normalize_observations(fresh.astype(np.float32))
    found = calibration.predict(config, state, seen, acted)
    rmse = calibration.root_mean_square(found.mean - true)
    assert (rmse < 0.25 * noise).all(), rmse
    np.testing.assert_allclose(np.median(found.stds, axis=(0, 1)), noise, rtol=0.2)
    targets = true + noise * np.random.default_rng(3).normal(size=true.shape)
    quantiles = calibration.quantiles_of(found.means, found.stds, targets).mean(axis=0)
    np.testing.assert_allclose(calibration.coverage(quantiles), calibration.LEVELS, atol=0.025)


# What is refused, and what is reported.


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_elites": 4}, "num_elites is 4, expected at most num_members=3"),
        ({"holdout_share": 1.0}, "holdout_share is 1.0"),
        ({"max_epochs": -1}, "max_epochs is -1"),
        ({"model_weight_decay": (0.1, 0.2, 0.3)}, "model_weight_decay has 3 numbers, expected 2"),
    ],
)
def test_settings_that_do_not_fit(fields, message):
    with pytest.raises(InputError, match=message):
        dynamics.init(CONFIG.replace(**fields), jax.random.key(0), make_batch())


def test_a_model_that_nothing_was_prepared_for():
    batch = make_batch()
    with pytest.raises(InputError, match="leaves none to learn from"):
        dynamics.update(CONFIG, start(), jax.tree.map(lambda x: x[:1], batch))
    with pytest.raises(InputError, match="steps_per_epoch is not set"):
        dynamics.update(CONFIG.replace(steps_per_epoch=0), start(), batch)
    auto = CONFIG.replace(termination="auto")
    with pytest.raises(InputError, match="termination=auto is replaced by what fits the log"):
        dynamics.transition(auto, start(), batch.observations, batch.actions, jax.random.key(0))


def test_a_model_that_has_not_converged_is_reported_with_its_error():
    ended = {"epoch": float(CONFIG.max_epochs)}
    [found] = dynamics.diagnose(CONFIG, ended | {"holdout_error": 0.25, "idle_epochs": 0.0})
    assert "still improved" in found
    assert "0.25" in found
    [found] = dynamics.diagnose(CONFIG, ended | {"holdout_error": 0.75, "idle_epochs": 2.0})
    assert "explains less than half" in found
    assert not dynamics.diagnose(CONFIG, ended | {"holdout_error": 0.25, "idle_epochs": 1.0})
    # While it learns, both are to be expected.
    assert not dynamics.diagnose(CONFIG, {"epoch": 0.0, "holdout_error": 0.75, "idle_epochs": 0.0})
