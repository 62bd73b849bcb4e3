"""Planning in a counted model: the exact grid, and the bounds that pessimism is made for."""

import pickle

import contract
import jax
import jax.numpy as jnp
import logs
import numpy as np
import pytest

from ddm import data, evaluation
from ddm.envs import tabular
from ddm.envs.tabular.worlds import EAST, NORTH, SOUTH, WEST
from ddm.errors import InputError
from ddm.evaluation import Policy
from ddm.model_based import tabular_model
from ddm.types import Batch

CONTRACT = contract.Contract(
    small={"num_actions": contract.NUM_ACTIONS},
    variants=[{"pessimism": "halt"}],
    other={
        "min_count": 3.0,
        "pessimism": "none",
        "uncertainty": "inverse_root",
        "generalization": tabular_model.NearestOnGrid(2, 2),
    },
    context={"halt_reward": {"pessimism": "halt"}, "min_count": {"pessimism": "halt"}},
    table=True,
)

STRAIGHT, SAFE = 0.97**8, 0.97**26  # returns of the ways through the wall, and through the gap
SWITCH = (STRAIGHT - SAFE) / 0.97**4  # the wall is met at the fifth step


def _plan(config, batch, updates):
    """The state after sweeps over a log, and the metrics of the last one; may be vmapped."""
    state = tabular_model.init(config, jax.random.key(0), batch)

    def step(state, _):
        return tabular_model.update(config, state, batch)

    state, metrics = jax.lax.scan(step, state, length=updates)
    return state, jax.tree.map(lambda values: values[-1], metrics)


plan = jax.jit(_plan, static_argnames="updates")


def _from_start(batch, state=0):
    """The batch with every episode's start in one state."""
    starts = jnp.zeros_like(batch.observations).at[:, state].set(1.0)
    return batch.replace(initial_observations=starts)


def _rows(num_states, rows):
    """A log of (state, action, reward, next state, whether it ended), with starts in state 0."""
    states, actions, rewards, next_states, ends = map(np.array, zip(*rows, strict=True))
    eye = jnp.eye(num_states)
    batch = Batch(
        observations=eye[states],
        actions=jnp.asarray(actions, jnp.int32),
        rewards=jnp.asarray(rewards, jnp.float32),
        next_observations=eye[next_states],
        terminations=jnp.asarray(ends),
    )
    return _from_start(batch)


# The exact grid.


@pytest.fixture(scope="module")
def grid():
    """(configuration, log, believed and true return of a configuration) of the walled grid."""
    mdp = tabular.walled_grid()
    batch = _from_start(logs.exact_log(mdp, tabular.walled_grid_support().astype(int)))
    config = tabular_model.Config(
        num_actions=4, discount=0.97, generalization=tabular_model.NearestOnGrid(10, 10)
    )

    def solve(**fields):
        chosen = config.replace(**fields)
        state, metrics = plan(chosen, batch, 60)
        assert metrics["residual"] == 0.0
        policy = Policy(tabular_model, chosen, state)
        earned = evaluation.exact_return(policy, mdp)
        return float(metrics["start_value"]), float(earned), float(metrics["unknown"])

    return config, batch, solve


def test_without_pessimism_the_planner_believes_in_the_way_through_the_wall(grid):
    believed, earned, unknown = grid[2](pessimism="none")
    assert believed == pytest.approx(STRAIGHT, rel=1e-5)
    assert round(believed, 3) == 0.784
    assert earned == 0.0
    assert unknown > 0.0


def test_the_penalty_switches_to_the_safe_way_at_its_threshold(grid):
    assert round(SWITCH, 4) == 0.3736
    for weight, crosses in (
        (0.0, True), (0.37, True), (SWITCH - 1e-4, True),
        (SWITCH + 1e-4, False), (0.38, False), (5.0, False),
    ):  # fmt: skip
        believed, earned, _ = grid[2](pessimism="penalty", penalty_weight=weight)
        if crosses:
            assert believed == pytest.approx(STRAIGHT - weight * 0.97**4, rel=1e-4)
            assert earned == 0.0
        else:
            assert (believed, earned) == pytest.approx((SAFE, SAFE), rel=1e-5)
            assert round(earned, 3) == 0.453


@pytest.mark.parametrize("kappa", [0.0, 0.1, 1.0, 30.0, 200.0])
def test_halt_takes_the_safe_way_for_every_kappa(grid, kappa):
    believed, earned, unknown = grid[2](pessimism="halt", halt_reward=-kappa)
    assert (believed, earned) == pytest.approx((SAFE, SAFE), rel=1e-5)
    assert unknown == 0.0


def test_a_halt_that_pays_enough_is_no_pessimism(grid):
    believed, earned, _ = grid[2](pessimism="halt", halt_reward=1.0)
    assert (believed, earned) == (pytest.approx(0.97**4, rel=1e-5), 0.0)


def test_without_a_generalization_there_is_nothing_to_exploit(grid):
    believed, earned, _ = grid[2](pessimism="none", generalization="stay")
    assert (believed, earned) == pytest.approx((SAFE, SAFE), rel=1e-5)


def test_a_penalty_of_nothing_is_no_penalty_to_the_bit(grid):
    config, batch, _ = grid
    for uncertainty in ("unvisited", "inverse_root"):
        free = config.replace(pessimism="penalty", penalty_weight=0.0, uncertainty=uncertainty)
        one, _ = plan(free, batch, 60)
        other, _ = plan(config.replace(pessimism="none"), batch, 60)
        np.testing.assert_array_equal(one.action_values, other.action_values)


# The model.


def test_a_model_by_hand():
    # State 0, action 1: twice to state 1, once to state 2, and once it ended.
    rows = [(0, 1, 1.0, 1, False), (0, 1, 3.0, 1, False), (0, 1, 5.0, 2, False),
            (0, 1, 7.0, 0, True), (2, 0, -1.0, 2, True)]  # fmt: skip
    eye = np.eye(3)
    batch = _rows(3, rows)
    config = tabular_model.Config(num_actions=2, discount=0.5, penalty_weight=3.0)
    model = tabular_model.learn_model(config, batch)
    np.testing.assert_array_equal(model.counts, [[0, 4], [0, 0], [1, 0]])
    np.testing.assert_array_equal(model.rewards, [[0, 4], [0, 0], [-1, 0]])
    np.testing.assert_array_equal(model.terminations, [[0, 0.25], [0, 0], [1, 0]])
    np.testing.assert_allclose(model.transitions[0, 1], [0, 2 / 3, 1 / 3], rtol=1e-6)
    for state, action in ((0, 0), (1, 0), (1, 1), (2, 1)):  # unseen pairs stay
        np.testing.assert_array_equal(model.transitions[state, action], eye[state])

    state = tabular_model.init(config, jax.random.key(0), batch)
    state = state.replace(action_values=jnp.array([[0.0, 2.0], [6.0, 1.0], [12.0, 3.0]]))
    after, metrics = tabular_model.update(config, state, batch)
    # Of (0, 1): 4 + 0.5 * 0.75 * (2/3 * 6 + 1/3 * 12); unseen ones: 0.5 V(s) - 3.
    expected = [[-2.0, 7.0], [0.0, 0.0], [-1.0, 3.0]]
    np.testing.assert_allclose(after.action_values, expected, rtol=1e-6)
    assert metrics["residual"] == pytest.approx(13.0)
    assert metrics["start_value"] == pytest.approx(7.0)
    assert metrics["q_value"] == pytest.approx((4 * 7.0 - 1.0) / 5)
    assert metrics["unknown"] == pytest.approx(0.2)  # of five rows, that of state 2

    halting = config.replace(pessimism="halt", min_count=2.0, halt_reward=-9.0)
    after, _ = tabular_model.update(halting, state, batch)
    np.testing.assert_allclose(after.action_values, [[-9, 7], [-9, -9], [-9, -9]], rtol=1e-6)

    counted = config.replace(uncertainty="inverse_root")
    after, _ = tabular_model.update(counted, state, batch)
    expected = [[-2.0, 7.0 - 3 / 5**0.5], [0.0, 0.0], [-1.0 - 3 / 2**0.5, 3.0]]
    np.testing.assert_allclose(after.action_values, expected, rtol=1e-6)


def test_the_nearest_pair_by_hand():
    # Cells 0 1 2 / 3 4 5. Only cell 1 has rows: it goes east or (one in four) stays; south it ends.
    rows = [(1, EAST, 0.0, 2, False)] * 3 + [(1, EAST, 8.0, 1, False), (1, SOUTH, 5.0, 4, True)]
    batch = _rows(6, rows)
    nearest = tabular_model.NearestOnGrid(2, 3)
    config = tabular_model.Config(num_actions=4, generalization=nearest)
    model = tabular_model.learn_model(config, batch)
    for cell, east in enumerate((1, 2, 2, 4, 5, 5)):  # not beyond the border
        expected = 0.75 * np.eye(6)[east] + 0.25 * np.eye(6)[cell]
        np.testing.assert_allclose(model.transitions[cell, EAST], expected, atol=1e-6)
        np.testing.assert_array_equal(model.rewards[cell], [0.0, 2.0, 5.0, 0.0])
        np.testing.assert_array_equal(model.terminations[cell], [0.0, 0.0, 1.0, 0.0])
        for action in (NORTH, WEST):  # never seen
            np.testing.assert_array_equal(model.transitions[cell, action], np.eye(6)[cell])
    assert model.counts.sum() == 5
    assert hash(nearest) == hash(tabular_model.NearestOnGrid(2, 3))
    assert pickle.loads(pickle.dumps(nearest)) == nearest


def test_of_two_examples_the_nearer_one_counts():
    # One row of five cells: in cell 0 the action stays, in cell 4 it goes west.
    batch = _rows(5, [(0, 0, 0.0, 0, False), (4, 0, 0.0, 3, False)])
    config = tabular_model.Config(num_actions=1, generalization=tabular_model.NearestOnGrid(1, 5))
    model = tabular_model.learn_model(config, batch)
    np.testing.assert_array_equal(jnp.argmax(model.transitions[:, 0], -1), [0, 1, 2, 2, 3])


@pytest.mark.parametrize("uncertainty", sorted(tabular_model.UNCERTAINTIES))
def test_a_generalization_computes_in_float32(strict, uncertainty):
    batch = jax.tree.map(
        lambda leaf: (
            leaf if leaf.dtype == bool else leaf.astype(leaf.dtype.name.replace("64", "32"))
        ),
        _rows(6, [(1, EAST, 1.0, 2, False), (2, SOUTH, 0.0, 5, True)]),
    )
    nearest = tabular_model.NearestOnGrid(2, 3)
    config = tabular_model.Config(num_actions=4, generalization=nearest, uncertainty=uncertainty)
    state = jax.eval_shape(tabular_model.init, config, jax.random.key(0), batch)
    after, metrics = jax.eval_shape(tabular_model.update, config, state, batch)
    assert after.action_values.dtype == jnp.float32
    assert {value.dtype for value in metrics.values()} == {np.dtype(np.float32)}


def test_a_grid_of_another_size_is_refused(grid):
    config, batch, _ = grid
    config = config.replace(generalization=tabular_model.NearestOnGrid(10, 9))
    with pytest.raises(InputError, match="10 x 9 cells, the observations have 100 columns"):
        tabular_model.learn_model(config, batch)


# Random MDPs: four equally likely successors for each pair, so that a log of four rows is exact.

SHAPE, DISCOUNT, MOST = (8, 3), 0.9, 1.0 / (1.0 - 0.9)  # rewards lie in [0, 1], returns in [0, 10]


def _random_mdp(seed):
    random = np.random.default_rng(seed)
    successors = random.integers(SHAPE[0], size=(*SHAPE, 4))
    transitions = np.eye(SHAPE[0])[successors].mean(axis=2)
    return tabular.make_mdp(transitions, random.uniform(size=SHAPE), 0, DISCOUNT)


def _partial_log(mdp, seed):
    """Exact rows of two of three actions in each state, and which ones (S, A)."""
    seen = np.tile([True, True, False], (SHAPE[0], 1))
    seen = np.random.default_rng(seed).permuted(seen, axis=1)
    return _from_start(logs.exact_log(mdp, 4 * seen)), seen


def hope(model):
    """A guess at the upper end: an unseen pair earns the largest reward and stays."""
    model = tabular_model.stay(model)
    return model.replace(rewards=jnp.where(model.counts == 0.0, 1.0, model.rewards))


def _believed_and_true(mdp, config, batch):
    """(S,) values that the planner believes in, and those that its policy has."""
    state, metrics = plan(config, batch, 250)
    assert metrics["residual"] < 1e-5
    policy = jax.nn.one_hot(jnp.argmax(state.action_values, -1), SHAPE[1])
    return state.action_values.max(-1), tabular.evaluate_policy(mdp, policy)[0]


@pytest.mark.parametrize("generalization", ["stay", hope])
@pytest.mark.parametrize("pessimism", ["penalty", "halt"])
def test_pessimism_bounds_the_value_of_the_learnt_policy_from_below(generalization, pessimism):
    # Rewards and next states of unseen pairs are guesses: in total they are wrong by at most MOST.
    config = tabular_model.Config(
        num_actions=3, discount=DISCOUNT, generalization=generalization, pessimism=pessimism,
        penalty_weight=MOST, halt_reward=0.0,
    )  # fmt: skip
    for seed in range(8):
        mdp = _random_mdp(seed)
        batch, seen = _partial_log(mdp, seed)
        believed, true = _believed_and_true(mdp, config, batch)
        assert (believed <= true + 1e-3).all()
        # What was seen is known exactly, so the policy is the best of those that stay inside.
        inside = tabular.value_iteration(mdp, known=seen, unknown_value=-100.0)
        assert (true >= inside.values - 1e-3).all()
        trusting = config.replace(pessimism="none", generalization=hope)
        believed, true = _believed_and_true(mdp, trusting, batch)
        assert (believed > true + 1e-3).any()
        assert believed[0] > true[0] + 0.5


def test_a_penalty_above_the_models_error_bounds_values_learnt_from_few_rows():
    config = tabular_model.Config(
        num_actions=3, discount=DISCOUNT, uncertainty="inverse_root", generalization=hope
    )
    optimistic = []
    for seed in range(8):
        mdp = _random_mdp(seed)
        uniform = jnp.full(SHAPE, 1 / SHAPE[1])
        batch = _from_start(logs.sampled_log(mdp, uniform, jax.random.key(seed), 60))
        model = tabular_model.learn_model(config, batch)
        # The error of one step: of the reward, and of the mean of any value in [0, MOST].
        distances = 0.5 * jnp.abs(model.transitions - mdp.transitions).sum(-1)
        errors = jnp.abs(model.rewards - mdp.expected_rewards()) + DISCOUNT * MOST * distances
        uncertainties = tabular_model.inverse_root(model.counts)
        weight = jnp.max(errors / uncertainties)
        believed, true = _believed_and_true(mdp, config.replace(penalty_weight=weight), batch)
        assert (believed <= true + 1e-3).all()
        believed, true = _believed_and_true(mdp, config.replace(pessimism="none"), batch)
        optimistic.append(float(believed[0] - true[0]))
    assert min(optimistic) > 0.0
    assert np.mean(optimistic) > 1.0


@pytest.mark.parametrize("pessimism", ["none", "penalty", "halt"])
def test_a_model_with_the_truth_inside_plans_optimally(pessimism):
    config = tabular_model.Config(num_actions=3, discount=DISCOUNT, pessimism=pessimism)
    for seed in range(3):
        mdp = _random_mdp(seed)
        batch = _from_start(logs.exact_log(mdp, np.full(SHAPE, 4)))
        state, _ = plan(config, batch, 250)
        exact = tabular.value_iteration(mdp)
        np.testing.assert_allclose(state.action_values, exact.action_values, atol=1e-4)
        np.testing.assert_array_equal(jnp.argmax(state.action_values, -1), exact.policy.argmax(-1))


def test_one_row_of_each_pair_is_enough_where_nothing_is_random():
    line = tabular.line_world(5)
    batch = _from_start(logs.exact_log(line, [[1, 1]] * 10 + [[0, 0]]), state=5)
    config = tabular_model.Config(num_actions=2, discount=0.95)
    state, metrics = plan(config, batch, 250)
    exact = tabular.value_iteration(line)
    np.testing.assert_allclose(state.action_values[:-1], exact.action_values[:-1], atol=1e-5)
    assert metrics["start_value"] == pytest.approx(0.95**4, abs=1e-5)


def test_few_visits_halt(grid):
    # The safe way was walked three times, all else once: pairs with one row are unknown at two.
    mdp = tabular.walled_grid()
    counts = np.asarray(tabular.walled_grid_support()).astype(int)
    path = [(10 * row, SOUTH) for row in range(9)] + [(90 + column, EAST) for column in range(9)]
    path += [(10 * row + 9, NORTH) for row in range(9, 0, -1)]
    counts[tuple(np.array(path).T)] = 3
    batch = _from_start(logs.exact_log(mdp, counts))
    config = grid[0].replace(pessimism="halt", halt_reward=-0.5)
    for min_count, expected in ((0.0, STRAIGHT), (1.0, SAFE), (3.0, SAFE), (4.0, -0.5)):
        _, metrics = plan(config.replace(min_count=min_count), batch, 60)
        assert metrics["start_value"] == pytest.approx(expected, rel=1e-5)


def test_a_log_of_episodes_gives_the_starts(grid):
    config = grid[0]
    eye = np.eye(100, dtype=np.float32)
    episode = {
        "observations": eye[[95, 96, 97]], "actions": np.array([EAST, EAST]),
        "rewards": np.zeros(2), "terminations": np.zeros(2, bool),
        "truncations": np.array([False, True]),
    }  # fmt: skip
    dataset = data.from_episodes([episode])
    spec = tabular_model.batch_spec(config)
    batch = data.sample(dataset, jax.random.key(0), 1, spec)
    np.testing.assert_array_equal(batch.initial_observations, eye[[95, 95]])


@pytest.mark.parametrize(
    ("num_actions", "actions", "message"),
    [
        (3, jnp.zeros((4, 1)), "tabular_model: batch.actions are float32"),
        (0, jnp.zeros(4, jnp.int32), "tabular_model: needs num_actions"),
    ],
)
def test_what_no_table_can_hold_is_refused_by_name(num_actions, actions, message):
    batch = _rows(4, [(0, 0, 0.0, 0, False)] * 4).replace(actions=actions)
    with pytest.raises(InputError, match=message):
        tabular_model.init(tabular_model.Config(num_actions=num_actions), jax.random.key(0), batch)


@pytest.mark.parametrize(
    ("field", "value"),
    [("penalty_weight", -0.1), ("min_count", -1.0), ("discount", 1.1), ("pessimism", "some")],
)
def test_values_that_mean_nothing_are_refused(field, value):
    with pytest.raises(InputError, match=f"tabular_model: {field}"):
        tabular_model.Config(**{field: value})
