"""The processes that share the lanes of a run: they start, exchange results and end together.

Each process is a whole program that computes its own lanes on its own devices; JAX does not know
the others. With one process, the usual case, all of this does nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ddm.errors import DdmError, InputError, ProcessError
from ddm.runner.connections import Group
from ddm.runner.meeting import meet
from ddm.types import PyTree

_joined = Group()  # only this process, until it joins others


def current() -> Group:
    """The processes that this one has joined."""
    return _joined


def join_processes(
    coordinator_address: str, num_processes: int, process_id: int, timeout: float = 60.0
) -> None:
    """Joins the processes that share the lanes of one run.

    Args:
      coordinator_address: "host:port" of process 0, which listens there.
      num_processes: how many there are; with 1, nothing is done.
      process_id: index of this one.
      timeout: seconds to wait for the others.

    Raises:
      InputError: the address is missing or wrong, or the others are not there in time.
      ProcessError: another process ended meanwhile.
    """
    global _joined
    if num_processes <= 1:
        return
    if not coordinator_address:
        raise InputError(
            "--coordinator_address is missing: several processes need host:port of process 0"
        )
    if not 0 <= process_id < num_processes:
        raise InputError(
            f"process_id is {process_id}, expected less than the {num_processes} of num_processes"
        )
    if _joined.count > 1:
        raise InputError("this process has joined others already; join_processes is called once")
    _joined = meet(coordinator_address, num_processes, process_id, timeout)
    atexit.register(_joined.leave)


@contextlib.contextmanager
def others_told() -> Iterator[None]:
    """A context: in it, an error of this process ends the others too, and they quote it."""
    group = current()
    try:
        yield
    except SystemExit:  # all were asked to stop
        group.leave()
        raise
    except BaseException as error:
        group.leave(_in_a_line(error))
        raise


def _in_a_line(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = " ".join(str(error).split())
    return text if isinstance(error, DdmError) else f"{type(error).__name__}: {text}"[:500]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A context for a run: in it, a failure of one process ends all; they leave it together."""
    group = current()
    group.busy = True
    with others_told():
        yield
        largest(0)
    group.busy = False


def undisturbed() -> contextlib.AbstractContextManager[None]:
    """A context for writing files: in it, another process's failure does not end this one."""
    return current().undisturbed()


def largest(value: int) -> int:
    """The largest of the values that the processes hold."""
    found = current().gather(struct.pack("!q", value))
    return max(struct.unpack("!q", content)[0] for content in found)


def gather_values(value: Any) -> list[Any]:
    """The value of every process, in their order; JSON must be able to hold it."""
    if current().count == 1:
        return [value]
    found = current().gather(json.dumps(value).encode())
    return [json.loads(content) for content in found]


def broadcast_value(value: Any) -> Any:
    """Process 0's value, on every process; JSON must be able to hold it."""
    return gather_values(value if current().index == 0 else None)[0]


def gather_arrays(tree: PyTree) -> PyTree:
    """The numpy arrays of all processes, of equal shapes, one after the other on the first axis.

    Raises:
      ProcessError: the processes hold arrays of different sizes.
    """
    if current().count == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    found = current().gather(_to_bytes(leaves))
    if len({len(content) for content in found}) > 1:
        raise ProcessError("the processes hold arrays of different sizes, expected the same run")
    parts = [_from_bytes(content, leaves) for content in found]
    stacked = [np.concatenate(same) for same in zip(*parts, strict=True)]
    return jax.tree.unflatten(structure, stacked)


def broadcast(tree: PyTree) -> PyTree:
    """Process 0's numpy arrays, on every process; all processes hold arrays of these shapes."""
    if current().count == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    leaves = [np.asarray(leaf) for leaf in leaves]
    found = current().gather(_to_bytes(leaves) if current().index == 0 else b"")[0]
    return jax.tree.unflatten(structure, _from_bytes(found, leaves))


def _to_bytes(leaves: list[np.ndarray]) -> bytes:
    return b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in leaves)


def _from_bytes(content: bytes, like: list[np.ndarray]) -> list[np.ndarray]:
    """Copies, because arrays that share memory with bytes are read-only."""
    found, start = [], 0
    for leaf in like:
        array = np.frombuffer(content, leaf.dtype, leaf.size, start).reshape(leaf.shape)
        found.append(array.copy())
        start += leaf.nbytes
    return found


def check_same_run(record: Mapping[str, Any], placement: Mapping[str, Any]) -> None:
    """Refuses a run whose processes would not compute the same, except for their lanes.

    Args:
      record: from `records.describe_run`.
      placement: how many devices and lanes each process has.

    Raises:
      InputError: names the first field that differs, both values and the process.
    """
    expected = record["options"]["num_processes"]
    if current().count != expected or (expected == 1 and jax.process_count() > 1):
        raise InputError(
            f"num_processes is {expected}, and this process has joined {current().count}, and "
            f"jax.distributed {jax.process_count()}; call ddm.runner.join_processes before, "
            "as ddm.runner.launch does"
        )
    if current().count == 1:
        return
    first, *others = gather_values(_facts(record, placement))
    for index, other in enumerate(others, start=1):
        for section, names in first.items():
            # If a machine lacks a package, or git, there is nothing to compare.
            skipped = (None,) if section == "version of " else ()
            for name in names | other[section]:
                there, here = other[section].get(name), names.get(name)
                if there != here and there not in skipped and here not in skipped:
                    raise InputError(
                        f"process {index} has {section}{name}={_show(there)}, process 0 has "
                        f"{_show(here)}: expected the same in all processes of a run"
                    )


# Options that may differ between the processes of a run: paths, and what process 0 does with its
# files. The number of devices is part of the placement.
_OWN_OPTIONS = frozenset(
    {
        "dataset", "coordinator_address", "process_id", "connect_timeout", "devices", "run_dir",
        "keep", "tensorboard", "plots", "progress", "eval_environments",
    }
)  # fmt: skip


def _facts(record: Mapping[str, Any], placement: Mapping[str, Any]) -> dict[str, Any]:
    """All values that decide what is computed; those that name a difference best come first.

    Returns:
      Values by section and name; a sentence puts the section before the name.
    """
    specification = record["environment_spec"]
    facts = {
        "": {
            "algorithm": record["algorithm"],
            **{k: v for k, v in record["options"].items() if k not in _OWN_OPTIONS},
            "environment": record["environment"],
            **{k: record.get(k) for k in ("collect", "sources", "start")},
        },
        "the hyper-parameter ": record["config"],
        "the flag ": record["script_flags"],
        "the dataset's ": {k: record["dataset"][k] for k in ("transitions", "episodes", "digest")},
        "the ": {
            "schedule_length": record["schedule_length"],
            # Values that are not plain data are compared as text.
            "environment_spec": specification if isinstance(specification, dict) else None,
            **placement,
            "platform": jax.default_backend(),
        },
        "version of ": {**record["versions"], "python": None, "commit": record["commit"]},
    }
    # Python's text for an object ends in its address, which differs between processes.
    return json.loads(re.sub(r" at 0x[0-9a-fA-F]+", "", json.dumps(facts)))


def _show(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
