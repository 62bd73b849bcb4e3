"""The sine track with and without corrective labels: errors that add up, and errors that do not.

    python experiments/figures/corrective_labels.py

Five demonstrations of 60 steps; policies are tested with a push of standard deviation 0.02 in each
step. Cloning never sees a state beside the wave, so its errors add up as those of an open loop,
0.02 sqrt(60 (1 + cos^2 x) 2 / pi) = 0.17 at x = 6, or more. NoiseBC stays there: it repeats the
action of the wave. CCIL knows the way back, from the true dynamics, or from a model that is learned
from the same five demonstrations. All make the same number of gradient steps.

From demonstrations without noise the effect of actions is not identified, because they are a
function of the state. The networks here guess it well in all four seeds, which is no guarantee.
Noise of 0.1 on the demonstrator's actions, which it corrects one step later, shows it. The
demonstrator's own error is what one push leaves: 0.022 at the end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import drawing
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import ddm
from ddm import data, envs, runner
from ddm.envs import sine_track
from ddm.imitation import bc, ccil, noise_bc
from ddm.types import stages_of

_SEEDS = flags.DEFINE_integer("seeds", 4, "Of demonstrations and training.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 3000, "Gradient steps of each policy.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 300, "Of learned models.", lower_bound=1)
_EPISODES = flags.DEFINE_integer("episodes", 256, "Of each test.", lower_bound=1)

TRACK = envs.SineTrack()
PARAMS = TRACK.default_params
TEST_NOISE = 0.02
DEMONSTRATIONS = 5
REPORTED = (10, 20, 30, 40, 50, 60)  # steps
# What 60 pushes of both coordinates leave of |y - sin x| at the end, where x is 6.05 on average.
OPEN_LOOP = TEST_NOISE * np.sqrt(REPORTED[-1] * (1.0 + np.cos(6.05) ** 2) * 2.0 / np.pi)


def known(observation: jax.Array, action: jax.Array) -> jax.Array:
    """The track's own dynamics."""
    return sine_track.successor(observation, action, PARAMS)


def methods(epochs: int, steps: int) -> dict[str, tuple[Any, Any]]:
    """Algorithm and configuration by name."""
    policy = {
        "head": "mse", "hidden_sizes": (64, 64), "learning_rate": 3e-3, "decay_steps": steps,
    }  # fmt: skip
    disturb = {
        **policy, "generator": "disturb", "num_labels": 2, "rejection": "distance",
        "max_distance": 0.3,
    }  # fmt: skip
    model = {"model_hidden_sizes": (64, 64), "model_batch_size": 64, "max_epochs": epochs}
    learned = {f"learned, {each}": (ccil, ccil.Config(**disturb, **model, lipschitz=each))
               for each in ("none", "spectral", "sampling", "sampling_slack")}  # fmt: skip
    return {
        "BC": (bc, bc.Config(**policy)),
        "NoiseBC": (noise_bc, noise_bc.Config(**policy, noise=0.05)),
        "known, disturb": (ccil, ccil.Config(**disturb, dynamics=known)),
        "known, backtrack": (ccil, ccil.Config(**policy, dynamics=known)),
        **learned,
    }


def main(_):
    """Train, test, print, write, draw."""
    rows, paths, drawn = [], {}, None
    for noise in (0.0, 0.1):
        logs = demonstrations(noise, _SEEDS.value)
        for name, (algorithm, config) in methods(_EPOCHS.value, _STEPS.value).items():
            if noise and name.startswith("known"):
                continue
            policy = train(algorithm, config, logs, _STEPS.value)
            tracks = test(policy, _EPISODES.value)
            rows += report(name, noise, np.asarray(sine_track.off_track(tracks)))
            if noise == 0.0 and name in ("BC", "known, disturb"):
                paths[name] = np.asarray(tracks[0])
            if name == "known, disturb":
                drawn = labels_of(config, logs[0])
    print_table(rows)
    folder = Path(drawing.OUTPUT_DIR.value)
    drawing.write_table(folder / "corrective_labels.csv", rows)
    draw(rows, paths, drawn, folder / "corrective_labels.png")


def demonstrations(noise: float, seeds: int) -> list[data.Dataset]:
    """The expert's episodes for each seed, all in the units of the first; actions as executed."""

    def expert(observation: jax.Array, key: jax.Array, policy_state: Any = ()) -> Any:
        action = sine_track.expert_action(observation, PARAMS)
        return action + noise * jax.random.normal(key, (2,), jnp.float32), policy_state

    logs: list[data.Dataset] = []
    for seed in range(seeds):
        log = data.from_episodes(
            envs.collect(TRACK, expert, jax.random.key(seed), num_episodes=DEMONSTRATIONS),
            observation_space=TRACK.observation_space(PARAMS),
            action_space=TRACK.action_space(PARAMS),
            name=f"sine track, noise {noise}",
        )
        like = logs[0].normalization if logs else None
        logs.append(data.normalize(log, "standardize", like=like))
    return logs


class Trained:
    """Policies of all seeds as functions of the environment's units."""

    def __init__(self, act: Callable, states: Any):
        self.act, self.states = act, states


def train(algorithm: Any, config: Any, logs: list[data.Dataset], steps: int) -> Trained:
    """One policy for each log; all are trained in one program."""
    config, units = ddm.prepare(algorithm, config, logs[0]), logs[0].normalization
    steps += sum(stage.num_steps or 0 for stage in stages_of(algorithm, config))

    @jax.jit
    @jax.vmap
    def fit(key: jax.Array, log: data.Dataset) -> Any:
        return ddm.fit(algorithm, config, log, key, steps, batch_size=128)[0]

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *logs)
    states = fit(jax.random.split(jax.random.key(0), len(logs)), stacked)

    def act(state: Any, observation: jax.Array) -> jax.Array:
        seen = units.normalize_observations(observation)
        action, _ = algorithm.act(config, state, seen, jax.random.key(0), deterministic=True)
        return units.denormalize_actions(action)

    return Trained(act, states)


def test(policy: Trained, episodes: int) -> jax.Array:
    """Positions (seeds, episodes, 61, 2) of episodes with pushes."""
    params = dataclasses.replace(PARAMS, noise=TEST_NOISE)

    def episode(state: Any, key: jax.Array) -> jax.Array:
        observation, start = TRACK.reset(key, params)

        def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            observation, inner = carry
            following = TRACK.step(key, inner, policy.act(state, observation), params)[:2]
            return following, following[0]

        keys = jax.random.split(key, REPORTED[-1])
        return jnp.concatenate(
            [observation[None], jax.lax.scan(step, (observation, start), keys)[1]]
        )

    run = jax.vmap(jax.vmap(episode, (None, 0)), (0, None))
    return jax.jit(run)(policy.states, jax.random.split(jax.random.key(1), episodes))


def labels_of(config: Any, log: data.Dataset) -> np.ndarray:
    """Starts and targets (N, 2, 2) of corrective labels, in the environment's units."""
    config = ddm.prepare(ccil, config, log)
    batch = data.sample(log, jax.random.key(0), 1, ccil.batch_spec(config))
    state = ccil.init(config, jax.random.key(0), batch)
    labels = ccil.corrective_labels(config, state, log, jax.random.key(0))
    corrected = data.to_episodes(ccil.as_dataset(labels, log))
    return np.stack([episode["observations"] for episode in corrected])


# What it says.


def report(name: str, noise: float, errors: np.ndarray) -> list[dict[str, Any]]:
    """Rows of mean |y - sin x| from errors (seeds, episodes, 61)."""
    return [
        {"method": name, "demonstration_noise": noise, "seed": seed, "step": step,
         "error": float(errors[seed, :, step].mean())}
        for seed in range(len(errors)) for step in REPORTED
    ]  # fmt: skip


def final(rows: list[dict[str, Any]], noise: float) -> dict[str, np.ndarray]:
    """Errors (seeds,) at the end of an episode by method."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["demonstration_noise"] == noise and row["step"] == REPORTED[-1]:
            found.setdefault(row["method"], []).append(row["error"])
    return {name: np.array(errors) for name, errors in found.items()}


def print_table(rows: list[dict[str, Any]]) -> None:
    """A line for each method: the error of each seed at the end."""
    for noise in (0.0, 0.1):
        print(f"demonstrations with noise {noise}: |y - sin x| after {REPORTED[-1]} steps")
        for name, errors in final(rows, noise).items():
            print(f"  {name:26}" + " ".join(f"{error:6.3f}" for error in errors))


def draw(rows: list[dict[str, Any]], paths: dict[str, np.ndarray], labels: Any, path: Path) -> None:
    """Trajectories without and with labels, and the errors of all methods."""
    figure = drawing.new_figure(13.0, 7.0)
    grid = figure.add_gridspec(2, 2)
    tracks = [figure.add_subplot(grid[i, 0]) for i in range(2)]
    x = np.linspace(0.0, 6.4, 200)
    for axis, (name, shown) in zip(tracks, paths.items(), strict=True):
        axis.plot(x, np.sin(x), color="0.4", lw=3, alpha=0.5, label="expert")
        for track in shown[:12]:
            axis.plot(*track.T, color="#1f4e79", lw=0.8)
        axis.set_title("without corrective labels (BC)" if name == "BC" else "with them (CCIL)")
        axis.set(xlim=(0.0, 6.6), ylim=(-1.6, 1.6), ylabel="y")
        drawing.tidy(axis)
    starts, ends = labels[::3, 0], labels[::3, 1]
    tracks[1].quiver(
        *starts.T, *(ends - starts).T, angles="xy", scale_units="xy", scale=1, width=0.002,
        color="#c0392b", label="corrective labels", zorder=3,
    )  # fmt: skip
    tracks[1].set_xlabel("x")
    tracks[1].legend(frameon=False, fontsize=8, loc="upper right")
    for i, noise in enumerate((0.0, 0.1)):
        axis = figure.add_subplot(grid[i, 1])
        found = final(rows, noise)
        for place, errors in enumerate(found.values()):
            axis.plot(errors, np.full(len(errors), place), "o", ms=5, alpha=0.7, color="#1f4e79")
        axis.axvline(OPEN_LOOP, color="0.4", ls="--", lw=1)
        axis.set_xscale("log")
        axis.set_yticks(range(len(found)), list(found))
        axis.invert_yaxis()
        axis.set_title(f"demonstrations with noise {noise}; dashed: an open loop", fontsize=10)
        drawing.tidy(axis)
    axis.set_xlabel(f"|y - sin x| after {REPORTED[-1]} steps, one point a seed")
    drawing.save_figure(figure, path)


if __name__ == "__main__":
    runner.launch(main)
