"""A road in front of a vehicle's camera: a small version of ALVINN's simulator (Pomerleau 1989).

Flat ground and a pinhole-like camera; in the vehicle's frame x points forward and y to the left,
in metres. The road's centre line is a parabola,

    yc(x) = offset + tan(angle) x + curvature x^2 / 2,

and the driver steers by pure pursuit: along the arc through the centre line 7 m ahead, whose
curvature is 2 y / (x^2 + y^2). An observation is one byte image of 38 rows and 32 columns: 30 rows
of video above 8 rows of a range-finder, which sees only the flat ground.

The camera, the ranges of poses, roads and light, and the closed loop are ours; the papers give
the sizes of the two images and the 7 m. The range-finder covers the camera's field of view.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ddm.envs import base
from ddm.types import Box, PRNGKey, PyTree, Space

VIDEO_ROWS, RANGE_ROWS, COLUMNS = 30, 8, 32
CAMERA_HEIGHT = 2.0  # m
PITCH = math.radians(20.0)  # of the camera, downwards
VERTICAL_FIELD, HORIZONTAL_FIELD = math.radians(36.0), math.radians(44.0)
LOWEST_ANGLE = math.radians(1.5)  # below the horizon; higher pixels are drawn as if at this angle
FARTHEST = 40.0  # m, where the range-finder reads 0
RANGE_NOISE = 0.02  # standard deviation, as a share of FARTHEST

LOOK_AHEAD = 7.0  # m
MAX_CURVATURE = 0.12  # 1/m, of the steering: the last unit of ALVINN's scale
ROAD_CURVATURE = 0.03  # 1/m, the largest of a road


class Poses(NamedTuple):
    """How far a vehicle may stand from the centre line; both ranges are symmetric and uniform."""

    offset: float  # m
    angle: float  # rad


class Views(NamedTuple):
    """Shifted and turned views added to a frame; both ranges are symmetric and uniform."""

    number: int
    shift: float  # m
    turn: float  # rad


VARIED = Poses(offset=1.8, angle=math.radians(8.0))
CENTERED = Poses(offset=0.1, angle=math.radians(0.5))  # what a good driver's camera sees
NO_VIEWS = Views(0, 0.0, 0.0)
VIEWS_1991 = Views(14, 0.6, math.radians(6.0))  # Pomerleau 1991
WIDE_VIEWS = Views(14, VARIED.offset, VARIED.angle)  # to the edges of the road


@struct.dataclass
class Scene:
    """A road and its light; all scalars but the gradient. Brightness runs from 0 to 1."""

    offset: jax.Array  # m, of the centre line from the vehicle, to the left
    angle: jax.Array  # rad, of the road from the vehicle's heading, to the left
    curvature: jax.Array  # 1/m, of the road, to the left
    width: jax.Array  # m
    level: jax.Array  # brightness of the road
    contrast: jax.Array  # brightness of the road less that of its surroundings
    gradient: jax.Array  # (2,) brightness from the image's middle to its right and lower edge
    noise: jax.Array  # standard deviation of a pixel's brightness


@struct.dataclass
class EnvState(base.EnvState):
    """The road in front of the vehicle; its light and width do not change in an episode."""

    scene: Scene


@struct.dataclass
class EnvParams(base.EnvParams):
    """400 m from the middle of the road."""

    max_steps: int | jax.Array = 800  # steps
    step_length: float = 0.5  # m
    steering_noise: float = 0.01  # 1/m, standard deviation of the curvature that is driven
    curvature_step: float = 0.002  # 1/m, standard deviation of the road's change in a step
    max_offset: float = 1.8  # m, from the centre line, beyond which the vehicle is off the road
    start: Poses = CENTERED


@dataclasses.dataclass(frozen=True)
class Road(base.Environment):
    """Keep to the road for 400 m at 0.5 m per step.

    The observation is an image (38, 32, 1) of bytes. The action is the curvature that is driven
    (1/m, to the left), and the driver's answer whether the road is lighter (+1) or darker (-1)
    than its surroundings, which does not steer: ALVINN learns it in addition to the curvature. The
    reward of a step is its length in metres. Leaving the road terminates, and success means driving
    all steps.
    """

    name: str = "Road-v0"

    @property
    def default_params(self) -> EnvParams:
        """400 m from the middle of the road."""
        return EnvParams()

    def reset(self, key: PRNGKey, params: EnvParams) -> tuple[jax.Array, EnvState]:
        """A road, its light and a pose in `params.start`."""
        scene_key, image_key = jax.random.split(key)
        scene = sample_scene(scene_key, params.start)
        return render(image_key, scene), EnvState(time=jnp.zeros((), jnp.int32), scene=scene)

    def step(
        self, key: PRNGKey, state: EnvState, action: jax.Array, params: EnvParams
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, jax.Array, base.Info]:
        """Drives one step of an arc; the road's curvature is a random walk inside its bounds."""
        steering_key, road_key, image_key = jax.random.split(key, 3)
        scene, length = state.scene, params.step_length
        driven = _within_stops(action[0]) + params.steering_noise * jax.random.normal(
            steering_key, (), jnp.float32
        )
        angle = scene.angle + length * (scene.curvature - driven)
        offset = scene.offset + length * jnp.tan(angle)
        change = params.curvature_step * jax.random.normal(road_key, (), jnp.float32)
        curvature = jnp.clip(scene.curvature + change, -ROAD_CURVATURE, ROAD_CURVATURE)
        scene = dataclasses.replace(scene, offset=offset, angle=angle, curvature=curvature)
        state = EnvState(time=state.time + 1, scene=scene)
        terminated = jnp.abs(offset) > params.max_offset
        truncated = base.is_truncated(state.time, terminated, params)
        reward = jnp.asarray(length, jnp.float32)
        info = {"success": truncated}
        return render(image_key, scene), state, reward, terminated, truncated, info

    def observation_space(self, params: EnvParams) -> Box:
        """Bytes."""
        del params
        shape = (VIDEO_ROWS + RANGE_ROWS, COLUMNS, 1)
        size = math.prod(shape)
        return Box(shape=shape, low=(0.0,) * size, high=(255.0,) * size, dtype="uint8")

    def action_space(self, params: EnvParams) -> Space:
        """Curvature in 1/m, and the answer about the road's brightness."""
        del params
        return Box(shape=(2,), low=(-MAX_CURVATURE, -1.0), high=(MAX_CURVATURE, 1.0))


# Scenes and their images.


def sample_scene(key: PRNGKey, poses: Poses) -> Scene:
    """A random road under random light, in front of a vehicle in a random pose."""
    keys = jax.random.split(key, 8)

    def uniform(key: PRNGKey, low: float, high: float) -> jax.Array:
        return jax.random.uniform(key, (), jnp.float32, low, high)

    sign = jnp.where(jax.random.bernoulli(keys[5], jnp.float32(0.5)), 1.0, -1.0)
    return Scene(
        offset=uniform(keys[0], -poses.offset, poses.offset),
        angle=uniform(keys[1], -poses.angle, poses.angle),
        curvature=uniform(keys[2], -ROAD_CURVATURE, ROAD_CURVATURE),
        width=uniform(keys[3], 3.0, 4.5),
        level=uniform(keys[4], 0.3, 0.9),
        contrast=sign * uniform(jax.random.fold_in(keys[5], 1), 0.15, 0.45),
        gradient=0.08 * jax.random.normal(keys[6], (2,), jnp.float32),
        noise=uniform(keys[7], 0.02, 0.10),
    )


def ground_points(rows: int = VIDEO_ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of an image with so many rows sees the ground: x and y, (rows, 32) m."""
    height = (np.arange(rows) + 0.5) / rows - 0.5
    down = np.maximum(PITCH + VERTICAL_FIELD * height, LOWEST_ANGLE)
    left = HORIZONTAL_FIELD * (0.5 - (np.arange(COLUMNS) + 0.5) / COLUMNS)
    x = np.broadcast_to((CAMERA_HEIGHT / np.tan(down))[:, None], (rows, COLUMNS))
    return x.astype(np.float32), (x * np.tan(left)).astype(np.float32)


def center_line(scene: Scene, x: jax.Array | np.ndarray | float) -> jax.Array:
    """Lateral position (m) of the road's middle at distances x (m) ahead."""
    return scene.offset + jnp.tan(scene.angle) * x + 0.5 * scene.curvature * x**2


def render(
    key: PRNGKey,
    scene: Scene,
    shift: jax.Array | float = 0.0,
    turn: jax.Array | float = 0.0,
) -> jax.Array:
    """Image (38, 32, 1) uint8 of a scene, or of a shifted and turned view of it.

    Args:
      key: of the pixels' noise.
      scene: what is seen from the vehicle.
      shift: m by which the road lies further left in the view: the camera moves to the right.
      turn: rad by which the road points further left: the camera turns to the right.
    """
    video_key, range_key = jax.random.split(key)
    x, y = ground_points()
    # From the camera's frame to the vehicle's: the camera stands at (0, -shift), heading -turn.
    ahead = jnp.cos(turn) * x + jnp.sin(turn) * y
    left = jnp.cos(turn) * y - jnp.sin(turn) * x - shift
    on_road = jnp.abs(left - center_line(scene, ahead)) < 0.5 * scene.width
    down, across = (
        np.linspace(-1.0, 1.0, size, dtype=np.float32) for size in (VIDEO_ROWS, COLUMNS)
    )
    light = scene.gradient[0] * across[None] + scene.gradient[1] * down[:, None]
    video = jnp.where(on_road, scene.level, scene.level - scene.contrast) + light
    video = video + scene.noise * jax.random.normal(video_key, video.shape, jnp.float32)
    distances, _ = ground_points(RANGE_ROWS)
    proximity = np.clip(1.0 - distances / FARTHEST, 0.0, 1.0)
    proximity = proximity + RANGE_NOISE * jax.random.normal(range_key, distances.shape, jnp.float32)
    image = jnp.clip(jnp.concatenate([video, proximity]), 0.0, 1.0)
    return jnp.round(255.0 * image).astype(jnp.uint8)[..., None]


# Steering.


def pure_pursuit(x: jax.Array | float, y: jax.Array | float) -> jax.Array:
    """Curvature (1/m) of the arc that leaves along the x axis and meets the point (x, y)."""
    return 2.0 * jnp.asarray(y) / (jnp.square(x) + jnp.square(y))


def steering(scene: Scene) -> jax.Array:
    """Curvature (1/m) of the arc to the road's centre line 7 m ahead."""
    return pure_pursuit(LOOK_AHEAD, center_line(scene, LOOK_AHEAD))


def view_steering(
    curvature: jax.Array, shift: jax.Array | float, turn: jax.Array | float
) -> jax.Array:
    """The correct curvature (1/m) in a view, given only the driver's curvature (Pomerleau 1991).

    The driver's arc gives the vehicle's place 7 m ahead; the corrected arc leads there from the
    view's pose (see :func:`render`). No driver has to label the view.

    Args:
      curvature: 1/m, of the driver's arc, below 1/7 in magnitude.
      shift: m.
      turn: rad.
    """
    root = jnp.sqrt(jnp.maximum(1.0 - jnp.square(curvature * LOOK_AHEAD), 0.0))
    left = curvature * LOOK_AHEAD**2 / (1.0 + root) + shift
    x = jnp.cos(turn) * LOOK_AHEAD - jnp.sin(turn) * left
    return pure_pursuit(x, jnp.sin(turn) * LOOK_AHEAD + jnp.cos(turn) * left)


def unit_index(curvature: jax.Array, num_units: int = 45) -> jax.Array:
    """Index (int32) of the unit nearest to a curvature (1/m) on ALVINN's linear scale."""
    position = 0.5 * (curvature / MAX_CURVATURE + 1.0) * (num_units - 1)
    return jnp.clip(jnp.round(position), 0, num_units - 1).astype(jnp.int32)


def expert_action(scene: Scene) -> jax.Array:
    """The driver's action (2,): pure pursuit, and whether the road is lighter."""
    return jnp.stack([_within_stops(steering(scene)), jnp.sign(scene.contrast)])


def _within_stops(curvature: jax.Array) -> jax.Array:
    return jnp.clip(curvature, -MAX_CURVATURE, MAX_CURVATURE)


# Demonstrations.


def demonstrations(
    key: PRNGKey, num_frames: int, poses: Poses, views: Views = NO_VIEWS
) -> tuple[jax.Array, jax.Array]:
    """Images of random roads and the driver's actions there, each frame on a different road.

    Args:
      key: PRNG key.
      num_frames: N.
      poses: of the vehicle.
      views: V shifted and turned views that are added to each frame, with corrected labels.

    Returns:
      Images (N (1 + V), 38, 32, 1) uint8, and actions (N (1 + V), 2) in the environment's units;
      a frame's views follow it.
    """
    frame_keys = jax.random.split(key, num_frames)
    images, actions = jax.vmap(lambda key: _frame(key, poses, views))(frame_keys)
    return images.reshape(-1, *images.shape[2:]), actions.reshape(-1, 2)


def _frame(key: PRNGKey, poses: Poses, views: Views) -> tuple[jax.Array, jax.Array]:
    """Images (1 + V, 38, 32, 1) and actions (1 + V, 2) of one scene; the first is the frame."""
    scene_key, shift_key, turn_key, image_key = jax.random.split(key, 4)
    scene = sample_scene(scene_key, poses)

    def moves(key: PRNGKey, most: float) -> jax.Array:
        drawn = jax.random.uniform(key, (views.number,), jnp.float32, -most, most)
        return jnp.concatenate([jnp.zeros(1, jnp.float32), drawn])

    shifts, turns = moves(shift_key, views.shift), moves(turn_key, views.turn)
    image_keys = jax.random.split(image_key, 1 + views.number)
    images = jax.vmap(render, (0, None, 0, 0))(image_keys, scene, shifts, turns)
    curvature, lighter = expert_action(scene)
    curvatures = _within_stops(jax.vmap(view_steering, (None, 0, 0))(curvature, shifts, turns))
    return images, jnp.stack([curvatures, jnp.full_like(curvatures, lighter)], axis=-1)


# Driving.


class Drive(NamedTuple):
    """One episode; steps after its end count as not on the road."""

    offsets: jax.Array  # (T,) m, of the centre line after each step
    on_road: jax.Array  # (T,) bool: the vehicle has never left the road


Driver = Callable[[Scene, jax.Array, PRNGKey, PyTree], tuple[jax.Array, PyTree]]


def drive(
    driver: Driver, key: PRNGKey, num_steps: int, params: EnvParams, driver_state: Any = ()
) -> Drive:
    """Drives `num_steps` steps from a reset and keeps the offsets.

    Args:
      driver: (scene, image, key, driver state) -> (action, driver state). An expert looks at the
        scene, a learner at the image.
      key: PRNG key.
      num_steps: T.
      params: of the environment.
      driver_state: at the start, for example the policy state.
    """
    environment = Road()
    reset_key, drive_key = jax.random.split(key)

    def step(carry: Any, key: PRNGKey) -> tuple[Any, Drive]:
        observation, state, driver_state, on_road = carry
        action_key, step_key = jax.random.split(key)
        action, driver_state = driver(state.scene, observation, action_key, driver_state)
        observation, state, _, left, _, _ = environment.step(step_key, state, action, params)
        on_road &= ~left
        return (observation, state, driver_state, on_road), Drive(state.scene.offset, on_road)

    start = (*environment.reset(reset_key, params), driver_state, jnp.ones((), bool))
    return jax.lax.scan(step, start, jax.random.split(drive_key, num_steps))[1]
