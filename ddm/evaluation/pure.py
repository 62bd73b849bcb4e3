"""Evaluation in a pure environment: one device call for all lanes and episodes."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddm.envs import Environment, episode_keys
from ddm.errors import DdmError, EvaluationError, InputError
from ddm.evaluation import policy as policy_lib
from ddm.evaluation.matching import check_spaces, fit_action
from ddm.evaluation.policy import Policy
from ddm.evaluation.results import EvaluationResult, episode_seeds
from ddm.types import Discrete, Space


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
          InputError: the policy was trained on other spaces, or chooses an action outside the
        environment's space.
        """
        self._check_spaces(policy)
        returns, lengths, successes, foreign = self._runner()(
            policy, self._params, episode_seeds(seed, self._num_episodes)
        )
        if np.any(foreign):
            assert isinstance(self._action_space, Discrete)
            raise InputError(
                f"{self._environment.name}: the policy chose an action that is none of the "
                f"environment's {self._action_space.n}"
            )
        return EvaluationResult(
            returns=np.asarray(returns, np.float64),
            lengths=np.asarray(lengths, np.int64),
            successes=np.asarray(successes) if self._reports_success else None,
        )

    def check(self, policy: Policy) -> None:
        """Finds reasons why an evaluation would fail, before the training; nothing is computed.

        Raises:
          InputError: the policy was trained on other spaces.
          EvaluationError: policy and environment do not go together.
        """
        self._check_spaces(policy)
        seeds = episode_seeds(0, self._num_episodes)
        try:
            jax.eval_shape(self._runner(), policy, self._params, seeds)
        except DdmError:
            raise
        except Exception as error:  # an environment or a policy may raise anything
            raise EvaluationError(
                f"{self._environment.name}: an episode cannot be computed: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _check_spaces(self, policy: Policy) -> None:
        name = self._environment.name
        check_spaces(policy, name, self._observation_space, self._action_space)

    def _runner(self) -> Any:
        return functools.partial(_run, self._environment, self._deterministic, self._action_space)

    def close(self) -> None:
        """Nothing to close: a pure environment holds no resources."""

    def __enter__(self) -> PureEvaluator:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(environment, deterministic, action_space, policy, params, seeds):
    """(L, E) returns, lengths, successes, and whether an action was outside its space.

    It stops when the last episode has ended.
    """
    keys = jax.vmap(episode_keys)(seeds)
    fold_in = jax.vmap(jax.random.fold_in, (0, None))
    # Keys are per episode, shared by the lanes; everything else has the axes (lane, episode).
    env_step = jax.vmap(jax.vmap(environment.step, (0, 0, 0, None)), (None, 0, 0, None))

    def act(lane, observations, policy_states, keys):
        def one(observation, key, policy_state):
            action, policy_state = lane(observation, key, policy_state, deterministic=deterministic)
            return fit_action(action, action_space, environment.name), policy_state

        return jax.vmap(one)(observations, keys, policy_states)

    def step(carry):
        time, alive, (observations, states, policy_states), tally = carry
        returns, lengths, successes, foreign = tally
        act_now = functools.partial(act, keys=fold_in(keys.policy, time))
        actions, policy_states = policy_lib.map_lanes(act_now, policy, observations, policy_states)
        observations, states, rewards, terminated, truncated, info = env_step(
            fold_in(keys.step, time), states, actions, params
        )
        # Steps after an episode's end do not count.
        returns += jnp.where(alive, rewards, 0.0)
        lengths += alive.astype(jnp.int32)
        successes |= alive & info.get("success", False)
        foreign |= alive & _is_foreign(actions, action_space)
        alive &= ~(terminated | truncated)
        tally = (returns, lengths, successes, foreign)
        return time + 1, alive, (observations, states, policy_states), tally

    shape = (policy_lib.num_lanes(policy), *seeds.shape)
    starts = jax.vmap(environment.reset, (0, None))(keys.reset, params)
    observations, states = policy_lib.repeat(starts, shape[:1])
    policy_states = policy_lib.initial_states(policy, shape)
    no = jnp.zeros(shape, bool)
    tally = (jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.int32), no, no)
    carry = (jnp.zeros((), jnp.int32), ~no, (observations, states, policy_states), tally)
    return jax.lax.while_loop(lambda carry: carry[1].any(), step, carry)[-1]


def _is_foreign(actions: jax.Array, space: Space) -> jax.Array | bool:
    """Whether indices are outside the space: JAX would read an array's last entry instead."""
    if not isinstance(space, Discrete):
        return False
    return (actions < space.start) | (actions >= space.start + space.n)


def _reports_success(environment: Environment, params: Any) -> bool:
    """Whether the environment's info has "success"; traces one step without running it."""
    space = environment.action_space(params)
    if isinstance(space, Discrete):
        action = jnp.zeros((), jnp.int32)
    else:
        action = jnp.zeros(space.shape, space.dtype)

    def info_of_step(key):
        _, state = environment.reset(key, params)
        return environment.step(key, state, action, params)[-1]

    return "success" in jax.eval_shape(info_of_step, jax.random.key(0))
