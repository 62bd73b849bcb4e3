"""Runs that ask an expert: resumed bit for bit, on the device and on the host, and by hand."""

from __future__ import annotations

import json
import pathlib

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts
from corridor import Corridor

from ddm import runner
from ddm.data import labelling
from ddm.errors import InputError, LabelsNeededError
from ddm.evaluation.experts import HostExpert
from ddm.imitation import bc, dagger
from ddm.runner.experts import human, load_expert
from ddm.types import Box, Discrete

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"

CONFIG = dagger.Config(
    hidden_sizes=(8,), round_steps=6, round_copies=2, round_updates=4, num_members=2, gate="budget",
    query_rate=0.5,
)  # fmt: skip


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


def halved(observation):
    """The walker's expert: steps of half the place, at most 2."""
    return jnp.clip(0.5 * observation, 0.0, 2.0)


class Counted:
    """The same in numpy, which counts its calls."""

    def __init__(self):
        self.rows = []

    def __call__(self, observations):
        self.rows.append(len(observations))
        return np.clip(0.5 * observations, 0.0, 2.0)


def options(folder, **changes):
    asked = {
        "run_dir": str(folder), "num_updates": 16, "log_every": 4, "eval_every": 4,
        "eval_episodes": 2, "batch_size": 8, "plots": False, "progress": "none",
        "checkpoint_every": 8, "seeds": 2,
    }  # fmt: skip
    return runner.Options(**(asked | changes))


def rows_of(folder):
    return (folder / "metrics.csv").read_text()


def metric(folder, name, seed=0):
    lines = [line.split(",") for line in rows_of(folder).splitlines()[1:]]
    return [float(value) for _, lane, key, value in lines if (lane, key) == (str(seed), name)]


def assert_same(one, other):
    raw = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x  # noqa: E731
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(raw(ours), raw(theirs))


@pytest.mark.parametrize(
    ("environment", "expert"),
    [(Corridor(), halved), (Walk, HostExpert(Counted())), (Walk, halved)],
    ids=["pure", "numpy", "jax-on-host"],
)
def test_rounds_are_resumed_bit_for_bit(tmp_path, environment, expert):
    """Half of them, then the rest: the same policies, labels and rows as without a stop."""
    train = lambda folder, **more: runner.train(  # noqa: E731
        dagger, CONFIG, None, environment, options(tmp_path / folder, **more), expert=expert
    )
    at_once = train("a")
    train("b", num_updates=8)
    assert_same(train("b", resume=True).policy.state, at_once.policy.state)
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    labels = metric(tmp_path / "a", "collect/labels")
    assert labels[0] == 12  # the expert's own round
    assert len(labels) == 4
    assert 12 < labels[-1] < 48
    assert at_once.summary["collect"]["labelled"] is True


def test_the_expert_is_asked_once_a_step_about_all_lanes(tmp_path):
    """Two lanes of two copies: four rows; first about the examples, before the run."""
    counted = Counted()
    runner.train(dagger, CONFIG, None, Walk, options(tmp_path), expert=HostExpert(counted))
    assert counted.rows == [1] + [4] * (4 * 6)


def test_an_expert_that_fails_on_the_way_stops_the_run_with_a_sentence(tmp_path):
    """What was trained is kept, and a run without an expert does not go on."""
    calls = Counted()

    def failing(observations):
        return calls(observations) * (np.nan if len(calls.rows) > 20 else 1.0)

    train = lambda expert, **more: runner.train(  # noqa: E731
        dagger, CONFIG, None, Walk, options(tmp_path, **more), expert=expert
    )
    with pytest.raises(InputError, match=r"Walk: the expert's action \[nan\] for the observation"):
        train(HostExpert(failing))
    with pytest.raises(InputError, match="the method asks an expert, and there is none"):
        train(None, resume=True)
    assert train(HostExpert(Counted()), resume=True).policy.state.step.tolist() == [16, 16]


@pytest.mark.parametrize(
    ("environment", "changes", "words"),
    [
        (None, {}, "dagger asks an expert about states of an environment"),
        (Corridor(), {"random_steps": 5}, "random_steps is 5, and the method labels its own"),
    ],
)
def test_runs_that_cannot_ask_are_refused(tmp_path, environment, changes, words):
    with pytest.raises(InputError, match=words):
        runner.train(
            dagger, CONFIG, None, environment, options(tmp_path / "no", **changes), expert=halved
        )
    assert not (tmp_path / "no").exists()


def test_a_trained_run_is_an_expert(tmp_path):
    """Its folder is the flag's value; its mode is the label."""
    small = dagger.Config(hidden_sizes=(8,), round_steps=6, round_updates=4)
    first = options(tmp_path / "first", num_updates=4, seeds=1)
    trained = runner.train(dagger, small, None, Corridor(), first, expert=halved)
    expert = load_expert(str(tmp_path / "first"))
    asked = options(tmp_path / "next", num_updates=4, seeds=1)
    result = runner.train(dagger, small, None, Corridor(), asked, expert=expert)
    assert result.policy.state.step.tolist() == [4]
    observation = jnp.array([0.5])
    action, _ = trained.policy.lane(0)(observation, jax.random.key(0))
    np.testing.assert_allclose(expert(observation), action)


def test_experts_by_name(tmp_path):
    file = tmp_path / "own.py"
    file.write_text("def follow(observation):\n    return 2 * observation\n")
    assert load_expert(f"{file}:follow")(3) == 6
    for text, words in [
        ("", "--expert is missing"),
        (f"{file}:other", "has no other"),
        (f"{tmp_path}/none.py:follow", "there is no file"),
        (str(tmp_path / "none"), "is no folder of a run"),
    ]:
        with pytest.raises(InputError, match=words):
            load_expert(text)


# A person's labels.

ALONE = dagger.Config(hidden_sizes=(8,), round_steps=3, round_updates=4, beta_schedule="never")


def answer(folder):
    """What the person does: the expert's action of each state that waits."""
    again = labelling.LabelFolder(folder)
    for name in again.waiting:
        again.add(name, np.clip(0.5 * again.states[name], 0.0, 2.0).tolist())
    return len(again.states)


@pytest.mark.parametrize("environment", [Corridor(), Walk], ids=["pure", "gymnasium"])
def test_a_person_labels_round_after_round_as_a_function_does(tmp_path, environment):
    """The run stops for labels, goes on with them, and ends as one that did not have to wait."""
    labels = tmp_path / "labels"
    asked = {"seeds": 1, "num_updates": 8, "checkpoint_every": 4}
    for waits in (3, 6):
        with pytest.raises(LabelsNeededError, match=r"states in .*labels wait for a label"):
            runner.train(
                dagger, ALONE, None, environment,
                options(tmp_path / "run", **asked, resume=waits == 6),
                expert=human(labelling.LabelFolder(labels)),
            )  # fmt: skip
        assert answer(labels) <= waits
    by_hand = runner.train(
        dagger, ALONE, None, environment, options(tmp_path / "run", **asked, resume=True),
        expert=human(labelling.LabelFolder(labels)),
    )  # fmt: skip
    at_once = runner.train(
        dagger, ALONE, None, environment, options(tmp_path / "whole", **asked),
        expert=HostExpert(Counted()),
    )  # fmt: skip
    assert_same(by_hand.policy.state, at_once.policy.state)


def folder_with(tmp_path, labels=3):
    """Three states of a task with two numbers, some of them labelled."""
    folder = labelling.LabelFolder(tmp_path / "labels")
    folder.open("Track", Box((2,), (-1.0, -1.0), (1.0, 1.0)))
    states = np.arange(6, dtype=np.float32).reshape(3, 2) / 7
    with pytest.raises(LabelsNeededError, match="3 of 3 states"):
        folder.ask(np.concatenate([states, states[:1]]))
    for name in folder.waiting[:labels]:
        folder.add(name, [0.5, -0.5])
    return folder, states


def test_labels_are_kept_and_the_last_one_counts(tmp_path):
    folder, states = folder_with(tmp_path, labels=2)
    again = labelling.LabelFolder(folder.path)
    assert len(again.waiting) == 1
    assert (again.name, again.space) == ("Track", folder.space)
    again.add(again.waiting[0], [0.25, 0.0])
    again.add(labelling.state_name(states[0]), [1.0, 1.0])
    found = labelling.LabelFolder(folder.path).ask(states[[0, 1, 2, 0]])
    np.testing.assert_array_equal(found, [[1, 1], [0.5, -0.5], [0.25, 0], [1, 1]])


def test_files_cut_short_or_edited_wrongly_are_refused_by_their_line(tmp_path):
    folder, _ = folder_with(tmp_path)
    path = folder.path / labelling.LABELS
    good = path.read_text()
    lines = good.splitlines(keepends=True)
    first = json.loads(lines[0])
    moved = {**first, "observation": [9.0, 9.0]}
    for text, words in [
        (good[:-9], "line 3 is cut short: delete that line"),
        (lines[0] + "{nonsense\n" + lines[2], "line 2 is not JSON"),
        (lines[0] + "[1]\n", r"line 2 is '\[1\]', expected a JSON object"),
        (lines[0] + json.dumps({**first, "action": [2, 0]}) + "\n", "line 2: action is"),
        (json.dumps({**first, "action": "left"}) + "\n", "line 1: action is 'left', expected 2"),
        (json.dumps(moved) + "\n", "line 1: observation is not that of state"),
        (json.dumps({"state": first["state"]}) + "\n", "line 1 has no observation"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            labelling.LabelFolder(folder.path)
        assert path.read_text() == text  # nothing is thrown away
    path.write_text(good)
    assert not labelling.LabelFolder(folder.path).waiting


def test_a_folder_of_another_task_is_refused(tmp_path):
    folder, _ = folder_with(tmp_path)
    with pytest.raises(InputError, match="has labels for Track, with 2 numbers, each from -1 to 1"):
        labelling.LabelFolder(folder.path).open("Chess", Discrete(3))


def test_the_console_takes_actions_goes_back_and_can_be_left(tmp_path, monkeypatch, capsys):
    folder, states = folder_with(tmp_path, labels=0)
    answers = iter(["?", "7 7", "0.1, 0.2", "=", "b", "0.3 0.4", "q"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    with scripts.imported(EXPERIMENTS / "label.py") as label:
        label.flags.FLAGS(["label.py"])
        label.label_all(folder, folder.waiting)
    again = labelling.LabelFolder(folder.path)
    assert again.labels[labelling.state_name(states[0])] == [0.1, 0.2]
    assert again.labels[labelling.state_name(states[1])] == [0.3, 0.4]
    assert len(again.waiting) == 1
    shown = capsys.readouterr().out
    assert "not taken: the label of state" in shown
    assert "expected 2 numbers, each from -1 to 1" in shown


def test_the_script_asks_an_expert_in_whole_rounds(tmp_path):
    """Over another policy class, in a pure environment; what it cannot do is one sentence."""
    (tmp_path / "own.py").write_text(
        "from ddm.envs import sine_track\n"
        "PARAMS = sine_track.SineTrack().default_params\n"
        "def follow(observation):\n"
        "    return sine_track.expert_action(observation, PARAMS)\n"
    )
    script = EXPERIMENTS / "dagger.py"
    shared = (
        "--environment=ddm/SineTrack-v0", "--round_steps=5", "--round_updates=2", "--batch_size=4",
        "--eval_episodes=1", "--noplots", "--hidden_sizes=8",
    )  # fmt: skip
    done = scripts.run(
        script, "--policy_class=cvae", *shared, "--expert=own.py:follow", "--rounds=2",
        "--run_dir=run", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["collect"]["labelled"] is True
    assert metric(tmp_path / "run", "collect/labels") == [5, 10]
    for arguments, words in [
        ((*shared, "--run_dir=no"), "--expert is missing"),
        (("--policy_class=iql",), "--policy_class=iql is no method of imitation"),
    ]:
        done = scripts.run(script, *arguments, cwd=tmp_path)
        assert done.returncode != 0
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_bc_is_what_the_module_wraps():
    assert dagger.over(bc).Config is dagger.Config
