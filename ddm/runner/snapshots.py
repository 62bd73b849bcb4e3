"""A run and its checkpoints: what is saved, and how the run is restored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddm.data import Normalization
from ddm.errors import InputError
from ddm.runner import checkpoints
from ddm.runner.files import check_fields
from ddm.runner.lanes import unwrap_keys, wrap_keys
from ddm.runner.processes import broadcast, broadcast_value, largest, undisturbed
from ddm.training import Learner
from ddm.types import PyTree

# Values of a run in a checkpoint besides its arrays; older versions did not write all of them.
_MEMORY = {
    "failures": (dict, None),  # of `Failures.record`
    "failed_evaluations": (dict, None),  # step -> sentence
    "warnings": (dict, None),  # lane -> sentences
    "speed": (dict, None),  # of `report.Clock.figures`
    "metrics": (dict, None),  # of `MetricsWriter.sync`
    "collected": (list, None),  # of `HostCollection.returns`
}


class Snapshots:
    """Saves and restores the states and sampling keys of all lanes.

    Args:
      run_dir: the folder of the run.
      run: its identity, from config.json.
      keep: checkpoints that stay.
      normalization: of the sources.
      example: a batch, or its shapes, as the algorithm's `init` gets it.
      writes: whether this process has the files; it tells the others what it reads.
    """

    def __init__(
        self,
        run_dir: Path,
        run: str | None,
        keep: int,
        normalization: Normalization,
        example: Any,
        *,
        writes: bool,
    ):
        self._run_dir, self._writes = run_dir, writes
        self._store = checkpoints.Store(run_dir, keep, run)
        self._normalization = jax.tree.map(np.asarray, normalization)
        self._header = checkpoints.header(example, normalization)
        self._saved_step = -1

    def is_saved(self, step: int) -> bool:
        """Whether this process has saved the step already."""
        return step == self._saved_step

    def save(self, step: int, arrays: PyTree, memory: dict[str, Any]) -> None:
        """Writes the (learner, sampling keys) of all lanes, and the other values of the run."""
        self._saved_step = step
        if self._writes:
            header = {**self._header, **memory}
            with undisturbed():
                self._store.save(step, self._tree(arrays), header, arrays[0].experience)

    def restore(self, fresh: PyTree) -> tuple[int, PyTree, dict[str, Any], list[str]]:
        """The newest checkpoint that is readable.

        Args:
          fresh: the (learner, sampling keys) of a run that begins.

        Returns:
          Its gradient step, arrays as `fresh`, the other saved values, and sentences for the user.
          Without a checkpoint: step 0, `fresh` itself and no saved values.

        Raises:
          InputError: there are checkpoints, and none can be read.
        """
        like = unwrap_keys(fresh)
        found = None
        if self._writes:
            found = self._store.restore_newest(self._tree(like), like[0].experience)
        step = largest(found[0] if found else -1)
        if step < 0:
            notice = f"{self._run_dir} has no checkpoint: starting from the beginning"
            return 0, fresh, {}, [notice]
        memory: dict[str, Any] = {}
        if found:
            header = self._store.header(step)
            check_fields(header, _MEMORY, f"{self._run_dir}: checkpoint of gradient step {step}")
            memory = {name: header.get(name) for name in _MEMORY}
        memory = broadcast_value(memory)
        arrays = like
        if found:
            tree, experience = found[1]
            arrays = (Learner(tree["state"], experience), tree["sampling_keys"])
        notices = [*(found[2] if found else ()), f"going on after gradient step {step}"]
        return step, wrap_keys(broadcast(arrays), fresh), memory, notices

    def kept(self) -> str:
        """A clause for the user: from which checkpoint the run can continue."""
        saved = broadcast_value(self._store.steps() if self._writes else [])
        if not saved:
            return "there is no checkpoint yet"
        return f"the last checkpoint is of step {saved[0]}"

    def close(self) -> None:
        """Releases the files."""
        self._store.close()

    def _tree(self, arrays: PyTree) -> dict[str, Any]:
        learner, sampling_keys = arrays
        return {
            "state": learner.state,
            "sampling_keys": sampling_keys,
            "normalization": self._normalization,
        }


def check_length(step: int, num_updates: int, run_dir: Path) -> None:
    """Refuses a checkpoint after the run's end: its score would be reported under a wrong step.

    Raises:
      InputError: the checkpoint's step is later than the run's last one.
    """
    if step > num_updates:
        raise InputError(
            f"{run_dir} was trained up to gradient step {step}, beyond num_updates={num_updates}: "
            f"go on with --num_updates={step} or more"
        )
