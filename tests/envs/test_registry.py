from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import envs
from ddm.errors import InputError, MissingDependencyError
from ddm.types import Discrete


def test_ids_are_the_names_of_their_environments():
    assert len(set(envs.ids())) == len(envs.ids()) >= 5
    for name in envs.ids():
        assert envs.make(name).name == name
        assert envs.make(f"ddm/{name}") is envs.make(name)
        assert hash(envs.make(name)) == hash(envs.make(name))


def test_unknown_id_is_named_with_the_known_ones():
    with pytest.raises(InputError, match=r"PointMaze-Nowhere-v0.*PointMaze-UMaze-v0"):
        envs.make("PointMaze-Nowhere-v0")


def test_gymnasium_missing_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(MissingDependencyError, match=r"ddm\[sim\]"):
        envs.register()


@pytest.mark.parametrize(
    "name",
    [
        "PointMaze-Stitch-v0",
        "PointMaze-UMaze-Discrete-v0",
        "Pendulum-v1",
        "GridWorld-Discount-v0",
        "LineWorld-5-v0",
        "Tightrope-v0",
        "CombinationLock-10-v0",
        "WalledGrid-10-v0",
        "Fork-5-v0",
        "PointMass-8-v0",
        "Road-v0",
        "SineTrack-v0",
        "Particle-2-v0",
        "Alternator-v0",
        "Brake-v0",
        "TMaze-10-v0",
        "Dialogue-v0",
        "Utterance-16-v0",
        "Sepsis-v0",
    ],
)
def test_every_environment_keeps_the_interface(name):
    environment = envs.make(name)
    params = environment.default_params.replace(max_steps=3)
    space = environment.action_space(params)
    bounds = environment.observation_space(params)
    action = jnp.int32(0) if isinstance(space, Discrete) else jnp.zeros(space.shape, space.dtype)
    keys = jax.random.split(jax.random.key(0), 4)
    observations, states = jax.jit(jax.vmap(environment.reset, (0, None)))(keys, params)
    step = jax.jit(jax.vmap(environment.step, (0, 0, None, None)))
    for time in range(1, 5):
        before = jax.tree.map(jnp.shape, states), jax.tree.map(jnp.result_type, states)
        observations, states, rewards, terminated, truncated, _ = step(keys, states, action, params)
        assert (jax.tree.map(jnp.shape, states), jax.tree.map(jnp.result_type, states)) == before
        assert observations.shape == (4, *bounds.shape)
        assert observations.dtype == bounds.dtype
        assert (observations >= np.asarray(bounds.low)).all()
        assert (observations <= np.asarray(bounds.high)).all()
        assert rewards.shape == (4,)
        assert rewards.dtype == jnp.float32
        assert terminated.dtype == truncated.dtype == bool
        np.testing.assert_array_equal(states.time, time)  # nothing resets itself
        np.testing.assert_array_equal(truncated, (time >= 3) & ~terminated)
