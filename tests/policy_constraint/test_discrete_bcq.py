"""Discrete BCQ: its losses by numpy, double DQN and cloning as its limits, the line world."""

import contract
import jax
import jax.numpy as jnp
import logs
import numpy as np
import pytest

from ddm.envs import tabular
from ddm.errors import InputError
from ddm.policy_constraint import discrete_bcq
from ddm.types import Batch

CONTRACT = contract.Contract(
    small={"num_actions": contract.NUM_ACTIONS, "threshold": 0.999},
    other={"target_period": 2, "threshold": 0.7, "exploration": 1.0},
)

CONFIG = discrete_bcq.Config(num_actions=4, hidden_sizes=(16,), discount=0.9)
# Linear functions of one-hot observations are tables.
TABLE = discrete_bcq.Config(
    num_actions=2, hidden_sizes=(), discount=0.95, logit_penalty=0.0,
    behavior_learning_rate=0.03, target_rate=0.2,
)  # fmt: skip
LENGTH, START = 5, 5
THRESHOLDS = [0.1, 0.3, 1.0]

_update = jax.jit(discrete_bcq.update)


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
    init = jax.jit(discrete_bcq.init)
    state, other = (init(CONFIG, jax.random.key(seed), batch) for seed in (0, 1))
    return state.replace(critic=state.critic.replace(target_params=other.critic.params))


@pytest.fixture(scope="module")
def lines():
    """States for each threshold, trained on ten rows of each state of the line world."""
    log = logs.exact_log(tabular.line_world(LENGTH), logs.line_counts(LENGTH))

    def train(threshold):
        config = TABLE.replace(threshold=threshold)
        return logs.anneal(discrete_bcq, config, log, 600, (0.1, 3e-4))

    states = jax.jit(jax.vmap(train))(jnp.array(THRESHOLDS))
    return {
        threshold: jax.tree.map(lambda leaf, lane=lane: leaf[lane], states)
        for lane, threshold in enumerate(THRESHOLDS)
    }


def _tables(params, observations):
    """Outputs (B, K) of a perceptron of one hidden layer, by numpy."""
    mlp = jax.tree.map(np.squeeze, jax.tree.map(np.asarray, params["params"]["mlp"]))
    hidden = observations @ mlp["hidden_0"]["kernel"] + mlp["hidden_0"]["bias"]
    return np.maximum(hidden, 0.0) @ mlp["output"]["kernel"] + mlp["output"]["bias"]


def _huber(errors):
    return np.where(np.abs(errors) < 1.0, 0.5 * errors**2, np.abs(errors) - 0.5).mean()


def _critic_loss(state, batch, next_actions):
    rows = np.arange(len(next_actions))
    values = _tables(state.critic.params, batch.observations)[rows, batch.actions]
    next_values = _tables(state.critic.target_params, batch.next_observations)[rows, next_actions]
    targets = batch.rewards + 0.9 * np.where(batch.terminations, 0.0, next_values)
    return float(_huber(values - targets))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6, 1.0])
def test_the_target_is_the_target_critics_value_of_the_best_allowed_action(fresh, batch, threshold):
    _, metrics = _update(CONFIG.replace(threshold=threshold), fresh, batch)
    values = _tables(fresh.critic.params, batch.next_observations)
    logits = _tables(fresh.behavior.policy.params, batch.next_observations)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    allowed = shares >= threshold
    if threshold == 0.0:  # double DQN
        best = values.argmax(axis=1)
    elif threshold == 1.0:  # the clone's likeliest action
        best = logits.argmax(axis=1)
    else:
        assert 0.25 < allowed.mean() < 0.9
        best = np.where(allowed, values, -np.inf).argmax(axis=1)
    assert metrics["allowed"] == pytest.approx(float(allowed.mean()))
    assert metrics["critic_loss"] == pytest.approx(_critic_loss(fresh, batch, best), rel=1e-4)


def test_the_clones_loss_is_likelihood_and_its_penalty_shrinks_the_logits(fresh, batch):
    after, metrics = _update(CONFIG.replace(logit_penalty=0.0), fresh, batch)
    logits = _tables(fresh.behavior.policy.params, batch.observations)
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -log_probs[np.arange(12), batch.actions].mean()
    assert metrics["behavior_loss"] == pytest.approx(float(expected), rel=1e-4)

    penalised, same = _update(CONFIG.replace(logit_penalty=100.0), fresh, batch)
    assert same["behavior_loss"] == pytest.approx(float(metrics["behavior_loss"]))
    sizes = [
        np.square(_tables(state.behavior.policy.params, batch.observations)).mean()
        for state in (penalised, fresh)
    ]
    assert sizes[0] < sizes[1]
    # The critic does not see the clone's penalty.
    jax.tree.map(np.testing.assert_array_equal, after.critic, penalised.critic)


def test_hard_copies_wait_for_their_period(fresh, batch):
    config = CONFIG.replace(target_period=2)
    first, _ = _update(config, fresh, batch)
    jax.tree.map(
        np.testing.assert_array_equal, first.critic.target_params, fresh.critic.target_params
    )
    second, _ = _update(config, first, batch)
    jax.tree.map(
        lambda *pair: np.testing.assert_allclose(*pair, atol=1e-6),
        second.critic.target_params,
        second.critic.params,
    )


def test_the_threshold_is_one_on_density_the_rare_way_to_the_goal_is_lost(lines):
    # The behaviour goes right one time in ten: its share of the likeliest action is 0.111.
    mdp = tabular.line_world(LENGTH)
    for threshold, reaches in ((0.1, 1.0), (0.3, 0.0), (1.0, 0.0)):
        config, state = TABLE.replace(threshold=threshold), lines[threshold]
        actions, _ = discrete_bcq.choose(config, state, jnp.eye(mdp.num_states))
        policy = jax.nn.one_hot(actions, 2)
        reached = tabular.reach_within(mdp, policy, mdp.terminal, 200)[START]
        assert float(reached) == pytest.approx(reaches, abs=1e-6), threshold
    values = lines[0.1].critic(jnp.eye(mdp.num_states))[0]
    for place in range(LENGTH):  # gamma to the number of further steps
        assert values[START + place, 1] == pytest.approx(0.95 ** (LENGTH - 1 - place), abs=0.01)
    # No return is ever reached through masked actions.
    masked = lines[0.3].critic(jnp.eye(mdp.num_states))[0]
    assert masked[START, 1] == pytest.approx(0.0, abs=0.02)


def test_left_of_the_start_only_logged_actions_are_allowed(lines):
    observations = jnp.eye(START + LENGTH + 1)[: START + LENGTH]
    for threshold, start in ((0.1, [True, True]), (0.3, [True, False])):
        config = TABLE.replace(threshold=threshold)
        _, allowed = discrete_bcq.choose(config, lines[threshold], observations)
        np.testing.assert_array_equal(allowed[:START], [[True, False]] * START)
        np.testing.assert_array_equal(allowed[START:], [start] * LENGTH)


def test_exploration_is_uniform_and_absent_without_noise(fresh, batch):
    act = jax.jit(
        jax.vmap(discrete_bcq.act, (None, None, None, 0, None)), static_argnames="deterministic"
    )
    keys, observation = jax.random.split(jax.random.key(0), 4000), batch.observations[0]
    uniform, _ = act(CONFIG.replace(exploration=1.0), fresh, observation, keys, ())
    np.testing.assert_allclose(np.bincount(uniform, minlength=4) / 4000, 0.25, atol=0.03)
    greedy, _ = act(CONFIG.replace(exploration=0.0), fresh, observation, keys, ())
    best, _ = discrete_bcq.choose(CONFIG, fresh, observation[None])
    assert set(greedy.tolist()) == {int(best[0])}


def test_the_clone_that_still_learns_is_named(fresh, batch):
    _, metrics = _update(CONFIG, fresh, batch)
    assert discrete_bcq.diagnose(CONFIG, {name: float(v) for name, v in metrics.items()}) == []
    [sentence] = discrete_bcq.diagnose(CONFIG, {"behavior_progress": 0.05})
    assert "rose by 0.050 nats" in sentence


@pytest.mark.parametrize(
    ("num_actions", "actions", "message"),
    [
        (4, jnp.zeros((12, 1)), "discrete_bcq: batch.actions are real vectors"),
        (0, jnp.zeros(12, jnp.int32), "discrete_bcq: needs num_actions"),
    ],
)
def test_other_actions_are_refused(batch, num_actions, actions, message):
    with pytest.raises(InputError, match=message):
        discrete_bcq.init(
            CONFIG.replace(num_actions=num_actions),
            jax.random.key(0),
            batch.replace(actions=actions),
        )
