"""`ddm.fit` and `ddm.fit_online`: pure, mapped, continued, and right about what they collect."""

from __future__ import annotations

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from corridor import Corridor

import ddm
from ddm import data, envs, experience
from ddm.errors import InputError
from ddm.imitation import autoregressive, bc
from ddm.off_policy import sac
from ddm.on_policy import ppo
from ddm.policy_constraint import spibb_dqn
from ddm.types import TRANSITION_FIELDS, BatchSpec, Stage

ROWS = 16
BC = bc.Config(hidden_sizes=(8,))
SAC = sac.Config(hidden_sizes=(8,))
CORRIDOR = Corridor()
COLLECT = ddm.CollectSpec(capacity=64, random_steps=20, copies=2)
COLLECTOR = ddm.Collector.create(CORRIDOR, COLLECT)


def make_log(seed: int = 0) -> data.Dataset:
    random = np.random.default_rng(seed)
    return data.from_arrays(
        random.normal(size=(200, 1)).astype(np.float32),
        random.uniform(0, 2, size=(200, 1)).astype(np.float32), random.normal(size=200),
        np.zeros(200, bool), np.arange(1, 201) % 20 == 0, action_space=CORRIDOR.action_space(None),
    )  # fmt: skip


def same(one, other) -> bool:
    raw = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x  # noqa: E731
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(raw(x), raw(y)) for x, y in pairs)


@pytest.fixture(scope="module")
def log() -> data.Dataset:
    return make_log()


@pytest.fixture(scope="module")
def ten():
    """Ten steps, fresh or continued, compiled once each."""

    @jax.jit
    def train(key, log, state=None):
        return ddm.fit(bc, BC, log, key, 10, batch_size=ROWS, state=state)

    return train


def test_ten_and_ten_are_twenty_bit_for_bit(log, ten):
    key = jax.random.key(0)
    half, first = ten(key, log)
    whole, second = ten(key, log, half)
    at_once, metrics = jax.jit(lambda key, log: ddm.fit(bc, BC, log, key, 20, batch_size=ROWS))(
        key, log
    )
    assert int(at_once.step) == 20
    assert same(whole, at_once)
    assert metrics["loss"].shape == (20,)
    np.testing.assert_array_equal(metrics["loss"], np.concatenate([first["loss"], second["loss"]]))


def test_it_learns_the_log(log):
    """Cloning actions without structure ends at the likelihood of one Gaussian."""
    _, metrics = jax.jit(
        lambda log: ddm.fit(bc, BC.replace(learning_rate=1e-2), log, jax.random.key(0), 300)
    )(log)
    best = 0.5 * np.log(2 * np.pi * np.e * np.var(log.actions))
    np.testing.assert_allclose(metrics["loss"][-50:].mean(), best, atol=0.03)
    assert float(metrics["loss"][0]) > best + 0.03


def test_vmap_over_keys_and_configurations(log, ten):
    """Each lane is the single run with its key and its configuration."""
    keys = jax.random.split(jax.random.key(4), 3)
    rates = jnp.array([1e-3, 1e-3, 1e-2])

    def train(rate, key):
        config = BC.replace(learning_rate=rate)
        return ddm.fit(bc, config, log, key, 10, batch_size=ROWS)[0]

    lanes = jax.jit(jax.vmap(train))(rates, keys)
    single, _ = ten(keys[0], log)
    for one, many in zip(
        jax.tree.leaves(single.policy), jax.tree.leaves(lanes.policy), strict=True
    ):
        np.testing.assert_allclose(one, many[0], rtol=1e-4, atol=1e-6)
    for leaf in jax.tree.leaves(lanes.policy.params):
        assert not np.allclose(leaf[1], leaf[2])


def test_steps_that_do_not_divide_are_refused(log):
    with pytest.raises(InputError, match="num_steps is 0"):
        ddm.fit(bc, BC, log, jax.random.key(0), 0)
    with pytest.raises(InputError, match="num_steps is 3, expected a positive multiple of 2"):
        ddm.training.num_updates(3, BatchSpec((), minibatches=2))


@pytest.fixture(scope="module")
def online():
    @jax.jit
    def train(key, learner=None):
        return ddm.fit_online(sac, SAC, COLLECTOR, key, 6, batch_size=ROWS, learner=learner)

    return train


def test_own_experience_is_collected_and_continued_bit_for_bit(online):
    """20 random rows and 2 per update; going on equals not having stopped, buffer included."""
    key = jax.random.key(1)
    first, _ = online(key)
    assert int(first.experience.buffer.size) == 20 + 2 * 6
    going_on, metrics = online(key, first)
    at_once, _ = jax.jit(lambda key: ddm.fit_online(sac, SAC, COLLECTOR, key, 12, batch_size=ROWS))(
        key
    )
    assert same(going_on, at_once)
    assert float(metrics["collect/episodes"][-1]) == float(at_once.experience.stream.episodes)


def test_what_is_collected_is_what_happened(online):
    """Rows chain, actions are those that were taken, and a time limit is no termination."""
    learner, _ = online(jax.random.key(2))
    rows = learner.experience.buffer.ordered()
    places, later = rows.observations[:, 0], rows.next_observations[:, 0]
    moved = learner.experience.buffer.normalization.denormalize_actions(rows.actions)[:, 0]
    np.testing.assert_allclose(places + moved, later, atol=1e-5)
    np.testing.assert_allclose(rows.rewards, later, atol=1e-6)
    np.testing.assert_array_equal(rows.terminations, later > 3.5)
    for copy in range(2):
        place, after, ended = (
            x[copy::2] for x in (places, later, rows.terminations | rows.truncations)
        )
        np.testing.assert_allclose(place[1:], np.where(ended[:-1], 0.0, after[:-1]))


PPO = ppo.Config(hidden_sizes=(8,), window=5, num_epochs=1, num_minibatches=1)


@pytest.fixture(scope="module")
def on_policy():
    """Three updates from two copies, fresh or continued."""
    spec = dataclasses.replace(ppo.collect_spec(PPO), copies=2)
    collector = ddm.Collector.create(CORRIDOR, spec)

    @jax.jit
    def train(key, learner=None):
        return ddm.fit_online(ppo, PPO, collector, key, 3, learner=learner)

    return train


def test_an_update_sees_the_steps_of_the_present_policy_and_no_others(on_policy):
    """Ten rows, all new, as two windows in which one step follows the other."""
    key = jax.random.key(6)
    learner, metrics = on_policy(key)
    buffer = learner.experience.buffer
    assert (buffer.capacity, int(buffer.size), int(buffer.position)) == (10, 10, 0)
    batch = buffer.sample(key, 1, ppo.batch_spec(PPO))
    places, later = batch.observations[..., 0], batch.next_observations[..., 0]
    ended = batch.terminations | batch.truncations
    assert ended.any()
    np.testing.assert_allclose(places[:, 1:], np.where(ended, 0.0, later)[:, :-1])
    np.testing.assert_array_equal(batch.terminations, later > 3.5)
    again, _ = on_policy(key, learner)
    new = again.experience.buffer.rows
    assert not np.isin(np.asarray(new.actions), np.asarray(buffer.rows.actions)).any()
    # Where the last window stopped, the next one goes on.
    stopped = learner.experience.stream.observations[:, 0]
    after = learner.experience.buffer.sample(key, 1, ppo.batch_spec(PPO))
    last = np.where(ended, 0.0, after.next_observations[..., 0])[:, -1]
    np.testing.assert_allclose(stopped, last)
    assert metrics["collect/return"].shape == (3,)


def test_on_policy_learning_is_continued_bit_for_bit(on_policy):
    key = jax.random.key(7)
    going_on, _ = on_policy(key, on_policy(key)[0])
    spec = dataclasses.replace(ppo.collect_spec(PPO), copies=2)
    collector = ddm.Collector.create(CORRIDOR, spec)
    at_once, _ = jax.jit(lambda key: ddm.fit_online(ppo, PPO, collector, key, 6))(key)
    assert same(going_on, at_once)


def test_what_is_not_the_present_policys_is_refused(log):
    """A log; a buffer of older steps; windows of another length."""
    key = jax.random.key(0)
    with pytest.raises(InputError, match="is a log, and the method learns from its present"):
        ddm.fit(ppo, PPO, log, key, 1)
    own = ddm.Collector.create(CORRIDOR, ppo.collect_spec(PPO))
    with pytest.raises(InputError, match="is a log, and the method learns from its present"):
        ddm.fit_online(ppo, PPO, own, key, 1, log=log)
    with pytest.raises(InputError, match="keeps the steps of older policies"):
        ddm.fit_online(ppo, PPO, COLLECTOR, key, 1)
    with pytest.raises(InputError, match=r"holds 5 steps of each copy.*windows of 4"):
        ddm.fit_online(ppo, PPO.replace(window=4), own, key, 1)
    spec = ddm.CollectSpec(on_policy=True, steps_per_update=7, copies=3, random_steps=9)
    assert (spec.capacity, spec.random_steps) == (21, 0)
    assert dataclasses.replace(spec, copies=2).capacity == 14


def test_lanes_collect_for_themselves(online):
    """Two keys, one compilation: other experience."""
    keys = jax.random.split(jax.random.key(3), 2)
    train = jax.jit(
        jax.vmap(lambda key: ddm.fit_online(sac, SAC, COLLECTOR, key, 6, batch_size=ROWS)[0])
    )
    lanes = train(keys)
    own, other = lanes.experience.buffer.rows.rewards[:, :32]
    assert not np.allclose(own, other)
    single = online(keys[1])[0].experience.buffer.rows.rewards[:32]
    np.testing.assert_allclose(other, single, rtol=1e-3, atol=1e-3)


def test_a_log_stands_beside_the_experience(log):
    """A module that knows names gets both under theirs; any other gets half of each."""
    seen = {}

    def update(config, state, batch):
        seen.update(batch)
        return sac.update(config, state, batch["own"])

    spec = BatchSpec(fields=TRANSITION_FIELDS)
    named = types.SimpleNamespace(
        init=lambda config, key, batch: sac.init(config, key, batch["own"]), act=sac.act,
        update=update,
        batch_spec=lambda config: {"own": spec, "log": dataclasses.replace(spec, minibatches=1)},
    )  # fmt: skip
    train = lambda algorithm: jax.eval_shape(  # noqa: E731
        lambda: ddm.fit_online(
            algorithm, SAC, COLLECTOR, jax.random.key(0), 2, log=log, batch_size=ROWS
        )
    )
    train(named)
    assert {name: batch.rewards.shape for name, batch in seen.items()} == {
        "own": (ROWS,), "log": (ROWS,),
    }  # fmt: skip
    train(sac)


def test_experience_has_the_units_of_the_log(log):
    """Observations as the log's standardised ones, rewards scaled, actions from -1 to 1."""
    scaled = data.normalize(log, observations="standardize", reward_scale=0.5)
    state = sac.init(SAC, jax.random.key(0), COLLECTOR.example(COLLECTOR.empty_buffer(scaled)))
    seen = experience.begin(COLLECTOR, sac, SAC, state, jax.random.key(1), scaled)
    rows, maps = seen.buffer.ordered(), scaled.normalization
    places = maps.denormalize_observations(rows.next_observations)[:, 0]
    np.testing.assert_allclose(rows.rewards, 0.5 * places, atol=1e-5)
    assert np.all(np.abs(rows.actions) <= 1.0)


def test_what_does_not_fit_is_refused_before_anything_is_trained():
    small = ddm.Collector.create(CORRIDOR, dataclasses.replace(COLLECT, capacity=8))
    with pytest.raises(InputError, match="capacity is 8, expected at least the 16 rows"):
        ddm.fit_online(sac, SAC, small, jax.random.key(0), 2, batch_size=ROWS)
    other = ddm.Collector.create(envs.PointMass(num_dimensions=2), COLLECT)
    with pytest.raises(InputError, match="observations have shape"):
        ddm.fit_online(sac, SAC, other, jax.random.key(0), 2, batch_size=ROWS, log=make_log())
    with pytest.raises(InputError, match="copies is 0"):
        ddm.CollectSpec(copies=0)


def test_stages_are_run_in_their_order_and_continued_across_their_ends(log):
    """Three steps of a first stage whose end writes a number, then the second: 2 and 4 equal 6."""
    spec = bc.batch_spec(BC)

    def finish(config, state, source, key):
        del config, key
        shift = source.rewards.shape[0] / 190  # 1: the whole log is seen
        return state.replace(
            policy=jax.tree.map(lambda x: x + jnp.asarray(shift, x.dtype), state.policy)
        )

    staged = types.SimpleNamespace(
        init=bc.init, act=bc.act, update=bc.update, batch_spec=bc.batch_spec,
        stages=lambda config: (
            Stage("model", bc.update, spec, 3, finish=finish), Stage("policy", bc.update, spec),
        ),
    )  # fmt: skip
    key = jax.random.key(5)
    at_once, metrics = ddm.fit(staged, BC, log, key, 6, batch_size=ROWS)
    half, first = ddm.fit(staged, BC, log, key, 2, batch_size=ROWS)
    going_on, second = ddm.fit(staged, BC, log, key, 4, batch_size=ROWS, state=half)
    assert same(going_on, at_once)
    assert (metrics["model/loss"].shape, metrics["policy/loss"].shape) == ((3,), (3,))
    joined = np.concatenate([first["model/loss"], second["model/loss"]])
    np.testing.assert_array_equal(joined, metrics["model/loss"])
    plain, _ = ddm.fit(bc, BC, log, key, 3, batch_size=ROWS)
    ended, _ = ddm.fit(staged, BC, log, key, 3, batch_size=ROWS)
    for one, other in zip(
        jax.tree.leaves(plain.policy.params), jax.tree.leaves(ended.policy.params), strict=True
    ):
        np.testing.assert_allclose(one + 1.0, other, rtol=1e-6)


def test_what_the_log_decides_is_filled_in_and_what_is_given_must_fit():
    """The number of actions; bins of a policy class; the count of rows."""
    indices = np.arange(60) % 3
    discrete = data.from_arrays(
        np.eye(3, dtype=np.float32)[indices], indices, np.zeros(60), np.zeros(60, bool),
        np.arange(60) % 20 == 19,
    )  # fmt: skip
    prepared = ddm.prepare(bc, bc.Config(), discrete)
    assert (prepared.num_actions, prepared.head) == (3, "categorical")
    with pytest.raises(InputError, match="num_actions is 2, and arrays has 3 actions"):
        ddm.prepare(bc, bc.Config(num_actions=2), discrete)
    counted = ddm.prepare(spibb_dqn, spibb_dqn.Config(), discrete)
    assert (counted.num_actions, counted.dataset_size) == (3, discrete.num_transitions)
    bins = autoregressive.Config(num_bins=2, binning="quantile")
    edges = np.asarray(ddm.prepare(autoregressive, bins, make_log()).edges)
    np.testing.assert_allclose(edges[1], np.median(make_log().actions), atol=0.05)
    with pytest.raises(InputError, match="binning=even is unknown"):
        ddm.prepare(autoregressive, bins.replace(binning="even"), make_log())
    with pytest.raises(InputError, match="outside of jit"):
        jax.jit(lambda log: ddm.prepare(autoregressive, bins, log).num_bins)(make_log())
