"""A trained policy as a value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import struct

from ddm.errors import InputError
from ddm.types import Box, Discrete, PRNGKey, PyTree, Space, initial_policy_state

if TYPE_CHECKING:
    from ddm.data.normalization import Normalization


@struct.dataclass
class Policy:
    """An algorithm's `act` with everything it needs: raw observations in, raw actions out.

    It is a pytree: pass it to jitted functions as an argument. `config` and `state` may carry a
    leading axis of lanes (seeds and sweep points), which `ddm.evaluation.evaluate` maps over;
    calling the policy is for one lane. The normalization is shared by all lanes.
    """

    algorithm: Any = struct.field(pytree_node=False)  # a module, see ddm.types.Algorithm
    config: Any
    state: Any
    normalization: Normalization | None = None  # None: the algorithm works in raw units

    def __call__(
        self,
        observation: jax.Array,
        key: PRNGKey,
        policy_state: PyTree = (),
        *,
        deterministic: bool = True,
    ) -> tuple[jax.Array, PyTree]:
        """Action for one observation.

        Args:
          observation: (*O,) as the environment gives it, flattened.
          key: one PRNG key.
          policy_state: what the last call returned; at first :meth:`initial_state`.
          deterministic: the policy's mode instead of a sample.

        Returns:
          The action in the environment's units, inside the environment's box, and the next
          policy state.
        """
        observation = jnp.asarray(observation)
        if jnp.issubdtype(observation.dtype, jnp.floating):
            observation = observation.astype(jnp.float32)  # also where 64 bits are the default
        statistics = self.normalization
        if statistics is not None:
            observation = statistics.normalize_observations(observation)
        action, policy_state = self.algorithm.act(
            self.config, self.state, observation, key, policy_state, deterministic=deterministic
        )
        if statistics is not None:
            if statistics.action_scale is not None:  # a real vector, not an index
                action = jnp.clip(action, -1.0, 1.0)
            action = statistics.denormalize_actions(action)
        return action, policy_state

    def initial_state(self) -> PyTree:
        """The policy state at the start of an episode; the empty tuple if there is none."""
        return initial_policy_state(self.algorithm, self.config, self.state)


def with_lane_axis(policy: Policy) -> Policy:
    """The same policy with a leading axis of one lane."""
    lane = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (policy.config, policy.state))
    return dataclasses.replace(policy, config=lane[0], state=lane[1])


def num_lanes(policy: Policy) -> int:
    """Length of the leading axis of lanes."""
    return jax.tree.leaves(policy.state)[0].shape[0]


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


def check_spaces(policy: Policy, name: str, observation_space: Box, action_space: Space) -> None:
    """Refuses an environment whose observations or actions are not those of the policy.

    Args:
      policy: its normalization knows the shapes; without one nothing is checked.
      name: the environment, for the message.
      observation_space: of the environment, flattened.
      action_space: of the environment, flattened.

    Raises:
      InputError: naming the environment and both shapes.
    """
    statistics = policy.normalization
    if statistics is None:
        return
    if (statistics.action_scale is None) != isinstance(action_space, Discrete):
        kinds = ["indices", "vectors"]
        found, expected = kinds if isinstance(action_space, Discrete) else reversed(kinds)
        raise InputError(f"{name}: actions are {found}, the policy was trained on {expected}")
    for what, statistic, space in (
        ("observations", statistics.observation_mean, observation_space),
        ("actions", statistics.action_scale, action_space),
    ):
        if isinstance(space, Box) and statistic is not None and statistic.shape != space.shape:
            raise InputError(
                f"{name}: {what} have shape {space.shape}, "
                f"the policy was trained on {statistic.shape}"
            )
