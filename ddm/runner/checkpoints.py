"""Checkpoints of all lanes, by orbax: complete or absent, verified when read, never unpickled."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddm.data import Normalization
from ddm.errors import InputError
from ddm.runner.files import SEAL, check_fields, sealed, write_errors_named
from ddm.runner.quiet import quiet_threads
from ddm.types import PyTree

FOLDER = "checkpoints"

_SHAPE = {
    "digest": str, "run": (str, None), "failures": (dict, None), "metrics": (dict, None),
}  # fmt: skip


class Store:
    """The checkpoints of one run; the newest `keep` are kept.

    A checkpoint holds a pytree of numpy arrays, and a header: the digest of the arrays, the step
    and the run that they belong to, and the shapes of an example batch and of the normalization,
    from which a policy can be rebuilt without the dataset.

    Args:
      run_dir: the folder of the run.
      keep: how many checkpoints are kept.
      run: the identity of this run, from config.json; None for a run of an older version, whose
        checkpoints do not name their run.
    """

    def __init__(self, run_dir: Path, keep: int = 2, run: str | None = None):
        self._folder = (run_dir / FOLDER).absolute()
        self._keep = keep
        self._run = run
        self._opened: Any = None

    def save(
        self, step: int, tree: PyTree, header: dict[str, Any], experience: PyTree = None
    ) -> None:
        """Writes a checkpoint and returns when it is on disk.

        Experience is stored apart from the other arrays, so a policy can be read without it.

        Raises:
          InputError: the disk is full; earlier checkpoints are still readable.
        """
        from orbax import checkpoint as ocp

        header = {**header, "step": step, "digest": digest(tree)}
        if experience is not None:
            header["experience_digest"] = digest(experience)
        if self._run is not None:
            header = sealed({**header, "run": self._run})
        items = {"arrays": ocp.args.StandardSave(tree), "header": ocp.args.JsonSave(header)}
        if experience is not None:
            items["experience"] = ocp.args.StandardSave(experience)
        arguments = ocp.args.Composite(**items)
        # Each thread of orbax prints pages about an error; one sentence replaces them.
        with write_errors_named(self._folder / str(step)), quiet_threads():
            try:
                self._manager().save(step, args=arguments, force=True)
                self._manager().wait_until_finished()
            except Exception:
                self._forget()
                raise

    def restore_newest(
        self, like: PyTree, experience: PyTree = None
    ) -> tuple[int, tuple[PyTree, PyTree], list[str]] | None:
        """Reads the newest checkpoint that is readable.

        Args:
          like: arrays (or their shapes) of the structure that was saved.
          experience: likewise; None for a run without.

        Returns:
          The step, numpy arrays of the structures of `like` and `experience`, and a sentence for
          each newer checkpoint that was skipped because it is damaged or of another step or run.
          None if there is no checkpoint.

        Raises:
          InputError: none of the checkpoints can be read.
        """
        damaged: list[tuple[int, str]] = []
        for step in self.steps():
            try:
                trees = self.restore(step, like), None
                if experience is not None:
                    trees = trees[0], self.restore(step, experience, "experience")
            except InputError as error:
                damaged.append((step, str(error)))
            else:
                return step, trees, [self._set_aside(*item) for item in damaged]
        if damaged:
            raise InputError(
                f"{damaged[0][1]}; no older checkpoint is readable either: start anew in another "
                "--run_dir"
            )
        return None

    def restore(self, step: int, like: PyTree, item: str = "arrays") -> PyTree:
        """Reads one checkpoint, or its "experience", as numpy arrays of the structure of `like`.

        Raises:
          InputError: it is damaged, holds another structure, or belongs to another step or run.
        """
        from orbax import checkpoint as ocp

        path, header = self._folder / str(step), self.header(step)
        abstract = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
        arguments = ocp.args.Composite(**{item: ocp.args.StandardRestore(abstract)})
        restored = self._read(step, arguments)[item]
        try:
            tree = jax.tree.map(lambda x, y: _of_shape(np.asarray(x), y), restored, like)
        except ValueError as error:
            raise InputError(f"{path} cannot be read ({_reason(error)})") from error
        if digest(tree) != header["digest" if item == "arrays" else f"{item}_digest"]:
            raise InputError(f"{path} does not hold the arrays that were written")
        if item == "arrays":
            _check_steps(path, tree, step, header)
        return tree

    def part(self, step: int, name: str) -> Any:
        """One entry of the tree of a checkpoint, as it was saved; for values without structure.

        Raises:
          InputError: it is damaged, or belongs to another step or run.
        """
        from orbax import checkpoint as ocp

        self.header(step)
        arguments = ocp.args.Composite(arrays=ocp.args.StandardRestore())
        return self._read(step, arguments)["arrays"][name]

    def header(self, step: int) -> dict[str, Any]:
        """The header of a checkpoint.

        Raises:
          InputError: it cannot be read, or is the one of another step or run.
        """
        from orbax import checkpoint as ocp

        path = self._folder / str(step)
        found = self._read(step, ocp.args.Composite(header=ocp.args.JsonRestore()))["header"]
        check_fields(found, _SHAPE, f"{path}: header")
        if found.get("run") != self._run:
            raise InputError(f"{path} is a checkpoint of another run")
        if self._run is not None:
            if sealed(found)[SEAL] != found.get(SEAL):
                raise InputError(f"{path}: the header is not the one that was written")
            if found["step"] != step:
                raise InputError(f"{path} is the checkpoint of gradient step {found['step']}")
        return found

    def _read(self, step: int, arguments: Any) -> Any:
        try:
            with quiet_threads():
                return self._manager().restore(step, args=arguments)
        except InputError:
            raise
        except Exception as error:  # orbax and tensorstore raise many kinds of errors
            path = self._folder / str(step)
            raise InputError(f"{path} cannot be read ({_reason(error)})") from error

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, the newest first."""
        if not self._folder.is_dir():
            return []
        with quiet_threads():
            return sorted(self._manager().all_steps(), reverse=True)

    def close(self) -> None:
        """Releases what orbax holds."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _forget(self) -> None:
        """Drops orbax's objects after a failure, which they would report again when closed."""
        opened, self._opened = self._opened, None
        with contextlib.suppress(Exception):
            opened.close()

    def _manager(self) -> Any:
        if self._opened is None:
            from orbax import checkpoint as ocp

            process = jax.process_index()
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self._keep,
                enable_async_checkpointing=False,
                cleanup_tmp_directories=True,
                # Only one process opens a store: orbax must not wait for the others.
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    primary_host=process, active_processes={process}, barrier_sync_key_prefix="ddm"
                )
                if jax.process_count() > 1
                else ocp.options.MultiprocessingOptions(),
                create=jax.process_count() == 1,
            )
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._opened = ocp.CheckpointManager(self._folder, options=options)
            except (ValueError, FileExistsError, NotADirectoryError) as error:
                raise InputError(f"{self._folder} cannot be read ({_reason(error)})") from error
        return self._opened

    def _set_aside(self, step: int, reason: str) -> str:
        path = self._folder / str(step)
        names = (f"{step}.damaged{f'-{i}' if i > 1 else ''}" for i in itertools.count(1))
        free = next(name for name in names if not path.with_name(name).exists())
        path.rename(path.with_name(free))
        self.close()  # orbax caches the steps that it has seen
        return f"{reason}; it is now {free}, and an older checkpoint is used"


def _reason(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0][:160]


def _of_shape(found: np.ndarray, expected: Any) -> np.ndarray:
    if (found.shape, found.dtype) != (tuple(expected.shape), np.dtype(expected.dtype)):
        raise ValueError(f"{found.dtype} {found.shape}, expected {expected.dtype} {expected.shape}")
    return found


def _check_steps(path: Path, tree: PyTree, step: int, header: Mapping[str, Any]) -> None:
    """Refuses states of another step than the folder's, except those of lanes that failed."""
    state = tree.get("state") if isinstance(tree, Mapping) else None
    failed = set(header.get("failures") or ())
    for i, found in enumerate(np.atleast_1d(getattr(state, "step", ()))):
        if str(i) not in failed and found != step:
            raise InputError(f"{path} holds states of gradient step {found}")


def digest(tree: PyTree) -> str:
    """A digest of all arrays, their places in the tree, shapes and types."""
    result = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaf = np.asarray(leaf)
        result.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}".encode())
        result.update(np.ascontiguousarray(leaf).tobytes())
    return result.hexdigest()


def header(batch: Any, normalization: Normalization) -> dict[str, Any]:
    """The shapes that rebuild a policy from its arrays, as values that JSON can hold.

    Args:
      batch: an example, or a dict of them.
      normalization: of the sources.
    """
    named = {name: _shapes(one) for name, one in batch.items()} if isinstance(batch, dict) else None
    shapes = {"batch": _shapes(batch)} if named is None else {"batches": named}
    return {**shapes, "normalization": _shapes(normalization)}


def _shapes(value: Any) -> dict[str, Any]:
    return {
        field.name: None if leaf is None else [list(leaf.shape), str(leaf.dtype)]
        for field in dataclasses.fields(value)
        for leaf in [getattr(value, field.name)]
    }
