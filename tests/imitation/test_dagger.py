"""DAgger: known costs on the tightrope and the sine track, and who acts and what is asked."""

from __future__ import annotations

import dataclasses
import functools
import pickle
from typing import Any

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddm
from ddm.envs import sine_track, tabular
from ddm.envs.tabular.worlds import STAY_ON_ROPE
from ddm.errors import InputError
from ddm.evaluation.experts import FunctionExpert, HostExpert
from ddm.evaluation.supervision import Seen
from ddm.imitation import (
    act,
    autoregressive,
    bc,
    cvae,
    dagger,
    diffusion,
    flow_matching,
    history_bc,
    implicit_bc,
    tabular_bc,
)
from ddm.imitation.parts import dart, gates
from ddm.types import Batch

SAFE = {"gate": "safe", "held_out_share": 0.5}

CONTRACT = contract.Contract(
    small={"round_updates": 2, "safety_hidden_sizes": (8,)},
    variants=[
        SAFE,
        {"gate": "ensemble", "num_members": 2},
        {"gate": "budget", "num_members": 2},
        {"noise": "dart", "held_out_share": 0.5},
        {"retrain": True},
        {"head": "categorical", "num_actions": contract.NUM_ACTIONS, "noise": "isotropic"},
    ],
    other={
        "head": "tanh_gaussian",
        "features": lambda observations: 2.0 * contract.pair_features(observations),
        "label_smoothing": 0.3,
        "round_steps": 7,
        "round_copies": 2,
        "max_rows": 10,
        "gate": "human",
        "beta_schedule": "linear",
        "noise": "isotropic",
        "noise_scale": 0.5,
        "beta_decay": 0.0,
        "clone_steps": 3,
        "num_members": 2,
        "round_updates": 3,
        "query_rate": 0.9,
        "doubt_limit": 0.0,
        "discrepancy_limit": 4.0,
        "max_labels": 1,
        "safety_learning_rate": 0.1,
        "safety_hidden_sizes": (4,),
    },
    context={
        "features": {
            "head": "linear_softmax",
            "num_actions": contract.NUM_ACTIONS,
            "features": contract.pair_features,
        },
        "label_smoothing": {"head": "categorical", "num_actions": contract.NUM_ACTIONS},
        "beta_decay": {"beta_schedule": "exponential"},
        "beta_rounds": {"beta_schedule": "linear"},
        "doubt_limit": {"gate": "ensemble", "num_members": 2, "discrepancy_limit": float("inf")},
        "discrepancy_limit": SAFE,
        "held_out_share": SAFE,
        "safety_learning_rate": SAFE,
        "safety_hidden_sizes": SAFE,
        "safety_network": SAFE,
        "query_rate": {"gate": "budget", "num_members": 2},
        "quantile_rate": {"gate": "budget", "num_members": 2},
        "noise_scale": {"noise": "isotropic"},
    },
)

TRACK = sine_track.SineTrack(noise=0.0)
TESTED = sine_track.SineTrack(noise=0.02)
PARAMS = TRACK.default_params
BATCH = 128
ROUND = {"round_steps": 60, "round_copies": 5, "round_updates": 4_000}
CONFIG = dagger.Config(head="mse", hidden_sizes=(64, 64), learning_rate=1e-3, **ROUND)


def follow(observation):
    """The track's own expert."""
    return sine_track.expert_action(observation, PARAMS)


def collector_of(config, environment=TRACK, expert=follow):
    return ddm.Collector.create(environment, dagger.collect_spec(config), expert=expert)


def round_of(algorithm, config, collector, batch_size):
    """Compiled rounds: the first one, and one more."""
    size = algorithm.batch_spec(config).minibatches

    @functools.partial(jax.jit, static_argnums=0)
    def train(rounds, key, collector, learner=None):
        return ddm.fit_online(
            algorithm, config, collector, key, rounds * size, batch_size=batch_size, learner=learner
        )

    return functools.partial(train, 1)


def final_error(learner, config, episodes=64):
    """Mean |y - sin x| at the end of test episodes, with noise."""
    params = TESTED.default_params

    def episode(key):
        reset_key, walk_key = jax.random.split(key)
        start = TESTED.reset(reset_key, params)

        def step(carry, key):
            observation, state = carry
            action = (
                dagger.act(config, learner.state, observation, key, deterministic=True)[0]
                * sine_track.MAX_SPEED
            )
            observation, state, *_ = TESTED.step(key, state, action, params)
            return (observation, state), None

        (end, _), _ = jax.lax.scan(step, start, jax.random.split(walk_key, 60))
        return sine_track.off_track(end)

    return jnp.mean(jax.vmap(episode)(jax.random.split(jax.random.key(9), episodes)))


@pytest.fixture(scope="module")
def rounds():
    """The clone of five demonstrations, what two more rounds make of it, and their metrics."""
    collector, key = collector_of(CONFIG), jax.random.key(0)
    train = round_of(dagger, CONFIG, collector, BATCH)
    learner, metrics = train(key, collector)
    learners, found = [learner], [metrics]
    pushed = collector_of(CONFIG, TESTED)  # demonstrated without noise, visited with it
    for _ in range(2):
        learner, metrics = train(key, pushed, learner)
        learners.append(learner)
        found.append(metrics)
    return learners, jax.tree.map(lambda *each: np.concatenate(each), *found)


def test_the_sine_track_is_followed_where_a_clone_leaves_it(rounds):
    """Within 0.1 after two rounds of 300 labels, and a quarter of the clone's distance."""
    learners, metrics = rounds
    measure = jax.jit(final_error)
    before, *_, after = (float(measure(learner, CONFIG)) for learner in learners)
    assert after <= 0.1, (before, after)
    assert after <= before / 4, (before, after)
    np.testing.assert_array_equal(metrics["collect/labels"], [300, 600, 900])
    np.testing.assert_allclose(metrics["collect/expert_share"], [1, 1 / 2, 1 / 3], rtol=1e-6)


def test_the_label_is_the_experts_action_whoever_acted(rounds):
    """All rows carry the expert's action of their state; after round 1 others were executed."""
    rows = rounds[0][-1].experience.buffer.ordered()
    assert rows.actions.shape == (900, 2)
    labels = np.asarray(sine_track.expert_action(jnp.asarray(rows.observations), PARAMS))
    np.testing.assert_allclose(rows.actions, labels / sine_track.MAX_SPEED, atol=1e-5)
    moved = (rows.next_observations - rows.observations) / PARAMS.dt
    apart = np.abs(moved - labels).max(axis=-1)
    assert np.all(apart[:300] < 1e-3)
    assert np.mean(apart[300:] > 1e-3) > 0.9


# The tightrope, with a learner that errs on purpose.

ERROR = 0.01
WRONG = 1 - STAY_ON_ROPE


class Fallible:
    """A tabular clone that errs with probability ERROR where it has learned, and always where not.

    This is the learner of the theory: its error rate is known, whatever it was trained on.
    """

    __name__ = "fallible"
    Config, State = bc.Config, bc.State
    batch_spec, init = staticmethod(bc.batch_spec), staticmethod(bc.init)
    update = staticmethod(bc.update)

    @staticmethod
    def act(config, state, observation, key, policy_state=(), *, deterministic=False):
        """The label that was seen, or its opposite."""
        del deterministic
        logits = state.policy(observation).logits
        learned = jnp.abs(logits[0] - logits[1]) > 1e-3
        errs = jax.random.bernoulli(key, ERROR)
        action = jnp.where(errs, 1 - jnp.argmax(logits), jnp.argmax(logits))
        return jnp.where(learned, action, WRONG).astype(jnp.int32), policy_state


def walked_costs(policy, recovery_steps, horizon, episodes):
    """Total costs (episodes, horizon), summed up to each step, of `policy(observation, key)`."""
    environment = tabular.TabularEnvironment(tabular.tightrope, name="Tightrope")
    params = tabular.make_params(tabular.tightrope(recovery_steps), max_steps=horizon + 1)

    def episode(key):
        reset_key, walk_key = jax.random.split(key)

        def step(carry, key):
            act_key, step_key = jax.random.split(key)
            action = policy(carry[0], act_key)
            observation, state, reward, *_ = environment.step(step_key, carry[1], action, params)
            return (observation, state), -reward

        start = environment.reset(reset_key, params)
        return jnp.cumsum(jax.lax.scan(step, start, jax.random.split(walk_key, horizon))[1])

    return jax.vmap(episode)(jax.random.split(jax.random.key(5), episodes))


def exact_cost(recovery_steps, off_rope, horizon):
    """The formula: matrix powers of the chain; see tests/envs/tabular/test_worlds.py."""
    right = np.full(recovery_steps + 1, off_rope)
    right[0] = 1.0 - ERROR
    table = np.stack([right, 1.0 - right], axis=-1)[:, :: 1 if WRONG else -1]
    mdp = tabular.tightrope(recovery_steps)
    return -float(tabular.expected_return(mdp, jnp.asarray(table, jnp.float32), horizon))


def test_costs_grow_with_the_horizon_and_not_with_its_square():
    """Within 4 standard errors of the exact costs, 37.2 and 3.88 at a horizon of 100.

    A clone of the expert's walks never recovers. Each round of DAgger shows one state further on
    the way back, so after four rounds all three of them are known.
    """
    steps, horizons = 3, (25, 50, 100, 200)
    algorithm = dagger.over(Fallible)
    config = algorithm.Config(
        head="tabular", num_actions=2, learning_rate=0.1, round_steps=100, round_copies=20,
        round_updates=100,
    )  # fmt: skip
    environment = tabular.TabularEnvironment(lambda: tabular.tightrope(steps), name="Tightrope")
    collector = ddm.Collector.create(
        environment,
        algorithm.collect_spec(config),
        tabular.make_params(tabular.tightrope(steps), max_steps=100),
        expert=lambda observation: jnp.int32(STAY_ON_ROPE),
    )
    train, key = round_of(algorithm, config, collector, 64), jax.random.key(1)
    cloned, _ = train(key, collector)
    learner = cloned
    for _ in range(4):
        learner, _ = train(key, collector, learner)

    @jax.jit
    def costs_of(state):
        act = lambda observation, key: algorithm.act(config, state, observation, key)[0]  # noqa: E731
        return walked_costs(act, steps, max(horizons), 2_000)

    means = {}
    for name, each, off_rope in (("bc", cloned, 0.0), ("dagger", learner, 1.0 - ERROR)):
        costs = np.asarray(costs_of(each.state))
        means[name] = [costs[:, horizon - 1].mean() for horizon in horizons]
        for horizon, mean in zip(horizons, means[name], strict=True):
            deviation = costs[:, horizon - 1].std(ddof=1) / np.sqrt(len(costs))
            assert abs(mean - exact_cost(steps, off_rope, horizon)) < 4 * deviation, (name, horizon)
    assert exact_cost(steps, 0.0, 100) == pytest.approx(37.237, abs=1e-2)
    assert exact_cost(steps, 1.0 - ERROR, 100) == pytest.approx(3.882, abs=1e-3)
    slopes = {
        name: np.polyfit(np.log(horizons[:3]), np.log(values[:3]), 1)[0]
        for name, values in means.items()
    }
    assert slopes["bc"] > 1.6
    assert slopes["dagger"] < 1.2


# Who acts, and what is asked.


def test_schedules_of_beta():
    config = dagger.Config(beta_decay=0.5, beta_rounds=4)
    rounds, untrained = jnp.arange(6.0), jnp.arange(6) == 0
    expected = {
        "first": [1, 0, 0, 0, 0, 0],
        "exponential": [1, 0.5, 0.25, 0.125, 0.0625, 0.03125],
        "linear": [1, 0.75, 0.5, 0.25, 0, 0],
        "always": [1] * 6,
        "never": [0] * 6,
    }
    for name, values in expected.items():
        np.testing.assert_allclose(gates.SCHEDULES[name](config, rounds, untrained), values)
    assert set(expected) == set(gates.SCHEDULES)


STEP = 2  # of a trained policy: past the first round


def ruling_of(
    memory: Any = None, doubt: Any = 0.0, wishes: Any = False, valid: Any = True,
    proposals: Any = 0.0, **fields: Any,
):  # fmt: skip
    """What the gate decides for four copies whose labels are (0.5, 0)."""
    config = contract.small_config(dagger, beta_schedule="never", **fields)
    batch = contract.make_batch(dagger, config)
    state = jax.jit(dagger.init)(config, jax.random.key(0), batch).replace(step=jnp.int32(STEP))
    labels = jnp.tile(jnp.array([0.5, 0.0]), (4, 1))
    seen = Seen(
        observations=batch.observations[:4],
        proposals=jnp.broadcast_to(jnp.asarray(proposals, jnp.float32), (4, 2)),
        labels=labels,
        valid=jnp.broadcast_to(jnp.asarray(valid), (4,)),
        takes_over=jnp.broadcast_to(jnp.asarray(wishes), (4,)),
        policy_states=dagger.Plan((), jnp.broadcast_to(jnp.asarray(doubt, jnp.float32), (4,))),
    )
    if memory is None:
        memory = gates.Memory.empty().replace(labels=jnp.int32(1))
    return dagger.supervise(config, state, memory, seen, jax.random.key(0))


def test_without_a_gate_every_state_is_labelled_and_the_learner_acts():
    ruling, memory = ruling_of(valid=np.array([True, True, False, True]))
    assert not ruling.led.any()
    np.testing.assert_array_equal(ruling.asked, [1, 1, 0, 1])
    assert (int(memory.labels), int(memory.invalid), int(memory.steps)) == (4, 1, 4)


def test_a_person_who_takes_over_leaves_only_own_steps():
    wishes = np.array([False, True, False, True])
    ruling, memory = ruling_of(gate="human", wishes=wishes, doubt=[0.1, 0.2, 0.3, 0.4])
    np.testing.assert_array_equal(ruling.led, wishes)
    np.testing.assert_array_equal(ruling.asked, wishes)
    assert float(memory.risk) == pytest.approx(0.3)  # mean doubt at the two take-overs


def test_doubt_and_discrepancy_of_an_ensemble():
    """With a limit of the discrepancy all are asked; without one, the doubtful alone."""
    asked = {"gate": "ensemble", "num_members": 2, "doubt_limit": 0.01}
    doubt = [0.0, 0.02, 0.0, 0.02]
    near, far = [0.45, 0.0], [0.0, 0.0]  # squared errors of 0.00125 and 0.125 per dimension
    proposals = np.array([near, near, far, far])
    ruling, _ = ruling_of(**asked, doubt=doubt, proposals=proposals, discrepancy_limit=0.01)
    np.testing.assert_array_equal(ruling.led, [0, 1, 1, 1])
    assert ruling.asked.all()
    ruling, _ = ruling_of(**asked, doubt=doubt, proposals=proposals, discrepancy_limit=np.inf)
    np.testing.assert_array_equal(ruling.led, [0, 1, 0, 1])
    np.testing.assert_array_equal(ruling.asked, ruling.led)


def test_labels_end_with_their_budget_and_the_expert_with_them():
    memory = gates.Memory.empty().replace(labels=jnp.int32(8))
    ruling, memory = ruling_of(memory, gate="human", wishes=True, max_labels=10)
    np.testing.assert_array_equal(ruling.asked, [1, 1, 0, 0])
    np.testing.assert_array_equal(ruling.led, ruling.asked)
    assert int(memory.labels) == 10


def test_before_the_first_label_everything_is_asked():
    """So that no batch is drawn from nothing."""
    ruling, _ = ruling_of(gates.Memory.empty(), gate="human", wishes=False)
    assert ruling.asked.all()


def test_the_share_of_questions_is_the_budgets():
    """Also while doubts shrink, and for any scale: log threshold moves by the excess alone."""
    config = dagger.Config(query_rate=0.2, quantile_rate=0.1)
    doubts = jnp.exp(jax.random.normal(jax.random.key(0), (6_000, 2)) - 9.0)
    doubts *= jnp.linspace(1.0, 0.1, 6_000)[:, None]

    def step(threshold, doubt):
        return gates.next_threshold(config, threshold, doubt), jnp.mean(doubt > threshold)

    last, above = jax.lax.scan(step, jnp.zeros(()), doubts)
    assert float(above[1_000:].mean()) == pytest.approx(0.2, abs=0.01)
    assert float(above[:3_000].mean()) == pytest.approx(0.2, abs=0.02)
    high = float(jnp.quantile(doubts[-1_000:], 0.8))
    assert 0.5 < float(last) / high < 2.0


def test_noise_has_the_covariance_of_the_learners_errors():
    """Executed actions are noisy; the factor's product is the covariance, singular or not."""
    covariance = jnp.array([[0.04, 0.02], [0.02, 0.01]])  # of rank 1
    factor = dart.covariance_factor(covariance)
    noise = dart.noisy(jnp.zeros((20_000, 2)), factor, 0.0, jax.random.key(0))
    np.testing.assert_allclose(np.cov(np.asarray(noise).T), covariance, atol=1e-3)
    indices = dart.noisy(jnp.zeros(20_000, jnp.int32), jnp.eye(4), 0.2, jax.random.key(0))
    assert float(jnp.mean(indices != 0)) == pytest.approx(0.2 * 3 / 4, abs=0.01)


def test_labels_are_the_intended_actions_where_the_expert_acts_with_noise():
    """DART: the states show corrections, the labels no noise, and its size is that asked for."""
    config = dagger.Config(
        head="mse", hidden_sizes=(8,), round_steps=60, round_copies=5, round_updates=2,
        beta_schedule="always", noise="dart", noise_scale=0.1,
    )  # fmt: skip
    collector = collector_of(config)
    train, key = round_of(dagger, config, collector, 32), jax.random.key(0)
    learner, metrics = train(key, collector)
    learner, _ = train(key, collector, learner)
    rows = learner.experience.buffer.ordered()
    labels = np.asarray(follow(jnp.asarray(rows.observations))) / sine_track.MAX_SPEED
    np.testing.assert_allclose(rows.actions, labels, atol=1e-5)
    executed = (rows.next_observations - rows.observations) / PARAMS.dt / sine_track.MAX_SPEED
    noise = (executed - labels)[300:]
    assert np.abs((executed - labels)[:300]).max() < 1e-4  # nothing is known of the errors yet
    assert np.sqrt(np.square(noise).sum(axis=1).mean()) == pytest.approx(0.1, rel=0.15)
    assert float(metrics["noise_trace"][0]) > 0.0


def test_held_out_states_are_the_same_share_and_the_same_states():
    observations = jax.random.normal(jax.random.key(0), (10_000, 3))
    held = gates.held_out(observations, 0.2)
    assert float(held.mean()) == pytest.approx(0.2, abs=0.015)
    np.testing.assert_array_equal(gates.held_out(observations[::-1], 0.2), held[::-1])
    rows = dagger.without_held_out(Batch(observations=observations), 0.2).observations
    assert rows.shape == observations.shape
    assert not gates.held_out(rows, 0.2).any()


def test_a_vote_and_a_mean_of_members():
    action, doubt = dagger.combined(jnp.array([2, 0, 2, 1]))
    assert (int(action), float(doubt)) == (2, 0.5)
    action, doubt = dagger.combined(jnp.array([[0.0, 1.0], [1.0, 1.0]]))
    np.testing.assert_array_equal(action, [0.5, 1.0])
    assert float(doubt) == 0.125  # a variance of 1/4 in one of two dimensions


# Learners, experts and refusals.


@pytest.mark.parametrize(
    "learner", [cvae, history_bc, implicit_bc, diffusion, flow_matching, act, autoregressive]
)
def test_every_policy_class_can_be_the_learner(learner):
    """Rows or windows: whole rounds are traced; windows come from the buffer in order."""
    algorithm = dagger.over(learner)
    fields = {field.name for field in dataclasses.fields(algorithm.Config)}
    small = {"hidden_sizes": (8,), "width": 8, "num_layers": 1, "num_heads": 2, "num_bins": 4}
    small = {name: value for name, value in small.items() if name in fields}
    config = algorithm.Config(round_steps=20, round_updates=2, **small)
    collector = ddm.Collector.create(TRACK, algorithm.collect_spec(config), expert=follow)
    _, metrics = jax.eval_shape(
        lambda key: ddm.fit_online(
            algorithm, config, collector, key, algorithm.batch_spec(config).minibatches,
            batch_size=4,
        ),
        jax.random.key(0),
    )  # fmt: skip
    assert metrics["collect/labels"].shape == (1,)


def test_learners_and_rules_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="tabular_bc cannot learn from single labelled states"):
        dagger.over(tabular_bc).collect_spec(dagger.over(tabular_bc).Config())
    windows = dagger.over(history_bc)
    with pytest.raises(InputError, match="history_bc learns from windows, in which every state"):
        windows.collect_spec(windows.Config(max_labels=5))
    with pytest.raises(InputError, match="gate=budget compares members, and num_members is 1"):
        dagger.collect_spec(dagger.Config(gate="budget"))


@pytest.mark.parametrize(
    ("expert", "words"),
    [
        (None, "the method asks an expert, and there is none"),
        (3, "an expert is a int"),
        (lambda observation: jnp.zeros(3), r"shape \(16, 3\) for 16 observations, expected shape"),
        (lambda observation: jnp.full(2, jnp.nan), "is not finite"),
        (lambda observation: jnp.full(2, 9.0), "outside the box from"),
        (lambda observation: np.asarray(observation) + 0.0, "a function of numpy"),
        (lambda observation, other: observation, "the expert fails .* missing 1 required"),
        (HostExpert(np.zeros_like), "runs inside a compiled program, and the expert outside"),
    ],
)
def test_experts_that_do_not_fit_are_refused_before_a_run(expert, words):
    with pytest.raises(InputError, match=words):
        collector_of(CONFIG, expert=expert)


def test_labels_that_are_no_actions_are_left_out_and_reported():
    """An expert that fails somewhere on the way does not spoil what was learned."""
    config = CONFIG.replace(round_steps=6, round_updates=1, hidden_sizes=(4,))
    broken = lambda observation: jnp.where(observation[0] > 0.35, jnp.nan, follow(observation))  # noqa: E731
    collector = collector_of(config, expert=broken)
    learner, metrics = round_of(dagger, config, collector, 8)(jax.random.key(0), collector)
    rows = learner.experience.buffer.ordered()
    assert np.isfinite(rows.actions).all()
    invalid = float(metrics["collect/invalid_labels"][0])
    assert invalid > 0
    assert len(rows.actions) + invalid == 30
    [sentence] = dagger.diagnose(config, {"collect/invalid_labels": invalid})
    assert "not finite or outside the box" in sentence


def test_an_intervening_expert_of_jax():
    """Only states beyond the line are kept: there the expert wishes to act."""
    config = CONFIG.replace(
        gate="human", beta_schedule="never", round_steps=40, round_updates=1, hidden_sizes=(4,)
    )
    expert = FunctionExpert(follow, takes_over=lambda observation, action: observation[0] > 1.0)
    collector = collector_of(config, expert=expert)
    train, key = round_of(dagger, config, collector, 8), jax.random.key(0)
    learner, _ = train(key, collector)
    first = int(learner.experience.memory.labels)
    learner, _ = train(key, collector, learner)
    rows = learner.experience.buffer.ordered()
    assert first == 200  # before the first update all are asked
    assert np.all(rows.observations[first:, 0] > 1.0)
    assert int(learner.experience.memory.led) == len(rows.actions) - first


def test_a_configuration_and_its_algorithm_are_pickled():
    algorithm = dagger.over(cvae)
    assert pickle.loads(pickle.dumps(algorithm)) is algorithm
    config = algorithm.Config(round_steps=7)
    assert pickle.loads(pickle.dumps(config)) == config
