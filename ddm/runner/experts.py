"""Experts by name: a run's folder, a function in a Python file, or a person."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from ddm import catalogue
from ddm.data.labelling import LabelFolder
from ddm.errors import InputError
from ddm.evaluation import experts
from ddm.runner.policies import load_policy
from ddm.runner.saved import read_record

HUMAN = "human"


def load_expert(text: str, labels: str = "labels") -> Any:
    """The expert that a flag names.

    Args:
      text: the folder of a run, whose first lane's policy it is; "FILE.py:NAME" for a function, or
        an expert of `ddm.evaluation.experts`, in a file, and a module in place of the file; or
        "human" for a person who labels with experiments/label.py.
      labels: folder of the person's labels.

    Raises:
      InputError: it is not there, or is nothing of that kind.
    """
    if not text:
        raise InputError(
            "--expert is missing: give the folder of a run, FILE.py:FUNCTION, or human"
        )
    if text == HUMAN:
        return human(LabelFolder(labels))
    source, colon, name = text.rpartition(":")
    if not colon or Path(text).is_dir():
        return _trained(Path(text).expanduser())
    module = _module(source, text)
    if not hasattr(module, name):
        raise InputError(f"--expert={text}: {source} has no {name}")
    return experts.as_expert(getattr(module, name))


def human(folder: LabelFolder) -> experts.HostExpert:
    """A person who labels the states of a round afterwards, in a folder."""
    return experts.HostExpert(folder.ask, afterwards=True, opened=folder.open)


def _trained(folder: Path) -> Any:
    if not folder.is_dir():
        raise InputError(f"--expert={folder} is no folder of a run, and no FILE.py:FUNCTION")
    name = read_record(folder)["algorithm"]
    known = catalogue.algorithms()
    if name not in known:
        raise InputError(f"--expert={folder} is a run of {name}, which is no method of the library")
    return experts.as_expert(load_policy(folder, known[name]))


def _module(source: str, text: str) -> Any:
    if not source.endswith(".py"):
        try:
            return importlib.import_module(source)
        except ImportError as error:
            raise InputError(f"--expert={text}: {error}") from error
    path = Path(source).expanduser()
    if not path.is_file():
        raise InputError(f"--expert={text}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"expert_{path.stem}", path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module
