"""Which way the divergence is taken: covering both modes, or choosing one.

    python experiments/figures/kl_objectives.py

The demonstrator is w N(1, s^2) + (1 - w) N(-1, s^2), halved into the action box: divergences stay
as they are, and means and widths are reported in the original units. One Gaussian is fitted to it
in three ways:

- `forward`: behaviour cloning, whose optimum matches the first two moments.
- `reverse, known`: the reverse divergence from the demonstrator's density.
- `reverse, learned`: the same from samples, by a discriminator.

Both divergences of every fit are computed by quadrature. Beside each stands the exact optimum of
the same kind, found by direct minimisation of the quadrature. The reverse objective is not always
unimodal: at s = 0.5 its optimum covers both modes. Seeds start about different random actions;
intervals are 95 % bootstrap intervals of the mean over seeds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import drawing
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from ddm import runner
from ddm.evaluation import statistics
from ddm.imitation import bc, reverse_kl
from ddm.ops import divergences
from ddm.types import Batch

_SEEDS = flags.DEFINE_integer("starts", 8, "Starts of each fit.", lower_bound=1)
_UPDATES = flags.DEFINE_integer("fit_updates", 2_000, "Policy steps of each fit.", lower_bound=1)

EXPERTS = ((0.5, 0.1), (0.5, 0.3), (0.5, 0.5), (0.7, 0.1))  # weight of the upper mode, width
ROWS = 64  # of a batch
TOLERANCE = 0.3  # largest distance to the nearest mode that is valid
COMMITTED = 0.95  # share of a policy's actions on one side that makes it a choice
GRID = np.linspace(-6.0, 6.0, 6_001)  # original units


class Expert(NamedTuple):
    """The demonstrator, in the action box."""

    weight: Any
    std: Any

    def log_prob(self, observations: Any, actions: jax.Array) -> jax.Array:
        """Log-density (...,) of actions (..., 1)."""
        del observations
        scaled = 2.0 * actions[..., 0]
        upper, lower = (_log_normal(scaled, mean, self.std) for mean in (1.0, -1.0))
        both = jnp.logaddexp(jnp.log(self.weight) + upper, jnp.log1p(-self.weight) + lower)
        return both + jnp.log(2.0)

    def demonstrate(self, key: jax.Array, rows: int) -> Batch:
        """Rows with the same observation."""
        sign_key, noise_key = jax.random.split(key)
        up = jax.random.bernoulli(sign_key, self.weight, (rows, 1))
        actions = jnp.where(up, 1.0, -1.0) + self.std * jax.random.normal(noise_key, (rows, 1))
        return Batch(observations=jnp.ones((rows, 1)), actions=0.5 * actions)


def _log_normal(x: jax.Array, mean: Any, std: Any) -> jax.Array:
    return -0.5 * jnp.square((x - mean) / std) - jnp.log(std) - 0.5 * jnp.log(2.0 * jnp.pi)


def _forward(expert: Expert, updates: int) -> tuple[Any, Any]:
    del expert
    config = bc.Config(head="gaussian", hidden_sizes=(), learning_rate=0.02, decay_steps=updates)
    return bc, config


def _reverse_known(expert: Expert, updates: int) -> tuple[Any, Any]:
    config = reverse_kl.Config(
        ratio="known", expert_log_prob=expert.log_prob, hidden_sizes=(), learning_rate=0.02,
        decay_steps=updates,
    )  # fmt: skip
    return reverse_kl, config


def _reverse_learned(expert: Expert, updates: int) -> tuple[Any, Any]:
    del expert
    config = reverse_kl.Config(
        hidden_sizes=(32, 32), num_samples=4, learning_rate=1.5e-3,
        discriminator_learning_rate=5e-3, instance_noise=0.025,
    )  # fmt: skip
    return reverse_kl, config.replace(decay_steps=config.discriminator_steps * updates)


# Name -> (expert, updates) -> module and configuration.
OBJECTIVES: dict[str, Callable[[Expert, int], tuple[Any, Any]]] = {
    "forward": _forward,
    "reverse, known": _reverse_known,
    "reverse, learned": _reverse_learned,
}


def main(_):
    """Fits, exact optima, table, picture."""
    rows, densities = [], {}
    experts = Expert(*(jnp.array(column) for column in zip(*EXPERTS, strict=True)))
    for name in OBJECTIVES:
        fitted = fit(name, experts, jax.random.key(0), seeds=_SEEDS.value, updates=_UPDATES.value)
        for expert, log_probs in zip(EXPERTS, np.asarray(fitted, np.float64), strict=True):
            rows.append(summarize(Expert(*expert), name, log_probs))
            densities[*expert, name] = np.exp(log_probs)
    print_table(rows)
    folder = Path(drawing.OUTPUT_DIR.value)
    drawing.write_table(folder / "kl_objectives.csv", rows)
    draw(densities, folder / "kl_objectives.png")


@functools.partial(jax.jit, static_argnames=("name", "seeds", "updates"))
def fit(name: str, experts: Expert, key: jax.Array, *, seeds: int, updates: int) -> jax.Array:
    """Log-densities (E, seeds, N) on the grid of the policies found, in original units.

    `experts` has arrays (E,). All fits are lanes of one program.
    """

    def one(expert: Expert, key: jax.Array) -> jax.Array:
        algorithm, config = OBJECTIVES[name](expert, updates)
        rows = ROWS * algorithm.batch_spec(config).minibatches
        init_key, key = jax.random.split(key)
        state = algorithm.init(config, init_key, expert.demonstrate(key, rows))
        # Not `ddm.fit`: each update gets new demonstrations, so there is no log to draw from.
        state, _ = jax.lax.scan(
            lambda state, key: algorithm.update(config, state, expert.demonstrate(key, rows)),
            state,
            jax.random.split(key, updates),
        )
        actions = jnp.asarray(0.5 * GRID[:, None], jnp.float32)
        log_probs = algorithm.log_prob(config, state, jnp.ones_like(actions), actions)
        return log_probs - jnp.log(2.0)

    over_seeds = jax.vmap(one, (None, 0))
    return jax.vmap(over_seeds, (0, None))(experts, jax.random.split(key, seeds))


def measure(expert: Expert, log_probs: np.ndarray) -> dict[str, np.ndarray]:
    """Exact scores (seeds,) of log-densities (seeds, N) on the grid."""
    actions = jnp.asarray(0.5 * GRID[:, None])
    demonstrated = np.asarray(expert.log_prob(None, actions) - np.log(2.0), np.float64)
    demonstrated = np.broadcast_to(demonstrated, log_probs.shape)
    density, spacing = np.exp(log_probs), GRID[1] - GRID[0]
    mass = density * spacing
    mean = mass @ GRID
    kl = functools.partial(divergences.kl_on_grid, grid=jnp.asarray(GRID))
    return {
        "forward_kl": np.asarray(kl(jnp.asarray(demonstrated), jnp.asarray(log_probs))),
        "reverse_kl": np.asarray(kl(jnp.asarray(log_probs), jnp.asarray(demonstrated))),
        "mean": mean,
        "std": np.sqrt(np.sum(mass * (GRID - mean[:, None]) ** 2, axis=-1)),
        "valid": mass @ (np.abs(np.abs(GRID) - 1.0) < TOLERANCE),
        "upper_mode": mass @ (GRID > 0.0),
    }


def summarize(expert: Expert, name: str, log_probs: np.ndarray) -> dict[str, Any]:
    """A row of the table: means over seeds with intervals, and the exact optimum."""
    scores = measure(expert, log_probs)
    row: dict[str, Any] = {"weight": expert.weight, "std": expert.std, "objective": name}
    # Two seeds at different modes have no mean in common: distances to the middle are averaged.
    scores["distance"] = np.abs(scores.pop("mean"))
    row["seeds"] = len(log_probs)
    row["seeds_up"] = int(np.sum(scores["upper_mode"] > COMMITTED))
    row["seeds_down"] = int(np.sum(scores["upper_mode"] < 1.0 - COMMITTED))
    for key in ("forward_kl", "reverse_kl", "valid", "distance"):
        low, high = statistics.bootstrap_interval(scores[key], statistics.mean)
        row |= {
            key: float(scores[key].mean()),
            f"{key}_low": float(low),
            f"{key}_high": float(high),
        }
    row["policy_std"] = float(scores["std"].mean())
    optimum = forward_optimum(expert) if name == "forward" else reverse_optimum(expert)
    names = ("exact_distance", "exact_std", "exact_kl")
    return row | dict(zip(names, optimum, strict=True))


def forward_optimum(expert: Expert) -> tuple[float, float, float]:
    """Distance of the mean to the middle, width and KL of the best Gaussian: the moments'."""
    mean = 2.0 * expert.weight - 1.0
    std = np.sqrt(expert.std**2 + 1.0 - mean**2)
    [kl] = measure(expert, np.asarray(_log_normal(jnp.asarray(GRID), mean, std))[None])[
        "forward_kl"
    ]
    return mean, float(std), float(kl)


def reverse_optimum(expert: Expert) -> tuple[float, float, float]:
    """The same of the lowest minimum of the reverse divergence, by descent from the upper mode."""
    nodes = jnp.linspace(-8.0, 8.0, 801)

    def kl(parameters: jax.Array) -> jax.Array:
        grid = parameters[0] + jnp.exp(parameters[1]) * nodes
        own = _log_normal(grid, parameters[0], jnp.exp(parameters[1]))
        theirs = expert.log_prob(None, 0.5 * grid[:, None]) - jnp.log(2.0)
        return divergences.kl_on_grid(own, theirs, grid)

    best = descend(kl, jnp.array([0.9, jnp.log(expert.std)]))
    return abs(float(best[0])), float(jnp.exp(best[1])), float(kl(best))


def descend(function: Callable[[jax.Array], jax.Array], start: jax.Array) -> jax.Array:
    """A minimum by gradient descent with halving steps, to about float32's resolution."""
    slope = jax.grad(function)

    def step(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        point, size = carry
        moved = point - size * slope(point)
        better = function(moved) < function(point)
        return jnp.where(better, moved, point), jnp.where(better, 1.3 * size, 0.5 * size)

    return jax.jit(lambda start: jax.lax.fori_loop(0, 500, step, (start, jnp.float32(1e-3))))(
        start
    )[0]


def print_table(rows: list[dict[str, Any]]) -> None:
    """Divergences, validity and the mode that was chosen."""
    print(f"{'w':>4}{'s':>5}  {'objective':18}{'KL(E||pi)':>11}{'KL(pi||E)':>11}{'exact':>8}"
          f"{'valid':>8}{'std':>7}{'up':>5}{'down':>6} of seeds")  # fmt: skip
    for row in rows:
        print(
            f"{row['weight']:4g}{row['std']:5g}  {row['objective']:18}{row['forward_kl']:11.4g}"
            f"{row['reverse_kl']:11.4g}{row['exact_kl']:8.4g}{row['valid']:8.3f}"
            f"{row['policy_std']:7.3f}{row['seeds_up']:5d}{row['seeds_down']:6d} of {row['seeds']}"
        )


def draw(densities: dict[tuple[float, float, str], np.ndarray], path: Path) -> None:
    """Densities of all seeds over the demonstrator's; a row an objective."""
    names = list(dict.fromkeys(name for _, _, name in densities))
    figure = drawing.new_figure(2.9 * len(EXPERTS), 2.0 * len(names))
    panels = figure.subplots(len(names), len(EXPERTS), squeeze=False, sharex=True)
    shown = np.abs(GRID) < 3.0
    for column, (weight, std) in enumerate(EXPERTS):
        log_probs = Expert(weight, std).log_prob(None, jnp.asarray(0.5 * GRID[:, None]))
        for axis, name in zip(panels[:, column], names, strict=True):
            axis.fill_between(GRID[shown], np.exp(log_probs)[shown] / 2.0, color="0.85", lw=0)
            for density in densities[weight, std, name]:
                axis.plot(GRID[shown], density[shown], color="C0", lw=1.0, alpha=0.6)
            axis.set_yticks([])
            drawing.tidy(axis)
        panels[0, column].set_title(f"weight {weight:g}, width {std:g}", fontsize=9)
        panels[-1, column].set_xlabel("action")
    for axis, name in zip(panels[:, 0], names, strict=True):
        axis.set_ylabel(name)
    figure.suptitle("A Gaussian fitted to two modes (grey); a line a seed")
    drawing.save_figure(figure, path)


if __name__ == "__main__":
    runner.launch(main)
