"""Worlds with known answers for methods that learn from their own steps, and their training."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import contract
import jax
import jax.numpy as jnp
import pytest
from flax import struct

import ddm
from ddm import data, envs, evaluation, experience, training
from ddm.envs import base, tabular
from ddm.types import Box

# Fields of a contract by which another value of a head's field shows.
OTHER_HEAD = {
    "head": "gaussian",
    "features": lambda observations: 2.0 * contract.pair_features(observations),
    "window": 5,
    "num_epochs": 3,
    "num_minibatches": 3,
}
HEAD_CONTEXT = {
    "features": {
        "head": "linear_softmax",
        "num_actions": contract.NUM_ACTIONS,
        "features": contract.pair_features,
    }
}

ROOM = """
    S . .
    . . .
    . . 1
"""


def room() -> tabular.MDP:
    """Four moves and the exit: the best return is 1 - 4 * 0.1."""
    return tabular.grid_world(ROOM, discount=1.0, living_reward=-0.1)


BEST_IN_ROOM = 0.6
IN_ROOM = envs.TabularEnvironment(room, max_steps=30)


@struct.dataclass
class Params(base.EnvParams):
    """Of both worlds below."""

    terminates: bool | jax.Array = True  # whether an episode's end is one of the task
    target: float | jax.Array = 0.5  # the best action


@dataclasses.dataclass(frozen=True)
class Steady(envs.Environment):
    """Pays 1 at every step, whatever is done; after four steps it ends, or is only cut."""

    name: str = "Steady"

    @property
    def default_params(self) -> Params:
        """Four steps."""
        return Params(max_steps=4)

    def reset(self, key: Any, params: Any) -> tuple[jax.Array, base.EnvState]:
        """Always the same."""
        del key, params
        return jnp.ones(1), base.EnvState(jnp.zeros((), jnp.int32))

    def step(self, key: Any, state: Any, action: jax.Array, params: Any):
        """One step nearer to the end."""
        del key
        time = state.time + 1
        ends = time >= params.max_steps
        reward = self.reward(action, params)
        terminates = jnp.asarray(params.terminates)
        return jnp.ones(1), base.EnvState(time), reward, ends & terminates, ends & ~terminates, {}

    def reward(self, action: jax.Array, params: Any) -> jax.Array:
        """1, whatever is done."""
        del action, params
        return jnp.ones(())

    def observation_space(self, params: Any) -> Box:
        """One constant."""
        del params
        return Box((1,), (0.0,), (1.0,))

    def action_space(self, params: Any) -> Box:
        """One number in units of its own: -1 to 1 of an algorithm is 0 to 4 here."""
        del params
        return Box((1,), (0.0,), (4.0,))


@dataclasses.dataclass(frozen=True)
class Aim(Steady):
    """Pays 1 - |a - target|; the target is in the algorithm's units, from -1 to 1."""

    name: str = "Aim"

    def reward(self, action: jax.Array, params: Any) -> jax.Array:
        """1 at the target."""
        return 1.0 - jnp.abs(action[0] / 2.0 - 1.0 - params.target)


def trainer(algorithm: Any, config: Any, environment: Any, updates: int, copies: int) -> Any:
    """(key, environment's parameters) -> (learner, metrics), compiled at its first call."""
    spec = dataclasses.replace(algorithm.collect_spec(config), copies=copies)
    collector = ddm.Collector.create(environment, spec)

    @jax.jit
    def train(key: Any, params: Any) -> Any:
        own = collector.replace(params=params)
        return ddm.fit_online(algorithm, config, own, key, updates)

    return train


@functools.cache
def demonstrations() -> data.Dataset:
    """Three episodes of a best policy in the room, without rewards."""
    best = tabular.policy_iteration(room()).policy

    def act(observation: jax.Array, key: Any, policy_state: Any = ()) -> Any:
        del key
        return jnp.argmax(observation @ best).astype(jnp.int32), policy_state

    episodes = envs.collect(IN_ROOM, act, jax.random.key(0), num_episodes=3)
    for episode in episodes:
        episode["rewards"] = 0.0 * episode["rewards"]
    space = IN_ROOM.action_space(IN_ROOM.default_params)
    return data.from_episodes(episodes, action_space=space, name="demonstrations")


def imitate(algorithm: Any, config: Any, updates: int) -> Any:
    """(learner, metrics) of an imitator in the room, with eight copies of it."""
    spec = dataclasses.replace(algorithm.collect_spec(config), copies=8)
    collector, log = ddm.Collector.create(IN_ROOM, spec), demonstrations()
    steps = updates * config.discriminator_steps
    train = jax.jit(
        lambda key, log: ddm.fit_online(
            algorithm, config, collector, key, steps, log=log, batch_size=32
        )
    )
    return train(jax.random.key(0), log)


def policy_of(algorithm: Any, config: Any, learner: Any) -> Any:
    """The trained policy in the units of its environment."""
    buffer = learner.experience.buffer
    config = training.prepare(algorithm, config, buffer)
    return experience.policy_of(algorithm, config, learner.state, buffer)


# What both methods must reach.


def check_room(algorithm: Any, config: Any) -> Any:
    """The policy of a table finds the way out; returns the learner."""
    train = trainer(algorithm, config, IN_ROOM, updates=60, copies=8)
    learner, metrics = train(jax.random.key(0), IN_ROOM.default_params)
    policy = policy_of(algorithm, config, learner)
    exact = evaluation.exact_return(policy, room(), horizon=30)
    assert float(exact) == pytest.approx(BEST_IN_ROOM, abs=1e-5)
    sampled = evaluation.exact_return(policy, room(), deterministic=False, horizon=30)
    assert float(sampled) > BEST_IN_ROOM - 0.05
    assert float(metrics["collect/return"][0]) < 0.0
    return learner


def check_aim(algorithm: Any, config: Any, first_return: float = 4 * 0.75) -> None:
    """The policy aims at a point inside the box, and at its bound."""
    world = Aim()
    train = trainer(algorithm, config, world, updates=60, copies=8)
    for target in (-0.4, 1.0):
        params = world.default_params.replace(target=jnp.array(target))
        learner, metrics = train(jax.random.key(1), params)
        action, _ = policy_of(algorithm, config, learner)(jnp.ones(1), jax.random.key(0))
        assert float(action[0]) / 2.0 - 1.0 == pytest.approx(target, abs=0.15)
        assert float(metrics["collect/return"][-1]) > 4 * 0.75
        assert float(metrics["collect/return"][0]) < first_return
