"""The identity of a dataset, without its name: a digest of what an algorithm sees of it."""

from __future__ import annotations

import hashlib

import jax
import numpy as np

from ddm.data.dataset import Dataset


def digest(dataset: Dataset) -> str:
    """The SHA-256 of arrays, normalization and spaces, as 64 hexadecimal digits.

    Two datasets have the same digest if an algorithm cannot tell them apart. Their names and files
    do not matter.
    """
    found = hashlib.sha256()
    for space in (dataset.info.observation_space, dataset.info.action_space):
        found.update(repr(space).encode())
    for path, leaf in jax.tree_util.tree_flatten_with_path(dataset)[0]:
        array = np.ascontiguousarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        found.update(array.data)
    return found.hexdigest()
