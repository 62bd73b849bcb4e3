from __future__ import annotations

import importlib.util

import pytest

from ddm import envs, evaluation
from ddm.errors import InputError, MissingDependencyError


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
