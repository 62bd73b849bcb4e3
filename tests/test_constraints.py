"""The oldest versions that are claimed are the ones that are tested."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ("basedpyright", "ruff")  # run on the newest versions only


def version(text: str) -> tuple[int, ...]:
    """The numbers of a version, without zeros at its end: 2.0.0 is 2."""
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def claimed() -> dict[str, str]:
    """The lower bound of each requirement, of the library and of what its tests need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *extras["logging"], *extras["dev"]]
    found = {}
    for requirement in requirements:
        name, bound = re.match(r"([\w-]+).*?>=([\d.]+)", requirement).groups()
        found[name.lower()] = bound
    return {name: bound for name, bound in found.items() if name not in TOOLS}


def pinned(file: str) -> dict[str, str]:
    """The version of each package in a file of constraints."""
    lines = (ROOT / file).read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


@pytest.mark.parametrize("name", claimed())
def test_the_oldest_constraints_are_the_claimed_bounds(name):
    assert version(pinned("constraints-oldest.txt")[name]) == version(claimed()[name])


@pytest.mark.parametrize("name", claimed())
def test_the_newest_constraints_lie_within_the_claims(name):
    assert version(pinned("constraints.txt")[name]) >= version(claimed()[name])
