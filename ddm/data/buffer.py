"""A ring of transitions that grows while a policy learns: its own experience, or a model's."""

from __future__ import annotations

import math

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from flax import struct

from ddm.data.dataset import Dataset, DatasetInfo
from ddm.data.normalization import Normalization, identity_normalization
from ddm.errors import InputError
from ddm.types import Batch, BatchSpec, Box, Discrete, PRNGKey, Space

FIELDS = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")


class Buffer(struct.PyTreeNode):
    """The last `capacity` transitions, as a pytree; sampled like a :class:`ddm.data.Dataset`.

    All rows are in the units that an algorithm sees, as in a dataset. Empty slots are never drawn.

    With `copies`, rows stand in the order of time, block by block, so that windows can be drawn. A
    spec with `whole_dataset` and a window gets all of them: then all rows have to be replaced
    between two updates, because they are the steps of the present policy.
    """

    rows: Batch  # leaves (capacity, ...), of the fields in FIELDS
    position: jax.Array  # () int32, the slot that is written next
    size: jax.Array  # () int32, slots that were written
    normalization: Normalization
    info: DatasetInfo = struct.field(pytree_node=False)
    # Rows come in blocks, one step of each of so many copies of an environment; 0: in any order.
    copies: int = struct.field(pytree_node=False, default=0)

    @classmethod
    def empty(
        cls,
        capacity: int,
        observation_space: Space,
        action_space: Space,
        *,
        normalization: Normalization | None = None,
        name: str = "own experience",
        copies: int = 0,
    ) -> Buffer:
        """A buffer without transitions.

        Args:
          capacity: transitions that it holds.
          observation_space: of the environment, flattened.
          action_space: of the environment.
          normalization: the units of the rows; None: observations and rewards as the environment
            has them, actions of a box from -1 to 1.
          name: how messages call it.
          copies: of the environment whose steps fill the buffer block by block; 0: no such order.

        Raises:
          InputError: the capacity is not positive, or no multiple of the copies.
        """
        if capacity < 1:
            raise InputError(f"{name}: capacity is {capacity}, expected at least 1")
        if copies and capacity % copies:
            raise InputError(
                f"{name}: capacity is {capacity}, expected a multiple of the {copies} copies"
            )
        assert isinstance(observation_space, Box)  # observations are flattened
        if normalization is None:
            normalization = units_of(observation_space, action_space)
        is_bytes = normalization.observation_mean is None
        shape, discrete = observation_space.shape, isinstance(action_space, Discrete)
        # Arrays of their own: two leaves that share one could not both be donated.
        unseen = lambda: jnp.zeros((capacity, *shape), jnp.uint8 if is_bytes else jnp.float32)  # noqa: E731
        actions = action_space.shape if isinstance(action_space, Box) else ()
        rows = Batch(
            observations=unseen(),
            actions=jnp.zeros((capacity, *actions), jnp.int32 if discrete else jnp.float32),
            rewards=jnp.zeros(capacity, jnp.float32),
            next_observations=unseen(),
            terminations=jnp.zeros(capacity, bool),
            truncations=jnp.zeros(capacity, bool),
        )
        info = DatasetInfo(
            name=name, observation_space=observation_space, action_space=action_space
        )
        position, size = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        return cls(rows, position, size, normalization, info, copies)

    @classmethod
    def like(
        cls, dataset: Dataset, capacity: int, name: str = "own experience", copies: int = 0
    ) -> Buffer:
        """An empty buffer for transitions in the spaces and units of a dataset."""
        info = dataset.info
        return cls.empty(
            capacity,
            info.observation_space,
            info.action_space,
            normalization=dataset.normalization,
            name=name,
            copies=copies,
        )

    @classmethod
    def for_rows(cls, example: Batch, capacity: int, name: str) -> Buffer:
        """An empty buffer for rows like one of the example's, in the same units.

        Args:
          example: transitions; used for shapes and types.
          capacity: transitions that it holds.
          name: how messages call it.
        """
        sizes = example.observations.shape[1:], example.actions.shape[1:]
        boxes = [
            Box(shape, (-math.inf,) * math.prod(shape), (math.inf,) * math.prod(shape))
            for shape in sizes
        ]
        return cls.empty(
            capacity, *boxes, normalization=identity_normalization(sizes[0]), name=name
        )

    @property
    def capacity(self) -> int:
        """Transitions that it can hold."""
        return self.rows.rewards.shape[-1]

    def insert(self, rows: Batch, mask: jax.Array | None = None) -> Buffer:
        """The buffer with more rows; they replace the oldest ones.

        Args:
          rows: (R, ...), at most as many as the capacity, in the buffer's units.
          mask: (R,) bool; rows where it is False are left out and take no slot.

        Raises:
          InputError: more rows than the capacity, or a field is missing.
        """
        absent = [name for name in FIELDS if getattr(rows, name) is None]
        if absent:
            raise InputError(f"{self.info.name}: batch.{absent[0]} is missing in rows to insert")
        count = rows.rewards.shape[0]
        if count > self.capacity:
            raise InputError(
                f"{self.info.name}: {count} rows at once do not fit a capacity of {self.capacity}"
            )
        kept = jnp.ones(count, bool) if mask is None else mask
        order = jnp.cumsum(kept, dtype=jnp.int32)  # 1 for the first row that is kept
        # A slot beyond the end does not exist: rows for it are dropped.
        slots = jnp.where(kept, (self.position + order - 1) % self.capacity, self.capacity)
        stored = jax.tree.map(
            lambda old, new: old.at[slots].set(new.astype(old.dtype), mode="drop"),
            self.rows,
            Batch(**{name: getattr(rows, name) for name in FIELDS}),
        )
        total = order[-1]
        return self.replace(
            rows=stored,
            position=(self.position + total) % self.capacity,
            size=jnp.minimum(self.size + total, self.capacity),
        )

    def sample(self, key: PRNGKey, batch_size: int, spec: BatchSpec) -> Batch:
        """Rows drawn uniformly and with replacement from those that were written.

        A spec with `whole_dataset` gets all rows instead, in the order of time, and `key` and
        `batch_size` are not used. With a `window` they come as one window for each copy.

        Args:
          key: used once.
          batch_size: B, rows per gradient step.
          spec: `minibatches` * B rows are drawn.

        Returns:
          The declared fields, (minibatches * B, ...); of the whole buffer (capacity, ...), or
          (copies, T, ...) as windows.

        Raises:
          InputError: the buffer is empty (if it is traced, its first slot is read: fill it before),
            or the spec asks for what it does not have.
        """
        check_buffer(self, spec)
        if spec.whole_dataset:
            return self._take(spec, self._in_time(windows=spec.window is not None))
        bits = jax.random.bits(key, (batch_size * spec.minibatches,), jnp.uint32)
        drawn = (bits % jnp.maximum(self.size, 1).astype(jnp.uint32)).astype(jnp.int32)
        return self._take(spec, drawn) if spec.window is None else self._windows(spec, drawn)

    def _windows(self, spec: BatchSpec, drawn: jax.Array) -> Batch:
        """Windows (B, T, ...) around the rows (B,), counted from the oldest one.

        Beyond its episode, and beyond what is kept of it, a window repeats its first or its last
        valid step, and `mask` is False.
        """
        assert spec.window is not None
        places = jnp.arange(spec.window, dtype=jnp.int32)
        steps = drawn[:, None] + (places - spec.history) * self.copies
        kept = (steps >= 0) & (steps < self.size)
        slots = (self.position - self.size + steps) % self.capacity
        ended = (self.rows.terminations | self.rows.truncations)[slots]
        # Two steps lie in one episode if no step from the first to before the second ended it.
        ends_before = jnp.cumsum(ended & kept, axis=1) - (ended & kept)
        valid = kept & (ends_before == ends_before[:, spec.history, None])
        first = jnp.argmax(valid, axis=1)
        last = spec.window - 1 - jnp.argmax(valid[:, ::-1], axis=1)
        nearest = jnp.clip(places, first[:, None], last[:, None])
        slots = jnp.take_along_axis(slots, nearest, axis=1)
        batch = self._take(spec, slots)
        return batch.replace(mask=valid) if "mask" in spec.fields else batch

    def _in_time(self, windows: bool) -> jax.Array:
        """The slots of a full buffer, oldest first: (capacity,), or (copies, T) as windows."""
        slots = (self.position + jnp.arange(self.capacity, dtype=jnp.int32)) % self.capacity
        return slots.reshape(-1, self.copies).T if windows else slots

    def _take(self, spec: BatchSpec, slots: jax.Array) -> Batch:
        picked = {
            name: getattr(self.rows, name).at[slots].get(mode="promise_in_bounds")
            for name in spec.fields
            if name != "mask"
        }
        return Batch(**picked)

    def example(self, spec: BatchSpec) -> Batch:
        """Shapes and types of a batch of one row, or one window, for each mini-batch of a spec."""
        leading = (spec.minibatches,) + (() if spec.window is None else (spec.window,))
        known = {name: getattr(self.rows, name) for name in spec.fields if name in FIELDS}
        rows = {name: jnp.zeros(leading + x.shape[1:], x.dtype) for name, x in known.items()}
        for name in ("observations", "next_observations"):
            if spec.one_hot_observations and name in rows:
                rows[name] = rows[name].at[..., 0].set(1)
        if "mask" in spec.fields:
            rows["mask"] = jnp.ones(leading, bool)
        return Batch(**rows)

    def ordered(self) -> Batch:
        """The rows that were written, oldest first, as numpy arrays; outside of jit."""
        size, capacity = int(self.size), self.capacity
        slots = (int(self.position) - size + np.arange(size)) % capacity
        return jax.tree.map(lambda x: np.asarray(x)[slots], self.rows)


def units_of(observation_space: Box, action_space: Space) -> Normalization:
    """Observations and rewards as the environment has them; actions of a box from -1 to 1."""
    if isinstance(action_space, Discrete):
        center = np.int32(action_space.start) if action_space.start else None
        maps: dict[str, np.ndarray | np.int32 | None] = {"action_center": center}
    else:
        low, high = (np.asarray(x, np.float64) for x in (action_space.low, action_space.high))
        middle, half = (low + high) / 2, (high - low) / 2
        shape = action_space.shape
        maps = {"action_center": middle.reshape(shape), "action_scale": half.reshape(shape)}
    is_bytes = observation_space.dtype == "uint8"
    return identity_normalization(observation_space.shape, byte_observations=is_bytes, **maps)  # pyright: ignore[reportArgumentType]


def check_buffer(buffer: Buffer, spec: BatchSpec) -> None:
    """Refuses specs that a buffer, or an empty one, cannot satisfy.

    Raises:
      InputError: naming the buffer and what the spec asks for.
    """
    name = buffer.info.name
    known = FIELDS if spec.window is None or not buffer.copies else (*FIELDS, "mask")
    missing = [field for field in spec.fields if field not in known]
    if missing:
        raise InputError(
            f"{name} has single transitions, of which batch field {missing[0]!r} is not known: "
            "this method learns from a log only"
        )
    if spec.whole_dataset and spec.window is not None:
        _check_windows(buffer, spec.window)
    elif spec.whole_dataset and not buffer.copies:
        raise InputError(f"{name} has single transitions, and the method asks for the whole log")
    elif spec.window is not None and not spec.whole_dataset and not buffer.copies:
        raise InputError(f"{name} has single transitions, and the method asks for a window")
    if not isinstance(buffer.size, jax.core.Tracer) and np.all(np.asarray(buffer.size) == 0):
        raise InputError(f"{name} is empty: insert transitions before they are drawn")
    if spec.whole_dataset and not isinstance(buffer.size, jax.core.Tracer):
        size = int(np.min(np.asarray(buffer.size)))
        if size < buffer.capacity:
            raise InputError(
                f"{name} holds {size} of {buffer.capacity} rows, and the method learns from all "
                "of them: fill it before each update"
            )


def _check_windows(buffer: Buffer, window: int) -> None:
    """Refuses a buffer that does not hold one window of the present policy for each copy."""
    name = buffer.info.name
    if not buffer.copies:
        raise InputError(
            f"{name} keeps the steps of older policies, and the method learns from those of its "
            "present policy alone: collect with CollectSpec(on_policy=True)"
        )
    if buffer.capacity // buffer.copies != window:
        raise InputError(
            f"{name} holds {buffer.capacity // buffer.copies} steps of each copy, and the method "
            f"asks for windows of {window}: steps_per_update and window must be equal"
        )
