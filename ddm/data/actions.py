"""Logged actions as algorithms see them: in [-1, 1], or counted from 0."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ddm.data.spaces import Tree
from ddm.errors import InputError
from ddm.types import Box, Discrete, Space

TOLERANCE = 1e-4  # rounding beyond the box that is forgiven, in half widths of the box
LIMIT = np.float32(1 - 1e-5)  # a tanh policy has no density at +-1 (IQL clips alike)
UNBOUNDED = 1e10  # an environment without bounds may write ones as large as this


class PreparedActions(NamedTuple):
    """Actions with the map back: environment's units = values * scale + center."""

    values: np.ndarray  # (N, A) float32 in [-1, 1], or (N,) int32 from 0
    space: Space  # in the environment's units
    center: np.ndarray | None  # (A,); the start of integers, None if they start at 0
    scale: np.ndarray | None  # (A,); None for integers
    clipped: int  # transitions whose action lay on the edge of its box


def prepare_actions(
    actions: np.ndarray,
    tree: Tree | None,
    lengths: np.ndarray,
    name: str,
    clip: bool = False,
) -> PreparedActions:
    """Validates actions against their space and maps them.

    Args:
      actions: (N, *A) in the environment's units, finite.
      tree: their space. If None, integers are taken to run from 0 to the largest one, and floats
        to lie in [-1, 1].
      lengths: (E,) transitions per episode, for error messages.
      name: of the dataset, for error messages.
      clip: moves real actions outside their box onto its edge instead of refusing them.

    Raises:
      InputError: an unsupported space, or actions outside it: how many, and where the first is.
    """
    if tree is None:
        tree = _guess_space(actions)
    match tree["type"]:
        case "Discrete":
            return _prepare_discrete(actions, tree, lengths, name)
        case "Box":
            return _prepare_box(actions, tree, lengths, name, clip)
    raise InputError(
        f"{name}: actions of a {tree['type']} space are not supported, expected Box or Discrete"
    )


def locate(row: int, lengths: np.ndarray) -> str:
    """Where a row is, for error messages: "episode 3, step 17"."""
    ends = np.cumsum(lengths)
    episode = int(np.searchsorted(ends, row, side="right"))
    return f"episode {episode}, step {row - int(ends[episode] - lengths[episode])}"


def _guess_space(actions: np.ndarray) -> Tree:
    if np.issubdtype(actions.dtype, np.integer):
        return {"type": "Discrete", "n": int(actions.max()) + 1, "start": 0}
    return {
        "type": "Box",
        "low": np.full(actions.shape[1:], -1),
        "high": np.ones(actions.shape[1:]),
    }


def _prepare_discrete(
    actions: np.ndarray, tree: Tree, lengths: np.ndarray, name: str
) -> PreparedActions:
    n, start = int(tree["n"]), int(tree.get("start", 0))
    if actions.ndim == 2 and actions.shape[1] == 1:
        actions = actions[:, 0]
    if actions.ndim != 1 or not np.issubdtype(actions.dtype, np.integer):
        raise InputError(
            f"{name}: actions are {actions.dtype} of shape {actions.shape[1:]} per step, expected "
            "one integer"
        )
    outside = np.flatnonzero((actions < start) | (actions >= start + n))
    if outside.size:
        raise InputError(
            f"{name}: {outside.size} actions are outside {start} .. {start + n - 1}, the first "
            f"({actions[outside[0]]}) at {locate(outside[0], lengths)}"
        )
    center = np.asarray(start) if start else None
    return PreparedActions((actions - start).astype(np.int32), Discrete(n), center, None, 0)


def _prepare_box(
    actions: np.ndarray, tree: Tree, lengths: np.ndarray, name: str, clip: bool
) -> PreparedActions:
    actions = actions.astype(np.float32).reshape(len(actions), -1)
    low, high = (np.asarray(tree[bound], np.float32).ravel() for bound in ("low", "high"))
    if actions.shape[1] != low.size:
        raise InputError(
            f"{name}: actions have {actions.shape[1]} numbers per step, the action space has "
            f"{low.size}"
        )
    bounded = (np.abs(low) < UNBOUNDED) & (np.abs(high) < UNBOUNDED)
    low = np.where(bounded, low, np.float32(-1))
    high = np.where(bounded, high, np.float32(1))
    center, half_width = (low + high) / 2, (high - low) / 2
    scale = np.where(half_width > 0, half_width, np.float32(1))
    values = (actions - center) / scale
    magnitude = np.abs(values).max(axis=1)
    outside = np.flatnonzero(magnitude > 1 + TOLERANCE)
    if outside.size and not (clip and bounded.all()):
        remedy = (
            "; where the environment clips them too, load with clip_actions"
            if bounded.all()
            else "; the box has no bounds, so give action_space=(low, high)"
        )
        raise InputError(
            f"{name}: {outside.size} actions are outside the box [{low.min():g}, {high.max():g}], "
            f"the first at {locate(outside[0], lengths)}{remedy}"
        )
    return PreparedActions(
        values=np.clip(values, -LIMIT, LIMIT),
        space=Box(low.shape, tuple(low.tolist()), tuple(high.tolist())),
        center=center,
        scale=scale,
        clipped=int((magnitude > LIMIT).sum()),
    )
