"""ALVINN on a synthetic road: a network of 1989 learns to steer from images, and drives.

    python experiments/alvinn.py --views=shifted

The images are made here, so that --dataset means nothing; --views says which: `varied` poses,
`centered` driving (whose student leaves the road), `shifted` (centred driving and 14 shifted and
turned views of each frame, as in 1991), or `wide` (the same, with views to the road's edges).
The score of a drive is the metres until the car leaves the road, 400 at most.

The network of 1991:

    python experiments/alvinn.py --views=wide --hidden_sizes=5 --num_units=30 \
        --target=gaussian1991 --readout=center_of_mass --nouse_range --nouse_feedback \
        --learning_rate=0.02
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from absl import flags

from ddm import data, runner
from ddm.envs import road
from ddm.imitation import alvinn

_VIEWS = flags.DEFINE_enum(
    "views", "shifted", ["varied", "centered", "shifted", "wide"], "What the camera saw."
)
_FRAMES = flags.DEFINE_integer("num_frames", 1_200, "Frames, without their views.", lower_bound=1)

runner.define_flags(
    alvinn, dataset="road", num_updates=6_000, batch_size=8, eval_every=3_000, eval_episodes=50
)

ENVIRONMENT = road.Road()
POSES = {"varied": road.VARIED}  # else centred
VIEWS = {"shifted": road.VIEWS_1991, "wide": road.WIDE_VIEWS}  # else none


def main(_):
    """Make images, train, drive, report."""
    options, config = runner.parse_flags(alvinn)
    options = dataclasses.replace(options, dataset=f"road-{_VIEWS.value}")
    dataset = make_dataset(_VIEWS.value, _FRAMES.value, jax.random.key(options.seed))
    environment = None if options.environment == "none" else ENVIRONMENT
    return runner.train(alvinn, config, dataset, environment, options)


def make_dataset(views: str, num_frames: int, key: jax.Array) -> data.Dataset:
    """Images of random roads and the driver's answers, as episodes of one step."""
    poses = POSES.get(views, road.CENTERED)
    images, actions = road.demonstrations(key, num_frames, poses, VIEWS.get(views, road.NO_VIEWS))
    return data.from_arrays(
        images,
        actions,
        rewards=np.zeros(len(images)),
        terminations=np.ones(len(images)),
        action_space=ENVIRONMENT.action_space(ENVIRONMENT.default_params),
        environment_id=ENVIRONMENT.name,
        name=f"road-{views}",
    )


if __name__ == "__main__":
    runner.launch(main)
