"""Errors of a clone compound with the square of the horizon; those of DAgger do not.

    python experiments/figures/compounding_error.py

The tightrope (Ross & Bagnell 2010): on the rope one action is right; the other costs 1 and leads
off it, where every step costs 1, and from where k right actions in a row lead back. Both learners
take the wrong action on the rope with probability eps, independently at each step.

- BC was fitted to states of the expert, who never leaves the rope. Off it the clone has learned
  nothing; at worst it never takes a right action (as in the theory), at a coin flip in two out
  of two. Its cost is H - (1 - eps)(1 - (1 - eps)^H) / eps: eps H (H + 1) / 2 while eps H is small.
- "DAgger" stands for what DAgger guarantees (Ross et al. 2011): a learner whose error rate is eps
  under its *own* state distribution, so off the rope as well as on it. Its cost is at most
  (1 + k) eps H. No data set is aggregated here.

Lines are exact, dots are means of sampled episodes with 95 % intervals (normal approximation);
the horizons of one learner share their episodes.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import drawing
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from ddm import runner
from ddm.envs import tabular
from ddm.envs.tabular.worlds import STAY_ON_ROPE

_EPISODES = flags.DEFINE_integer(
    "sampled_episodes", 2_000, "Episodes behind each dot.", lower_bound=2
)
_LONGEST = flags.DEFINE_integer("longest", 1_000, "Horizon where the lines end.", lower_bound=160)

ERRORS = (1e-4, 1e-3, 1e-2, 1e-1)
FITTED = (10, 20, 40, 80, 160)  # horizons of the exponent and of the dots
SAMPLED_ERRORS = (1e-3, 1e-2)
RECOVERY_STEPS = (1, 3, 5)
PRINTED = (10, 20, 50, 100, 200, 500, 1_000)


def main(_):
    """Costs of every learner at every horizon, exactly and by sampling."""
    jax.config.update("jax_enable_x64", True)
    rows = exact_rows(_LONGEST.value)
    print_tables(rows)
    rows += sampled_rows(_EPISODES.value, max(FITTED), jax.random.key(0))
    folder = Path(drawing.OUTPUT_DIR.value)
    kept = [row for row in rows if row["horizon"] in {*FITTED, *PRINTED}]
    drawing.write_table(folder / "compounding_error.csv", kept)
    draw(rows, folder / "compounding_error.png")


def make_policy(recovery_steps: int, error: float, off_rope: float) -> jax.Array:
    """(k + 1, 2): wrong with probability `error` on the rope, right with `off_rope` off it."""
    right = np.full(recovery_steps + 1, off_rope)
    right[0] = 1.0 - error
    right_first = [right, 1.0 - right] if STAY_ON_ROPE == 0 else [1.0 - right, right]
    return jnp.asarray(np.stack(right_first, axis=-1))


def learners(error: float) -> dict[tuple[str, int], jax.Array]:
    """(name, recovery steps k) -> policy on the tightrope with k recovery steps."""
    found = {}
    for k in RECOVERY_STEPS:
        found["bc", k] = make_policy(k, error, 0.0)
        found["bc_coin", k] = make_policy(k, error, 0.5)
        found["dagger", k] = make_policy(k, error, 1.0 - error)
    return found


@functools.partial(jax.jit, static_argnames="longest")
def exact_costs(mdp: tabular.TabularMDP, policy: jax.Array, longest: int) -> jax.Array:
    """Expected total cost (longest,) of episodes of 1 .. longest steps."""
    chain = mdp.chain(policy)
    costs = -jnp.sum(policy * mdp.expected_rewards(), axis=-1)

    def step(distribution: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        return distribution @ chain, distribution @ costs

    return jnp.cumsum(jax.lax.scan(step, mdp.initial, length=longest)[1])


def exact_rows(longest: int) -> list[dict[str, Any]]:
    """One row a learner, error rate and horizon."""
    return [
        make_row("exact", name, k, error, horizon + 1, float(cost))
        for error in ERRORS
        for (name, k), policy in learners(error).items()
        for horizon, cost in enumerate(
            np.asarray(exact_costs(tabular.tightrope(k), policy, longest))
        )
    ]


def make_row(
    kind: str, learner: str, k: int, error: float, horizon: int, cost: float, interval: float = 0.0
) -> dict[str, Any]:
    """A row of the table; `interval` is half the width of a 95 % interval."""
    return {
        "kind": kind,
        "learner": learner,
        "recovery_steps": k,
        "error": error,
        "horizon": horizon,
        "cost": cost,
        "interval": interval,
    }


def sampled_rows(episodes: int, longest: int, key: jax.Array) -> list[dict[str, Any]]:
    """The same by rollouts of the simulator, at the horizons of `FITTED`."""
    rows = []
    for error in SAMPLED_ERRORS:
        for (name, k), policy in learners(error).items():
            key, run_key = jax.random.split(key)
            params = tabular.make_params(tabular.tightrope(k), max_steps=longest + 1)
            costs = np.asarray(rollout_costs(params, policy, run_key, episodes, longest))
            for horizon in FITTED:
                totals = costs[:, :horizon].sum(axis=1)
                half = 1.96 * totals.std(ddof=1) / np.sqrt(episodes)
                mean = float(totals.mean())
                rows.append(make_row("sampled", name, k, error, horizon, mean, float(half)))
    return rows


@functools.partial(jax.jit, static_argnames=("episodes", "longest"))
def rollout_costs(
    params: Any, policy: jax.Array, key: jax.Array, episodes: int, longest: int
) -> jax.Array:
    """Costs (episodes, longest) of the simulator's steps under a policy (S, 2)."""
    environment = tabular.TabularEnvironment(tabular.tightrope, name="Tightrope")

    def episode(key: jax.Array) -> jax.Array:
        reset_key, walk_key = jax.random.split(key)

        def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            observation, state = carry
            action_key, step_key = jax.random.split(key)
            action = jax.random.bernoulli(action_key, observation @ policy[:, 1]).astype(jnp.int32)
            observation, state, reward, *_ = environment.step(step_key, state, action, params)
            return (observation, state), -reward

        start = environment.reset(reset_key, params)
        return jax.lax.scan(step, start, jax.random.split(walk_key, longest))[1]

    return jax.vmap(episode)(jax.random.split(key, episodes))


def curve(
    rows: list[dict[str, Any]], learner: str, k: int, error: float, kind: str = "exact"
) -> dict[int, dict[str, Any]]:
    """Rows by horizon of one learner."""
    wanted = (kind, learner, k, error)
    names = ("kind", "learner", "recovery_steps", "error")
    return {row["horizon"]: row for row in rows if tuple(row[name] for name in names) == wanted}


def exponent(rows: list[dict[str, Any]], learner: str, k: int, error: float) -> float:
    """Slope of log cost in log horizon, by least squares over `FITTED`."""
    costs = curve(rows, learner, k, error)
    return float(np.polyfit(np.log(FITTED), [np.log(costs[h]["cost"]) for h in FITTED], 1)[0])


def print_tables(rows: list[dict[str, Any]]) -> None:
    """Costs of BC, costs at a horizon of 100, exponents."""
    horizons = [horizon for horizon in PRINTED if horizon <= max(row["horizon"] for row in rows)]
    print("BC, cost by horizon" + "".join(f"{horizon:>10}" for horizon in horizons))
    for error in ERRORS[1:]:
        costs = curve(rows, "bc", 1, error)
        print(f"  eps {error:<13g}" + "".join(f"{costs[h]['cost']:>10.5g}" for h in horizons))
    print(f"eps 0.01, horizon 100{'BC':>10}{'BC, coin':>10}{'DAgger':>10}{'bound':>10}")
    for k in RECOVERY_STEPS:
        costs = [curve(rows, name, k, 0.01)[100]["cost"] for name in ("bc", "bc_coin", "dagger")]
        print(f"  k = {k:<15}" + "".join(f"{x:>10.3f}" for x in (*costs, (1 + k) * 0.01 * 100)))
    print(f"exponent{'BC':>23}" + "".join(f"{f'DAgger, k={k}':>13}" for k in RECOVERY_STEPS))
    for error in ERRORS[:-1]:
        slopes = [exponent(rows, "dagger", k, error) for k in RECOVERY_STEPS]
        first = exponent(rows, "bc", 1, error)
        print(f"  eps {error:<13g}{first:>12.3f}" + "".join(f"{slope:>13.3f}" for slope in slopes))


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Cost against horizon, both logarithmic; one panel an error rate."""
    figure = drawing.new_figure(11.0, 4.4)
    panels = figure.subplots(1, 3, sharey=True)
    for axis, error in zip(panels, ERRORS[:-1], strict=True):
        lines = [("bc", 1, "BC (never recovers)")]
        lines += [("dagger", k, f"DAgger, k = {k}") for k in RECOVERY_STEPS]
        for i, (learner, k, label) in enumerate(lines):
            exact = curve(rows, learner, k, error)
            slope = exponent(rows, learner, k, error)
            label = f"{label}: slope {slope:.2f}"
            costs = [row["cost"] for row in exact.values()]
            axis.plot(list(exact), costs, color=f"C{i}", label=label)
            dots = curve(rows, learner, k, error, "sampled")
            means = np.array([row["cost"] for row in dots.values()])
            halves = np.array([row["interval"] for row in dots.values()])
            low = np.minimum(halves, 0.999 * means)  # a logarithmic axis ends above zero
            axis.errorbar(list(dots), means, (low, halves), fmt="o", color=f"C{i}", ms=3, capsize=2)
        axis.set(xscale="log", yscale="log", xlabel="horizon H", title=f"error rate {error:g}")
        axis.legend(frameon=False, fontsize=8)
        drawing.tidy(axis)
    panels[0].set_ylabel("expected cost")
    figure.suptitle("Tightrope: the same error rate, on the expert's states (BC) or on one's own")
    drawing.save_figure(figure, path)


if __name__ == "__main__":
    runner.launch(main)
