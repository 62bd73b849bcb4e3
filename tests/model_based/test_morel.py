"""MOReL: the numbers of its threshold, HALT in a model that is known, and a shortcut refused."""

from __future__ import annotations

import functools

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import walled_model as walled
from models import CONTEXT, OTHER, SMALL_MODEL, SMALL_ROUNDS

import ddm
from ddm import data
from ddm.errors import InputError
from ddm.model_based import dynamics, mbpo, morel
from ddm.model_based.parts import halting
from ddm.types import Batch, stages_of

CONTRACT = contract.Contract(
    small={**SMALL_MODEL, **SMALL_ROUNDS},
    other={**OTHER, "threshold": "largest"},
    context=CONTEXT,
)

CONFIG = morel.Config(
    **walled.MODEL,
    discount=0.95,
    halt_penalty=2.0,
    hidden_sizes=(64, 64),
    initial_temperature=0.02,
    temperature_learning_rate=0.0,
    actor_learning_rate=1e-3,
    critic_learning_rate=1e-3,
    target_rate=0.02,
    num_rollouts=256,
    rollout_length=5,
    rollout_frequency=100,
)
HALT = np.float32(-walled.COST) - np.float32(2.0)
update = jax.jit(morel.update)


def _batch(seed):
    rows = walled.log(64 * CONFIG.rollout_frequency, seed)
    return rows.replace(initial_observations=None)


@functools.cache
def _one_round(threshold=0.01, doubts=walled.DOUBTS):
    """The imagined rows of one update, and its metrics."""
    config = CONFIG.replace(threshold_coefficient=threshold)
    state, metrics = update(config, walled.start(morel, config, doubts=doubts), _batch(0))
    return state, state.imagined.ordered(), metrics


def test_unknown_steps_earn_the_halt_reward_and_end_and_known_ones_keep_every_bit():
    _, rows, metrics = _one_round()
    arrived = np.asarray(walled.move(rows.observations, rows.actions))
    unknown = np.asarray(walled.in_wall(arrived))
    assert 10 < unknown.sum() < 500
    np.testing.assert_array_equal(rows.rewards[unknown], HALT)
    assert rows.terminations[unknown].all()
    np.testing.assert_array_equal(rows.next_observations[unknown], rows.observations[unknown])
    np.testing.assert_array_equal(rows.rewards[~unknown], np.float32(-walled.COST))
    ends = np.asarray(walled.at_goal(arrived))
    np.testing.assert_array_equal(rows.terminations[~unknown], ends[~unknown])
    np.testing.assert_allclose(rows.next_observations[~unknown], arrived[~unknown], atol=1e-6)
    np.testing.assert_allclose(metrics["halted"], unknown.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["uncertainty"], 0.04 * unknown.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["threshold"], 0.01, rtol=1e-6)
    np.testing.assert_allclose(metrics["halt_reward"], HALT)


def test_nothing_follows_halt():
    """The buffer has the rows step by step; only episodes that go on have one in the next step."""
    _, rows, metrics = _one_round()
    alive, begin = np.asarray(_batch(0).observations[: CONFIG.num_rollouts]), 0
    for _ in range(CONFIG.rollout_length):
        step = slice(begin, begin + len(alive))
        np.testing.assert_array_equal(rows.observations[step], alive)
        alive = rows.next_observations[step][~rows.terminations[step]]
        begin = step.stop
    assert begin == len(rows.rewards) < CONFIG.num_rollouts * CONFIG.rollout_length
    np.testing.assert_allclose(metrics["rollout_length"], begin / CONFIG.num_rollouts, rtol=1e-6)


def test_every_member_sees_the_same_pair():
    """So equal members never disagree, and a threshold of 0 leaves all their steps known."""
    state, rows, metrics = _one_round(threshold=0.0, doubts=(0.5, 0.5, 0.5, 0.5))
    assert metrics["uncertainty"] == 0.0
    assert metrics["halted"] == 0.0
    assert state.measured.largest == 0.0
    np.testing.assert_array_equal(rows.rewards, np.float32(-walled.COST))


def test_without_a_threshold_it_is_mbpo_to_the_bit():
    config = CONFIG.replace(threshold_coefficient=1e9)
    ours, _, _ = _one_round(threshold=1e9)
    names = {name for name in mbpo.Config.__dataclass_fields__ if hasattr(config, name)}
    believing = mbpo.Config(**{name: getattr(config, name) for name in names})
    fields = vars(walled.start(morel, config))
    start = mbpo.State(**{name: x for name, x in fields.items() if name != "measured"})
    theirs, _ = jax.jit(mbpo.update)(believing, start, _batch(0))
    for one, other in ((ours.imagined, theirs.imagined), (ours.policy.actor, theirs.policy.actor)):
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_it_walks_around_what_is_unknown_where_mbpo_takes_the_shortcut():
    """Straight through the wall are 6 steps; around it, with corners cut, 1.54: at least 7."""
    lengths = {}
    for threshold in (0.01, 1e9):
        config = CONFIG.replace(threshold_coefficient=threshold)
        state = walled.start(morel, config)
        for seed in range(30):
            state, metrics = update(config, state, _batch(seed))
        path = walled.walk(morel, config, state)
        assert walled.at_goal(path[-1])
        assert walled.passes_wall(path) == (threshold > 1.0)
        lengths[threshold] = len(path)
        assert metrics["halted"] < 0.03
    assert lengths[1e9] <= 7 <= lengths[0.01] <= 13, lengths


def _log(rows=30):
    random = np.random.default_rng(0)
    observations = random.normal(size=(rows, 2)).astype(np.float32) * [1.0, 20.0] + [3.0, 0.0]
    dataset = data.from_arrays(
        observations.astype(np.float32),
        random.uniform(-1.0, 1.0, (rows, 1)).astype(np.float32),
        random.normal(size=rows).astype(np.float32),
        terminations=np.arange(rows) % 10 == 9,
    )
    return data.normalize(dataset, "standardize")


def test_the_threshold_is_measured_on_the_log_by_a_trained_model_and_by_one_that_is_given(
    monkeypatch,
):
    monkeypatch.setattr(halting, "_CHUNK", 7)  # does not divide the log
    log = _log()
    config = contract.small_config(morel, threshold_coefficient=2.0, max_holdout=5)
    config = ddm.prepare(morel, config, log)
    model, threshold, policy = stages_of(morel, config)
    assert (model.name, threshold.name, policy.name) == ("dynamics", "threshold", "policy")
    assert model.num_steps is not None
    steps = model.num_steps + 1
    state, metrics = ddm.fit(morel, config, log, jax.random.key(0), steps + 2, batch_size=2)
    assert state.step == steps + 2

    every = Batch(observations=log.observations[np.arange(30) + np.asarray(log.episode_ids)])
    means = dynamics.predict(config, state.model, every.observations, log.actions).means[..., 1:]
    raw = np.asarray(means, np.float64) * np.asarray(log.normalization.observation_std)
    apart = [np.linalg.norm(one - other, axis=-1) for one in raw for other in raw]
    unsure = np.max(apart, axis=0)
    found = state.measured
    np.testing.assert_allclose(found.mean, unsure.mean(), rtol=1e-4)
    np.testing.assert_allclose(found.std, unsure.std(), rtol=1e-4)
    np.testing.assert_allclose(found.largest, unsure.max(), rtol=1e-4)
    np.testing.assert_allclose(found.smallest_reward, np.min(log.rewards))
    expected = unsure.mean() + 2.0 * unsure.std()
    np.testing.assert_allclose(metrics["threshold/threshold"], [expected], rtol=1e-4)
    np.testing.assert_allclose(metrics["policy/threshold"], [expected], rtol=1e-4)
    largest = halting.threshold(config.replace(threshold="largest"), found)
    np.testing.assert_allclose(largest, unsure.max() / 2.0, rtol=1e-4)

    given = config.replace(max_epochs=0)
    assert [stage.name for stage in stages_of(morel, given)] == ["threshold", "policy"]
    fresh = morel.init(given, jax.random.key(1), data.sample(
        log, jax.random.key(2), 1, morel.batch_spec(given)))  # fmt: skip
    fresh = fresh.replace(model=state.model)
    again, _ = ddm.fit(morel, given, log, jax.random.key(3), 3, batch_size=2, state=fresh)
    jax.tree.map(np.testing.assert_array_equal, again.measured, found)


def test_the_halt_reward_is_in_units_of_the_environment():
    found = halting.Measured(*(jnp.float32(x) for x in (0.0, 0.0, 0.0, -3.0)))
    config = morel.Config(halt_penalty=50.0, reward_unit=0.1)
    assert halting.halt_reward(config, found) == -8.0


def test_a_disagreement_that_is_not_finite_is_unknown_and_nothing_of_it_is_kept():
    rows = Batch(
        observations=jnp.zeros((3, 2)), actions=jnp.zeros((3, 1)),
        rewards=jnp.array([1.0, jnp.nan, 1.0]), terminations=jnp.zeros(3, bool),
        next_observations=jnp.array([[1.0, 1.0], [jnp.nan, 1.0], [jnp.inf, 1.0]]),
    )  # fmt: skip
    found = halting.Measured(*(jnp.float32(x) for x in (0.0, 0.0, 0.0, -3.0)))
    kept, reported = halting.halt(CONFIG, found, rows, jnp.array([0.0, jnp.nan, jnp.inf]))
    np.testing.assert_array_equal(kept.rewards, [1.0, -5.0, -5.0])
    np.testing.assert_array_equal(kept.terminations, [False, True, True])
    np.testing.assert_array_equal(kept.next_observations, [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(reported["uncertainty"], [0.0, 0.01, 0.01])


def test_an_uncertainty_that_its_members_do_not_have_is_refused():
    config = contract.small_config(morel, uncertainty="max_std")
    with pytest.raises(InputError, match=r"uncertainty=max_std is 0 .* or probabilistic=True"):
        morel.init(config, jax.random.key(0), contract.make_batch(morel, config))
    with pytest.raises(InputError, match="threshold=median is unknown; choose one of mean_std"):
        morel.Config(threshold="median")


def test_a_threshold_below_everything_is_reported():
    [sentence] = morel.diagnose(CONFIG, {"halted": 1.0, "threshold": 0.5})
    assert "100 % of the imagined steps are unknown" in sentence
    assert not morel.diagnose(CONFIG, {"halted": 0.5, "threshold": 0.5})
