"""Runs that collect while they learn, have stages, start from a policy, or hold episodes out."""

from __future__ import annotations

import shutil
import types

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from corridor import Corridor

from ddm import data, runner
from ddm.errors import InputError
from ddm.evaluation.collecting import HostStream
from ddm.imitation import bc
from ddm.off_policy import sac
from ddm.on_policy import ppo
from ddm.types import Stage

SAC = sac.Config(hidden_sizes=(8,))
BC = bc.Config(hidden_sizes=(8,))
CORRIDOR = Corridor()


def options(folder, **changes):
    asked = {
        "run_dir": str(folder), "num_updates": 8, "log_every": 4, "eval_every": 4,
        "eval_episodes": 2, "batch_size": 16, "plots": False, "progress": "none",
        "checkpoint_every": 4,
    }  # fmt: skip
    return runner.Options(**(asked | changes))


def online(folder, **changes):
    asked = {"online": True, "random_steps": 20, "buffer_capacity": 64}
    return options(folder, **(asked | changes))


def rows_of(folder):
    return (folder / "metrics.csv").read_text()


def leaves(tree):
    raw = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x  # noqa: E731
    return [np.asarray(raw(x)) for x in jax.tree.leaves(tree)]


def assert_same(one, other):
    for ours, theirs in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def log():
    random = np.random.default_rng(0)
    return data.from_arrays(
        random.normal(size=(100, 1)).astype(np.float32),
        random.uniform(0, 2, size=(100, 1)).astype(np.float32), random.normal(size=100),
        np.zeros(100, bool), np.arange(1, 101) % 20 == 0, action_space=CORRIDOR.action_space(None),
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """SAC without a log, two lanes, uninterrupted."""
    folder = tmp_path_factory.mktemp("online")
    return folder, runner.train(sac, SAC, None, CORRIDOR, online(folder, seeds=2))


def test_a_policy_learns_from_its_own_experience(whole):
    """Scores, the return of what it collected, and a record that says what was done."""
    folder, result = whole
    assert result.summary["score"]["metric"] == "return"
    assert result.summary["collect"] == {
        "steps_per_update": 1, "capacity": 64, "random_steps": 20, "copies": 1,
    }  # fmt: skip
    assert "collect/return" in rows_of(folder)
    assert result.summary["dataset"]["name"] == "own experience"
    own, other = (result.policy.lane(i).state.actor.params for i in range(2))
    assert not np.array_equal(leaves(own)[0], leaves(other)[0])


def test_a_run_that_is_resumed_goes_on_with_its_experience_bit_for_bit(whole, tmp_path):
    """Half of it, then the rest: the same policy, buffer and rows as without a stop."""
    folder, result = whole
    runner.train(sac, SAC, None, CORRIDOR, online(tmp_path, seeds=2, num_updates=4))
    longer = online(tmp_path, seeds=2, resume=True)
    assert_same(runner.train(sac, SAC, None, CORRIDOR, longer).policy.state, result.policy.state)
    assert rows_of(tmp_path) == rows_of(folder)


def test_its_policy_is_loaded_without_its_experience(whole):
    folder, result = whole
    loaded = runner.load_policy(folder, sac, lane=1)
    assert_same(loaded.state, result.policy.lane(1).state)


def test_a_log_stands_beside_the_experience(tmp_path, log):
    result = runner.train(sac, SAC, log, CORRIDOR, online(tmp_path, num_updates=4))
    assert result.summary["dataset"]["transitions"] == 95
    assert result.summary["collect"]["capacity"] == 64


def model_then_policy(finish_value: float = 7.0):
    """Cloning in two stages; the end of the first one writes a number into the parameters."""

    def finish(config, state, sources, key):
        del config, key
        assert sources.num_transitions == 95
        return state.replace(
            policy=jax.tree.map(lambda x: jnp.full_like(x, finish_value), state.policy)
        )

    spec = bc.batch_spec(BC)
    return types.SimpleNamespace(
        __name__="staged", Config=bc.Config, State=bc.State, init=bc.init, update=bc.update,
        act=bc.act, batch_spec=bc.batch_spec,
        stages=lambda config: (
            Stage("model", bc.update, spec, 6, finish=finish, evaluated=False),
            Stage("policy", bc.update, spec),
        ),
    )  # fmt: skip


def test_stages_run_one_after_the_other_and_finish_once(tmp_path, log):
    """Metrics carry the stage's name; without a policy there is no score; intervals end there."""
    staged = model_then_policy()
    folder = tmp_path / "whole"
    result = runner.train(staged, BC, log, CORRIDOR, options(folder, num_updates=4))
    steps = {tuple(line.split(",")[i] for i in (0, 2)) for line in rows_of(folder).splitlines()[1:]}
    assert {step for step, name in steps if name == "model/loss"} == {"4", "6"}
    assert {step for step, name in steps if name == "policy/loss"} == {"8", "10"}
    assert {step for step, name in steps if name == "evaluation/return"} == {"8", "10"}
    # Four steps of Adam at 3e-4 after the end of the first stage, from 7.
    weights = leaves(result.policy.lane(0).state.policy.params)
    assert all(np.allclose(x, 7.0, atol=0.1) for x in weights)


def test_a_run_that_is_stopped_in_the_second_stage_goes_on_there(tmp_path, log):
    staged = model_then_policy()
    at_once = runner.train(staged, BC, log, None, options(tmp_path / "a", num_updates=4))
    runner.train(staged, BC, log, None, options(tmp_path / "b", num_updates=1))
    longer = options(tmp_path / "b", num_updates=4, resume=True)
    resumed = runner.train(staged, BC, log, None, longer)
    assert_same(resumed.policy.state, at_once.policy.state)


def test_a_run_that_goes_on_where_a_stage_ended_makes_no_evaluation_of_its_own(tmp_path, log):
    """The step belongs to the stage that has ended, which has no policy to evaluate."""
    staged = model_then_policy()
    asked = {"num_updates": 3, "log_every": 3, "eval_every": 3, "checkpoint_every": 3, "keep": 3}
    runner.train(staged, BC, log, CORRIDOR, options(tmp_path, **asked))
    rows = rows_of(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "9")
    runner.train(staged, BC, log, CORRIDOR, options(tmp_path, **asked, resume=True))
    assert rows_of(tmp_path) == rows
    assert "\n6,0,evaluation/return" not in rows


def test_a_run_starts_from_another_ones_policies(tmp_path, log):
    """Lane by lane or from one; steps count anew, and the first evaluation is the old policy's."""
    first = runner.train(bc, BC, log, None, options(tmp_path / "first", seeds=2))
    asked = options(tmp_path / "next", seeds=2, num_updates=4, start_from=str(tmp_path / "first"))
    frozen = BC.replace(learning_rate=0.0)
    result = runner.train(bc, frozen, log, None, asked)
    assert_same(result.policy.state.policy.params, first.policy.state.policy.params)
    assert np.all(np.asarray(result.policy.state.step) == 4)
    one = runner.train(
        bc, frozen, log, None, options(tmp_path / "one", seeds=2), start=first.policy.lane(1)
    )
    for lane in range(2):
        assert_same(
            one.policy.lane(lane).state.policy.params, first.policy.lane(1).state.policy.params
        )


def test_a_start_that_does_not_fit_is_refused(tmp_path, log):
    first = runner.train(bc, BC, log, None, options(tmp_path / "first"))
    train = lambda *args, **more: runner.train(  # noqa: E731
        *args, log, None, options(tmp_path / "no"), **more
    )
    with pytest.raises(InputError, match="a policy of bc, not of sac"):
        train(sac, SAC, start=first.policy)
    with pytest.raises(InputError, match="other networks"):
        train(bc, bc.Config(hidden_sizes=(4,)), start=first.policy)
    standard = data.normalize(log, observations="standardize")
    with pytest.raises(InputError, match="another observation_mean"):
        runner.train(bc, BC, standard, None, options(tmp_path / "no"), start=first.policy)
    with pytest.raises(InputError, match="a run of bc, not of sac"):
        runner.train(
            sac, SAC, log, None, options(tmp_path / "no", start_from=str(tmp_path / "first"))
        )
    assert not (tmp_path / "no").exists()


def test_episodes_that_are_held_out_are_reported_and_not_learned_from(tmp_path, log):
    """The loss on them stands in the metrics; training is that on the others alone."""
    rest, held = data.hold_out(log, 0.4)
    asked = options(tmp_path / "share", holdout=0.4)
    by_share = runner.train(bc, BC, log, None, asked)
    given = runner.train(bc, BC, rest, None, options(tmp_path / "given"), holdout=held)
    alone = runner.train(bc, BC, rest, None, options(tmp_path / "alone"))
    assert "holdout/loss" in rows_of(tmp_path / "share")
    assert rows_of(tmp_path / "share") == rows_of(tmp_path / "given")
    for result in (by_share, given):
        assert_same(result.policy.state, alone.policy.state)
    assert "holdout" not in rows_of(tmp_path / "alone")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"random_steps": 9}, "random_steps is 9, and the method learns from the steps of its"),
        ({"buffer_capacity": 99}, "buffer_capacity is 99, and the method learns"),
        ({"collect_steps": 4}, "holds 4 steps of each copy, and the method asks for windows of 6"),
    ],
)
def test_options_of_a_memory_are_refused_where_nothing_is_remembered(tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        runner.train(ppo, PPO, None, CORRIDOR, options(tmp_path / "no", **changes))
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("changes", "environment", "words"),
    [
        ({"online": True}, None, "there is no environment"),
        ({}, None, "there is nothing to learn from"),
        ({"online": True, "buffer_capacity": 8}, CORRIDOR, "expected at least the 16 rows"),
        ({"holdout": 0.5, "online": True}, CORRIDOR, "there is not one log"),
        (
            {"online": True, "buffer_capacity": 2**31 - 1, "seeds": 40},
            CORRIDOR,
            "of 40 lanes with a buffer_capacity of 2147483647 needs",
        ),
    ],
)
def test_what_cannot_be_collected_or_held_out_is_refused(tmp_path, changes, environment, words):
    """One sentence each, and no folder."""
    with pytest.raises(InputError, match=words):
        runner.train(sac, SAC, None, environment, options(tmp_path / "no", **changes))
    assert not (tmp_path / "no").exists()


def test_stages_without_steps_are_refused(tmp_path, log):
    staged = model_then_policy()
    staged.stages = lambda config: (
        Stage("model", bc.update, bc.batch_spec(BC)), Stage("policy", bc.update, bc.batch_spec(BC)),
    )  # fmt: skip
    with pytest.raises(InputError, match="stage 'model' has None steps"):
        runner.train(staged, BC, log, None, options(tmp_path))


class Walk(gymnasium.Env):
    """The corridor as gymnasium has it, without a state that could be saved."""

    observation_space = gymnasium.spaces.Box(0.0, 10.0, (1,))
    action_space = gymnasium.spaces.Box(0.0, 2.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.time = self.np_random.uniform(0.0, 0.2), 0
        return np.array([self.place], np.float32), {}

    def step(self, action):
        self.place, self.time = self.place + float(action[0]), self.time + 1
        seen = np.array([self.place], np.float32)
        return seen, self.place, self.place > 3.5, self.time >= 5, {}


def test_gymnasium_environments_are_stepped_on_the_host(tmp_path):
    """Stopped at a checkpoint and resumed, a run is the uninterrupted one, bit for bit."""
    asked = {"seeds": 2, "collect_every": 2, "collect_copies": 2}
    at_once = runner.train(sac, SAC, None, Walk, online(tmp_path / "a", **asked))
    runner.train(sac, SAC, None, Walk, online(tmp_path / "b", num_updates=4, **asked))
    resumed = runner.train(sac, SAC, None, Walk, online(tmp_path / "b", resume=True, **asked))
    assert_same(resumed.policy.state, at_once.policy.state)
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    assert "collect/return" in rows_of(tmp_path / "a")


PPO = ppo.Config(hidden_sizes=(8,), window=6, num_epochs=1, num_minibatches=1, decay_steps=0)


@pytest.mark.parametrize("environment", [CORRIDOR, Walk], ids=["pure", "gymnasium"])
def test_a_policy_learns_from_its_present_steps_alone(tmp_path, environment):
    """It needs no --online; stopped and resumed, a run is the uninterrupted one, bit for bit."""
    asked = {"collect_copies": 2, "checkpoint_every": 2, "log_every": 2, "eval_every": 2}
    train = lambda folder, updates, **more: runner.train(  # noqa: E731
        ppo,
        PPO,
        None,
        environment,
        options(tmp_path / folder, num_updates=updates, **asked, **more),
    )
    at_once = train("a", 4)
    assert at_once.summary["collect"] == {
        "steps_per_update": 6, "capacity": 12, "random_steps": 0, "copies": 2, "on_policy": True,
    }  # fmt: skip
    assert "collect/return" in rows_of(tmp_path / "a")
    train("b", 2)
    assert_same(train("b", 4, resume=True).policy.state, at_once.policy.state)
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")


def test_the_host_visits_before_each_update_of_an_on_policy_method(tmp_path, monkeypatch):
    """Whatever `collect_every` says: six steps of each of two copies, with the policy of then."""
    seen = []
    collect = HostStream.collect

    def watched(stream, policy, steps):
        seen.append((steps, int(np.asarray(policy.state.step)[0])))
        return collect(stream, policy, steps)

    monkeypatch.setattr(HostStream, "collect", watched)
    asked = {"collect_copies": 2, "collect_every": 20, "log_every": 3, "eval_every": 0}
    result = runner.train(
        ppo, PPO, None, Walk, options(tmp_path, num_updates=3, eval_at_start=False, **asked)
    )
    assert seen == [(6, 0), (6, 1), (6, 2)]
    assert int(result.policy.state.step[0]) == 3


def test_what_the_host_collects_is_what_happened():
    """Each copy's rows follow each other; lanes see other episodes, and equal seeds equal ones."""
    streams = [HostStream(Walk, [0, 7], copies=2) for _ in range(2)]
    rows, again = (one.collect(None, 12) for one in streams)
    assert_same(rows, again)
    assert not np.array_equal(rows.observations[0], rows.observations[1])
    places, later = rows.observations[..., 0], rows.next_observations[..., 0]
    np.testing.assert_allclose(places + rows.actions[..., 0], later, rtol=1e-5)
    np.testing.assert_array_equal(rows.terminations, later > 3.5)
    ended = rows.terminations | rows.truncations
    for copy in range(2):
        before, after, stops = (x[:, copy::2] for x in (places, later, ended))
        np.testing.assert_array_equal(before[:, 1:] == after[:, :-1], ~stops[:, :-1])
        assert np.all(before[:, 1:][stops[:, :-1]] <= 0.2)  # a new start
    for one in streams:
        one.restart(40)
    other, same = (one.collect(None, 3) for one in streams)
    assert_same(other, same)
    assert not np.array_equal(other.observations[:, :1], rows.observations[:, :1])
    for one in streams:
        one.close()
