"""What an ensemble's uncertainties know: the penalty against the true error of the model.

    python experiments/figures/model_uncertainty.py

    s' = s + 0.1 a + 0.05 sin(3 (s_2, s_1)) + noise,    r = -|| s' - 1/2 ||

on [-1, 1]^2, but the log holds only states with s_1 < 0. Points with s_1 in [0.3, 1] are outside.
MOPO's penalty, the largest predicted standard deviation, knows the noise and not where data are
missing: it even orders new states below known ones. The disagreement of the members does know. All
are drawn against the distance of the elites' mean from the true one, for noise of standard
deviation 0.01, and for noise that grows tenfold along the second coordinate. There the deviation
says something of the error inside of the data; outside it is as blind as before.

How blind depends on the training: the log-variance is free where there are no data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import drawing
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import ddm
from ddm import data, runner
from ddm.model_based import dynamics
from ddm.model_based.parts import calibration
from ddm.model_based.parts.uncertainty import UNCERTAINTIES

_TRANSITIONS = flags.DEFINE_integer("transitions", 5_000, "Of the log.", lower_bound=10)
_EPOCHS = flags.DEFINE_integer("epochs", 60, "Of the model's training, at most.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the log, the model and the points.")

NOISES = ("homoscedastic", "heteroscedastic")
POINTS = 200  # inside, and outside, of each log
_COLORS = {"inside": "#1f4e79", "outside": "#c0392b"}


def main(_):
    """Train, measure, print, write, draw."""
    rows = []
    for noise in NOISES:
        log = make_log(noise, _TRANSITIONS.value, _SEED.value)
        config, state = train(log, _EPOCHS.value, _SEED.value)
        rows += measure(noise, log, config, state, _SEED.value)
    print_table(rows)
    folder = Path(drawing.OUTPUT_DIR.value)
    drawing.write_table(folder / "model_uncertainty.csv", rows)
    draw(rows, folder / "model_uncertainty.png")


# The task.


def mean_next(states: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """(N, 2) what follows without noise."""
    return states + 0.1 * actions + 0.05 * np.sin(3.0 * states[:, ::-1])


def noise_std(noise: str, states: np.ndarray) -> np.ndarray:
    """(N, 1) standard deviation of each coordinate of the next state."""
    if noise == "homoscedastic":
        return np.full((len(states), 1), 0.01)
    return 0.003 * 10.0 ** ((states[:, 1:] + 1.0) / 2.0)


def draw_inputs(random: Any, count: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """States (count, 2) inside or outside of the data, and actions (count, 2)."""
    states, actions = random.uniform(-1.0, 1.0, (count, 2)), random.uniform(-0.5, 0.5, (count, 2))
    first = (-1.0, 0.0) if where == "inside" else (0.3, 1.0)
    states[:, 0] = random.uniform(*first, count)
    return states.astype(np.float32), actions.astype(np.float32)


def make_log(noise: str, count: int, seed: int) -> data.Dataset:
    """Independent transitions from inside, each an episode of one step."""
    random = np.random.default_rng(seed)
    states, actions = draw_inputs(random, count, "inside")
    following = mean_next(states, actions)
    following = following + noise_std(noise, states) * random.normal(size=states.shape)
    log = data.from_arrays(
        states,
        actions,
        rewards=-np.linalg.norm(following - 0.5, axis=-1),
        terminations=np.zeros(count, bool),
        truncations=np.ones(count, bool),
        next_observations=following.astype(np.float32),
        action_space=(-np.ones(2), np.ones(2)),
        name=f"{noise} noise",
    )
    return data.normalize(log)


# The model.


def train(log: data.Dataset, epochs: int, seed: int) -> tuple[Any, Any]:
    """An ensemble of seven members, as MOPO's but smaller: configuration and state."""
    config = dynamics.Config(
        model_hidden_sizes=(64, 64, 64), model_weight_decay=(1e-5,), max_epochs=epochs
    )
    config = ddm.prepare(dynamics, config, log)
    steps = epochs * config.steps_per_epoch
    fit = jax.jit(lambda key, log: ddm.fit(dynamics, config, log, key, steps)[0])
    return config, fit(jax.random.key(seed), log)


def measure(
    noise: str, log: data.Dataset, config: Any, state: Any, seed: int
) -> list[dict[str, Any]]:
    """One row a point: where it lies, the model's true error there, and each uncertainty."""
    random, rows = np.random.default_rng(seed + 1), []
    for where in ("inside", "outside"):
        states, actions = draw_inputs(random, POINTS, where)
        seen = log.normalization.normalize_observations(jnp.asarray(states))
        found = calibration.predict(config, state, seen, actions)
        errors = np.linalg.norm(found.mean[:, 1:] - mean_next(states, actions), axis=-1)
        for i, error in enumerate(errors):
            unsure = {name: float(found.uncertainties[name][i]) for name in UNCERTAINTIES}
            rows.append({"noise": noise, "where": where, "error": float(error), **unsure})
    return rows


# What it says.


def column(rows: list[dict[str, Any]], name: str, **wanted: str) -> np.ndarray:
    """Values of the rows whose fields are those wanted."""
    return np.array([row[name] for row in rows if all(row[k] == v for k, v in wanted.items())])


def judge(rows: list[dict[str, Any]], noise: str, name: str) -> dict[str, float]:
    """AUROC of outside against inside; rank correlation with the error, inside and everywhere."""
    inside, outside = (column(rows, name, noise=noise, where=x) for x in ("inside", "outside"))
    return {
        "auroc": calibration.auroc(inside, outside),
        "inside": calibration.rank_correlation(
            inside, column(rows, "error", noise=noise, where="inside")
        ),
        "all": calibration.rank_correlation(
            column(rows, name, noise=noise), column(rows, "error", noise=noise)
        ),
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """A line for each noise and uncertainty."""
    print(f"{'noise':16}{'uncertainty':18}{'AUROC':>7}{'rho inside':>12}{'rho all':>9}")
    for noise in NOISES:
        for name in UNCERTAINTIES:
            found = judge(rows, noise, name)
            numbers = f"{found['auroc']:7.3f}{found['inside']:12.2f}{found['all']:9.2f}"
            print(f"{noise:16}{name:18}{numbers}")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Each uncertainty against the true error, inside and outside of the data."""
    figure = drawing.new_figure(13.0, 6.6)
    axes = figure.subplots(len(NOISES), len(UNCERTAINTIES), sharey=True, squeeze=False)
    for line, noise in zip(axes, NOISES, strict=True):
        for axis, name in zip(line, UNCERTAINTIES, strict=True):
            for where, color in _COLORS.items():
                unsure = column(rows, name, noise=noise, where=where)
                errors = column(rows, "error", noise=noise, where=where)
                axis.loglog(unsure, errors, ".", ms=4, alpha=0.5, color=color, label=where)
            found = judge(rows, noise, name)
            axis.set_title(
                f"{name}: AUROC {found['auroc']:.2f}\nrank correlation {found['all']:.2f}, "
                f"inside {found['inside']:.2f}",
                fontsize=9,
            )
            axis.tick_params(axis="x", which="minor", labelbottom=False)
            drawing.tidy(axis)
        line[0].set_ylabel(f"{noise} noise\ntrue error of the mean")
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.supxlabel("uncertainty of the ensemble")
    drawing.save_figure(figure, path)


if __name__ == "__main__":
    runner.launch(main)
