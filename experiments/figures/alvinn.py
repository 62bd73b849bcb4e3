"""Why the car of a perfect student leaves the road, and how ALVINN was kept on it.

    python experiments/figures/alvinn.py

Three sets of demonstrations, each of 1,200 frames of the synthetic road (`ddm.envs.road`):

- `varied`: from any place and direction on the road.
- `centered`: as a good driver's camera sees it, within 0.1 m and half a degree of the middle.
- `shifted`: the same, and 14 views of each frame, shifted by up to 0.6 m and turned by up to 6
  degrees, steered by pure pursuit of the driver's own arc (Pomerleau 1991). Nobody is asked again.
- `wide`: the same with views as far from the middle as the varied poses: 1.8 m and 8 degrees.

Two learners, each with as many gradient steps on one set as on another: ALVINN as of 1989, and
behaviour cloning of the curvature with a small convolutional network, mean squared error, in the
manner of NVIDIA's DAVE-2 (Bojarski et al. 2016). Scored on new images (share within two units of
the correct curvature, of 45 from -0.12 to 0.12 1/m) and by 50 drives of 400 m from the middle of
the road.

The 1989 paper reports about 90 % within two units, on novel images of its own simulator.
Intervals are 95 % bootstrap intervals of the mean over seeds.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import drawing
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import ddm
from ddm import data, runner
from ddm.envs import road
from ddm.evaluation import Policy, statistics
from ddm.imitation import alvinn, bc

_SEEDS = flags.DEFINE_integer("seeds", 5, "Seeds: of the data, the network, the drives.", 2)
_FRAMES = flags.DEFINE_integer("num_frames", 1_200, "Frames of each set of demonstrations.", 8)
_EPOCHS = flags.DEFINE_integer(
    "epochs", 40, "Gradient steps, in passes over as many images as frames.", 1
)
_TESTS = flags.DEFINE_integer("test_images", 2_000, "New images of each kind.", 1)
_CARS = flags.DEFINE_integer("cars", 50, "Drives of each policy.", 1)

NUM_STEPS = 800  # 400 m
# Name -> poses, shifted views of each frame.
SETS: dict[str, tuple[road.Poses, road.Views]] = {
    "varied": (road.VARIED, road.NO_VIEWS),
    "centered": (road.CENTERED, road.NO_VIEWS),
    "shifted": (road.CENTERED, road.VIEWS_1991),
    "wide": (road.CENTERED, road.WIDE_VIEWS),
}
# Name -> module, configuration, batch size.
LEARNERS: dict[str, tuple[Any, Any, int]] = {
    "ALVINN 1989": (alvinn, alvinn.VERSIONS["1989"], 8),
    "convolutional": (bc, bc.Config(head="mse", encoder="conv", hidden_sizes=(32,)), 8),
}
TITLES = {
    "varied": "varied poses",
    "centered": "centred",
    "shifted": "centred, 1991 views",
    "wide": "centred, wide views",
}
PUBLISHED = 0.90  # within two units, varied images (Pomerleau 1989)


class Scores(NamedTuple):
    """Of one policy."""

    within_two_varied: jax.Array  # share of new images
    within_two_centered: jax.Array
    drives_completed: jax.Array  # share of cars that drove 400 m
    meters: jax.Array  # driven before leaving the road, mean over cars
    rms_offset: jax.Array  # m, over all steps on the road


def main(_):
    """Train and score every learner on every set, print, write, draw."""
    rows = []
    for learner in LEARNERS:
        for name in SETS:
            scores = [
                solve(learner, name, seed, frames=_FRAMES.value, epochs=_EPOCHS.value,
                      tests=_TESTS.value, cars=_CARS.value)
                for seed in range(_SEEDS.value)
            ]  # fmt: skip
            rows.append(summarize(learner, name, scores))
            print_row(rows[-1])
    folder = Path(drawing.OUTPUT_DIR.value)
    drawing.write_table(folder / "alvinn.csv", rows)
    draw(rows, folder / "alvinn.png")


def solve(
    learner: str, name: str, seed: int, *, frames: int, epochs: int, tests: int, cars: int
) -> Scores:
    """Scores of one learner on one set of demonstrations."""
    algorithm, config, batch_size = LEARNERS[learner]
    data_key, train_key, test_key = jax.random.split(jax.random.key(seed), 3)
    num_updates = epochs * frames // batch_size
    if algorithm is alvinn:
        config = config.replace(random_feedback_steps=num_updates // 2)
    dataset = make_dataset(name, data_key, frames)
    state = train(algorithm, config, dataset, train_key, num_updates, batch_size)
    policy = Policy(algorithm, config, state, dataset.normalization)
    scores = score(policy, test_key, tests, cars)
    return jax.tree.map(float, scores)


def make_dataset(name: str, key: jax.Array, frames: int) -> data.Dataset:
    """One-step episodes of images and the driver's actions."""
    images, actions = jax.jit(road.demonstrations, static_argnums=(1, 2, 3))(
        key, frames, *SETS[name]
    )
    return data.from_arrays(
        images,
        actions,
        rewards=np.zeros(len(images)),
        terminations=np.ones(len(images)),
        action_space=road.Road().action_space(road.EnvParams()),
        name=name,
    )


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def train(
    algorithm: Any,
    config: Any,
    dataset: data.Dataset,
    key: jax.Array,
    num_updates: int,
    batch_size: int,
) -> Any:
    """The state after so many updates on random batches."""
    return ddm.fit(algorithm, config, dataset, key, num_updates, batch_size=batch_size)[0]


@functools.partial(jax.jit, static_argnums=(2, 3))
def score(policy: Policy, key: jax.Array, tests: int, cars: int) -> Scores:
    """All scores of one policy."""
    varied_key, centered_key, drive_key = jax.random.split(key, 3)

    def driver(scene: road.Scene, image: jax.Array, key: jax.Array, memory: Any) -> Any:
        del scene
        return policy(image, key, memory)

    def one_drive(key: jax.Array) -> road.Drive:
        return road.drive(driver, key, NUM_STEPS, road.EnvParams(), policy.initial_state())

    drives = jax.vmap(one_drive)(jax.random.split(drive_key, cars))
    steps = jnp.sum(drives.on_road)
    squares = jnp.sum(jnp.where(drives.on_road, jnp.square(drives.offsets), 0.0))
    return Scores(
        within_two_varied=within_two_units(policy, varied_key, tests, road.VARIED),
        within_two_centered=within_two_units(policy, centered_key, tests, road.CENTERED),
        drives_completed=jnp.mean(drives.on_road[:, -1]),
        meters=road.EnvParams().step_length * steps / cars,
        rms_offset=jnp.sqrt(squares / jnp.maximum(steps, 1)),
    )


def within_two_units(policy: Policy, key: jax.Array, tests: int, poses: road.Poses) -> jax.Array:
    """Share of new images that are steered within two of ALVINN's 45 units.

    Each image is shown twice, because what a policy feeds back is its own answer to the image
    before.
    """
    images, actions = road.demonstrations(key, tests, poses)

    def steer(image: jax.Array) -> jax.Array:
        _, memory = policy(image, key, policy.initial_state())
        return policy(image, key, memory)[0][0]

    found = road.unit_index(jax.vmap(steer)(images))
    return jnp.mean(jnp.abs(found - road.unit_index(actions[:, 0])) <= 2)


def summarize(learner: str, name: str, scores: list[Scores]) -> dict[str, Any]:
    """A row: the mean of every score over seeds, and the ends of its interval."""
    row: dict[str, Any] = {"learner": learner, "demonstrations": name, "seeds": len(scores)}
    for field in Scores._fields:
        values = np.array([getattr(each, field) for each in scores])
        low, high = statistics.bootstrap_interval(values, statistics.mean)
        row |= {field: float(values.mean()), f"{field}_low": float(low)}
        row[f"{field}_high"] = float(high)
    return row


def print_row(row: dict[str, Any]) -> None:
    """One line: every score and its interval."""
    parts = [f"{row['learner']:14}{row['demonstrations']:9}"]
    for field in Scores._fields:
        ends = f"[{row[f'{field}_low']:.3g}, {row[f'{field}_high']:.3g}]"
        parts.append(f"{field} {row[field]:.3f} {ends}")
    print("  ".join(parts), flush=True)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """What the camera sees in each set, and the scores of what was learned from it."""
    figure = drawing.new_figure(11.0, 5.6)
    above, below = figure.subfigures(2, 1, height_ratios=(1.0, 1.7))
    _draw_images(above.subplots(1, len(SETS)))
    panels = {
        "within_two_varied": "within 2 units, varied poses",
        "within_two_centered": "within 2 units, centred poses",
        "drives_completed": "drives of 400 m completed",
        "rms_offset": "offset on the road, rms (m)",
    }
    for axis, (field, title) in zip(below.subplots(1, len(panels)), panels.items(), strict=True):
        _draw_bars(axis, rows, field)
        axis.set_title(title, fontsize=9)
    figure.suptitle("Nearly perfect where the driver drove is not enough; shifted views are")
    drawing.save_figure(figure, path)


def _draw_images(axes: Any) -> None:
    """Six frames, or one frame and five of its views, beside each other."""
    for axis, (name, (poses, views)) in zip(axes, SETS.items(), strict=True):
        images, _ = road.demonstrations(jax.random.key(1), 6, poses, views)
        tiles = np.asarray(images)[:6, : road.VIDEO_ROWS, :, 0]
        rows = [np.concatenate(list(tiles[i : i + 3]), axis=1) for i in (0, 3)]
        axis.imshow(np.concatenate(rows), cmap="gray", vmin=0, vmax=255)
        axis.set(xticks=[], yticks=[])
        axis.set_title(TITLES[name], fontsize=9)


def _draw_bars(axis: Any, rows: list[dict[str, Any]], field: str) -> None:
    learners = list(dict.fromkeys(row["learner"] for row in rows))
    width = 0.8 / len(learners)
    for i, learner in enumerate(learners):
        own = [row for row in rows if row["learner"] == learner]
        means = np.array([row[field] for row in own])
        ends = np.array([[row[f"{field}_low"], row[f"{field}_high"]] for row in own])
        places = np.arange(len(own)) + width * (i - 0.5 * (len(learners) - 1))
        axis.bar(places, means, width, label=learner)
        errors = np.abs(ends.T - means)
        axis.errorbar(places, means, errors, fmt="none", ecolor="black", capsize=2, lw=0.8)
    axis.set_xticks(range(len(SETS)), [TITLES[name] for name in SETS], rotation=30, ha="right")
    axis.tick_params(labelsize=8)
    if field == "within_two_varied":
        axis.axhline(PUBLISHED, color="0.4", ls="--", lw=0.8, label="published (1989)")
        axis.set_ylim(0.0, 1.4)
        axis.legend(frameon=False, fontsize=7, loc="upper center", ncols=2)
    drawing.tidy(axis)


if __name__ == "__main__":
    runner.launch(main)
