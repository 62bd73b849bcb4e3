"""Reads Minari datasets."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddm.data import spaces
from ddm.data.cache import cached_arrays
from ddm.data.columns import Columns
from ddm.data.fields import as_flags
from ddm.data.hdf5 import check_links
from ddm.data.minari_finding import MAIN_FILE, METADATA, import_minari
from ddm.data.minari_hdf5 import STEP_FIELDS, read_episodes
from ddm.data.minari_metadata import (
    check_supported,
    find_environment,
    find_order,
    find_references,
    read_metadata,
    space_of,
)  # fmt: skip
from ddm.data.progress import progress
from ddm.data.reading import Place, reading, reason, require_file
from ddm.data.values import as_array
from ddm.errors import InputError, MissingDependencyError

KIND = "Minari dataset"

# Opening an episode's five HDF5 datasets costs far more than reading a
# step: with more episodes than this, a set is converted once to contiguous arrays.
CACHE_FROM_EPISODES = 5_000


def read_minari(
    folder: Path,
    cache: bool | None = None,
    *,
    external_links: bool = False,
    reference_scores: tuple[float, float] | None = None,
) -> Columns:
    """The columns of a Minari dataset.

    Args:
      folder: holds `metadata.json`.
      cache: whether to keep a memory-mapped copy; None keeps one if reading is slow.
      external_links: whether parts of its files may lie in other files, which are then read.
      reference_scores: the caller's, in place of the set's; the set's are then not checked.

    Raises:
      InputError: names what is missing or damaged.
    """
    metadata = read_metadata(folder)
    name = metadata.get("dataset_id") or str(folder)
    observation_tree, action_tree = (
        space_of(metadata, field, folder) for field in ("observation_space", "action_space")
    )
    check_supported(observation_tree, action_tree, name)
    reference = find_references(metadata, name, reference_scores)
    environment = find_environment(metadata, folder)
    observation_tree, order_note = find_order(metadata, observation_tree)
    notes = (order_note, environment.note, reference and reference.note)
    return Columns(
        source=name,
        observation_space=observation_tree,
        action_space=action_tree,
        environment_id=environment.id,
        environment_spec=environment.spec,
        environment_source=environment.source,
        reference_scores=None if reference is None else reference.scores,
        reference_source=None if reference is None else reference.source,
        has_rewards=metadata.get("has_rewards", True),
        inner_stops=metadata.get("inner_stops", False),
        notes=tuple(note for note in notes if note),
        **_read_arrays(folder, metadata, (observation_tree, action_tree), cache, external_links),
    )


def _read_arrays(
    folder: Path,
    metadata: Mapping[str, Any],
    trees: tuple[spaces.Tree, spaces.Tree],
    cache: bool | None,
    external_links: bool,
) -> Mapping[str, Any]:
    """The arrays of the set's files, from the cache where there is a copy."""
    source = _source_file(folder, metadata)
    direct = source.name == MAIN_FILE and not _has_jpeg(metadata, trees[0])
    if cache is None:
        cache = metadata["total_episodes"] >= CACHE_FROM_EPISODES or not direct

    def read() -> dict[str, np.ndarray]:
        if direct:
            return read_episodes(source, metadata, *trees, external_links=external_links)
        if source.name == MAIN_FILE:
            check_links(source, external_links)
        return _read_through_minari(folder, metadata, trees[0])

    if not cache:
        return read()
    # The order of keys may come from another set, so it is not part of these files.
    return cached_arrays([source, folder / METADATA], read, json.dumps(_names(trees[0])))


def _names(tree: spaces.Tree) -> list[str]:
    return [leaf.name("observations") for leaf in spaces.leaves(tree)]


def is_minari_object(source: Any) -> bool:
    """Whether this is a `minari.MinariDataset`; minari is not imported for the test."""
    return all(hasattr(source, name) for name in ("iterate_episodes", "episode_indices", "spec"))


def read_minari_object(dataset: Any, cache: bool | None = None, **options: Any) -> Columns:
    """The columns of a `minari.MinariDataset`: of the episodes that it shows, in its order.

    Args:
      dataset: a `minari.MinariDataset`.
      cache: as for `read_minari`.
      **options: of `read_minari`.

    Raises:
      InputError: names what is missing or damaged.
    """
    columns = read_minari(Path(dataset.spec.data_path), cache, **options)
    total = len(columns.lengths)
    shown = np.asarray(dataset.episode_indices)
    if np.array_equal(shown, np.arange(total)):
        return columns
    notes = (*columns.notes, f"{len(shown)} of the {total} episodes, as the MinariDataset has them")
    return dataclasses.replace(columns, notes=notes, **_episodes_of(columns, shown))


def _episodes_of(columns: Columns, episodes: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of some episodes, in the given order."""
    lengths = np.asarray(columns.lengths)
    starts = (np.cumsum(lengths) - lengths).tolist()
    none = np.zeros(0, np.int64)
    steps = [np.arange(starts[e], starts[e] + lengths[e]) for e in episodes]
    states = [np.arange(starts[e] + e, starts[e] + e + lengths[e] + 1) for e in episodes]
    rows, state_rows = np.concatenate([none, *steps]), np.concatenate([none, *states])
    arrays = {field: getattr(columns, field)[rows] for field in ("actions", *STEP_FIELDS)}
    return arrays | {"observations": columns.observations[state_rows], "lengths": lengths[episodes]}


def _source_file(folder: Path, metadata: Mapping[str, Any]) -> Path:
    if metadata.get("data_format", "hdf5") != "hdf5":
        return folder
    path = folder / MAIN_FILE
    require_file(path, "the data of a Minari dataset: download or write it again")
    return path


def _has_jpeg(metadata: Mapping[str, Any], tree: spaces.Tree) -> bool:
    if not metadata.get("jpeg_encoding", True):
        return False
    return any(leaf.dtype == np.uint8 and len(leaf.shape) == 3 for leaf in spaces.leaves(tree))


def _read_through_minari(
    folder: Path, metadata: Mapping[str, Any], tree: spaces.Tree
) -> dict[str, np.ndarray]:
    """Arrow and Parquet files, and JPEG images: decoded by minari, episode by episode."""
    minari = import_minari()
    try:
        dataset = minari.MinariDataset(folder)
    except ImportError as error:
        raise MissingDependencyError(f"{folder} needs a package: {reason(error)}") from error
    except Exception as error:
        raise InputError(f"{folder} cannot be read by minari: {reason(error)}") from error
    with reading(folder, KIND) as place:
        return _collect(dataset, metadata, tree, place)


def _collect(
    dataset: Any, metadata: Mapping[str, Any], tree: spaces.Tree, place: Place
) -> dict[str, np.ndarray]:
    """The episodes of a `minari.MinariDataset`, one after the other."""
    folder = place.file
    stored = dataset.storage.get_episode_metadata(range(metadata["total_episodes"]))
    expected = [facts.get("total_steps") for facts in stored]
    leaves = list(spaces.leaves(tree))
    parts: dict[str, list[np.ndarray]] = {}
    episodes = progress(dataset.iterate_episodes(), f"reading {folder}", "episodes")
    for index, (episode, length) in enumerate(zip(episodes, expected, strict=True)):
        place.member = f"episode {index}"
        where = f"{folder}: episode {index}"
        # minari's Arrow reader cuts episodes of more than 32,767 rows without a warning.
        if length is not None and len(episode.rewards) != length:
            raise InputError(
                f"{where} has {len(episode.rewards)} steps, its metadata says {length}: the file "
                "was cut; write the dataset as HDF5"
            )
        columns = [spaces.pick(episode.observations, leaf, where) for leaf in leaves]
        observations = spaces.flatten(tree, columns, where, dtype=None)
        parts.setdefault("observations", []).append(observations)
        for field in ("actions", *STEP_FIELDS):
            array = as_array(getattr(episode, field), f"{where}: {field}")
            parts.setdefault(field, []).append(array)
    if not parts:
        raise InputError(f"{folder} holds no episode")
    arrays = {field: np.concatenate(values) for field, values in parts.items()}
    for field in ("terminations", "truncations"):
        arrays[field] = as_flags(arrays[field], f"{folder}: {field}")
    arrays["lengths"] = np.array([len(rewards) for rewards in parts["rewards"]])
    if len(arrays["rewards"]) != metadata["total_steps"]:
        raise InputError(
            f"{folder} holds {len(arrays['rewards'])} steps, its metadata.json says "
            f"{metadata['total_steps']}"
        )
    return arrays
