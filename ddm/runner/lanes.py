"""Lanes: a leading axis (seeds x sweep points) on one device, many devices, or many processes.

`map_lanes` is the one function that maps a per-lane function over the lanes, and `Layout` says
where each lane lives. Lanes do not communicate, so each device and each process runs its own share;
only results are gathered.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddm.errors import InputError
from ddm.runner import processes
from ddm.types import PyTree

AXIS = "lanes"


@functools.lru_cache(maxsize=64)  # the same function again is the same program, compiled once
def map_lanes(
    function: Callable[..., tuple[PyTree, PyTree]], mode: str = "auto", devices: tuple = ()
) -> Callable[..., tuple[PyTree, PyTree]]:
    """Compiles `function` so that it runs for all lanes.

    Args:
      function: function(config, state, sampling_key, dataset) -> (state, outputs) of one lane.
      mode: how the lanes of one device run: "vmap" (at once), "sequential" (one after the
        other), or "auto": vmap on an accelerator; on a CPU sequential, because there a batched
        product of small matrices is slower than single products (benchmarks/lanes.py).
      devices: local devices to use; more than one goes through `jax.pmap`.

    Returns:
      A function of the same arguments laid out by `Layout.place` (config, state, sampling keys)
      and `Layout.replicate` (dataset). The memory of its state argument is reused: do not use
      that state again.
    """
    mapped = {"vmap": _all_at_once, "sequential": _one_by_one}[lane_mode(mode)](function)
    if len(devices) <= 1:
        return jax.jit(mapped, donate_argnums=1)
    return jax.pmap(mapped, axis_name=AXIS, devices=devices, donate_argnums=1)


def lane_mode(mode: str) -> str:
    """What "auto" means on this machine."""
    if mode != "auto":
        return mode
    return "sequential" if jax.default_backend() == "cpu" else "vmap"


def _all_at_once(function: Callable) -> Callable:
    def train_lanes(config, state, key, dataset):
        return jax.vmap(function, in_axes=(0, 0, 0, None))(config, state, key, dataset)

    return train_lanes


def _one_by_one(function: Callable) -> Callable:
    def train_lanes(config, state, key, dataset):
        if key.shape[0] == 1:  # no loop around the loop over updates
            alone = jax.tree.map(lambda x: x[0], (config, state, key))
            return jax.tree.map(lambda x: x[None], function(*alone, dataset))
        return jax.lax.map(lambda lane: function(*lane, dataset), (config, state, key))

    return train_lanes


@dataclasses.dataclass(frozen=True)
class Layout:
    """The place of each lane: lane i is on global device i // per_device, padded at the end.

    The padding repeats the last lane; its results are dropped.
    """

    num_lanes: int
    devices: tuple[Any, ...]  # the local ones that are used
    per_device: int
    process_count: int = 1
    process_index: int = 0

    @classmethod
    def create(cls, num_lanes: int, devices: int = 0) -> Layout:
        """Spreads lanes over `devices` local devices (0: all) of each process.

        Raises:
          InputError: there are fewer local devices.
        """
        local = jax.local_devices()
        if devices > len(local):
            raise InputError(f"--devices={devices}, but this machine has {len(local)}")
        group = processes.current()
        # Devices without a lane would only compute copies.
        used = min(devices or len(local), math.ceil(num_lanes / group.count))
        per_device = math.ceil(num_lanes / (used * group.count))
        return cls(num_lanes, tuple(local[:used]), per_device, group.count, group.index)

    @property
    def held(self) -> int:
        """Lanes on this process, padding included."""
        return len(self.devices) * self.per_device

    @property
    def placement(self) -> dict[str, int]:
        """Values that must be equal in all processes, or lanes are trained twice or not at all."""
        return {"number of devices used": len(self.devices), "lanes per device": self.per_device}

    @property
    def indices(self) -> np.ndarray:
        """The lane at each of the `held` places, shape (held,)."""
        places = self.process_index * self.held + np.arange(self.held)
        return np.minimum(places, self.num_lanes - 1)

    def place(self, tree: PyTree) -> PyTree:
        """Puts leaves of shape (num_lanes, ...) on the devices, as `map_lanes` expects them."""
        raw = jax.tree.map(lambda x: np.asarray(x)[self.indices], unwrap_keys(tree))
        if len(self.devices) == 1:
            return wrap_keys(jax.device_put(raw, self.devices[0]), tree)
        raw = jax.tree.map(
            lambda x: x.reshape(len(self.devices), self.per_device, *x.shape[1:]), raw
        )
        return wrap_keys(jax.device_put(raw, self._sharding()), tree)

    def replicate(self, tree: PyTree) -> PyTree:
        """Puts one copy of `tree` on every device, as `map_lanes` expects a dataset."""
        if len(self.devices) == 1:
            return jax.device_put(tree, self.devices[0])

        def stack(x):
            copies = [jax.device_put(x, device)[None] for device in self.devices]
            shape = (len(self.devices), *x.shape)
            return jax.make_array_from_single_device_arrays(shape, self._sharding(), copies)

        return jax.tree.map(stack, tree)

    @property
    def num_local(self) -> int:
        """Lanes of this process without padding, but at least one."""
        return int(np.clip(self.num_lanes - self.process_index * self.held, 1, self.held))

    def local(self, tree: PyTree) -> PyTree:
        """The lanes of this process with one leading axis, on its first device, without padding."""
        count = self.num_local
        if len(self.devices) == 1:
            return tree if count == self.held else jax.tree.map(lambda x: x[:count], tree)
        host = jax.tree.map(lambda x: x[:count], self._to_host(tree))
        return wrap_keys(jax.device_put(host, self.devices[0]), tree)

    def gather(self, tree: PyTree) -> PyTree:
        """All lanes of all processes: numpy arrays (num_lanes, ...), PRNG keys as raw data."""
        return self.gather_host(self._to_host(tree))

    def gather_host(self, tree: PyTree) -> PyTree:
        """As `gather`, from numpy arrays (held, ...) or those without the padding."""
        if self.process_count > 1:
            tree = jax.tree.map(lambda x: np.resize(x, (self.held, *x.shape[1:])), tree)
            tree = processes.gather_arrays(tree)
        return jax.tree.map(lambda x: x[: self.num_lanes], tree)

    def _to_host(self, tree: PyTree) -> PyTree:
        """Copies to numpy (held, ...); copies, because the memory of a state is used again."""
        tree = jax.tree.map(np.array, unwrap_keys(tree))
        if len(self.devices) == 1:
            return tree
        return jax.tree.map(lambda x: x.reshape(self.held, *x.shape[2:]), tree)

    def _sharding(self) -> NamedSharding:
        return NamedSharding(Mesh(np.array(self.devices), (AXIS,)), PartitionSpec(AXIS))


def is_key(x: Any) -> bool:
    """Whether an array, or its abstract shape, holds typed PRNG keys."""
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def unwrap_keys(tree: PyTree) -> PyTree:
    """Replaces typed PRNG keys by their raw data, which numpy and files can hold."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)


def wrap_keys(tree: PyTree, like: PyTree) -> PyTree:
    """Turns raw data into typed keys where `like`, of the same structure, has keys."""
    return jax.tree.map(lambda x, y: jax.random.wrap_key_data(x) if is_key(y) else x, tree, like)
