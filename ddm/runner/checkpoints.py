"""Checkpoints of all lanes, by orbax: complete or absent, verified when read, never unpickled."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddm.data import Normalization
from ddm.errors import InputError
from ddm.runner.files import full_disk_named
from ddm.types import Batch, PyTree

FOLDER = "checkpoints"


class Store:
    """The checkpoints of one run; the newest `keep` are kept.

    A checkpoint holds a pytree of numpy arrays, and a header: the digest of the arrays, and the
    shapes of an example batch and of the normalization, from which a policy can be rebuilt
    without the dataset.
    """

    def __init__(self, run_dir: Path, keep: int = 2):
        self._folder = (run_dir / FOLDER).absolute()
        self._keep = keep
        self._opened: Any = None

    def save(self, step: int, tree: PyTree, header: dict[str, Any]) -> None:
        """Writes a checkpoint and returns when it is on disk.

        Raises:
          InputError: the disk is full; earlier checkpoints are still readable.
        """
        from orbax import checkpoint as ocp

        header = {**header, "digest": _digest(tree)}
        arguments = ocp.args.Composite(
            arrays=ocp.args.StandardSave(tree), header=ocp.args.JsonSave(header)
        )
        with full_disk_named(self._folder / str(step)):
            self._manager().save(step, args=arguments, force=True)
            self._manager().wait_until_finished()

    def restore_newest(self, like: PyTree) -> tuple[int, PyTree, list[str]] | None:
        """Reads the newest checkpoint that is readable.

        Args:
          like: arrays (or their shapes) of the structure that was saved.

        Returns:
          The step, numpy arrays of the structure of `like`, and a sentence for each newer
          checkpoint that was set aside because it is damaged. None if there is no checkpoint.

        Raises:
          InputError: none of the checkpoints can be read.
        """
        damaged: list[tuple[int, str]] = []
        for step in self.steps():
            try:
                tree = self.restore(step, like)
            except InputError as error:
                damaged.append((step, str(error)))
            else:
                return step, tree, [self._set_aside(*item) for item in damaged]
        if damaged:
            raise InputError(
                f"{damaged[0][1]}; no older checkpoint is readable either: start anew in another "
                "--run_dir"
            )
        return None

    def restore(self, step: int, like: PyTree) -> PyTree:
        """Reads one checkpoint as numpy arrays of the structure of `like`.

        Raises:
          InputError: it is damaged, or holds another structure.
        """
        from orbax import checkpoint as ocp

        abstract = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
        arguments = ocp.args.Composite(
            arrays=ocp.args.StandardRestore(abstract), header=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager().restore(step, args=arguments)
            tree = jax.tree.map(np.asarray, restored["arrays"])
            digest = restored["header"]["digest"]
        except Exception as error:  # orbax and tensorstore raise a dozen kinds
            reason = (str(error).strip() or repr(error)).splitlines()[0][:160]
            raise InputError(f"{self._folder / str(step)} cannot be read ({reason})") from error
        if _digest(tree) != digest:
            raise InputError(
                f"{self._folder / str(step)} does not hold the arrays that were written"
            )
        return tree

    def header(self, step: int) -> dict[str, Any]:
        """The header of a checkpoint.

        Raises:
          InputError: it cannot be read.
        """
        from orbax import checkpoint as ocp

        try:
            arguments = ocp.args.Composite(header=ocp.args.JsonRestore())
            return self._manager().restore(step, args=arguments)["header"]
        except Exception as error:
            raise InputError(f"{self._folder / str(step)} has no readable header") from error

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, the newest first."""
        if not self._folder.is_dir():
            return []
        return sorted(self._manager().all_steps(), reverse=True)

    def close(self) -> None:
        """Releases what orbax holds."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _manager(self) -> Any:
        if self._opened is None:
            from orbax import checkpoint as ocp

            process = jax.process_index()
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self._keep,
                enable_async_checkpointing=False,
                cleanup_tmp_directories=True,
                # Only one process opens a store: orbax shall not wait for the others.
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    primary_host=process, active_processes={process}, barrier_sync_key_prefix="ddm"
                )
                if jax.process_count() > 1
                else ocp.options.MultiprocessingOptions(),
                create=jax.process_count() == 1,
            )
            self._folder.mkdir(parents=True, exist_ok=True)
            self._opened = ocp.CheckpointManager(self._folder, options=options)
        return self._opened

    def _set_aside(self, step: int, reason: str) -> str:
        path = self._folder / str(step)
        path.rename(path.with_name(f"{step}.damaged"))
        self.close()  # orbax remembers the steps that it has seen
        return f"{reason}; it is now {step}.damaged, and an older checkpoint is used"


def _digest(tree: PyTree) -> str:
    """A digest of all arrays, their places in the tree, shapes and types."""
    result = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaf = np.asarray(leaf)
        result.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}".encode())
        result.update(np.ascontiguousarray(leaf).tobytes())
    return result.hexdigest()


def header(batch: Batch, normalization: Normalization) -> dict[str, Any]:
    """What a policy is rebuilt from besides the arrays: shapes, as values that JSON can hold."""
    return {"batch": _shapes(batch), "normalization": _shapes(normalization)}


def _shapes(value: Any) -> dict[str, Any]:
    return {
        field.name: None if leaf is None else [list(leaf.shape), str(leaf.dtype)]
        for field in dataclasses.fields(value)
        for leaf in [getattr(value, field.name)]
    }
