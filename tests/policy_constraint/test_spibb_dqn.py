"""SPIBB-DQN: its target by numpy, its counts, and the tabular SPIBB as what it comes to."""

import contract
import jax
import jax.numpy as jnp
import logs
import numpy as np
import pytest

from ddm.envs import tabular
from ddm.errors import InputError
from ddm.ops import tables
from ddm.policy_constraint import constrained_iteration, spibb, spibb_dqn
from ddm.policy_constraint.parts import pseudo_counts
from ddm.types import Batch

CONTRACT = contract.Contract(
    small={
        "num_actions": contract.NUM_ACTIONS,
        "dataset_size": 8,
        "cell_size": 100.0,
        "hash_bits": 4,
    },
    variants=[{"count": "one_hot", "behavior": "counted", "double_q": True}],
    other={
        "cell_size": 0.5,
        "count": "one_hot",
        "dataset_size": 16,
        "hash_bits": 5,
        "target_period": 2,
        "min_count": 0.5,
        "behavior": "counted",
    },
)

# Linear functions of one-hot observations are tables; counts of whole logs are exact.
TABLE = spibb_dqn.Config(
    hidden_sizes=(), behavior_learning_rate=0.03, logit_penalty=0.0, huber_width=100.0,
    target_rate=0.5, count="one_hot",
)  # fmt: skip


def _counts(observations):
    """Of four actions: 3, 1, 0 and 6, whatever the observation."""
    return jnp.broadcast_to(jnp.array([3.0, 1.0, 0.0, 6.0]), (len(observations), 4))


def _baseline(observations):
    return jnp.broadcast_to(jnp.array([0.4, 0.3, 0.2, 0.1]), (len(observations), 4))


GIVEN = spibb_dqn.Config(
    num_actions=4, hidden_sizes=(16,), discount=0.9, min_count=2.0, count=_counts,
    behavior=_baseline,
)  # fmt: skip


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(0)
    return Batch(
        observations=jnp.asarray(random.normal(size=(12, 3)), jnp.float32),
        actions=jnp.asarray(random.integers(4, size=12), jnp.int32),
        rewards=jnp.asarray(3.0 * random.normal(size=12), jnp.float32),
        next_observations=jnp.asarray(3.0 * random.normal(size=(12, 3)), jnp.float32),
        terminations=jnp.asarray(random.random(12) < 0.3),
    )


@pytest.fixture(scope="module")
def fresh(batch):
    """A state whose target differs from the critic."""
    init = jax.jit(spibb_dqn.init)
    state, other = (init(GIVEN, jax.random.key(seed), batch) for seed in (0, 1))
    return state.replace(critic=state.critic.replace(target_params=other.critic.params))


@pytest.fixture(scope="module")
def log():
    """A hundred transitions of a random MDP, as one batch."""
    mdp = tabular.random_mdp(jax.random.key(4), 8, 3, 3, discount=0.9)
    return logs.sampled_log(mdp, jnp.full((8, 3), 1 / 3), jax.random.key(2), 100)


def _expected_loss(state, batch, next_values):
    targets = batch.rewards + 0.9 * np.where(batch.terminations, 0.0, next_values)
    values = state.critic(batch.observations)[0]
    errors = np.abs(np.asarray(values)[np.arange(12), batch.actions] - targets)
    return float(np.where(errors < 1.0, 0.5 * errors**2, errors - 0.5).mean())


@pytest.mark.parametrize("min_count", [0.0, 2.0, np.inf])
@pytest.mark.parametrize("double_q", [False, True])
def test_the_target_follows_the_baseline_where_data_is_scarce(fresh, batch, min_count, double_q):
    config = GIVEN.replace(min_count=min_count, double_q=double_q)
    _, metrics = jax.jit(spibb_dqn.update)(config, fresh, batch)
    q = np.asarray(fresh.critic.target(batch.next_observations)[0])
    chooses = fresh.critic(batch.next_observations)[0]
    chooses = np.asarray(chooses) if double_q else q
    rows = np.arange(12)
    if min_count == 0.0:
        expected = q[rows, chooses.argmax(axis=1)]
    elif min_count == 2.0:  # actions 1 and 2 are scarce, with half of the baseline's mass
        best = np.array([0, 3])[chooses[:, [0, 3]].argmax(axis=1)]
        expected = 0.3 * q[:, 1] + 0.2 * q[:, 2] + 0.5 * q[rows, best]
    else:
        expected = q @ np.array([0.4, 0.3, 0.2, 0.1])
    assert metrics["critic_loss"] == pytest.approx(_expected_loss(fresh, batch, expected), rel=1e-4)
    scarce = np.asarray(_counts(batch.observations))[rows, batch.actions] < min_count
    assert metrics["uncertain"] == pytest.approx(float(scarce.mean()))


def test_the_policy_acts_by_the_critic(fresh, batch):
    observation = batch.observations[0]
    keys = jax.random.split(jax.random.key(0), 4000)
    act = jax.jit(jax.vmap(spibb_dqn.act, (None, None, None, 0)))
    actions, _ = act(GIVEN, fresh, observation, keys)
    values = np.asarray(fresh.critic(observation[None])[0])[0]
    expected = np.array([0.0, 0.3, 0.2, 0.0])
    expected[0 if values[0] > values[3] else 3] = 0.5
    np.testing.assert_allclose(np.bincount(actions, minlength=4) / 4000, expected, atol=0.03)
    action, _ = spibb_dqn.act(GIVEN, fresh, observation, keys[0], deterministic=True)
    assert int(action) == expected.argmax()


@pytest.mark.parametrize("count", ["one_hot", "grid"])
def test_tables_count_a_whole_log_exactly(log, count):
    config = TABLE.replace(num_actions=3, count=count, dataset_size=100)
    state = jax.jit(spibb_dqn.init)(config, jax.random.key(0), log)
    for _ in range(2):  # the second time does not count twice
        state = state.replace(counts=pseudo_counts.count(config, state.counts, log))
    expected = tables.pair_counts(tables.state_ids(log.observations), log.actions, 8, 3)
    found = spibb_dqn.counts_at(config, state, jnp.eye(8))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_tables_count_in_the_logs_unit_from_batches(log):
    config = TABLE.replace(num_actions=3, dataset_size=100)
    state = jax.jit(spibb_dqn.init)(config, jax.random.key(0), log)
    index = jax.random.randint(jax.random.key(1), (40_000,), 0, 100)
    rows = jax.tree.map(lambda leaf: leaf[index], log)
    state = state.replace(counts=pseudo_counts.count(config, state.counts, rows))
    expected = tables.pair_counts(tables.state_ids(log.observations), log.actions, 8, 3)
    found = spibb_dqn.counts_at(config, state, jnp.eye(8))
    # Of 40,000 draws a row gets 400 +- 20, so a pair of n rows n (1 +- 0.05 / sqrt(n)).
    np.testing.assert_allclose(found, expected, atol=0.2 * float(expected.max()) ** 0.5)


def test_a_full_table_is_closed(log):
    config = TABLE.replace(num_actions=3, dataset_size=100)
    state = jax.jit(spibb_dqn.init)(config, jax.random.key(0), log)
    full = state.counts.replace(rows=jnp.float32(2.0**24))
    after = pseudo_counts.count(config, full, log)
    jax.tree.map(np.testing.assert_array_equal, after, full)


def test_cells_are_as_large_as_they_say():
    config = spibb_dqn.Config(cell_size=0.5)
    observations = jnp.array([[0.1, -0.2], [-0.2, 0.2], [0.3, 0.0], [0.0, 0.3], [0.1, -0.2]])
    cells = np.asarray(pseudo_counts.grid_cells(config, observations))
    assert cells[0] == cells[1] == cells[4]
    assert len(set(cells.tolist())) == 3  # (0, 0), (1, 0) and (0, 1)
    # Many different observations spread over the table.
    random = jax.random.normal(jax.random.key(0), (4096, 6)) * 10.0
    cells = pseudo_counts.grid_cells(config, random)
    # Of 2^16 rows, a perfect hash would leave 4096^2 / 2^17 = 128 collisions.
    assert len(np.unique(cells)) > 4096 - 200
    assert cells.min() >= 0
    assert cells.max() < 2**16


def test_neighbours_count_by_their_distance(log):
    logged, actions = jnp.array([[0.0], [1.0], [4.0]]), jnp.array([0, 1, 0])
    count = pseudo_counts.neighbor_counts(logged, actions, 2, radius=2.0)
    # From 0.5: both at 1/2 a unit; from 3: 4 at one unit, 1 just out of reach.
    np.testing.assert_allclose(
        count(jnp.array([[0.5], [3.0]])), [[0.75, 0.75], [0.5, 0.0]], atol=1e-3
    )
    exact = pseudo_counts.neighbor_counts(log.observations, log.actions, 3, radius=1.0)
    expected = tables.pair_counts(tables.state_ids(log.observations), log.actions, 8, 3)
    np.testing.assert_allclose(exact(jnp.eye(8)), expected, atol=1e-4)


@pytest.mark.parametrize("bounded", [False, True])
def test_on_tables_it_comes_to_what_spibb_comes_to(log, bounded):
    config = TABLE.replace(
        num_actions=3, discount=0.9, min_count=4.0, dataset_size=100, behavior="counted",
        bounded=bounded, double_q=True,
    )  # fmt: skip
    anneal = jax.jit(logs.anneal, static_argnums=(0, 3))
    deep = anneal(spibb_dqn, config, log, 1500, (0.3, 3e-4))
    tabular_config = spibb.Config(num_actions=3, discount=0.9, min_count=4.0, bounded=bounded)
    exact = jax.jit(logs.sweep, static_argnums=(0, 3))(spibb, tabular_config, log, 150)
    observations = jnp.eye(8)
    counts = spibb_dqn.counts_at(config, deep, observations)
    values = deep.critic(observations)[0]
    logged = np.asarray(counts > 0)
    np.testing.assert_allclose(values[logged], exact.action_values[logged], atol=0.02)
    policy = spibb_dqn.improved_policy(config, deep, observations, values)
    np.testing.assert_allclose(policy, exact.policy, atol=1e-5)


def test_one_visit_is_the_support_constraint_and_many_are_cloning():
    line = tabular.line_world(5)
    batch = logs.exact_log(line, logs.line_counts(5))
    config = TABLE.replace(num_actions=2, discount=0.95, dataset_size=len(batch.rewards))

    def train(min_count):
        one = config.replace(min_count=min_count)
        return logs.anneal(spibb_dqn, one, batch, 600, (0.1, 3e-4))

    states = jax.jit(jax.vmap(train))(jnp.array([1.0, 2.0]))
    policies = []
    for lane, min_count in enumerate((1.0, 2.0)):
        state = jax.tree.map(lambda leaf, lane=lane: leaf[lane], states)
        values = state.critic(jnp.eye(11))[0]
        one = config.replace(min_count=min_count)
        policies.append(spibb_dqn.improved_policy(one, state, jnp.eye(11), values))
        if min_count == 1.0:
            assert float(values[5, 1]) == pytest.approx(0.95**4, abs=0.02)
    support = logs.sweep(
        constrained_iteration,
        constrained_iteration.Config(num_actions=2, discount=0.95),
        batch,
        150,
    )
    # The clone leaves a little mass on what was never logged.
    np.testing.assert_allclose(policies[0][5:-1], support.policy[5:-1], atol=0.02)
    np.testing.assert_allclose(policies[1][:-1], tabular.line_behavior(5)[:-1], atol=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_actions": 0}, "spibb_dqn: needs num_actions"),
        ({"count": "grid"}, "spibb_dqn: count=grid needs dataset_size"),
        ({"count": "trees"}, "spibb_dqn: count=trees is unknown; choose one of grid, one_hot"),
        (
            {"behavior": "best"},
            "spibb_dqn: behavior=best is unknown; choose one of cloned, counted",
        ),
    ],
)
def test_what_it_cannot_count_is_refused(batch, change, message):
    with pytest.raises(InputError, match=message):
        spibb_dqn.init(GIVEN.replace(**change), jax.random.key(0), batch)


def test_continuous_actions_are_refused(batch):
    with pytest.raises(InputError, match=r"spibb_dqn: batch.actions are real vectors"):
        spibb_dqn.init(GIVEN, jax.random.key(0), batch.replace(actions=jnp.zeros((12, 1))))
