"""Evaluation in a pure environment: one device call for all lanes and episodes."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddm.envs import Environment, episode_keys
from ddm.evaluation import policy as policy_lib
from ddm.evaluation.policy import Policy
from ddm.evaluation.results import EvaluationResult, episode_seeds
from ddm.types import Discrete


class PureEvaluator:
    """A function (policy with lanes, seed) -> EvaluationResult; see `make_evaluator`."""

    def __init__(
        self, environment: Environment, num_episodes: int, deterministic: bool, params: Any = None
    ):
        self._environment = environment
        self._num_episodes = num_episodes
        self._deterministic = deterministic
        self._params = environment.default_params if params is None else params
        self._observation_space = environment.observation_space(self._params)
        self._action_space = environment.action_space(self._params)
        self._reports_success = _reports_success(environment, self._params)

    def __call__(self, policy: Policy, seed: int) -> EvaluationResult:
        """Evaluates all lanes of the policy.

        Raises:
          InputError: the policy was trained on other spaces.
        """
        policy_lib.check_spaces(
            policy, self._environment.name, self._observation_space, self._action_space
        )
        seeds = episode_seeds(seed, self._num_episodes)
        returns, lengths, successes = _run(
            self._environment, self._deterministic, policy, self._params, seeds
        )
        return EvaluationResult(
            returns=np.asarray(returns, np.float64),
            lengths=np.asarray(lengths, np.int64),
            successes=np.asarray(successes) if self._reports_success else None,
        )

    def close(self) -> None:
        """Nothing to close: a pure environment holds no resources."""

    def __enter__(self) -> PureEvaluator:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(environment, deterministic, policy, params, seeds):
    """(L, E) returns, lengths and successes; stops when the last episode has ended."""
    keys = jax.vmap(episode_keys)(seeds)
    fold_in = jax.vmap(jax.random.fold_in, (0, None))
    # Keys are per episode, shared by the lanes; everything else has the axes (lane, episode).
    env_step = jax.vmap(jax.vmap(environment.step, (0, 0, 0, None)), (None, 0, 0, None))

    def act(lane, observations, policy_states, keys):
        function = functools.partial(lane, deterministic=deterministic)
        return jax.vmap(function)(observations, keys, policy_states)

    def step(carry):
        time, alive, (observations, states, policy_states), (returns, lengths, successes) = carry
        act_now = functools.partial(act, keys=fold_in(keys.policy, time))
        actions, policy_states = policy_lib.map_lanes(act_now, policy, observations, policy_states)
        observations, states, rewards, terminated, truncated, info = env_step(
            fold_in(keys.step, time), states, actions, params
        )
        # What follows an episode's end does not count.
        returns += jnp.where(alive, rewards, 0.0)
        lengths += alive.astype(jnp.int32)
        successes |= alive & info.get("success", False)
        alive &= ~(terminated | truncated)
        tally = (returns, lengths, successes)
        return time + 1, alive, (observations, states, policy_states), tally

    shape = (policy_lib.num_lanes(policy), *seeds.shape)
    starts = jax.vmap(environment.reset, (0, None))(keys.reset, params)
    observations, states = policy_lib.repeat(starts, shape[:1])
    policy_states = policy_lib.initial_states(policy, shape)
    tally = (jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool))
    carry = (jnp.zeros((), jnp.int32), ~tally[2], (observations, states, policy_states), tally)
    return jax.lax.while_loop(lambda carry: carry[1].any(), step, carry)[-1]


def _reports_success(environment: Environment, params: Any) -> bool:
    """Whether the environment's info says "success"; traces one step, runs none."""
    space = environment.action_space(params)
    if isinstance(space, Discrete):
        action = jnp.zeros((), jnp.int32)
    else:
        action = jnp.zeros(space.shape, space.dtype)

    def info_of_step(key):
        _, state = environment.reset(key, params)
        return environment.step(key, state, action, params)[-1]

    return "success" in jax.eval_shape(info_of_step, jax.random.key(0))
