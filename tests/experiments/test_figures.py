"""The numbers behind the figures, against published tables and closed forms."""

from __future__ import annotations

import contextlib
import csv
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts

from ddm.envs import tabular

FOLDER = pathlib.Path(__file__).parents[2] / "experiments" / "figures"


@pytest.fixture(scope="module")
def figures():
    """Imports a figure as its script does; one at a time, since two may define the same flag."""
    with contextlib.ExitStack() as now:
        loaded = {}

        def load(name):
            if name not in loaded:
                now.close()
                loaded.clear()
                loaded[name] = now.enter_context(scripts.imported(FOLDER / f"{name}.py"))
            return loaded[name]

        yield load


def _is_printed(value, text):
    """Whether a number rounds to a printed one; a hair more than half a unit of its last digit."""
    mantissa, _, power = text.partition("e")
    decimals = len(mantissa.partition(".")[2]) - int(power or 0)
    return abs(float(value) - float(text)) <= 0.51 * 10.0**-decimals


# The grid world.


def test_the_grid_agrees_with_every_published_value(figures, float64):
    grid_world = figures("grid_world")
    rows = grid_world.solve(0.99, 0.5)
    assert len(rows) == 22
    for row in rows:
        assert round(row["value"], 2) == row["published"]
    assert 0.0049 < max(row["difference"] for row in rows) < 0.005
    policy = {(row["row"], row["column"]): row["action"] for row in rows}
    assert "".join(policy[0, j] for j in range(5)) == "EEEES"
    assert "".join(policy[3, j] for j in range(5)) == "NNNNN"
    assert {policy[4, j] for j in range(5)} | {policy[2, 2], policy[2, 4]} == {"exit"}


@pytest.mark.parametrize(
    ("discount", "noise", "first_row"),
    [
        (0.99, 0.0, [9.41, 9.51, 9.61, 9.70, 9.80]),
        (0.1, 0.5, [0.00, 0.00, 0.00, 0.00, 0.03]),
        (0.1, 0.0, [0.00, 0.00, 0.01, 0.01, 0.10]),
    ],
)
def test_the_grids_other_answers(figures, float64, discount, noise, first_row):
    rows = figures("grid_world").solve(discount, noise)
    assert [round(row["value"], 2) for row in rows if row["row"] == 0] == first_row
    assert {row["published"] for row in rows} == {None}


# The line world: (learner, setting, initial value) -> probability of reaching a goal at 3, 5, 10.

REACH = {
    ("kl_constraint", 0.01): (".0040", "1.16e-4", "1.6e-8"),
    ("kl_constraint", 0.1): (".0274", "3.2e-3", "1.6e-5"),
    ("kl_constraint", 0.5): (".243", ".159", ".082"),
    ("kl_constraint", 1.0): (".573", ".554", ".549"),
    ("kl_constraint", 2.0): (".949", ".949", ".949"),
    ("kl_constraint", np.log(10.0)): ("1", "1", "1"),
    ("kl_penalty", 1.0): (None, "4e-5", None),
    ("kl_penalty", 0.3): (None, "3.8e-4", None),
    ("kl_penalty", 0.1): (".93", ".116", "2.2e-6"),
    ("kl_penalty", 0.03): (None, "1", ".94"),
    ("total_variation", 0.3): (None, ".048", None),
    ("total_variation", 0.5): (None, ".365", None),
    ("total_variation", 0.8): (None, ".889", None),
    ("smoothed_kl_penalty", 1.0): (None, "6e-5", None),
    ("smoothed_kl_penalty", 0.3): (None, "5.85e-4", None),
    ("smoothed_kl_penalty", 0.1): (None, ".161", None),
    ("iql", "0.5 100"): (".24", ".003", "6e-8"),
    ("iql", "0.7 10"): (".089", ".001", "2e-8"),
    ("iql", "0.9 100"): ("1", "1", ".843"),
    ("iql", "0.99 10"): (".991", ".772", "3e-4"),
    ("iql", "0.999 3"): (".031", "5e-4", "1e-8"),
}


one_line = pytest.mark.xdist_group("line")  # the fixture is most of their time


@pytest.fixture(scope="module")
def line(figures):
    """All rows of the three lines."""
    line_world = figures("line_world")
    if hasattr(jax, "enable_x64"):
        enable = jax.enable_x64
    else:  # before jax 0.8
        from jax.experimental import enable_x64 as enable
    with enable(True):
        rows = [row for length in (3, 5, 10) for row in line_world.solve(length)]
    return lambda **wanted: line_world.find(rows, **wanted)


@pytest.mark.slow
@one_line
@pytest.mark.parametrize(("learner", "setting"), REACH)
def test_reaching_the_goal_of_the_line(line, learner, setting):
    initial_value = None if learner == "iql" else 0.0
    for length, expected in zip((3, 5, 10), REACH[learner, setting], strict=True):
        if expected is not None:
            [row] = [
                row
                for row in line(length=length, learner=learner, initial_value=initial_value)
                if row["setting"] == setting
                or (learner != "iql" and abs(row["setting"] - setting) < 1e-12)
            ]
            assert _is_printed(row["reach"], expected), (length, row["reach"])


@pytest.mark.slow
@one_line
def test_a_kl_constraint_moves_as_much_as_its_equation_allows(line):
    for row in line(learner="kl_constraint"):
        if row["setting"] < 2.3:
            x = row["right_at_start"]
            divergence = x * np.log(x / 0.1) + (1 - x) * np.log((1 - x) / 0.9)
            assert divergence == pytest.approx(row["setting"], abs=1e-6)
        assert row["off_support"] == 0.0


@pytest.mark.slow
@one_line
def test_only_the_support_constraint_resists_optimism_at_any_length(line):
    for length in (3, 5, 10):
        for initial_value in (0.0, 2.0):
            [row] = line(length=length, learner="support", initial_value=initial_value)
            assert row["reach"] == pytest.approx(1.0)
            assert row["return"] == pytest.approx(0.95 ** (length - 1))
            assert row["value_right"] == pytest.approx(0.95 ** (length - 1))
        for learner in ("unconstrained", "total_variation"):
            for row in line(length=length, learner=learner, initial_value=2.0):
                assert row["reach"] == 0.0
                assert row["value_left"] > row["value_right"]
        [row] = line(length=length, learner="behavior")
        assert row["reach"] == pytest.approx(8.0 / (9.0 ** (length + 1) - 1.0), rel=1e-6)


@pytest.mark.slow
@one_line
def test_a_smoothed_kl_penalty_leaks_the_more_the_weaker_it_is(line):
    """Values at the start and reach within 200 steps, for unseen actions valued 2."""
    expected = {
        0.3: ("1.08", ".951", "1.2e-5"),
        0.1: ("1.52", "1.35", "2e-7"),
        0.03: ("1.77", "1.59", "0.00000000"),
    }
    leaks = []
    for weight, (left, right, reached) in expected.items():
        [row] = line(length=5, learner="smoothed_kl_penalty", setting=weight, initial_value=2.0)
        assert _is_printed(row["value_left"], left)
        assert _is_printed(row["value_right"], right)
        assert _is_printed(row["reach_within"], reached)
        leaks.append(row["off_support"])
    assert leaks == sorted(leaks)


# Compounding errors.


def test_exact_costs_agree_with_the_closed_form_and_the_solver(figures, float64):
    compounding_error = figures("compounding_error")
    for error, printed in (
        (0.001, "0.0548 0.2087 1.2544 4.8874 18.830 106.77 368.33"),
        (0.01, "0.5338 1.9728 10.896 37.237 114.26 401.65 901.00"),
        (0.1, "4.1381 12.094 41.046 91.000 191.00 491.00 991.00"),
    ):
        policy = compounding_error.make_policy(3, error, 0.0)
        costs = np.asarray(compounding_error.exact_costs(tabular.tightrope(3), policy, 1_000))
        steps = np.arange(1, 1_001)
        closed = steps - (1 - error) * (1 - (1 - error) ** steps) / error
        np.testing.assert_allclose(costs, closed, rtol=1e-9)
        found = [costs[horizon - 1] for horizon in compounding_error.PRINTED]
        for cost, text in zip(found, printed.split(), strict=True):
            assert _is_printed(cost, text)
    mdp, policy = tabular.tightrope(5), compounding_error.make_policy(5, 0.01, 0.5)
    costs = compounding_error.exact_costs(mdp, policy, 100)
    assert costs[-1] == pytest.approx(-float(tabular.expected_return(mdp, policy, 100)))


def test_costs_with_recovery_and_exponents(figures, float64):
    compounding_error = figures("compounding_error")
    rows = compounding_error.exact_rows(160)

    def costs(k):
        names = ("bc", "bc_coin", "dagger")
        return [compounding_error.curve(rows, name, k, 0.01)[100]["cost"] for name in names]

    assert [round(x, 3) for x in costs(1)] == [37.237, 2.903, 1.980]
    assert [round(x, 3) for x in costs(3)] == [37.237, 11.817, 3.882]
    assert [round(x, 3) for x in costs(5)] == [37.237, 25.964, 5.707]
    for error, slope in ((1e-4, 1.967), (1e-3, 1.952), (1e-2, 1.817)):
        assert round(compounding_error.exponent(rows, "bc", 1, error), 3) == slope
        assert compounding_error.exponent(rows, "dagger", 1, error) < 1.05


def test_sampled_costs_lie_about_the_exact_ones(figures):
    compounding_error = figures("compounding_error")
    episodes, longest = 4_000, 20
    for k, off_rope in ((1, 0.0), (3, 0.9)):
        mdp, policy = tabular.tightrope(k), compounding_error.make_policy(k, 0.1, off_rope)
        params = tabular.make_params(mdp, max_steps=longest + 1)
        sampled = compounding_error.rollout_costs(
            params, policy, jax.random.key(0), episodes, longest
        )
        totals = np.asarray(sampled).sum(axis=1)
        exact = float(compounding_error.exact_costs(mdp, policy, longest)[-1])
        assert abs(totals.mean() - exact) < 4.0 * totals.std() / np.sqrt(episodes)


# Data regimes.


def test_exact_returns_of_the_regimes(figures):
    data_regimes = figures("data_regimes")
    mdp = tabular.discount_grid(data_regimes.NOISE, data_regimes.DISCOUNT)
    found = {
        name: [row["return"] for row in data_regimes.exact_rows(mdp, name, behavior)]
        for name, behavior in data_regimes.behaviors().items()
    }
    best = float(mdp.initial @ tabular.value_iteration(mdp).values)
    np.testing.assert_allclose(found["expert"], [best, best], rtol=1e-5)
    assert found["broad"][1] == pytest.approx(best, rel=1e-5)
    assert abs(found["narrow"][0] - found["broad"][0]) < 0.06  # cloning cannot tell them apart
    assert found["narrow"][1] - found["narrow"][0] < 0.3 * (found["broad"][1] - found["broad"][0])


def test_learners_on_a_broad_log(figures):
    """Cloning gives the empirical policy; offline RL on the same log far more."""
    data_regimes = figures("data_regimes")
    mdp = tabular.discount_grid(data_regimes.NOISE, data_regimes.DISCOUNT)
    broad = data_regimes.behaviors()["broad"]
    logs = data_regimes.sample_logs(broad, jax.random.key(0), 2, 2_000)
    assert logs.observations.shape == (2, 2 * 2_000, mdp.num_states)  # before and after each step
    states, actions = np.argmax(logs.observations[:, ::2], axis=-1), np.asarray(logs.actions)
    assert np.all(np.asarray(broad)[states, actions] > 0.0)
    cloned = data_regimes.learned_returns("BC", mdp, logs)
    counts = np.zeros((mdp.num_states, 4))
    np.add.at(counts, (states[0], actions[0]), 1.0)
    visits = counts.sum(axis=1, keepdims=True)
    policy = np.where(visits > 0, counts / np.maximum(visits, 1.0), 0.25)
    expected = tabular.expected_return(mdp, jnp.asarray(policy, jnp.float32))
    assert cloned[0] == pytest.approx(float(expected), abs=1e-3)
    improved = data_regimes.learned_returns("support", mdp, logs)
    assert np.all(improved > cloned + 3.0)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("grid_world", []),
        ("compounding_error", ["--sampled_episodes=20", "--longest=200"]),
        ("model_exploitation", []),
        ("model_uncertainty", ["--transitions=300", "--epochs=2"]),
        ("model_planning", ["--transitions=300", "--epochs=1", "--updates=250", "--seeds=1"]),
        ("corrective_labels", ["--seeds=2", "--steps=2", "--epochs=1", "--episodes=2"]),
    ],
)
def test_scripts_write_a_table_and_a_picture(name, arguments, tmp_path):
    script = FOLDER / f"{name}.py"
    done = scripts.run(script, f"--output_dir={tmp_path}", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.csv", f"{name}.png"}
    with (tmp_path / f"{name}.csv").open() as file:
        lines = list(csv.reader(file))
    assert len(lines) > 80
    assert {len(line) for line in lines} == {len(lines[0])}


# Sepsis: the tables of the learners are as published, within what a log of that size decides.


def test_only_constrained_learners_treat_better_than_the_clinicians(figures):
    sepsis = figures("sepsis")
    mdp = tabular.sepsis_world()
    behavior = tabular.sepsis_behavior(mdp, 0.05)
    log = sepsis.sample_log(mdp, behavior, 0, 1_000)
    constrained, _ = sepsis.learn("BCQ, threshold 0.3", mdp, log, 300)
    assert constrained == pytest.approx(0.362, abs=0.02)
    assert constrained > sepsis.exact_return(mdp, behavior)
    naive, belief = sepsis.learn("none, optimism 1", mdp, log, 300)
    assert naive < -0.7
    assert belief > 0.98
    cloned, _ = sepsis.learn("BC", mdp, log, 300)
    assert cloned == pytest.approx(0.25, abs=0.03)  # knows less than the clinicians


# The walled grid.


def test_planners_believe_and_earn_what_the_closed_forms_say(figures):
    rows = figures("model_exploitation").solve()
    straight, safe, at_the_wall = 0.97**8, 0.97**26, 0.97**4
    assert len(rows) == 1 + 61 + 41
    for row in rows:
        setting = row["setting"]
        through, steps = {
            "none": lambda _: (straight, 9),
            "penalty": lambda weight: (straight - weight * at_the_wall, 9),
            "halt": lambda kappa: (-kappa * at_the_wall, 5),
        }[row["pessimism"]](setting)
        assert row["believed"] == pytest.approx(max(through, safe), abs=2e-5)
        crosses = through > safe
        assert row["earned"] == pytest.approx(0.0 if crosses else safe, abs=2e-5)
        assert (row["steps"], row["unseen"]) == ((steps, 1) if crosses else (27, 0))
        assert row["world_path"][-1] == (4 if crosses else 9)
    believed = [(row["pessimism"], row["setting"]) for row in rows if row["unseen"]]
    assert ("penalty", 0.37) in believed
    assert ("penalty", 0.38) not in believed
    assert not [kappa for name, kappa in believed if name == "halt" and kappa >= 0.0]


# What uncertainties know.


def test_disagreement_knows_where_data_are_missing(figures):
    """From the points that were recorded, whose errors are those of the known system."""
    uncertainty = figures("model_uncertainty")
    path = FOLDER.parents[1] / "benchmarks" / "results" / "model_uncertainty.csv"
    with path.open() as file:
        rows = [
            {k: v if k in ("noise", "where") else float(v) for k, v in row.items()}
            for row in csv.DictReader(file)
        ]
    for noise in uncertainty.NOISES:
        found = {name: uncertainty.judge(rows, noise, name) for name in uncertainty.UNCERTAINTIES}
        assert found.pop("max_std")["auroc"] < 0.4
        for numbers in found.values():
            assert numbers["auroc"] > 0.95
            assert numbers["all"] > 0.8
    states = np.array([[0.5, -0.25]], np.float32)
    following = uncertainty.mean_next(states, np.array([[0.5, -0.5]]))
    expected = [0.55 + 0.05 * np.sin(-0.75), -0.3 + 0.05 * np.sin(1.5)]
    np.testing.assert_allclose(following, [expected], rtol=1e-6)
    stds = uncertainty.noise_std("heteroscedastic", np.array([[0.0, -1.0], [0.0, 1.0]]))
    np.testing.assert_allclose(stds, [[0.003], [0.03]])
    log = uncertainty.make_log("homoscedastic", 2_000, 0)
    raw = np.asarray(log.normalization.denormalize_observations(log.observations))
    begins, ends = raw[::2], raw[1::2]
    assert begins[:, 0].max() < 0.0
    noise = ends - uncertainty.mean_next(begins, np.asarray(log.actions))
    np.testing.assert_allclose(noise.std(axis=0), 0.01, rtol=0.1)


# Plans with and without pessimism.


def test_only_a_plan_without_pessimism_ends_in_the_swamp(figures):
    """From the ways that were recorded, of the system that is known."""
    planning = figures("model_planning")
    path = FOLDER.parents[1] / "benchmarks" / "results" / "model_planning.csv"
    with path.open() as file:
        rows = [
            {k: v if k == "method" else float(v) for k, v in row.items()}
            for row in csv.DictReader(file)
        ]
    believed, earned = (
        {name: planning.returns(rows, name, column) for name in planning.METHODS}
        for column in ("believed", "earned")
    )
    for name in planning.METHODS:
        assert len(earned[name]) == 3
        for kind in ("imagined", "real"):
            enters = planning.inside(planning.paths(rows, name, kind), planning.SWAMP).any(axis=1)
            assert enters.all() if name == "MBPO" else not enters.any()
        way = planning.paths(rows, name, "real")
        costs = np.linalg.norm(way[:, 1:] - np.array(planning.GOAL), axis=-1).sum(axis=1)
        np.testing.assert_allclose(earned[name], -costs, rtol=1e-4)
    assert np.all(believed["MBPO"] - earned["MBPO"] > 20.0)
    for name in ("MOPO", "MOReL"):
        assert np.all(np.abs(believed[name] - earned[name]) < 3.0)
        assert np.all(earned[name] > earned["MBPO"] + 10.0)


def test_the_plane_has_a_current_and_a_swamp_that_the_log_does_not_show(figures):
    planning = figures("model_planning")
    states = jnp.array([[0.5, -0.25], [0.1, -0.5]], jnp.float32)
    current = 0.04 * np.sin(5.0 * np.array([[-0.25, 0.5], [-0.5, 0.1]]))
    change = (0.15 * np.array([1.0, -1.0]) + current) * np.array([[1.0], [0.02]])
    following = planning.move(states, jnp.array([[1.0, -1.0]], jnp.float32))
    np.testing.assert_allclose(following, states + change, atol=1e-6)
    log = planning.make_log(2_000, 0)
    begins, ends = np.asarray(log.observations)[::2], np.asarray(log.observations)[1::2]
    assert not planning.inside(begins, planning.GAP).any()
    assert not planning.inside(ends, planning.SWAMP).any()
    np.testing.assert_allclose(ends, planning.move(begins, log.actions), atol=1e-6)
    np.testing.assert_allclose(log.rewards, -np.linalg.norm(ends - [0.8, -0.5], axis=-1), atol=1e-6)


# Whether the game of GAIL converges.


def test_the_exact_divergence_is_that_of_both_occupancies(figures):
    """By sums over time, with the absorbing state; nothing for the expert itself."""
    gail_convergence = figures("gail_convergence")
    mdp, expert = gail_convergence.grid(), gail_convergence.expert_policy()
    assert float(gail_convergence.exact_divergence(expert, expert)) == pytest.approx(0.0, abs=1e-6)
    uniform = np.full(expert.shape, 1.0 / expert.shape[1])
    chain, alive = np.asarray(mdp.transitions), ~np.asarray(mdp.terminal)

    def occupancy(policy):
        visits, states = np.zeros(policy.shape), np.asarray(mdp.initial)
        for step in range(400):
            states = states * alive
            visits += 0.05 * 0.95**step * states[:, None] * policy
            states = np.einsum("s,sa,san->n", states, policy, chain)
        return np.append(visits.ravel(), 1.0 - visits.sum())

    p, q = occupancy(uniform), occupancy(np.asarray(expert))
    parts = [0.5 * x * np.log(np.where(x > 0, 2 * x / (p + q + 1e-300), 1.0)) for x in (p, q)]
    found = float(gail_convergence.exact_divergence(jnp.asarray(uniform, jnp.float32), expert))
    assert found == pytest.approx(sum(part.sum() for part in parts), abs=1e-4)


def test_gail_converges_where_ends_are_worth_something():
    """From the points that were recorded."""
    path = FOLDER.parents[1] / "benchmarks" / "results" / "gail_convergence.csv"
    last = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            last[row["contestant"]] = {k: float(v) for k, v in row.items() if k != "contestant"}
    whole, cut = last["softplus(h)"], last["softplus(h), no absorbing state"]
    assert whole["estimated_divergence"] < 0.05
    assert whole["divergence"] < 0.05 < 0.2 < cut["divergence"]
    assert 0.4 < whole["own_accuracy"] < 0.7
    assert whole["return"] > 2.0 > 0.0 > cut["return"]


def test_the_page_on_gail_is_drawn(figures, tmp_path):
    gail_convergence = figures("gail_convergence")
    random = np.random.default_rng(0)
    found = {name: random.random((2, 3)) for name in gail_convergence.METRICS}
    rows = gail_convergence.summarize("softplus(h)", found)
    assert [row["update"] for row in rows] == [1, 2, 3]
    assert rows[1]["return"] == pytest.approx(found["return"][:, 1].mean())
    assert rows[1]["return_low"] <= rows[1]["return"] <= rows[1]["return_high"]
    gail_convergence.draw(rows, 0.5, tmp_path / "gail.png")
    assert (tmp_path / "gail.png").stat().st_size > 10_000


# Imitation as demonstrations grow.


def test_logs_of_few_demonstrations_repeat_them(figures):
    figure = figures("imitation_with_data")
    world = figure.point_mass.PointMass()
    logs = figure.demonstrate(world, 2)
    assert logs.rewards.shape == (2 * len(figure.COUNTS), 25 * 50)
    episodes = np.asarray(logs.actions).reshape(len(figure.COUNTS), 2, 25, 50, 8)
    for count, both in zip(figure.COUNTS, episodes, strict=True):
        for log in both:
            assert len(np.unique(log[:, 30, 0])) == count
            np.testing.assert_array_equal(log[:count], log[-count:])
    np.testing.assert_array_equal(episodes[0, :, 0], episodes[-1, :, 0])  # the seed's first one
    assert np.any(episodes[0, 0] != episodes[0, 1])


def test_a_row_holds_the_returns_of_its_own_lanes(figures):
    figure = figures("imitation_with_data")
    returns = np.arange(4 * 3 * 2.0).reshape(4, 6)  # noises, then counts and seeds
    rows = figure.rows_of("BC", returns, 2)
    found = {(row["demonstrations"], row["noise"]): row["return"] for row in rows}
    assert found == {
        (1, 0.0): 0.5, (5, 0.0): 2.5, (25, 0.0): 4.5,
        (5, 0.25): 8.5, (5, 0.5): 14.5, (5, 1.0): 20.5,
    }  # fmt: skip


def test_noise_on_executed_actions_costs_the_expert(figures):
    figure = figures("imitation_with_data")
    world = figure.point_mass.PointMass()
    noisy, start = figure.Disturbed(world), jnp.zeros(8)
    still = noisy.step(jax.random.key(0), world.state_at(start), start, noisy.default_params)
    np.testing.assert_array_equal(still[0], start)
    params = figure.NoisyParams(world.default_params, 0.5)
    keys = jax.random.split(jax.random.key(0), 2000)
    moved = jax.vmap(lambda key: noisy.step(key, world.state_at(start), start, params)[0])(keys)
    # A tenth of a normal number that is cut at 1, two standard deviations.
    assert float(jnp.std(moved)) == pytest.approx(0.1 * 0.5 * 0.96, rel=0.03)
    quiet, *_, loud = (row["return"] for row in figure.expert_rows(world, 2, 20))
    assert -14.5 < quiet < -11.0  # -13.1 in the world's own test
    assert loud < quiet - 3.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BC", "SQIL (online)"])
def test_every_kind_of_method_is_trained_and_scored(figures, name):
    figure = figures("imitation_with_data")
    world = figure.point_mass.PointMass()
    logs = jax.tree.map(lambda leaf: leaf[:2], figure.demonstrate(world, 1))
    policy = figure.learn(figure.METHODS[name], world, logs, 3)
    assert int(policy.state.step[0]) == 3
    returns = figure.score(policy, world, 2)
    assert returns.shape == (4, 2)
    assert np.isfinite(returns).all()
    assert np.all(returns < 0.0)


def test_corrective_labels_stop_errors_from_adding_up(figures):
    """From the errors that were recorded, in each of the four seeds."""
    labels = figures("corrective_labels")
    path = FOLDER.parents[1] / "benchmarks" / "results" / "corrective_labels.csv"
    with path.open() as file:
        rows = [
            {
                "method": row["method"],
                "demonstration_noise": float(row["demonstration_noise"]),
                "step": int(row["step"]),
                "error": float(row["error"]),
            }
            for row in csv.DictReader(file)
        ]
    still, noisy = labels.final(rows, 0.0), labels.final(rows, 0.1)
    assert {len(errors) for errors in (*still.values(), *noisy.values())} == {4}
    assert (still["known, disturb"] <= 0.15 * still["BC"]).all()
    assert (np.abs(still["known, backtrack"] - 0.09) < 0.025).all()
    np.testing.assert_allclose(still["NoiseBC"], labels.OPEN_LOOP, rtol=0.1)
    assert (still["BC"] > labels.OPEN_LOOP).all()
    assert (noisy["learned, sampling"] <= 0.6 * noisy["BC"]).all()
    constant = np.full((1, 3, 61), 0.5)
    assert [row["error"] for row in labels.report("any", 0.0, constant)] == [0.5] * 6
