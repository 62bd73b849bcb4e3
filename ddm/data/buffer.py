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
    """

    rows: Batch  # leaves (capacity, ...), of the fields in FIELDS
    position: jax.Array  # () int32, the slot that is written next
    size: jax.Array  # () int32, slots that were written
    normalization: Normalization
    info: DatasetInfo = struct.field(pytree_node=False)

    @classmethod
    def empty(
        cls,
        capacity: int,
        observation_space: Space,
        action_space: Space,
        *,
        normalization: Normalization | None = None,
        name: str = "own experience",
    ) -> Buffer:
        """A buffer without transitions.

        Args:
          capacity: transitions that it holds.
          observation_space: of the environment, flattened.
          action_space: of the environment.
          normalization: the units of the rows; None: observations and rewards as the environment
            has them, actions of a box from -1 to 1.
          name: how messages call it.

        Raises:
          InputError: the capacity is not positive.
        """
        if capacity < 1:
            raise InputError(f"{name}: capacity is {capacity}, expected at least 1")
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
        return cls(rows, position, size, normalization, info)

    @classmethod
    def like(cls, dataset: Dataset, capacity: int, name: str = "own experience") -> Buffer:
        """An empty buffer for transitions in the spaces and units of a dataset."""
        info = dataset.info
        return cls.empty(
            capacity,
            info.observation_space,
            info.action_space,
            normalization=dataset.normalization,
            name=name,
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

        Args:
          key: used once.
          batch_size: B, rows per gradient step.
          spec: `minibatches` * B rows are drawn.

        Returns:
          The declared fields, (minibatches * B, ...).

        Raises:
          InputError: the buffer is empty (if it is traced, its first slot is read: fill it before),
            or the spec asks for what single transitions do not have.
        """
        check_buffer(self, spec)
        bits = jax.random.bits(key, (batch_size * spec.minibatches,), jnp.uint32)
        slots = (bits % jnp.maximum(self.size, 1).astype(jnp.uint32)).astype(jnp.int32)
        picked = {
            name: getattr(self.rows, name).at[slots].get(mode="promise_in_bounds")
            for name in spec.fields
        }
        return Batch(**picked)

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
    """Refuses specs that single transitions, or an empty buffer, cannot satisfy.

    Raises:
      InputError: naming the buffer and what the spec asks for.
    """
    name = buffer.info.name
    missing = [field for field in spec.fields if field not in FIELDS]
    if missing:
        raise InputError(
            f"{name} has single transitions, of which batch field {missing[0]!r} is not known: "
            "this method learns from a log only"
        )
    wanted = {"a window": spec.window, "the whole dataset": spec.whole_dataset or None}
    asked = [what for what, value in wanted.items() if value is not None]
    if asked:
        raise InputError(f"{name} has single transitions, and the method asks for {asked[0]}")
    if not isinstance(buffer.size, jax.core.Tracer) and np.all(np.asarray(buffer.size) == 0):
        raise InputError(f"{name} is empty: insert transitions before they are drawn")
