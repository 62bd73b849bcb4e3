"""The synthetic road: a pixel, an arc and a step by hand; the expert's drive."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm.envs import road
from ddm.types import Box


def scene(**changes):
    """A straight road of 4 m, lighter than its surroundings, without noise."""
    fields = {
        "offset": 0.0, "angle": 0.0, "curvature": 0.0, "width": 4.0, "level": 0.8,
        "contrast": 0.4, "gradient": [0.0, 0.0], "noise": 0.0,
    } | changes  # fmt: skip
    return road.Scene(**{name: jnp.array(value, jnp.float32) for name, value in fields.items()})


@pytest.fixture(scope="module")
def render():
    return jax.jit(road.render)


def video(image):
    return np.asarray(image)[: road.VIDEO_ROWS, :, 0]


def test_where_a_pixel_sees_the_ground():
    x, y = road.ground_points()
    # Row 14 lies 0.6 degrees above the camera's axis: 19.4 degrees below the horizon; column 0
    # lies 22 - 44 / 64 degrees to the left.
    assert x[14, 0] == pytest.approx(2.0 / math.tan(math.radians(19.4)), rel=1e-6)
    assert y[14, 0] == pytest.approx(x[14, 0] * math.tan(math.radians(21.3125)), rel=1e-6)
    np.testing.assert_allclose(y, -y[:, ::-1], rtol=1e-5)
    assert np.all(np.diff(x[:, 0]) < 0)  # the upper rows see farther
    assert x[-1, 0] == pytest.approx(2.0 / math.tan(math.radians(37.4)), rel=1e-6)


def test_pixels_of_a_straight_road_by_hand(render):
    seen = video(render(jax.random.key(0), scene()))
    assert seen.dtype == np.uint8
    assert set(np.unique(seen)) == {102, 204}  # 0.4 and 0.8 of 255
    # In row 14 the ground is 5.68 m ahead, and 2 m to the side is 19.4 degrees: of the columns,
    # 1.375 degrees wide, the 14 on each side whose middle is less than that are road.
    np.testing.assert_array_equal(seen[14] == 204, [False] * 2 + [True] * 28 + [False] * 2)
    darker = video(render(jax.random.key(0), scene(contrast=-0.16)))
    assert darker[14, 0] == round(0.96 * 255)
    assert darker[14, 16] == 204


def test_range_image_falls_off_with_distance(render):
    image = np.asarray(render(jax.random.key(0), scene()))
    assert image.shape == (38, 32, 1)
    proximity = image[road.VIDEO_ROWS :, :, 0] / 255.0
    # The lowest of eight rows looks 20 + 36 * 7 / 16 = 35.75 degrees down: 2.78 m ahead.
    expected = 1.0 - 2.0 / math.tan(math.radians(35.75)) / 40.0
    assert proximity[-1].mean() == pytest.approx(expected, abs=0.02)
    assert proximity[-1].std() < 0.04
    # The highest one, 4.25 degrees down, sees 26.9 m.
    expected = 1.0 - 2.0 / math.tan(math.radians(4.25)) / 40.0
    assert proximity[0].mean() == pytest.approx(expected, abs=0.02)


def test_light_noise_and_bounds(render):
    right_brighter = video(render(jax.random.key(0), scene(gradient=[0.12, 0.0], width=100.0)))
    assert right_brighter[5, 0] == round(0.68 * 255)
    assert right_brighter[5, -1] == round(0.92 * 255)
    lower_darker = video(render(jax.random.key(0), scene(gradient=[0.0, -0.2], width=100.0)))
    assert lower_darker[-1, 3] == round(0.6 * 255)
    noisy = video(render(jax.random.key(1), scene(noise=0.05, width=100.0))) / 255.0
    assert noisy.mean() == pytest.approx(0.8, abs=0.01)
    assert noisy.std() == pytest.approx(0.05, rel=0.1)
    glaring = video(render(jax.random.key(1), scene(level=1.5, width=100.0)))
    assert (glaring == 255).all()


def test_views_are_scenes_seen_from_elsewhere(render):
    """Shifted and turned views of a straight road are other straight roads."""
    key = jax.random.key(0)
    shifted = render(key, scene(offset=0.2), 0.5, 0.0)
    np.testing.assert_array_equal(shifted, render(key, scene(offset=0.7)))
    turn = math.radians(5.0)
    # A turn about the camera keeps the road's perpendicular width and distance.
    turned = render(key, scene(), 0.0, turn)
    np.testing.assert_array_equal(
        turned, render(key, scene(angle=turn, width=4.0 / math.cos(turn)))
    )


def test_pure_pursuit_meets_the_circle():
    for radius in (10.0, -25.0):
        for angle in (0.1, 0.6):
            # A point of the circle through the origin, tangent to the x axis there.
            x = abs(radius) * math.sin(angle)
            y = radius * (1.0 - math.cos(angle))
            assert road.pure_pursuit(x, y) == pytest.approx(1.0 / radius, rel=1e-5)


def test_steering_by_hand():
    # 0.5 + 7 tan(0.05) + 0.02 * 49 / 2 = 1.34029 m to the left, 7 m ahead.
    left = 0.5 + 7.0 * math.tan(0.05) + 0.49
    found = road.steering(scene(offset=0.5, angle=0.05, curvature=0.02))
    assert found == pytest.approx(2.0 * left / (49.0 + left**2), rel=1e-5)
    action = road.expert_action(scene(offset=9.0, contrast=-0.2))
    np.testing.assert_allclose(action, [0.12, -1.0])  # as far as the wheel goes


def test_a_shifted_view_moves_the_target_by_the_shift():
    for shift in (-0.6, 0.25):
        straight = scene(offset=0.3, angle=0.02, curvature=0.01)
        moved = dataclasses.replace(straight, offset=straight.offset + shift)
        difference = road.center_line(moved, 7.0) - road.center_line(straight, 7.0)
        assert difference == pytest.approx(shift, abs=1e-5)
        found = road.view_steering(road.steering(straight), shift, 0.0)
        assert found == pytest.approx(float(road.steering(moved)), rel=1e-4)


def test_a_turned_view_steers_back_along_the_turn():
    # Nothing to steer, then a road that points 0.1 rad to the left: the target is at
    # (7 cos 0.1, 7 sin 0.1), and the arc 2 * 7 sin 0.1 / 49.
    found = road.view_steering(jnp.zeros(()), 0.0, 0.1)
    assert found == pytest.approx(2.0 * math.sin(0.1) / 7.0, rel=1e-5)
    # Shift and turn together: y = 7 sin 0.1 + 0.5 cos 0.1, x = 7 cos 0.1 - 0.5 sin 0.1.
    x, y = (
        7.0 * math.cos(0.1) - 0.5 * math.sin(0.1),
        7.0 * math.sin(0.1) + 0.5 * math.cos(0.1),
    )
    found = road.view_steering(jnp.zeros(()), 0.5, 0.1)
    assert found == pytest.approx(2.0 * y / (x * x + y * y), rel=1e-5)


def test_units_of_the_scale():
    step = 0.24 / 44
    curvatures = jnp.array([-0.12, 0.0, step, 0.12, 1.0, -1.0, 1.4 * step])
    np.testing.assert_array_equal(road.unit_index(curvatures), [0, 22, 23, 44, 44, 0, 23])
    np.testing.assert_array_equal(road.unit_index(jnp.array([-0.12, 0.12]), 30), [0, 29])


def test_demonstrations_are_in_their_ranges():
    make = jax.jit(road.demonstrations, static_argnums=(1, 2, 3))
    images, actions = make(jax.random.key(0), 40, road.CENTERED, road.VIEWS_1991)
    assert images.shape == (40 * 15, 38, 32, 1)
    assert images.dtype == jnp.uint8
    curvatures, lighter = np.asarray(actions).reshape(40, 15, 2).transpose(2, 0, 1)
    assert (lighter == lighter[:, :1]).all()  # views show the light of their frame
    assert set(np.unique(lighter)) == {-1.0, 1.0}
    assert abs(lighter[:, 0].mean()) < 0.5
    # The frame: at most 0.1 + 7 tan 0.5 degrees + 0.03 * 49 / 2 = 0.896 m aside, 7 m ahead.
    assert np.abs(curvatures[:, 0]).max() <= 2 * 0.897 / (49 + 0.897**2)
    assert 0.06 < np.abs(curvatures[:, 1:]).max() <= 0.12
    assert abs(curvatures.mean()) < 0.01


def test_a_step_by_hand():
    environment, key = road.Road(), jax.random.key(0)
    params = road.EnvParams(steering_noise=0.0, curvature_step=0.0)
    state = road.EnvState(time=jnp.int32(798), scene=scene(offset=0.4, angle=0.02, curvature=0.01))
    step = jax.jit(environment.step)
    _, state, reward, terminated, truncated, info = step(key, state, jnp.array([0.05, 1.0]), params)
    angle = 0.02 + 0.5 * (0.01 - 0.05)
    assert state.scene.angle == pytest.approx(angle, abs=1e-7)
    assert state.scene.offset == pytest.approx(0.4 + 0.5 * math.tan(angle), rel=1e-6)
    assert state.scene.width == 4.0
    assert (reward, terminated, truncated) == (0.5, False, False)
    # The wheel stops at 0.12; the last step of the drive is a success on the road only.
    _, after, _, terminated, truncated, info = step(key, state, jnp.array([9.0, 1.0]), params)
    assert after.scene.angle == pytest.approx(angle + 0.5 * (0.01 - 0.12), abs=1e-6)
    assert (terminated, truncated, info["success"]) == (False, True, True)
    off = dataclasses.replace(state, scene=scene(offset=1.79, angle=0.1))
    _, _, _, terminated, truncated, info = step(key, off, jnp.zeros(2), params)
    assert (terminated, truncated, info["success"]) == (True, False, False)


def test_the_expert_drives_400_m_and_an_empty_seat_does_not():
    def expert(scene, image, key, state):
        del image, key
        return road.expert_action(scene), state

    def nobody(scene, image, key, state):
        del scene, image, key
        return jnp.zeros(2), state

    keys = jax.random.split(jax.random.key(0), 16)

    def offsets(driver):
        drive = jax.vmap(lambda key: road.drive(driver, key, 800, road.EnvParams()))
        return jax.jit(drive)(keys)

    driven = offsets(expert)
    assert driven.on_road.all()
    rms = float(jnp.sqrt(jnp.mean(jnp.square(driven.offsets))))
    assert 0.0 < rms < 0.15
    adrift = offsets(nobody)
    assert adrift.on_road[:, -1].sum() == 0
    assert (jnp.diff(adrift.on_road.astype(jnp.int32), axis=1) <= 0).all()  # never back


def test_spaces_are_those_of_the_observations():
    environment = road.Road()
    params = environment.default_params
    observation, state = environment.reset(jax.random.key(3), params)
    space = environment.observation_space(params)
    assert (observation.shape, observation.dtype) == (space.shape, space.dtype)
    assert (len(space.low), set(space.high)) == (1216, {255.0})
    assert environment.action_space(params) == Box((2,), (-0.12, -1.0), (0.12, 1.0))
    assert abs(state.scene.offset) <= 0.1
    assert hash(environment) == hash(road.Road())
