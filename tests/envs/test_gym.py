from __future__ import annotations

import warnings

import jax
import numpy as np
import pytest

from ddm import envs

gymnasium = pytest.importorskip("gymnasium")


@pytest.mark.parametrize(
    "name", ["PointMaze-UMaze-v0", "PointMaze-UMaze-Discrete-v0", "Pendulum-v1"]
)
def test_passes_gymnasiums_checker(name):
    from gymnasium.utils.env_checker import check_env

    envs.register()
    environment = gymnasium.make(f"ddm/{name}", disable_env_checker=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Advice on scaling, which gymnasium's own Pendulum does not follow either.
        warnings.filterwarnings("ignore", message=".*symmetric and normalized.*")
        check_env(environment.unwrapped, skip_render_check=True)


def test_registering_twice_is_harmless_and_covers_all_ids():
    envs.register()
    envs.register()
    for name in envs.ids():
        assert gymnasium.spec(f"ddm/{name}").entry_point == "ddm.envs.gym:GymnasiumFace"


def test_face_and_pure_environment_agree():
    envs.register()
    face = gymnasium.make("ddm/PointMaze-UMaze-v0")
    pure = envs.make("PointMaze-UMaze-v0")
    keys, params = envs.episode_keys(7), pure.default_params
    expected, state = jax.jit(pure.reset)(keys.reset, params)
    found, _ = face.reset(seed=7)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    policy = jax.jit(envs.waypoint_policy(pure, params))
    step = jax.jit(pure.step)
    for time in range(params.max_steps):
        action, _ = policy(expected, keys.policy)
        key = jax.random.fold_in(keys.step, time)
        expected, state, reward, terminated, truncated, info = step(key, state, action, params)
        result = face.step(np.asarray(action))
        np.testing.assert_allclose(result[0], expected, atol=1e-6)
        assert result[1:4] == (float(reward), bool(terminated), bool(truncated))
        assert result[4] == {"success": bool(info["success"])}
        if terminated:
            break
    assert terminated


def test_unseeded_resets_differ():
    from ddm.envs.gym import GymnasiumFace

    face = GymnasiumFace("PointMaze-UMaze-v0")
    face.reset(seed=3)
    first, second = face.reset()[0], face.reset()[0]
    assert not np.array_equal(first, second)
    face.reset(seed=3)
    np.testing.assert_array_equal(face.reset()[0], first)


def test_seeds_may_be_large():
    from ddm.envs.gym import GymnasiumFace

    face = GymnasiumFace("PointMaze-UMaze-v0")
    largest, small = face.reset(seed=2**32 - 1)[0], face.reset(seed=1)[0]
    assert not np.array_equal(largest, small)
