"""`metadata.json` of a Minari dataset: checked and read for the needs of a `Dataset`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ddm.data import spaces
from ddm.data.minari_finding import METADATA, data_folder, datasets_root, import_minari
from ddm.data.reading import reading
from ddm.data.references import Reference, check_references, find_reference
from ddm.data.schema import (
    COUNT,
    FLAG,
    NUMBER,
    TEXT,
    TEXTS,
    Field,
    check_record,
    optional,
    read_json,
    read_specification,
)  # fmt: skip
from ddm.errors import InputError

FLAT_KINDS = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")
ENVIRONMENT_FIELDS = ("eval_env_spec", "env_spec")  # the first one that is there is used

_SPACE = Field("a space", lambda value: isinstance(value, (str, dict)))
_FIELDS: Mapping[str, Field] = {
    "total_episodes": COUNT,
    "total_steps": COUNT,
    "dataset_id": TEXT,
    "data_format": TEXT,
    "observation_space": _SPACE,
    "action_space": _SPACE,
    "environment_id": optional(TEXT),
    "env_spec": optional(TEXT),
    "eval_env_spec": optional(TEXT),
    "ref_min_score": optional(NUMBER),
    "ref_max_score": optional(NUMBER),
    "jpeg_encoding": FLAG,
    "has_rewards": FLAG,
    "inner_stops": FLAG,
    "combined_datasets": TEXTS,
}


def read_metadata(folder: Path) -> dict[str, Any]:
    """The record of a set, after a type check of every used value.

    Raises:
      InputError: it cannot be read, or a value does not fit its field.
    """
    path = folder / METADATA
    with reading(path, "JSON file"):
        text = path.read_bytes()
    metadata = read_json(text, str(path))
    check_record(metadata, _FIELDS, str(path), ("total_episodes", "total_steps"))
    return metadata


def space_of(metadata: Mapping[str, Any], field: str, folder: Path) -> spaces.Tree:
    """The tree of the set's `observation_space` or `action_space`.

    Raises:
      InputError: it is missing, or not a space.
    """
    where = f"{folder / METADATA}: {field}"
    if field in metadata:
        return spaces.parse_space(metadata[field], where)
    # Datasets of minari's first versions only name the environment.
    minari = import_minari()
    try:
        return spaces.parse_space(getattr(minari.MinariDataset(folder), field), where)
    except Exception as error:
        raise InputError(f"{folder / METADATA}: field {field} is missing") from error


def find_order(metadata: Mapping[str, Any], tree: spaces.Tree) -> tuple[spaces.Tree, str | None]:
    """The observation space with its keys in the environment's order, and a note on it.

    minari sorts the keys of dict observations when it reads a space. So a set that it combined from
    others has sorted keys. The original order, in which observations become one vector, is then in
    the sets that were combined.
    """
    sources = metadata.get("combined_datasets") or []
    if not sources or not _has_order(tree):
        return tree, None
    for source in sources:
        folder = data_folder(datasets_root() / source)
        if folder is None:
            continue
        try:
            found = space_of(read_metadata(folder), "observation_space", folder)
        except InputError:
            continue
        if _sorted(found) == _sorted(tree):
            return found, f"the order of the observations' keys is that of {source}"
    return tree, (
        "the set was combined from others by minari, which sorts the keys of dict observations, "
        f"and none of {', '.join(sources)} is on this machine: the observations are in sorted "
        "order, in which the environment may not give them"
    )


def _has_order(tree: spaces.Tree) -> bool:
    """Whether a space has a dict of two keys or more in it."""
    if tree["type"] == "Dict":
        return len(tree["subspaces"]) > 1 or any(map(_has_order, tree["subspaces"].values()))
    return tree["type"] == "Tuple" and any(map(_has_order, tree["subspaces"]))


def _sorted(tree: spaces.Tree) -> list[Any]:
    """A value that is equal for two spaces that differ only in the order of keys."""
    if tree["type"] == "Dict":
        return [
            "Dict",
            *((key, _sorted(tree["subspaces"][key])) for key in sorted(tree["subspaces"])),
        ]
    if tree["type"] == "Tuple":
        return ["Tuple", *map(_sorted, tree["subspaces"])]
    return [tree["type"], tree.get("dtype"), tree.get("shape"), tree.get("n"), tree.get("nvec")]


def check_supported(observation_tree: spaces.Tree, action_tree: spaces.Tree, name: str) -> None:
    """Refuses spaces that cannot be flattened, before anything is read.

    Raises:
      InputError: names the set and the place in its space.
    """
    for path, kind in _kinds(observation_tree, "observations"):
        if kind not in FLAT_KINDS:
            raise InputError(
                f"{name}: {path} is of a {kind} space, which has no fixed vector; write the set "
                "without it, or with numbers in its place"
            )
    if action_tree["type"] not in ("Box", "Discrete"):
        raise InputError(
            f"{name}: actions of a {action_tree['type']} space are not supported, expected Box or "
            "Discrete: write the set with its parts in one vector, or one integer"
        )


def _kinds(tree: spaces.Tree, path: str) -> Iterator[tuple[str, str]]:
    """(place, type) of each part of a space that is not a Dict or Tuple."""
    match tree["type"]:
        case "Dict":
            parts = tree["subspaces"].items()
        case "Tuple":
            parts = enumerate(tree["subspaces"])
        case kind:
            yield path, kind
            return
    for key, subspace in parts:
        yield from _kinds(subspace, f"{path}/{key}")


class RecordedEnvironment(NamedTuple):
    """The environment for the score, as named in a set's metadata."""

    id: str | None = None
    spec: str | None = None  # gymnasium's whole specification, as JSON
    source: str | None = None  # the field of the metadata
    note: str | None = None


def find_environment(metadata: Mapping[str, Any], folder: Path) -> RecordedEnvironment:
    """The environment of a set: the one for evaluation, or else the one of collection.

    Raises:
      InputError: the specification is not readable.
    """
    stored = {field: metadata[field] for field in ENVIRONMENT_FIELDS if metadata.get(field)}
    if not stored:
        named = metadata.get("environment_id")
        return RecordedEnvironment(named, source="environment_id" if named else None)
    for field, text in stored.items():
        stored[field] = read_specification(text, f"{folder / METADATA}: field {field}")
    source, fields = next(iter(stored.items()))
    note = None
    if len(stored) == 2 and fields != stored["env_spec"]:
        note = (
            f"the environment that gives the score is the set's evaluation environment "
            f"{fields['id']} (eval_env_spec), and not the one of its collection, "
            f"{stored['env_spec']['id']} (env_spec)"
        )
    # A set that this library wrote may call a pure environment by its short name.
    return RecordedEnvironment(
        metadata.get("environment_id") or fields["id"], metadata[source], source, note
    )


def find_references(
    metadata: Mapping[str, Any], name: str, given: tuple[float, float] | None
) -> Reference | None:
    """The reference scores of a set: its own, or known ones for its name.

    Args:
      metadata: of the set.
      name: of the set.
      given: scores by the user; the set's own are then not checked.

    Raises:
      InputError: no normalized score follows from them.
    """
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if low is None or high is None:
        return find_reference(name)
    scores = (float(low), float(high))
    if given is None:
        check_references(scores, f"{name}: ref_min_score and ref_max_score")
    return Reference(scores, "the dataset's metadata")
