"""Writes Minari datasets."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddm.data import spaces
from ddm.data.dataset import Dataset
from ddm.data.episodes import from_episodes, stored_fields, to_episodes
from ddm.data.minari_finding import datasets_root, import_minari, is_dataset_id
from ddm.data.minari_metadata import ENVIRONMENT_FIELDS
from ddm.data.reading import reason
from ddm.data.references import check_references
from ddm.data.schema import read_specification
from ddm.errors import DdmError, InputError


def write_minari(
    dataset_id: str,
    episodes: Dataset | Sequence[Mapping[str, Any]],
    *,
    observation_space: Any = None,
    action_space: Any = None,
    environment_id: str | None = None,
    environment_spec: Any = None,
    reference_scores: tuple[float, float] | None = None,
    overwrite: bool = False,
    **metadata: str,
) -> Path:
    """Writes a Minari dataset (HDF5, images exact) under $MINARI_DATASETS_PATH.

    It appears whole or not at all. Before, episodes are validated as by `from_episodes`.

    Args:
      dataset_id: (namespace/)name-v(number).
      episodes: a dataset, written in the environment's units, or what `from_episodes` takes, with
        `infos` and `seed` if present.
      observation_space: a gymnasium space or `ddm.types.Box` / `Discrete`; needed for dict and
        tuple observations, otherwise guessed from the arrays.
      action_space: likewise; if None, it is guessed as in `from_arrays`.
      environment_id: where a policy can be evaluated; None for the dataset's environment.
      environment_spec: the same with keyword arguments, wrappers and step limit: gymnasium's
        specification (`env.spec`) or its JSON; None for the dataset's, or what is registered under
        the id.
      reference_scores: returns of a random and of an expert policy.
      overwrite: replaces a dataset of this id instead of refusing it.
      **metadata: of minari: algorithm_name, author, author_email, code_permalink, description.

    Returns:
      The dataset's folder.

    Raises:
      InputError: a bad id, an id that exists, invalid episodes, or a disk that cannot be written.
      MissingDependencyError: minari is not installed.
    """
    target = _find_target(dataset_id, overwrite)
    if isinstance(episodes, Dataset):
        dataset, episodes = episodes, to_episodes(episodes)
        action_space = dataset_action_space(dataset)
        observation_space = dataset.info.observation_space
    else:
        options = {"observation_space": observation_space, "action_space": action_space}
        episodes = [
            {**_extras(episode), **stored_fields(episode, f"{dataset_id}: episode {index}")}
            for index, episode in enumerate(episodes)
        ]
        dataset = from_episodes(episodes, name=dataset_id, **options)
    extra = _extra_metadata(dataset, environment_id, environment_spec, reference_scores)
    trees = {
        "observation_space": spaces.parse_space(
            observation_space or dataset.info.observation_space
        ),
        "action_space": spaces.parse_space(action_space or dataset.info.action_space),
    }
    _write_whole(dataset_id, target, episodes, trees, extra, metadata)
    return target


def _find_target(dataset_id: str, overwrite: bool) -> Path:
    """The folder that a set is to be written to."""
    if not is_dataset_id(dataset_id):
        raise InputError(f"{dataset_id} is no Minari id, expected (namespace/)name-v(number)")
    target = datasets_root() / dataset_id
    try:
        exists = target.exists()
    except OSError as error:  # a name that is too long, a folder without permission
        raise InputError(f"{target} cannot be written: {reason(error)}") from error
    if exists and not overwrite:
        raise InputError(f"Minari dataset {dataset_id} exists in {datasets_root()}: use overwrite")
    return target


def _extras(episode: Any) -> dict[str, Any]:
    """An episode's values for Minari's files besides its fields."""
    if isinstance(episode, Mapping):
        return {name: episode[name] for name in ("seed", "infos") if name in episode}
    return {}


def dataset_action_space(dataset: Dataset) -> spaces.Tree:
    """The action space with the start of its integers, which the dataset's info leaves out."""
    tree = dict(spaces.parse_space(dataset.info.action_space))
    if tree["type"] == "Discrete" and dataset.normalization.action_center is not None:
        tree["start"] = int(dataset.normalization.action_center)
    return tree


def _write_whole(
    dataset_id: str,
    target: Path,
    episodes: Sequence[Mapping[str, Any]],
    trees: Mapping[str, spaces.Tree],
    extra: Mapping[str, Any],
    metadata: Mapping[str, str],
) -> None:
    minari = import_minari()
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(dataset_id)
    except ValueError as error:  # a namespace of one letter, for example
        raise InputError(f"minari does not take the id {dataset_id}: {error}") from error
    buffers = [
        EpisodeBuffer(
            seed=episode.get("seed"),
            infos=episode.get("infos"),
            **_episode_arrays(episode, trees),
        )
        for episode in episodes
    ]
    root = datasets_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Hidden, so that minari does not list it, and on the same disk, so that it can be renamed.
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=root) as temporary:
            with _minari_root(temporary), warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # minari asks for an author
                written = minari.create_dataset_from_buffers(
                    dataset_id,
                    buffers,
                    **{name: _gymnasium_space(tree) for name, tree in trees.items()},
                    jpeg_encoding=False,
                    data_format="hdf5",
                    **metadata,
                )
                written.storage.update_metadata(dict(extra))
            _move(Path(temporary) / dataset_id, target, Path(temporary) / "replaced")
            _complete_namespaces(root, target)
    except DdmError:
        raise
    except Exception as error:  # of minari's, h5py's or the disk's
        raise InputError(f"{target} cannot be written: {reason(error)}") from error


def _gymnasium_space(tree: spaces.Tree) -> Any:
    """The gymnasium space of a tree, with the keys of dicts in the tree's order.

    gymnasium sorts the keys of a plain dict, and so does minari where it reads a space; the
    environment's order, which flattening uses, would be lost.
    """
    from gymnasium import spaces as gym

    match tree["type"]:
        case "Dict":
            pairs = [(key, _gymnasium_space(sub)) for key, sub in tree["subspaces"].items()]
            return gym.Dict(pairs)
        case "Tuple":
            return gym.Tuple([_gymnasium_space(sub) for sub in tree["subspaces"]])
        case "Discrete":
            return gym.Discrete(int(tree["n"]), start=int(tree.get("start", 0)))
        case "MultiDiscrete":
            return gym.MultiDiscrete(tree["nvec"], start=tree.get("start"))
        case "MultiBinary":
            return gym.MultiBinary(tree["n"])
        case "Box":
            low, high = (np.asarray(tree[bound], tree["dtype"]) for bound in ("low", "high"))
            return gym.Box(low, high, tuple(tree["shape"]), np.dtype(tree["dtype"]).type)
    raise InputError(f"a space of type {tree['type']} cannot be written")


def _episode_arrays(episode: Mapping[str, Any], trees: Mapping[str, spaces.Tree]) -> dict[str, Any]:
    """The arrays of one episode, with flags for every step and numbers in their space's dtype.

    A log without rewards gets zeros, because Minari needs rewards; its metadata say so.
    """
    steps = len(episode["actions"])
    if "masks" in episode:
        stops = ~np.asarray(episode["masks"], bool)
        episode = {**episode, "terminations": stops}
    arrays: dict[str, Any] = {
        "observations": _cast(episode["observations"], trees["observation_space"]),
        "actions": _cast(episode["actions"], trees["action_space"]),
        "rewards": np.asarray(episode.get("rewards", np.zeros(steps)), np.float64).reshape(steps),
    }
    for field in ("terminations", "truncations"):
        flags = np.zeros(steps, bool)
        value = np.asarray(episode.get(field, False), bool)
        flags[slice(None) if value.ndim else -1] = value.reshape(steps) if value.ndim else value
        arrays[field] = flags
    arrays["truncations"][-1] |= not arrays["terminations"][-1]
    return arrays


def _cast(value: Any, tree: spaces.Tree) -> Any:
    if tree["type"] == "Dict":
        return {key: _cast(value[key], sub) for key, sub in tree["subspaces"].items()}
    if tree["type"] == "Tuple":
        return tuple(_cast(v, sub) for v, sub in zip(value, tree["subspaces"], strict=True))
    dtype = tree["dtype"] if tree["type"] == "Box" else np.int64
    array = np.asarray(value, dtype)
    leaf = next(spaces.leaves(tree))
    return array.reshape(len(array), *leaf.shape)


@contextlib.contextmanager
def _minari_root(folder: str) -> Iterator[None]:
    """Sets minari's folder for a while; minari reads it from the environment at every call."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


def _move(source: Path, target: Path, replaced: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.rename(replaced)
    source.rename(target)


def _complete_namespaces(root: Path, target: Path) -> None:
    for folder in target.parents:
        if folder == root:
            return
        path = folder / "namespace_metadata.json"
        if not path.exists():
            path.write_text("{}")


def _extra_metadata(
    dataset: Dataset,
    environment_id: str | None,
    environment_spec: Any,
    reference_scores: tuple[float, float] | None,
) -> dict[str, Any]:
    """Metadata that `create_dataset_from_buffers` writes only after making the environment."""
    info = dataset.info
    if environment_spec is None and environment_id in (None, info.environment_id):
        environment_id, environment_spec = info.environment_id, info.environment_spec
    extra: dict[str, Any] = {}
    scores = reference_scores or info.reference_scores
    if scores is not None:
        check_references(scores, info.name)
        extra["ref_min_score"], extra["ref_max_score"] = map(float, scores)
    specification = _specification(environment_id, environment_spec)
    if environment_id is not None:
        extra["environment_id"] = environment_id
    if specification is not None:
        extra.setdefault("environment_id", json.loads(specification)["id"])
        extra |= dict.fromkeys(ENVIRONMENT_FIELDS, specification)
    # Not part of minari: facts that its files cannot hold. Left out if they are the usual ones.
    if not info.has_rewards:
        extra["has_rewards"] = False
    if dataset.num_inner_stops:
        extra["inner_stops"] = True
    return extra


def _specification(environment_id: str | None, given: Any) -> str | None:
    """A whole specification as JSON: the given one, or the registered one of the id, if any.

    Raises:
      InputError: the given one is not a specification, or holds functions.
    """
    if given is not None:
        try:
            text = given if isinstance(given, str) else given.to_json()
        except (AttributeError, ValueError, TypeError) as error:
            raise InputError(
                f"environment_spec is not a specification that JSON can hold: {error}"
            ) from error
        read_specification(text, "environment_spec")
        return text
    if environment_id is None:
        return None
    import gymnasium

    from ddm.envs import registry

    name = environment_id
    if name in registry.ids():  # here and at evaluation these names mean the pure environments
        registry.register()
        name = registry.NAMESPACE + name
    try:
        return gymnasium.spec(name).to_json()
    except (gymnasium.error.Error, ValueError, TypeError):
        return None
