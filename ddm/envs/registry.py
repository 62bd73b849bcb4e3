"""Environments by id."""

from __future__ import annotations

import functools
from typing import Any

from ddm.envs.base import Environment
from ddm.envs.dialogue import Dialogue
from ddm.envs.fork import Fork
from ddm.envs.memory import Alternator, Brake, TMaze
from ddm.envs.particle import Particle
from ddm.envs.pendulum import Pendulum
from ddm.envs.point_mass import PointMass
from ddm.envs.point_maze import MAPS, TIME_LIMITS, PointMaze, dense_reward
from ddm.envs.road import Road
from ddm.envs.sine_track import SineTrack
from ddm.envs.tabular import (
    TabularEnvironment,
    combination_lock,
    dialogue_world,
    discount_grid,
    line_world,
    sepsis_features,
    sepsis_world,
    tightrope,
    walled_grid,
)
from ddm.errors import InputError, MissingDependencyError

NAMESPACE = "ddm/"  # prefix of the ids in gymnasium's registry

_VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "-Dense": {"reward": dense_reward},
    "-Discrete": {"discrete": True},
}


def _point_mazes() -> list[PointMaze]:
    return [
        PointMaze(
            layout=layout,
            name=f"PointMaze-{maze}{suffix}-v0",
            time_limit=TIME_LIMITS[maze],
            **options,
        )
        for maze, layout in MAPS.items()
        for suffix, options in _VARIANTS.items()
    ]


# The step limit of the tightrope is its horizon: it never terminates.
_TABULAR = (
    TabularEnvironment(discount_grid, name="GridWorld-Discount-v0", max_steps=200),
    TabularEnvironment(functools.partial(line_world, 5), name="LineWorld-5-v0", max_steps=100),
    TabularEnvironment(tightrope, name="Tightrope-v0", max_steps=100),
    TabularEnvironment(
        functools.partial(combination_lock, 10), name="CombinationLock-10-v0", max_steps=10
    ),
    TabularEnvironment(walled_grid, name="WalledGrid-10-v0", max_steps=100),
    TabularEnvironment(dialogue_world, name="Utterance-16-v0", max_steps=8),
    TabularEnvironment(sepsis_world, "Sepsis-v0", max_steps=20, features=sepsis_features),
)

_CONTROL = (
    Pendulum(),
    Particle(),
    PointMass(),
    Road(),
    SineTrack(),
    SineTrack("SineTrack-Noisy-v0", noise=0.02),
)

_MEMORY = (Alternator(), Brake(), TMaze())

_FORKS = (
    Fork(),
    Fork(num_branches=5, num_dimensions=2, name="Fork-5-v0"),
    Fork(num_decisions=5, name="ForkCorridor-5-v0"),
)

_LANGUAGE = (Dialogue(),)

_ENVIRONMENTS = {
    environment.name: environment
    for environment in (*_point_mazes(), *_CONTROL, *_FORKS, *_MEMORY, *_LANGUAGE, *_TABULAR)
}


def ids() -> tuple[str, ...]:
    """The ids that `make` knows."""
    return tuple(_ENVIRONMENTS)


def make(environment_id: str) -> Environment:
    """The pure environment with this id, with or without the prefix "ddm/".

    Raises:
      InputError: there is none.
    """
    name = environment_id.removeprefix(NAMESPACE)
    if name not in _ENVIRONMENTS:
        raise InputError(f"unknown environment '{environment_id}'; known are {', '.join(ids())}")
    return _ENVIRONMENTS[name]


def register() -> None:
    """Makes every id known to gymnasium as "ddm/<id>"; calling it again changes nothing.

    Raises:
      MissingDependencyError: gymnasium is not installed.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise MissingDependencyError("gymnasium is missing: pip install 'ddm[sim]'") from error
    for name in ids():
        if NAMESPACE + name not in gymnasium.registry:
            gymnasium.register(
                id=NAMESPACE + name,
                entry_point="ddm.envs.gym:GymnasiumFace",
                kwargs={"environment": name},
            )
