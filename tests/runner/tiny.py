"""A dataset, an environment and options for the tiny algorithm; also used by subprocesses."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ddm import data
from ddm.envs.base import Environment, EnvParams, EnvState
from ddm.runner import Options
from ddm.types import Box

WEIGHTS = np.asarray(
    [[0.5], [-0.25]], np.float32
)  # the logged policy: action = observation @ WEIGHTS


def make_dataset() -> data.Dataset:
    """Four episodes of eight steps whose actions are linear in the observations."""
    generator = np.random.default_rng(0)
    episodes = []
    for _ in range(4):
        observations = generator.uniform(-1, 1, (9, 2)).astype(np.float32)
        episodes.append(
            {
                "observations": observations,
                "actions": observations[:-1] @ WEIGHTS,
                "rewards": np.ones(8, np.float32),
                "terminations": np.zeros(8, bool),
                "truncations": np.arange(8) == 7,
            }
        )
    return data.from_episodes(
        episodes, action_space=(-np.ones(1), np.ones(1)), name="tiny", reference_scores=(0.0, 10.0)
    )


def make_options(folder, **options) -> Options:
    """A run of 12 gradient steps with rows every 4."""
    defaults = {
        "dataset": "tiny", "run_dir": str(folder), "num_updates": 12, "log_every": 4,
        "eval_every": 4, "checkpoint_every": 4, "batch_size": 8, "eval_episodes": 3,
        "progress": "none", "plots": False, "keep": 5,
    }  # fmt: skip
    return Options(**{**defaults, **options})


@struct.dataclass
class _State(EnvState):
    observation: jax.Array


@dataclasses.dataclass(frozen=True)
class Target(Environment):
    """Four steps; the reward is 1 minus the distance to the logged policy's action."""

    name: str = "Target"

    @property
    def default_params(self) -> EnvParams:
        return EnvParams(max_steps=4)

    def reset(self, key, params):
        observation = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        return observation, _State(jnp.zeros((), jnp.int32), observation)

    def step(self, key, state, action, params):
        reward = 1.0 - jnp.abs(action[0] - state.observation @ WEIGHTS[:, 0])
        observation = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        time = state.time + 1
        return observation, _State(time, observation), reward, False, time >= params.max_steps, {}

    def observation_space(self, params):
        return Box((2,), (-1.0, -1.0), (1.0, 1.0))

    def action_space(self, params):
        return Box((1,), (-1.0,), (1.0,))
