"""Reference scores: the undiscounted returns that count as 0 and 100.

The table holds every task of D4RL's suites; the numbers are those of `REF_MIN_SCORE` and
`REF_MAX_SCORE` in d4rl/infos.py of github.com/Farama-Foundation/D4RL at commit 89141a6. They are
the same for all versions (v0, v1, v2) of a task, and belong to the environments of D4RL: a return
from another environment, or from other physics, is not on this scale.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import numpy as np

from ddm.errors import InputError

SOURCE = "D4RL, d4rl/infos.py"

_LOCOMOTION = ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert")
_BULLET = ("random", "medium", "expert", "medium-replay", "medium-expert")
_ADROIT = ("human", "cloned", "expert")
_ANTMAZE = (
    "umaze",
    "umaze-diverse",
    "medium-play",
    "medium-diverse",
    "large-play",
    "large-diverse",
)
_ALONE = ("",)  # a suite whose name is the task

# suite: (random, expert, tasks)
_SUITES: dict[str, tuple[float, float, tuple[str, ...]]] = {
    "halfcheetah": (-280.178953, 12135.0, _LOCOMOTION),
    "hopper": (-20.272305, 3234.3, _LOCOMOTION),
    "walker2d": (1.629008, 4592.3, _LOCOMOTION),
    "ant": (-325.6, 3879.7, _LOCOMOTION),
    "pen": (96.262799, 3076.8331017826877, _ADROIT),
    "hammer": (-274.856578, 12794.134825156867, _ADROIT),
    "door": (-56.512833, 2880.5693087298737, _ADROIT),
    "relocate": (-6.425911, 4233.877797728884, _ADROIT),
    "antmaze": (0.0, 1.0, _ANTMAZE),
    "kitchen": (0.0, 4.0, ("complete", "partial", "mixed")),
    "maze2d-open": (0.01, 20.66, _ALONE),
    "maze2d-umaze": (23.85, 161.86, _ALONE),
    "maze2d-medium": (13.13, 277.39, _ALONE),
    "maze2d-large": (6.7, 273.99, _ALONE),
    "maze2d-open-dense": (11.17817, 27.166538620695782, _ALONE),
    "maze2d-umaze-dense": (68.537689, 193.66285642381482, _ALONE),
    "maze2d-medium-dense": (44.264742, 297.4552547777125, _ALONE),
    "maze2d-large-dense": (30.569041, 303.4857382709002, _ALONE),
    "minigrid-fourrooms": (0.01442, 2.89685, ("", "random")),
    "carla-lane": (-0.8503839912088142, 1023.5784385429523, _ALONE),
    "carla-town": (-114.81579500772153, 2440.1772022247314, _ALONE),
    "flow-ring": (-165.22, 24.42, ("random", "controller")),
    "flow-merge": (118.67993, 330.03179, ("random", "controller")),
    "bullet-halfcheetah": (-1275.766996, 2381.6725, _BULLET),
    "bullet-hopper": (20.058972, 1441.8059623430963, _BULLET),
    "bullet-walker2d": (16.523877, 1623.6476303317536, _BULLET),
    "bullet-ant": (373.705955, 2650.495, _BULLET),
    "bullet-maze2d-open": (8.75, 64.15, _ALONE),
    "bullet-maze2d-umaze": (32.46, 153.99, _ALONE),
    "bullet-maze2d-medium": (14.87, 238.05, _ALONE),
    "bullet-maze2d-large": (1.82, 285.92, _ALONE),
}

REFERENCES: dict[str, tuple[float, float]] = {
    f"{suite}-{task}".rstrip("-"): (low, high)
    for suite, (low, high, tasks) in _SUITES.items()
    for task in tasks
}

# Datasets on Minari's server with names of D4RL or of its tasks, but not on its scale.
_INCOMPARABLE: dict[str, str] = {
    "D4RL/antmaze/": "Minari's antmaze goes on after the goal, so that its returns count steps at "
    "the goal: compare success rates instead",
    "D4RL/kitchen/": "Minari's kitchen pays for every step after a task is done, D4RL's pays once",
    "D4RL/pointmaze/": "Minari's pointmaze has other mazes and goals than D4RL's maze2d",
    "D4RL/minigrid/": "Minari's fourrooms has other rewards than D4RL's",
    "mujoco/": "Minari's mujoco datasets are of other policies and of -v5 environments",
}


@dataclasses.dataclass(frozen=True)
class Reference:
    """Returns of a random and an expert policy, and what to know before comparing with them."""

    scores: tuple[float, float]
    source: str = SOURCE
    note: str | None = None


def find_reference(name: str) -> Reference | None:
    """The reference of a D4RL name, a D4RL file's stem, or a Minari id of D4RL's Adroit data.

    Args:
      name: "hopper-medium-v2", "hopper_medium-v2" or "D4RL/door/human-v2"; the version is ignored.

    Returns:
      None if there is no reference on the same scale: see `why_incomparable`.
    """
    minari = re.fullmatch(r"D4RL/(pen|hammer|door|relocate)/(human|cloned|expert)-v\d+", name)
    task = "-".join(minari.groups()) if minari else re.sub(r"-v\d+$", "", name).replace("_", "-")
    if task not in REFERENCES:
        return None
    note = None
    if minari and minari.group(1) == "pen":
        note = "gymnasium-robotics' pen runs 200 steps and goes on after a drop, D4RL's 100 steps"
    return Reference(REFERENCES[task], note=note)


def reference_scores(name: str) -> tuple[float, float] | None:
    """(random, expert) returns, or None: see `find_reference`."""
    reference = find_reference(name)
    return None if reference is None else reference.scores


def why_incomparable(name: str) -> str | None:
    """Why a Minari id that looks like D4RL's has no reference score; None if it does not."""
    for prefix, reason in _INCOMPARABLE.items():
        if name.startswith(prefix):
            return reason
    return None


def are_references(value: Any) -> bool:
    """Whether these are two finite numbers that differ."""
    pair = isinstance(value, (tuple, list, np.ndarray)) and len(value) == 2
    if not pair or not all(isinstance(x, (int, float, np.number)) for x in value):
        return False
    if any(isinstance(x, (bool, complex, np.complexfloating)) for x in value):
        return False
    low, high = map(float, value)
    return math.isfinite(low) and math.isfinite(high) and low != high


def check_references(scores: Any, where: str) -> None:
    """Refuses reference scores that cannot give a normalized score.

    Raises:
      InputError: they are not two finite numbers that differ.
    """
    if not are_references(scores):
        raise InputError(
            f"{where}: the reference scores are {scores}, expected those of a random and of an "
            "expert policy, finite and not equal"
        )


def normalized_score(returns: np.ndarray | float, references: tuple[float, float]) -> np.ndarray:
    """Percent from the random policy (0) to the expert (100); it may lie outside this range.

    Args:
      returns: undiscounted returns in the environment's own reward, any shape.
      references: (random, expert) returns.

    Raises:
      InputError: the references are equal.
    """
    low, high = references
    if high == low:
        raise InputError(
            f"the reference scores are both {low}, expected a random and an expert one"
        )
    return 100.0 * (np.asarray(returns, np.float64) - low) / (high - low)
