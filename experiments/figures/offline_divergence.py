"""Off-policy learners on a log alone: no return, values without bound, and more data is no cure.

    python experiments/figures/offline_divergence.py
    python experiments/figures/offline_divergence.py --behavior=medium --learners=SAC,TD3

SAC, TD3 and DDPG (TD3 with one critic, without smoothing and delay) learn from 10, 50 and 100
percent of the same log of an 8-dimensional point mass, narrow or noisy, and TD3+BC beside them.
At ten points of the training stand the return, the critics' estimate of the policy's value at
logged states, and the discounted return that the policy really earns from exactly these states.
No reward is above 0, so that no value is: an estimate above 0 proves a divergence.

SAC backs up values without the entropy's bonus, so that its estimate and the return are one
quantity. Intervals are 95 % bootstrap intervals over seeds.

Before that, the smallest divergence there is, exactly: one state, Q(a) = w a, a log of the single
action b, reward 0. Fitted Q iteration over actions in [0, 1] multiplies w by discount / b each
time, however many rows the log has; under the constraint a <= b it multiplies it by the discount.
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
from ddm import data, envs, evaluation, runner, training
from ddm.envs import point_mass
from ddm.errors import InputError
from ddm.evaluation import statistics
from ddm.off_policy import sac, td3
from ddm.policy_constraint import td3_bc

_SEEDS = flags.DEFINE_integer("learner_seeds", 3, "Seeds of each learner.", lower_bound=1)
_UPDATES = flags.DEFINE_integer("learner_updates", 25_000, "Gradient steps.", lower_bound=20)
_TRANSITIONS = flags.DEFINE_integer("log_transitions", 100_000, "Size of the log.", lower_bound=500)
_BEHAVIOR = flags.DEFINE_enum(
    "behavior", "expert", list(point_mass.BEHAVIORS), "Whose log: narrow, or slow and noisy."
)
_LEARNERS = flags.DEFINE_list("learners", [], "Names of learners; empty: all.")

FRACTIONS = (0.1, 0.5, 1.0)  # of the log's episodes
POINTS = 10  # evaluations of a training
DISCOUNT = 0.99
ROWS = 128  # of a batch
PROBES = 256  # logged states at which values are compared
HORIZON = 700  # steps of a roll-out: 0.99^700 is below a thousandth
EPISODES = 100

_SIZES = {"hidden_sizes": (64, 64), "actor_learning_rate": 1e-3, "critic_learning_rate": 9e-4}
LEARNERS: dict[str, tuple[Any, Any]] = {
    "SAC": (sac, sac.Config(**_SIZES, backup_entropy=0.0)),
    "TD3": (td3, td3.Config(**_SIZES)),
    "DDPG": (td3, td3.Config(**_SIZES, num_critics=1, target_noise=0.0, policy_delay=1)),
    "TD3+BC": (td3_bc, td3_bc.Config(**_SIZES)),
}
METRICS = ("return", "estimate", "truth", "largest")


def main(_):
    """The exact example, the trainings, table, picture."""
    print("one state, Q(a) = w a: w after 50 iterations, from 0.01")
    for action in (0.5, 0.9, 0.99, 1.0):
        free, bound = (linear_weights(action, 50, 1, constrained=c)[-1] for c in (False, True))
        print(f"  logged action {action:4g}: {free:9.3g}; constrained to the log's {bound:.3g}")
    episodes = collect(_BEHAVIOR.value, jax.random.key(0), _TRANSITIONS.value)
    rows = []
    print(
        f"{'learner':8}{'rows':>8}{'step':>7}{'return':>26}{'estimate':>11}{'truth':>9}{'gap':>10}"
    )
    for name in chosen_learners(_LEARNERS.value):
        for fraction in FRACTIONS:
            dataset = first_episodes(episodes, fraction)
            found = learn(name, dataset, _UPDATES.value, _SEEDS.value)
            rows += summarize(name, fraction, dataset.num_transitions, found, _UPDATES.value)
            print_row(rows[-1])
    folder = Path(drawing.OUTPUT_DIR.value)
    suffix = "" if _BEHAVIOR.value == "expert" else f"_{_BEHAVIOR.value}"
    drawing.write_table(folder / f"offline_divergence{suffix}.csv", rows)
    draw(rows, folder / f"offline_divergence{suffix}.png")


def chosen_learners(names: list[str]) -> list[str]:
    """These, or all.

    Raises:
      InputError: there is no such learner.
    """
    if unknown := [name for name in names if name not in LEARNERS]:
        raise InputError(f"--learners={unknown[0]} is unknown; choose among {', '.join(LEARNERS)}")
    return names or list(LEARNERS)


def linear_weights(
    logged_action: float, iterations: int, rows: int, *, constrained: bool, start: float = 0.01
) -> np.ndarray:
    """Weights (iterations + 1,) of fitted Q iteration where Q(a) = w a and nothing is earned.

    Args:
      logged_action: in (0, 1], the only action of the log.
      iterations: of the least-squares fit.
      rows: of the log; they are all alike.
      constrained: the backup's maximum is over actions up to the logged one, not up to 1.
      start: the weight at first.
    """
    features = np.full(rows, logged_action)
    best_action = logged_action if constrained else 1.0
    weights = [start]
    for _ in range(iterations):
        targets = np.full(rows, DISCOUNT * max(weights[-1], 0.0) * best_action)
        weights.append(float(features @ targets / (features @ features)))
    return np.asarray(weights)


def collect(behavior: str, key: jax.Array, transitions: int) -> list[Any]:
    """Episodes of one of the point mass's demonstrators."""
    environment = envs.PointMass()
    policy = point_mass.behavior_policy(behavior, environment.default_params)
    return envs.collect(environment, policy, key, num_steps=transitions)


def first_episodes(episodes: list[Any], fraction: float) -> data.Dataset:
    """A log of the first of them."""
    environment = envs.PointMass()
    kept = episodes[: max(1, round(fraction * len(episodes)))]
    space = environment.action_space(environment.default_params)
    return data.from_episodes(kept, action_space=space, name="point mass")


def learn(name: str, dataset: data.Dataset, updates: int, seeds: int) -> dict[str, np.ndarray]:
    """Trains all seeds; `METRICS` (seeds, POINTS)."""
    algorithm, config = LEARNERS[name]
    minibatches = algorithm.batch_spec(config).minibatches
    steps = updates // (POINTS * minibatches) * minibatches  # between two measurements

    def one_seed(dataset: data.Dataset, seed: jax.Array) -> dict[str, jax.Array]:
        init_key, fit_key, probe_key = jax.random.split(jax.random.key(seed), 3)
        state = training.init(algorithm, config, dataset, init_key)

        def interval(state: Any, _: None) -> tuple[Any, dict[str, jax.Array]]:
            state, _metrics = ddm.fit(
                algorithm, config, dataset, fit_key, steps, batch_size=ROWS, state=state
            )
            return state, measure(algorithm, config, state, dataset, probe_key)

        return jax.lax.scan(interval, state, length=POINTS)[1]

    run = jax.jit(lambda dataset, keys: jax.lax.map(lambda key: one_seed(dataset, key), keys))
    return {key: np.asarray(value) for key, value in run(dataset, jnp.arange(seeds)).items()}


def measure(
    algorithm: Any, config: Any, state: Any, dataset: data.Dataset, key: jax.Array
) -> dict[str, jax.Array]:
    """Return of the policy, and estimated and true value at logged states."""
    environment = envs.PointMass()
    params = environment.default_params
    row_key, start_key, roll_key = jax.random.split(key, 3)

    def policy(observation: jax.Array, key: jax.Array) -> jax.Array:
        return algorithm.act(config, state, observation, key, deterministic=True)[0]

    def values(observations: jax.Array, discount: float, horizon: int) -> jax.Array:
        states = jax.vmap(environment.state_at)(observations)
        return evaluation.monte_carlo_values(
            environment, params, states, observations, policy, roll_key,
            discount=discount, horizon=horizon,
        )  # fmt: skip

    starts, _ = jax.vmap(environment.reset, (0, None))(
        jax.random.split(start_key, EPISODES), params
    )
    rows = jax.random.randint(row_key, (PROBES,), 0, len(dataset.observations))
    logged = dataset.observations[rows]
    actions = jax.vmap(policy, (0, None))(logged, roll_key)
    estimates = state.critic(logged, actions)
    return {
        "return": jnp.mean(values(starts, 1.0, 50)),
        "estimate": jnp.mean(estimates),
        "truth": jnp.mean(values(logged, DISCOUNT, HORIZON)),
        "largest": jnp.max(jnp.abs(estimates)),
    }


def summarize(
    name: str, fraction: float, transitions: int, found: dict[str, np.ndarray], updates: int
) -> list[dict[str, Any]]:
    """A row for each evaluation: means over seeds, with intervals."""
    rows = []
    seeds = len(found["return"])
    found = {**found, "gap": found["estimate"] - found["truth"]}
    for point in range(POINTS):
        row: dict[str, Any] = {
            "learner": name,
            "fraction": fraction,
            "transitions": transitions,
            "step": (point + 1) * updates // POINTS,
            "seeds": seeds,
        }
        for metric, values in found.items():
            low, high = statistics.bootstrap_interval(values[:, point], statistics.mean)
            row[metric] = float(values[:, point].mean())
            row |= {f"{metric}_low": float(low), f"{metric}_high": float(high)}
        rows.append(row)
    return rows


def print_row(row: dict[str, Any]) -> None:
    """One line."""
    score = f"{row['return']:.1f} [{row['return_low']:.1f}, {row['return_high']:.1f}]"
    print(
        f"{row['learner']:8}{row['transitions']:8}{row['step']:7}{score:>26}"
        f"{row['estimate']:11.4g}{row['truth']:9.1f}{row['gap']:10.4g}",
        flush=True,
    )


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Returns above, values below; a column a learner, a colour a fraction of the log."""
    names = list(dict.fromkeys(row["learner"] for row in rows))
    figure = drawing.new_figure(2.8 * len(names), 5.0)
    panels = figure.subplots(2, len(names), squeeze=False, sharex=True, sharey="row")
    for column, name in enumerate(names):
        upper, lower = panels[:, column]
        for color, fraction in enumerate(FRACTIONS):
            own = [row for row in rows if row["learner"] == name and row["fraction"] == fraction]
            steps = [row["step"] for row in own]
            label = f"{100 * fraction:g} % of the log"
            upper.plot(steps, [row["return"] for row in own], color=f"C{color}", label=label)
            upper.fill_between(
                steps,
                [row["return_low"] for row in own],
                [row["return_high"] for row in own],
                color=f"C{color}",
                alpha=0.2,
                lw=0,
            )
            lower.plot(steps, [row["estimate"] for row in own], color=f"C{color}")
            lower.plot(steps, [row["truth"] for row in own], color=f"C{color}", ls=":")
        lower.set_yscale("symlog", linthresh=10.0)
        lower.axhline(0.0, color="0.5", lw=0.8)
        lower.set_xlabel("gradient steps")
        upper.set_title(name)
        drawing.tidy(upper)
        drawing.tidy(lower)
    panels[0, 0].set_ylabel("return")
    panels[1, 0].set_ylabel("value: estimate, truth (dotted)")
    panels[0, 0].legend(fontsize=7)
    drawing.save_figure(figure, path)


if __name__ == "__main__":
    runner.launch(main)
