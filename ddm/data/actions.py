"""Logged actions as algorithms see them: in [-1, 1], or counted from 0."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ddm.data.spaces import Tree
from ddm.data.stored_spaces import check_integers
from ddm.data.values import locate
from ddm.errors import InputError
from ddm.types import Box, Discrete, Space

TOLERANCE = 1e-4  # accepted rounding beyond the box, in half widths of the box
LIMIT = np.float32(1 - 1e-5)  # a tanh policy has no density at +-1 (IQL clips alike)
UNBOUNDED = 1e10  # an environment without bounds may give bounds as large as this

GIVE_BOUNDS = (
    "give action_space=(low, high), the flags --action_low and --action_high, or arrays "
    "action_low and action_high in the file"
)


class PreparedActions(NamedTuple):
    """Actions with the map back: environment's units = values * scale + center."""

    values: np.ndarray  # (N, A) float32 in [-1, 1], or (N,) int32 from 0
    space: Space  # in the environment's units
    center: np.ndarray | None  # (A,); the start of integers, None if they start at 0
    scale: np.ndarray | None  # (A,); None for integers
    clipped: int  # transitions whose action lay on the edge of its box
    moved: int  # transitions whose action lay outside and was moved onto the edge
    guessed: bool  # whether the box, or the number of actions, is a guess
    notes: tuple[str, ...]  # assumptions about the actions, one sentence each


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
        to lie in [-1, 1]; ambiguous actions are refused.
      lengths: (E,) transitions per episode, for error messages.
      name: of the dataset, for error messages.
      clip: moves real actions outside their box onto its edge instead of refusing them; the box
        must be known for that.

    Raises:
      InputError: an unsupported space, or actions outside it: how many, and where the first is.
    """
    notes: tuple[str, ...] = ()
    guessed = tree is None
    if tree is None:
        tree, note = _guess_space(actions, name)
        notes = (note,)
    match tree["type"]:
        case "Discrete":
            prepared = _prepare_discrete(actions, tree, lengths, name)
        case "Box":
            prepared = _prepare_box(actions, tree, lengths, name, clip, guessed)
        case kind:
            raise InputError(
                f"{name}: actions of a {kind} space are not supported, expected Box or Discrete"
            )
    return prepared._replace(guessed=guessed or prepared.guessed, notes=notes + prepared.notes)


# --- Without a space ---


def _guess_space(actions: np.ndarray, name: str) -> tuple[Tree, str]:
    """A space guessed from the actions' numbers alone, and a sentence that says so."""
    if actions.dtype.kind in "biu":
        return _guess_discrete(actions, name)
    if np.isin(actions, (0, 1)).all() and len(np.unique(actions)) == 2:
        what = "a choice between two" if _is_column(actions) else "one-hot choices"
        raise InputError(
            f"{name}: actions are {actions.dtype} and all 0 or 1, which may be {what} or real "
            "numbers: for a choice store integers (N,), or give action_space=Discrete(n); for real "
            f"numbers {GIVE_BOUNDS}"
        )
    size = actions.shape[1:]
    tree = {"type": "Box", "dtype": "float32", "low": np.full(size, -1), "high": np.ones(size)}
    return tree, (
        "nothing in the data bounds the actions: they are taken to lie in [-1, 1], and a policy "
        f"acts there; if that is wrong, {GIVE_BOUNDS}"
    )


def _guess_discrete(actions: np.ndarray, name: str) -> tuple[Tree, str]:
    shape = actions.shape[1:]
    if not _is_column(actions):
        raise InputError(
            f"{name}: actions are {actions.dtype} of shape {shape} per step and have no space, "
            f"expected one integer; for real numbers {GIVE_BOUNDS}"
        )
    if actions.min() < 0:
        raise InputError(
            f"{name}: actions are integers from {actions.min()}; give "
            "action_space=Discrete(n, start), or store them counted from 0; for real numbers "
            f"{GIVE_BOUNDS}"
        )
    n = 2 if actions.dtype == bool else int(actions.max()) + 1
    kind = f"{actions.dtype} of shape (N, 1)" if shape else f"{actions.dtype}"
    return {"type": "Discrete", "n": n, "start": 0}, (
        f"the actions ({kind}) are taken for choices from 0 to {n - 1}, the largest in the data; "
        f"if there are more, give action_space=Discrete(n), or num_actions in the file"
    )


def _is_column(actions: np.ndarray) -> bool:
    return actions.shape[1:] in ((), (1,))


# --- With one ---


def _prepare_discrete(
    actions: np.ndarray, tree: Tree, lengths: np.ndarray, name: str
) -> PreparedActions:
    n, start = int(tree["n"]), int(tree.get("start", 0))
    check_integers(n, start, f"{name}: the action space")
    whole = actions.dtype.kind in "biu" or np.array_equal(actions, np.round(actions))
    if not _is_column(actions) or not whole:
        raise InputError(
            f"{name}: actions are {actions.dtype} of shape {actions.shape[1:]} per step, expected "
            "one integer"
        )
    notes = ()
    if actions.dtype.kind == "f":
        notes = (f"the actions are whole numbers stored as {actions.dtype}, taken for choices",)
    numbers = actions.reshape(len(actions))
    numbers = numbers.astype(np.int64) if numbers.dtype.kind == "b" else numbers
    # Before the cast: it would change a number that 64 bits cannot hold.
    outside = np.flatnonzero((numbers < start) | (numbers > start + n - 1))
    if outside.size:
        raise InputError(
            f"{name}: {outside.size} actions are outside {start} .. {start + n - 1}, the first "
            f"({numbers[outside[0]]}) at {locate(outside[0], lengths)}"
        )
    digits = numbers.astype(np.int64) - start
    center = np.asarray(start) if start else None
    space = Discrete(n, start)
    return PreparedActions(digits.astype(np.int32), space, center, None, 0, 0, False, notes)


def _prepare_box(
    actions: np.ndarray, tree: Tree, lengths: np.ndarray, name: str, clip: bool, guessed: bool
) -> PreparedActions:
    if actions.dtype.kind not in "biuf":
        raise InputError(f"{name}: actions have dtype {actions.dtype}, expected real numbers")
    actions = actions.astype(np.float64).reshape(len(actions), -1)
    low, high = (np.asarray(tree[bound], np.float64).ravel() for bound in ("low", "high"))
    if tree.get("pair") and low.size == 1:
        low, high = (np.repeat(bound, actions.shape[1]) for bound in (low, high))
    if actions.shape[1] != low.size:
        raise InputError(
            f"{name}: actions have {actions.shape[1]} numbers per step, the action space has "
            f"{low.size}"
        )
    if np.any(low >= high):
        dimension = int(np.flatnonzero(low >= high)[0])
        raise InputError(
            f"{name}: the action space has low {low[dimension]:g} and high {high[dimension]:g} in "
            f"dimension {dimension}, expected low below high"
        )
    bounded = (np.abs(low) < UNBOUNDED) & (np.abs(high) < UNBOUNDED)
    low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
    notes: tuple[str, ...] = ()
    if not bounded.all():
        guessed = True
        notes = (
            "the action space has no bounds: actions are taken to lie in [-1, 1] there, and a "
            f"policy acts there; if that is wrong, {GIVE_BOUNDS}",
        )
    center, scale = (low + high) / 2, (high - low) / 2
    values = (actions - center) / scale
    magnitude = np.abs(values).max(axis=1)
    outside = np.flatnonzero(magnitude > 1 + TOLERANCE)
    if outside.size and (guessed or not clip):
        remedy = (
            f"the box is a guess, to which nothing is clipped: {GIVE_BOUNDS}"
            if guessed
            else "where the environment clips them too, load with clip_actions"
        )
        raise InputError(
            f"{name}: {outside.size} actions are outside the box [{low.min():g}, {high.max():g}], "
            f"the first at {locate(outside[0], lengths)}; {remedy}"
        )
    if outside.size:
        notes = (f"{outside.size} actions outside their box were moved onto its edge",)
    low, high = low.astype(np.float32), high.astype(np.float32)
    return PreparedActions(
        values=np.clip(values, -LIMIT, LIMIT).astype(np.float32),
        space=Box(
            low.shape, tuple(low.tolist()), tuple(high.tolist()), tree.get("dtype", "float32")
        ),
        center=center.astype(np.float32),
        scale=scale.astype(np.float32),
        clipped=int((magnitude > LIMIT).sum()),
        moved=outside.size,
        guessed=guessed,
        notes=notes,
    )
