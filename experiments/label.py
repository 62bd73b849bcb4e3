"""Label the states that a run asks a person about.

    python experiments/label.py --labels=labels

Shows one state after the other and takes its action. Every label is on the disk before the next
state is shown, so you can leave at any time and go on later. When none is left, continue the run
that asks: python experiments/dagger.py ... --expert=human --labels=labels --resume
"""

from __future__ import annotations

import sys

import numpy as np
from absl import flags

from ddm import runner
from ddm.data import labelling
from ddm.errors import InputError

_LABELS = flags.DEFINE_string("labels", "labels", "Folder with the states that wait.")
_NAMES = flags.DEFINE_list("names", [], "Names of the numbers of a state, to show beside them.")
_PRECISION = flags.DEFINE_integer("precision", 4, "Digits shown after the point.", lower_bound=0)

HELP = """  numbers   the action, separated by spaces or commas
  =         the action of the state before
  b         back to the state before, to change its action
  s         skip this state for now
  q         leave; everything so far is kept"""


def main(_):
    """Ask about every state that waits."""
    folder = labelling.LabelFolder(_LABELS.value)
    if not folder.states or folder.space is None:
        raise InputError(f"{folder.path} has no states: start a run with --labels={folder.path}")
    queue = folder.waiting
    print(f"{folder.name}: {len(queue)} of {len(folder.states)} states wait for a label")
    print(f"an action is {labelling.describe(folder.space)}; ? for help")
    label_all(folder, queue)
    left = len(folder.waiting)
    print(f"{left} states still wait" if left else "all states are labelled: go on with --resume")


def label_all(folder: labelling.LabelFolder, queue: list[str]) -> None:
    """Goes through the states, until the end or until the person leaves."""
    place = 0
    while place < len(queue):
        name = queue[place]
        show(folder, name, f"[{place + 1}/{len(queue)}]")
        answer = read("action> ")
        if answer in ("q", None):
            return
        if answer == "?":
            print(HELP)
        elif answer == "b":
            place = max(place - 1, 0)
        elif answer == "s":
            place += 1
        elif answer == "=" and place and queue[place - 1] in folder.labels:
            folder.add(name, folder.labels[queue[place - 1]])
            place += 1
        else:
            place += take(folder, name, answer)


def take(folder: labelling.LabelFolder, name: str, answer: str) -> bool:
    """Keeps an action that was typed; False, with the reason, if it is none."""
    try:
        numbers = [float(word) for word in answer.replace(",", " ").split()]
        single = getattr(folder.space, "shape", ()) == ()
        folder.add(name, numbers[0] if single and len(numbers) == 1 else numbers)
    except ValueError as error:  # an InputError is one, too
        print(f"  not taken: {error}")
        return False
    return True


def show(folder: labelling.LabelFolder, name: str, place: str) -> None:
    """A state's numbers by their names, and the label that it has."""
    state = np.ravel(folder.states[name])
    names = [*_NAMES.value, *(f"x{i}" for i in range(len(_NAMES.value), state.size))]
    width = max(map(len, names), default=0)
    print(f"\n{place} state {name}")
    for label, value in zip(names, state, strict=False):
        print(f"  {label:<{width}}  {value:> .{_PRECISION.value}f}")
    if name in folder.labels:
        print(f"  its action now: {folder.labels[name]}")


def read(prompt: str) -> str | None:
    """A line that was typed; None at the end of the input."""
    try:
        return input(prompt).strip()
    except EOFError:
        print(file=sys.stderr)
        return None


if __name__ == "__main__":
    runner.launch(main)
