from __future__ import annotations

import importlib.util
import json
import sys

import jax
import numpy as np
import pytest

from ddm import data, envs, evaluation
from ddm.errors import InputError, MissingDependencyError
from ddm.evaluation import specifications
from ddm.imitation import tabular_bc
from ddm.types import Batch


@pytest.mark.parametrize("prefix", ["", "ddm/"])
def test_ids_of_ddm_are_pure(prefix):
    environment = evaluation.make_environment(f"{prefix}PointMaze-UMaze-v0")
    assert environment is envs.make("PointMaze-UMaze-v0")


def test_other_ids_are_gymnasiums():
    gymnasium = pytest.importorskip("gymnasium")
    environment = evaluation.make_environment("CartPole-v1")()
    assert isinstance(environment, gymnasium.Env)
    assert environment.spec.id == "CartPole-v1"
    environment.close()


def test_a_step_limit_truncates_gymnasiums_episodes_and_no_others():
    pytest.importorskip("gymnasium")
    environment = evaluation.make_environment("CartPole-v1", max_episode_steps=3)()
    environment.reset(seed=0)
    truncated = [environment.step(step % 2)[3] for step in range(3)]
    environment.close()
    assert truncated == [False, False, True]
    with pytest.raises(InputError, match="'PointMaze-UMaze-v0' has its own limit"):
        evaluation.make_environment("PointMaze-UMaze-v0", max_episode_steps=3)


@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        ("CartPoole-v1", "CartPole-v1"),
        ("PointMaze-Umaze-v0", "PointMaze-UMaze-v0"),
        ("ddm/PointMaze-Umaze-v0", "PointMaze-UMaze-v0"),
        ("nowhere/CartPole-v1", "CartPole-v1"),
    ],
)
def test_unknown_ids_are_named_with_what_may_be_meant(spec, meant):
    pytest.importorskip("gymnasium")
    with pytest.raises(InputError, match=f"'{spec}'.*{meant}"):
        evaluation.make_environment(spec)


def test_missing_gymnasium_names_the_extra(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "gymnasium" else find_spec(name)
    )
    with pytest.raises(MissingDependencyError, match=r"'CartPole-v1'.*pip install 'ddm\[sim\]'"):
        evaluation.make_environment("CartPole-v1")


def test_missing_simulator_names_the_extra():
    gymnasium = pytest.importorskip("gymnasium")

    def needs_a_simulator():
        raise gymnasium.error.DependencyNotInstalled("no module named 'simulator'")

    gymnasium.register("NeedsSimulator-v0", entry_point=needs_a_simulator)
    try:
        factory = evaluation.make_environment("NeedsSimulator-v0")
        with pytest.raises(MissingDependencyError, match=r"'NeedsSimulator-v0'.*ddm\[sim\]"):
            factory()
    finally:
        del gymnasium.registry["NeedsSimulator-v0"]


def test_robotics_ids_are_found_quietly(capfd):
    pytest.importorskip("gymnasium_robotics")
    assert callable(evaluation.make_environment("PointMaze_UMaze-v3"))
    assert capfd.readouterr() == ("", "")


def test_an_id_that_two_registries_know_is_offered_once():
    pytest.importorskip("gymnasium")
    with pytest.raises(InputError) as found:
        evaluation.make_environment("Pendulun-v1")
    assert str(found.value).count("Pendulum-v1") == 1


# --- Whole specifications ---


def specification(spec="FrozenLake-v1", **changes):
    """The JSON that Minari would have recorded, with changed fields."""
    gymnasium = pytest.importorskip("gymnasium")
    return json.dumps(json.loads(gymnasium.spec(spec).to_json()) | changes)


@pytest.fixture
def notes():
    return []


def make(spec, notes, *arguments):
    """The environment, opened."""
    return evaluation.make_environment(spec, *arguments, report=notes.append)()


def test_a_specification_keeps_arguments_wrappers_and_step_limit(notes):
    gymnasium = pytest.importorskip("gymnasium")
    made = gymnasium.wrappers.TimeAwareObservation(gymnasium.make("MountainCar-v0", 50))
    again = make(made.spec.to_json(), notes)
    assert again.observation_space == made.observation_space
    assert again.spec.max_episode_steps == 50
    assert make(specification("MountainCar-v0"), notes, 30).spec.max_episode_steps == 30
    lake = make(specification(kwargs={"is_slippery": False}), notes, None, {"map_name": "8x8"})
    assert lake.observation_space.n == 64
    assert [chance for chance, *_ in lake.unwrapped.P[0][1]] == [1.0]
    assert notes == []


def test_a_file_runs_nothing_but_what_is_registered(notes, tmp_path):
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef make(**_): pass\n")
    sys.path.insert(0, str(tmp_path))
    try:
        lake = make(specification(entry_point="evil:make"), notes)
        assert type(lake.unwrapped).__name__ == "FrozenLakeEnv"
        assert "was evil:make where the data were collected" in notes[0]
        for name, message in {
            "evil:make": "not gymnasium's and is not run because a file names it",
            "gymnasium.wrappers.common:deepcopy": "this version of gymnasium lacks",
            "gymnasium.wrappersx:make": "not gymnasium's",
        }.items():
            wrapper = {"name": "Wrapper", "entry_point": name, "kwargs": {}}
            with pytest.raises(InputError, match=message):
                make(specification(additional_wrappers=[wrapper]), notes)
        with pytest.raises(InputError, match=r"from package evil.*--environment=evil:Mine-v0"):
            make(specification(id="Mine-v0", entry_point="evil:make"), notes)
        with pytest.raises(InputError, match="unknown environment 'evil:Mine-v0'"):
            make(specification(id="evil:Mine-v0"), notes)
    finally:
        sys.path.remove(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_wrappers_that_only_watch_are_left_out(notes, tmp_path):
    gymnasium = pytest.importorskip("gymnasium")
    entry_point = "gymnasium.wrappers.rendering:RecordVideo"
    video = {"name": "RecordVideo", "entry_point": entry_point}
    video["kwargs"] = {"video_folder": str(tmp_path / "videos")}
    kwargs = {"render_mode": "human", "is_slippery": False}
    lake = make(specification(additional_wrappers=[video], kwargs=kwargs), notes)
    assert lake.render_mode is None
    assert not isinstance(lake, gymnasium.wrappers.RecordVideo)
    assert not (tmp_path / "videos").exists()


def test_bad_specifications_and_arguments_are_one_sentence(notes):
    with pytest.raises(InputError, match="is not JSON"):
        evaluation.make_environment("{no json")
    with pytest.raises(InputError, match="has no field id"):
        evaluation.make_environment("{}")
    with pytest.raises(InputError, match=r"'FrozenLake-v1' cannot be made with .*'frozen'"):
        make("FrozenLake-v1", notes, None, {"frozen": True})
    with pytest.raises(InputError, match="'PointMaze-UMaze-v0' takes none: it has size"):
        evaluation.make_environment("PointMaze-UMaze-v0", kwargs={"size": 3})


def test_the_specification_of_a_pure_environment_makes_the_pure_one(notes):
    gymnasium = pytest.importorskip("gymnasium")
    envs.register()
    text = gymnasium.spec("ddm/PointMaze-UMaze-v0").to_json()
    assert evaluation.make_environment(text) is envs.make("PointMaze-UMaze-v0")
    limited = evaluation.make_environment(text, 7)
    assert limited().spec.max_episode_steps == 7
    assert limited.has_step_limit
    # gymnasium's pendulum is not that of ddm, though their ids are equal
    assert callable(evaluation.make_environment(specification("Pendulum-v1")))


def test_step_limits_are_known_before_an_environment_is_made():
    pytest.importorskip("gymnasium")
    cliff = evaluation.make_environment("CliffWalking-v1")
    assert not cliff.has_step_limit
    assert cliff.with_step_limit(9).has_step_limit
    assert cliff.with_step_limit(9)().spec.max_episode_steps == 9
    assert evaluation.make_environment("CartPole-v1").has_step_limit


def test_a_module_registers_its_environments(notes, tmp_path, monkeypatch):
    gymnasium = pytest.importorskip("gymnasium")
    module = """
import gymnasium
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv
gymnasium.register("Own-v0", entry_point=FrozenLakeEnv, max_episode_steps=5)
"""
    (tmp_path / "own_package.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        lake = make("own_package:Own-v0", notes, None, {"map_name": "8x8"})
        assert (lake.spec.id, lake.observation_space.n) == ("Own-v0", 64)
    finally:
        gymnasium.registry.pop("Own-v0", None)
        sys.modules.pop("own_package", None)
    with pytest.raises(MissingDependencyError, match="module no_package cannot be imported"):
        evaluation.make_environment("no_package:Own-v0")


def test_a_summary_names_arguments_wrappers_and_limit():
    wrapper = {"name": "FlattenObservation", "entry_point": "x", "kwargs": {}}
    text = specification(kwargs={"is_slippery": False}, additional_wrappers=[wrapper])
    expected = "FrozenLake-v1 (is_slippery=False) in FlattenObservation, 100 steps"
    assert specifications.summary(text) == expected


# --- The environment of the log ---

PERFECT = (1, 1, 2, 2, 1, 2)  # down, down, right, right, down, right: to the goal of the 4 x 4 lake


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_clone_is_scored_in_the_lake_of_its_log(tmp_path, monkeypatch):
    gymnasium = pytest.importorskip("gymnasium")
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    lake = minari.DataCollector(gymnasium.make("FrozenLake-v1", is_slippery=False))
    for episode in range(20):
        lake.reset(seed=episode)
        rewards = [lake.step(action)[1] for action in PERFECT]
        assert sum(rewards) == 1.0
    lake.create_dataset("lake/perfect-v0")
    lake.close()
    log = data.load("lake/perfect-v0")
    assert specifications.summary(log.info.environment_spec).startswith(
        "FrozenLake-v1 (map_name='4x4', is_slippery=False)"
    )
    config = tabular_bc.Config(num_actions=4)
    rows = np.arange(log.num_transitions) + np.asarray(log.episode_ids)
    batch = Batch(observations=log.observations[rows], actions=log.actions)
    state = tabular_bc.init(config, jax.random.key(0), batch)
    state, _ = tabular_bc.update(config, state, batch)
    policy = evaluation.Policy(tabular_bc, config, state, log.normalization)
    score = evaluation.evaluate(
        policy, log.info.environment_spec, seed=0, num_episodes=5, lanes=False
    )
    assert score.returns.tolist() == [[1.0] * 5]
    # Through an npz and another Minari set it stays the same lake.
    data.save_npz(log, tmp_path / "log.npz")
    again = data.load(tmp_path / "log.npz")
    assert again.info.environment_spec == log.info.environment_spec
    data.write_minari("lake/again-v0", again)
    assert data.load("lake/again-v0").info.environment_spec == log.info.environment_spec
