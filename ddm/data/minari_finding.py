"""Where Minari datasets are on this machine, and how they get there."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any

from ddm.data.reading import reading, reason
from ddm.errors import InputError, MissingDependencyError

HOST = "huggingface.co"  # from where minari downloads
CONNECTION_SECONDS = 3.0
MAIN_FILE = "main_data.hdf5"
METADATA = "metadata.json"

_ID = re.compile(r"[-\w]+(/[-\w]+)*-v\d+")


def datasets_root() -> Path:
    """Where minari keeps its datasets: $MINARI_DATASETS_PATH, or ~/.minari/datasets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser()


def is_dataset_id(source: str) -> bool:
    """Whether a name has the form of a Minari id: (namespace/)name-v(number)."""
    return _ID.fullmatch(source) is not None


def data_folder(folder: Path) -> Path | None:
    """The folder that holds a Minari dataset's metadata: itself or its `data`; None if neither."""
    for candidate in (folder / "data", folder):
        with reading(candidate, "folder"):
            if (candidate / METADATA).is_file():
                return candidate
    return None


def find_dataset(dataset_id: str, download: bool = True) -> Path:
    """The data folder of a Minari id, downloaded if it is not on this machine.

    Raises:
      InputError: it is not on this machine and cannot be downloaded.
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
    # minari retries for half a minute before it reports that there is no network.
    if _is_set("HF_HUB_OFFLINE"):
        raise InputError(f"{missing}, and HF_HUB_OFFLINE forbids to download it")
    if not _is_reachable(HOST):
        raise InputError(
            f"{missing}, and {HOST} cannot be reached: download it elsewhere and set "
            "MINARI_DATASETS_PATH"
        )
    minari = import_minari()
    try:
        minari.download_dataset(dataset_id)
    except ImportError as error:
        raise MissingDependencyError(
            f"{missing}, and downloading it needs `pip install 'minari[hf]'`"
        ) from error
    except Exception as error:  # minari raises any error of the network library
        raise InputError(f"{missing}, and downloading it failed: {reason(error)}") from error


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


def import_minari() -> Any:
    """The package.

    Raises:
      MissingDependencyError: it is not installed.
    """
    try:
        import minari
    except ImportError as error:
        raise MissingDependencyError(
            "reading this dataset needs minari: `pip install 'minari[hdf5]'`"
        ) from error
    return minari
