"""Minari datasets in and out."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import socket
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ddm.data import spaces
from ddm.data.cache import cached_arrays
from ddm.data.columns import Columns
from ddm.data.minari_hdf5 import STEP_FIELDS, read_episodes
from ddm.data.progress import progress
from ddm.data.references import Reference, find_reference
from ddm.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    from ddm.data.dataset import Dataset

# Opening an episode's five HDF5 datasets costs far more than reading a step: beyond this many
# episodes a set is converted once to contiguous arrays.
CACHE_FROM_EPISODES = 5_000
HOST = "huggingface.co"  # from where minari downloads
CONNECTION_SECONDS = 3.0
MAIN_FILE = "main_data.hdf5"
FLAT_KINDS = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")
ENVIRONMENT_FIELDS = ("eval_env_spec", "env_spec")  # of the metadata; the first one is used

_ID = re.compile(r"[-\w]+(/[-\w]+)*-v\d+")


# --- Finding ---


def datasets_root() -> Path:
    """Where minari keeps its datasets: $MINARI_DATASETS_PATH, or ~/.minari/datasets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser()


def is_dataset_id(source: str) -> bool:
    """Whether a name has the form of a Minari id: (namespace/)name-v(number)."""
    return _ID.fullmatch(source) is not None


def data_folder(folder: Path) -> Path | None:
    """The folder that holds a Minari dataset's metadata: itself or its `data`; None if neither."""
    for candidate in (folder / "data", folder):
        if (candidate / "metadata.json").is_file():
            return candidate
    return None


def find_dataset(dataset_id: str, download: bool = True) -> Path:
    """The data folder of a Minari id, downloaded if it is not on this machine.

    Raises:
      InputError: it is neither here nor reachable.
    """
    root = datasets_root()
    folder = data_folder(root / dataset_id)
    if folder is None:
        missing = f"Minari dataset {dataset_id} is not in {root}"
        if not download:
            raise InputError(f"{missing}: fetch it with `minari download {dataset_id}`")
        _download(dataset_id, missing)
        folder = data_folder(root / dataset_id)
    if folder is None:
        raise InputError(f"{root / dataset_id}: data/metadata.json is missing; download it again")
    return folder


def _download(dataset_id: str, missing: str) -> None:
    # minari retries for half a minute before it admits that there is no network.
    if _is_set("HF_HUB_OFFLINE"):
        raise InputError(f"{missing}, and HF_HUB_OFFLINE forbids to download it")
    if not _is_reachable(HOST):
        raise InputError(
            f"{missing}, and {HOST} cannot be reached: download it elsewhere and set "
            "MINARI_DATASETS_PATH"
        )
    minari = _import_minari()
    try:
        minari.download_dataset(dataset_id)
    except ImportError as error:
        raise MissingDependencyError(
            f"{missing}, and downloading it needs `pip install 'minari[hf]'`"
        ) from error
    except Exception as error:  # minari passes on whatever the network library raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{missing}, and downloading it failed: {reason}") from error


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE")


def _is_reachable(host: str) -> bool:
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True  # only the proxy can tell
    try:
        socket.create_connection((host, 443), timeout=CONNECTION_SECONDS).close()
    except OSError:
        return False
    return True


def _import_minari() -> Any:
    try:
        import minari
    except ImportError as error:
        raise MissingDependencyError(
            "reading this dataset needs minari: `pip install 'minari[hdf5]'`"
        ) from error
    return minari


# --- Reading ---


def read_minari(folder: Path, cache: bool | None = None) -> Columns:
    """The columns of a Minari dataset.

    Args:
      folder: holds `metadata.json`.
      cache: whether to keep a memory-mapped copy; None does where reading is slow.

    Raises:
      InputError: names what is missing or damaged.
    """
    metadata = _read_metadata(folder)
    name = metadata.get("dataset_id") or str(folder)
    observation_tree, action_tree = (
        _space_of(metadata, field, folder) for field in ("observation_space", "action_space")
    )
    _check_supported(observation_tree, action_tree, name)
    source = _source_file(folder, metadata)
    reference = _reference(metadata, name)
    environment = _environment(metadata, folder)
    direct = source.name == MAIN_FILE and not _has_jpeg(metadata, observation_tree)
    if cache is None:
        cache = metadata["total_episodes"] >= CACHE_FROM_EPISODES or not direct

    def read() -> dict[str, np.ndarray]:
        if direct:
            return read_episodes(source, metadata, observation_tree, action_tree)
        return _read_through_minari(folder, metadata, observation_tree)

    arrays: Mapping[str, Any] = (
        cached_arrays([source, folder / "metadata.json"], read) if cache else read()
    )
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
        notes=tuple(
            note for note in (environment.note, reference and reference.note) if note is not None
        ),
        **arrays,
    )


def is_minari_object(source: Any) -> bool:
    """Whether this is a `minari.MinariDataset`; minari need not be imported to tell."""
    return all(hasattr(source, name) for name in ("iterate_episodes", "episode_indices", "spec"))


def read_minari_object(dataset: Any, cache: bool | None = None) -> Columns:
    """The columns of a `minari.MinariDataset`: of the episodes that it shows, in its order.

    Raises:
      InputError: names what is missing or damaged.
    """
    columns = read_minari(Path(dataset.spec.data_path), cache)
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


def _read_metadata(folder: Path) -> dict[str, Any]:
    path = folder / "metadata.json"
    try:
        metadata = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    for field in ("total_episodes", "total_steps"):
        if not isinstance(metadata.get(field), int):
            raise InputError(f"{path}: field {field} is missing, expected an integer")
    return metadata


def _space_of(metadata: Mapping[str, Any], field: str, folder: Path) -> spaces.Tree:
    if field in metadata:
        return spaces.parse_space(metadata[field])
    # Datasets of minari's first versions name the environment only.
    minari = _import_minari()
    try:
        return spaces.parse_space(getattr(minari.MinariDataset(folder), field))
    except Exception as error:
        raise InputError(f"{folder / 'metadata.json'}: field {field} is missing") from error


def _check_supported(observation_tree: spaces.Tree, action_tree: spaces.Tree, name: str) -> None:
    """Refuses spaces that have no flattening, before anything is read.

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
    """(place, type) of each part of a space that is no Dict or Tuple."""
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


def _source_file(folder: Path, metadata: Mapping[str, Any]) -> Path:
    if metadata.get("data_format", "hdf5") == "hdf5":
        path = folder / MAIN_FILE
        if not path.is_file():
            raise InputError(f"{path} is missing; download or write the dataset again")
        return path
    return folder


def _has_jpeg(metadata: Mapping[str, Any], tree: spaces.Tree) -> bool:
    if not metadata.get("jpeg_encoding", True):
        return False
    return any(leaf.dtype == np.uint8 and len(leaf.shape) == 3 for leaf in spaces.leaves(tree))


class _RecordedEnvironment(NamedTuple):
    """The environment that gives the score, as a set's metadata name it."""

    id: str | None = None
    spec: str | None = None  # gymnasium's whole specification, as JSON
    source: str | None = None  # the field of the metadata
    note: str | None = None


def _environment(metadata: Mapping[str, Any], folder: Path) -> _RecordedEnvironment:
    """The environment of a set: the one meant for evaluation, or else the one of collection.

    Raises:
      InputError: the specification is not readable.
    """
    stored = {field: metadata[field] for field in ENVIRONMENT_FIELDS if metadata.get(field)}
    if not stored:
        named = metadata.get("environment_id")
        return _RecordedEnvironment(named, source="environment_id" if named else None)
    for field, text in stored.items():
        try:
            stored[field] = json.loads(text)
            stored[field]["id"]
        except (ValueError, TypeError, KeyError):
            raise InputError(
                f"{folder / 'metadata.json'}: field {field} is not gymnasium's specification of an "
                "environment"
            ) from None
    source, fields = next(iter(stored.items()))
    note = None
    if len(stored) == 2 and fields != stored["env_spec"]:
        note = (
            f"the environment that gives the score is the set's evaluation environment "
            f"{fields['id']} (eval_env_spec), and not the one of its collection, "
            f"{stored['env_spec']['id']} (env_spec)"
        )
    # A set that this library wrote may call a pure environment by its short name.
    return _RecordedEnvironment(
        metadata.get("environment_id") or fields["id"], metadata[source], source, note
    )


def _reference(metadata: Mapping[str, Any], name: str) -> Reference | None:
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if low is None or high is None:
        return find_reference(name)
    return Reference((float(low), float(high)), "the dataset's metadata")


def _read_through_minari(
    folder: Path, metadata: Mapping[str, Any], tree: spaces.Tree
) -> dict[str, np.ndarray]:
    """Arrow and Parquet files, and JPEG images: decoded by minari, episode by episode."""
    minari = _import_minari()
    try:
        dataset = minari.MinariDataset(folder)
        stored = dataset.storage.get_episode_metadata(range(metadata["total_episodes"]))
        expected = [facts.get("total_steps") for facts in stored]
    except Exception as error:
        raise InputError(f"{folder} cannot be read by minari: {error}") from error
    leaves = list(spaces.leaves(tree))
    parts: dict[str, list[np.ndarray]] = {}
    episodes = progress(dataset.iterate_episodes(), f"reading {folder.parent.name}", "episodes")
    for index, (episode, length) in enumerate(zip(episodes, expected, strict=True)):
        where = f"{folder}: episode {index}"
        # minari's Arrow reader cuts episodes of more than 32,767 rows without a word.
        if length is not None and len(episode.rewards) != length:
            raise InputError(
                f"{where} has {len(episode.rewards)} steps, its metadata says {length}: the file "
                "was cut; write the dataset as HDF5"
            )
        columns = [spaces.pick(episode.observations, leaf, where) for leaf in leaves]
        observations = spaces.flatten(tree, columns, where, dtype=None)
        parts.setdefault("observations", []).append(observations)
        for field in ("actions", *STEP_FIELDS):
            parts.setdefault(field, []).append(np.asarray(getattr(episode, field)))
    arrays = {field: np.concatenate(values) for field, values in parts.items()}
    arrays["lengths"] = np.array([len(rewards) for rewards in parts["rewards"]])
    if len(arrays["rewards"]) != metadata["total_steps"]:
        raise InputError(
            f"{folder} holds {len(arrays['rewards'])} steps, its metadata.json says "
            f"{metadata['total_steps']}"
        )
    return arrays


# --- Writing ---


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

    It appears whole or not at all; episodes are validated as by `from_episodes` before.

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
    from ddm.data.arrays import from_episodes, stored_fields, to_episodes
    from ddm.data.dataset import Dataset

    if not is_dataset_id(dataset_id):
        raise InputError(f"{dataset_id} is no Minari id, expected (namespace/)name-v(number)")
    target = datasets_root() / dataset_id
    if target.exists() and not overwrite:
        raise InputError(f"Minari dataset {dataset_id} exists in {datasets_root()}: use overwrite")
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
    info = dataset.info
    if environment_spec is None and environment_id in (None, info.environment_id):
        environment_id, environment_spec = info.environment_id, info.environment_spec
    extra = _extra_metadata(
        environment_id, environment_spec, reference_scores or info.reference_scores
    ) | {
        # Not of minari: what its files cannot say. Left out where the answer is the usual one.
        **({} if info.has_rewards else {"has_rewards": False}),
        **({"inner_stops": True} if dataset.num_inner_stops else {}),
    }
    observation_space = observation_space or dataset.info.observation_space
    trees = {
        "observation_space": spaces.parse_space(observation_space),
        "action_space": spaces.parse_space(action_space or dataset.info.action_space),
    }
    _write_whole(dataset_id, target, episodes, trees, extra, metadata)
    return target


def _extras(episode: Any) -> dict[str, Any]:
    """What an episode holds for Minari's files besides its fields."""
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
    minari = _import_minari()
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
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}") from error


def _gymnasium_space(tree: spaces.Tree) -> Any:
    """The gymnasium space of a tree, with the keys of dicts in the tree's order.

    gymnasium sorts the keys of a plain dict, and so does minari where it reads a space; the order
    of the environment, in which observations are flattened, would be lost.
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

    A log without rewards gets zeros, which Minari asks for; its metadata say so.
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
    """Sets minari's folder for a while; it looks it up in the environment at every call."""
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
    environment_id: str | None,
    environment_spec: Any,
    reference_scores: tuple[float, float] | None,
) -> dict[str, Any]:
    """What `create_dataset_from_buffers` writes only after it has made the environment."""
    extra: dict[str, Any] = {}
    if reference_scores is not None:
        extra["ref_min_score"], extra["ref_max_score"] = map(float, reference_scores)
    specification = _specification(environment_id, environment_spec)
    if environment_id is not None:
        extra["environment_id"] = environment_id
    if specification is not None:
        extra.setdefault("environment_id", json.loads(specification)["id"])
        extra |= dict.fromkeys(ENVIRONMENT_FIELDS, specification)
    return extra


def _specification(environment_id: str | None, given: Any) -> str | None:
    """A whole specification as JSON: the given one, or what is registered under the id, if it is.

    Raises:
      InputError: the given one is not a specification, or holds functions.
    """
    if given is not None:
        try:
            text = given if isinstance(given, str) else given.to_json()
            json.loads(text)["id"]
        except (AttributeError, ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"environment_spec is not a specification that JSON can hold: {error}"
            ) from error
        return text
    if environment_id is None:
        return None
    import gymnasium

    from ddm.envs import registry

    name = environment_id
    if name in registry.ids():  # these names mean the pure environments, here and at evaluation
        registry.register()
        name = registry.NAMESPACE + name
    try:
        return gymnasium.spec(name).to_json()
    except (gymnasium.error.Error, ValueError, TypeError):
        return None
