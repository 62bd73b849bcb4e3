"""A trained policy as a value."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey

from ddm.errors import InputError
from ddm.evaluation.matching import (
    check_action,
    check_acts,
    check_spaces,
    fit_action,
    observation_shape,
)
from ddm.types import Box, Identity, PRNGKey, PyTree, Space, initial_policy_state, program_key

if TYPE_CHECKING:
    from ddm.data.normalization import Normalization


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """An algorithm's `act` with everything it needs: raw observations in, raw actions out.

    It is a pytree: pass it to jitted functions as an argument. `config` and `state` may carry a
    leading axis of lanes (seeds and sweep points), which `ddm.evaluation.evaluate` maps over;
    calling the policy is for one lane. The normalization is shared by all lanes.
    """

    algorithm: Any  # a module, see ddm.types.Algorithm
    config: Any
    state: Any
    normalization: Normalization | None = None  # None: the algorithm works in raw units
    action_space: Space | None = None  # of the log, in the environment's units; None: not known
    observation_shape: tuple[int, ...] | None = None  # needed if the normalization does not have it

    def __call__(
        self,
        observation: jax.Array,
        key: PRNGKey,
        policy_state: PyTree = (),
        *,
        deterministic: bool = True,
    ) -> tuple[jax.Array, PyTree]:
        """Action for one observation; compiled at the first call.

        Args:
          observation: (*O,) as the environment gives it, flattened.
          key: one PRNG key.
          policy_state: what the last call returned; at first :meth:`initial_state`.
          deterministic: the policy's mode instead of a sample.

        Returns:
          The action in the environment's units, inside the environment's box, and the next
          policy state.

        Raises:
          InputError: several observations, keys or lanes instead of one.
        """
        check_acts(self.algorithm)
        observation = jnp.asarray(observation)
        if jnp.issubdtype(observation.dtype, jnp.floating):
            observation = observation.astype(jnp.float32)  # even if 64 bits are the default
        _check_call(self, observation, key)
        return _act(bool(deterministic), self._only_lane(), observation, key, policy_state)

    def initial_state(self) -> PyTree:
        """The policy state at the start of an episode; the empty tuple if there is none."""
        policy = self._only_lane()
        return initial_policy_state(policy.algorithm, policy.config, policy.state)

    def lane(self, index: int) -> Policy:
        """The policy of one lane, without the leading axis."""
        config, state = jax.tree.map(lambda leaf: leaf[index], (self.config, self.state))
        return dataclasses.replace(self, config=config, state=state)

    def replace(self, **changes: Any) -> Policy:
        """The same policy with other values in the named fields."""
        return dataclasses.replace(self, **changes)

    def check_spaces(self, name: str, observation_space: Box, action_space: Space) -> None:
        """Refuses an environment that is not the policy's; see :func:`check_spaces`."""
        check_spaces(self, name, observation_space, action_space)

    def _only_lane(self) -> Policy:
        """The policy of its lane, where it has an axis of one lane."""
        lanes = jnp.shape(getattr(self.state, "step", 0))
        if not lanes:
            return self
        if lanes != (1,):
            raise InputError(
                f"the policy has {lanes[0]} lanes (seeds and sweep points): choose one with "
                "policy.lane(i)"
            )
        return self.lane(0)

    def tree_flatten_with_keys(self):
        """The parts that are arrays; the others are static."""
        arrays = ("config", "state", "normalization")
        static = _Static(
            (Identity(self.algorithm), *program_key(self.algorithm)),
            self.action_space,
            self.observation_shape,
        )
        return [(GetAttrKey(name), getattr(self, name)) for name in arrays], static

    @classmethod
    def tree_unflatten(cls, static, arrays):
        """The inverse of :meth:`tree_flatten_with_keys`."""
        config, state, normalization = arrays
        algorithm = static.program[0].value
        spaces = static.action_space, static.observation_shape
        return cls(algorithm, config, state, normalization, *spaces)

    def __deepcopy__(self, memo: dict[int, Any]) -> Policy:
        copy = lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf  # noqa: E731
        return jax.tree.map(copy, self)  # arrays of JAX never change

    def __reduce__(self):
        # Modules cannot be pickled, so the name is; typed keys cannot be pickled either.
        name = self.algorithm.__name__ if isinstance(self.algorithm, types.ModuleType) else None
        arrays = *jax.tree.map(_PackedKey.pack, (self.config, self.state)), self.normalization
        algorithm = self.algorithm if name is None else name
        return _unpickle, (algorithm, *arrays, self.action_space, self.observation_shape)


@dataclasses.dataclass(frozen=True)
class _Static:
    """The key of compiled programs: an algorithm's functions, not only its module."""

    program: tuple[Any, ...]
    action_space: Space | None
    observation_shape: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True)
class _PackedKey:
    """A typed PRNG key, as numbers."""

    data: np.ndarray
    kind: Any

    @staticmethod
    def pack(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        return _PackedKey(np.asarray(jax.random.key_data(leaf)), str(jax.random.key_impl(leaf)))

    @staticmethod
    def unpack(leaf: Any) -> Any:
        if not isinstance(leaf, _PackedKey):
            return leaf
        return jax.random.wrap_key_data(jnp.asarray(leaf.data), impl=leaf.kind)


def _unpickle(algorithm: Any, config: Any, state: Any, *others: Any) -> Policy:
    if isinstance(algorithm, str):
        algorithm = importlib.import_module(algorithm)
    config, state = jax.tree.map(_PackedKey.unpack, (config, state))
    return Policy(algorithm, config, state, *others)


@functools.partial(jax.jit, static_argnums=0)
def _act(deterministic, policy, observation, key, policy_state):
    """See `Policy.__call__`."""
    statistics = policy.normalization
    if statistics is not None:
        if statistics.observation_mean is not None:
            observation = observation.astype(statistics.observation_mean.dtype)
        observation = statistics.normalize_observations(observation)
    action, policy_state = policy.algorithm.act(
        policy.config, policy.state, observation, key, policy_state, deterministic=deterministic
    )
    if statistics is not None:
        if statistics.action_scale is not None:  # a real vector, not an index
            check_action(action, Box(statistics.action_scale.shape, (), ()), "the log")
            action = jnp.clip(action, -1.0, 1.0)
        action = statistics.denormalize_actions(action)
    if policy.action_space is not None:
        action = fit_action(action, policy.action_space, "the log")
    return action, policy_state


def _check_call(policy: Policy, observation: jax.Array, key: Any) -> None:
    """Refuses several observations or keys: some methods would return an action for only one."""
    expected = observation_shape(policy)
    if expected is not None and observation.shape != expected:
        raise InputError(
            f"the policy takes one observation of shape {expected}, not {observation.shape}: "
            "map it over several with jax.vmap(policy)(observations, keys)"
        )
    statistics = policy.normalization
    takes_bytes = statistics is not None and statistics.observation_mean is None
    if takes_bytes and observation.dtype != jnp.uint8:
        raise InputError(f"the policy takes bytes (uint8), not {observation.dtype}")
    is_typed = jnp.issubdtype(jnp.result_type(key), jax.dtypes.prng_key)
    if is_typed and jnp.ndim(key):
        raise InputError(
            f"the policy takes one key, not {jnp.shape(key)} of them: map it over several with "
            "jax.vmap(policy)(observations, keys)"
        )


def with_lane_axis(policy: Policy) -> Policy:
    """The same policy with a leading axis of one lane."""
    lane = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (policy.config, policy.state))
    return dataclasses.replace(policy, config=lane[0], state=lane[1])


def num_lanes(policy: Policy) -> int:
    """Length of the leading axis of lanes.

    Raises:
      InputError: there is no such axis.
    """
    leaf = jax.tree.leaves(policy.state)[0]
    if not jnp.shape(getattr(policy.state, "step", leaf)):
        raise InputError("the policy has no leading axis of lanes: evaluate it with lanes=False")
    return leaf.shape[0]


def map_lanes(function: Callable[..., PyTree], policy: Policy, *args: PyTree) -> PyTree:
    """Vmaps function(policy of one lane, *args of the lane) over the leading axis of lanes."""

    def one_lane(config: Any, state: Any, *lane_args: PyTree) -> PyTree:
        return function(dataclasses.replace(policy, config=config, state=state), *lane_args)

    return jax.vmap(one_lane)(policy.config, policy.state, *args)


def repeat(tree: PyTree, shape: tuple[int, ...]) -> PyTree:
    """The same leaves under new leading axes."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, shape + jnp.shape(leaf)), tree)


def initial_states(policy: Policy, shape: tuple[int, int]) -> PyTree:
    """Policy states of all lanes at the start of their episodes, with leading axes `shape`."""
    return map_lanes(lambda lane: repeat(lane.initial_state(), shape[1:]), policy)
