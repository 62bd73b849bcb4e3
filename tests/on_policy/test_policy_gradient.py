"""REINFORCE against exact gradients and optimal returns of small MDPs."""

from __future__ import annotations

import contract
import jax
import jax.numpy as jnp
import numpy as np
import on_policy_worlds as worlds
import pytest
from jax.tree_util import Partial

from ddm import envs, evaluation
from ddm.envs import tabular
from ddm.errors import InputError
from ddm.on_policy import policy_gradient
from ddm.types import Batch

CONTRACT = contract.Contract(
    small={"window": 4},
    variants=[
        {"head": "tabular", "num_actions": contract.NUM_ACTIONS, "entropy_weight": 0.1},
        {"window": 0},
    ],
    other={
        "window": 5,
        "head": "tanh_gaussian",
        "features": lambda observations: 2.0 * contract.pair_features(observations),
        "entropy_weight": 0.5,
    },
    context={
        "features": {
            "head": "linear_softmax",
            "num_actions": contract.NUM_ACTIONS,
            "features": contract.pair_features,
        }
    },
)

NUM_STATES, NUM_ACTIONS = 4, 3  # of the random MDP; the last state is terminal
CONFIG = policy_gradient.Config(head="tabular", num_actions=NUM_ACTIONS, window=0)


def _random_mdp():
    random = np.random.default_rng(0)
    transitions = random.dirichlet(np.ones(NUM_STATES), (NUM_STATES, NUM_ACTIONS))
    transitions = 0.7 * transitions + 0.3 * np.eye(NUM_STATES)[-1]  # ends soon
    terminal = np.arange(NUM_STATES) == NUM_STATES - 1
    rewards = random.normal(size=(NUM_STATES, NUM_ACTIONS))
    return tabular.make_mdp(transitions, rewards, [0.5, 0.3, 0.2, 0.0], 1.0, terminal)


def _with_logits(state, logits):
    return state.replace(
        policy=state.policy.replace(params={"params": {"output": {"kernel": logits}}})
    )


def _start(config, num_states):
    batch = Batch(
        observations=jnp.eye(num_states),
        actions=jnp.zeros(num_states, jnp.int32),
        returns_to_go=jnp.zeros(num_states),
    )
    return policy_gradient.init(config, jax.random.key(0), batch)


def _sample_action(policy, observation, key, policy_state):
    return policy(observation, key, policy_state, deterministic=False)


def _collect(environment, config, state, key, params=None, **size):
    """Episodes of the policy itself as a batch, and the episode of each row."""
    policy = evaluation.Policy(policy_gradient, config, state)
    episodes = envs.collect(
        environment, Partial(_sample_action, policy), key, params=params, **size
    )
    returns = [np.cumsum(each["rewards"][::-1])[::-1] for each in episodes]
    batch = Batch(
        observations=jnp.asarray(np.concatenate([each["observations"][:-1] for each in episodes])),
        actions=jnp.asarray(np.concatenate([each["actions"] for each in episodes])),
        returns_to_go=jnp.asarray(np.concatenate(returns)),
    )
    return batch, np.repeat(np.arange(len(episodes)), [len(each) for each in returns])


def _loss_gradient(config, state, batch):
    gradients = jax.grad(
        lambda params: policy_gradient.policy_loss(config, state, params, batch)[0]
    )(state.policy.params)
    return np.asarray(gradients["params"]["output"]["kernel"], np.float64)


def test_estimates_the_gradient_of_the_exact_return():
    mdp = _random_mdp()
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(NUM_STATES, NUM_ACTIONS)), float)
    exact = jax.grad(lambda w: tabular.expected_return(mdp, jax.nn.softmax(w)))(logits)
    # The policy gradient theorem: visits times advantages.
    policy = jax.nn.softmax(logits)
    values, action_values = tabular.evaluate_policy(mdp, policy)
    visits = tabular.expected_visits(mdp, policy)
    theorem = visits * (action_values - values[:, None])
    np.testing.assert_allclose(exact, theorem, atol=1e-5)

    environment = tabular.TabularEnvironment(lambda: mdp, max_steps=20)
    state = _with_logits(_start(CONFIG, NUM_STATES), logits)
    num_episodes = 2048
    batch, episode = _collect(
        environment, CONFIG, state, jax.random.key(2), num_episodes=num_episodes
    )
    rows = len(episode)
    estimate = -_loss_gradient(CONFIG, state, batch) * rows / num_episodes
    # The sampling error, from each episode's own contribution.
    states, actions = np.asarray(batch.observations).argmax(axis=1), np.asarray(batch.actions)
    scores = np.eye(NUM_ACTIONS)[actions] - np.asarray(policy)[states]
    gains = np.asarray(batch.returns_to_go) - float(batch.returns_to_go.mean())
    contributions = np.zeros((num_episodes, NUM_STATES, NUM_ACTIONS))
    np.add.at(contributions, (episode, states), scores * gains[:, None])
    np.testing.assert_allclose(contributions.mean(axis=0), estimate, atol=1e-4)
    error = contributions.std(axis=0) / np.sqrt(num_episodes)
    assert (np.abs(estimate - exact) <= 4.0 * error + 1e-6).all()
    assert np.abs(exact).max() > 5.0 * error.max()  # the test sees more than noise


def test_a_constant_in_all_returns_changes_nothing():
    batch = Batch(
        observations=jnp.eye(4)[jnp.array([0, 1, 1, 2])],
        actions=jnp.array([0, 1, 2, 1], jnp.int32),
        returns_to_go=jnp.array([1.0, -2.0, 0.5, 3.0]),
    )
    state = _start(CONFIG, 4)
    lifted = batch.replace(returns_to_go=batch.returns_to_go + 100.0)
    np.testing.assert_allclose(
        _loss_gradient(CONFIG, state, lifted), _loss_gradient(CONFIG, state, batch), atol=1e-5
    )
    # Row 0 by hand: baseline .625, uniform policy: -(1 - .625) (1 - 1/3, -1/3, -1/3) / 4.
    np.testing.assert_allclose(
        _loss_gradient(CONFIG, state, batch)[0],
        -0.375 / 4 * np.array([2 / 3, -1 / 3, -1 / 3]),
        rtol=1e-5,
    )


def test_entropy_weight_follows_the_gradient_of_the_entropy():
    # Rows in the policy's own proportions, so that the estimate has no sampling error.
    shares = np.array([0.5, 0.25, 0.25])
    state = _with_logits(_start(CONFIG, 1), jnp.log(jnp.asarray(shares))[None])
    batch = Batch(
        observations=jnp.ones((4, 1)),
        actions=jnp.array([0, 0, 1, 2], jnp.int32),
        returns_to_go=jnp.zeros(4),
    )
    config = CONFIG.replace(entropy_weight=2.0)
    entropy = -np.sum(shares * np.log(shares))
    expected = 2.0 * -shares * (np.log(shares) + entropy)
    np.testing.assert_allclose(-_loss_gradient(config, state, batch)[0], expected, atol=1e-6)
    _, metrics = policy_gradient.update(config, state, batch)
    assert float(metrics["entropy"]) == pytest.approx(entropy, rel=1e-5)


def _moves(observations):
    """(row, column, 1) in the block of each of the four moves: no table, 12 weights."""
    places = np.concatenate([np.c_[tabular.grid_cells(worlds.ROOM), np.ones(9)], np.zeros((1, 3))])
    blocks = (observations @ jnp.asarray(places))[..., None, None, :] * jnp.eye(4)[..., None]
    return blocks.reshape(*observations.shape[:-1], 4, -1)


@pytest.mark.parametrize(("head", "features"), [("tabular", None), ("linear_softmax", _moves)])
def test_learns_the_optimal_policy_of_a_room(head, features):
    room = worlds.room()
    best = float(room.initial @ tabular.value_iteration(room).values)
    assert best == pytest.approx(worlds.BEST_IN_ROOM)  # 1 - 4 * 0.1: four moves and the exit
    environment = tabular.TabularEnvironment(lambda: room, max_steps=30)
    config = policy_gradient.Config(
        head=head, num_actions=4, features=features, learning_rate=0.2, window=0
    )
    state = _start(config, 10)
    update = jax.jit(policy_gradient.update)
    params = environment.default_params
    for key in jax.random.split(jax.random.key(3), 40):
        batch, _ = _collect(environment, config, state, key, params, num_steps=600)
        state, metrics = update(config, state, batch)
    policy = evaluation.Policy(policy_gradient, config, state)
    assert float(evaluation.exact_return(policy, room, horizon=30)) == pytest.approx(best, abs=1e-5)
    sampled = evaluation.exact_return(policy, room, deterministic=False, horizon=30)
    assert float(sampled) > best - 0.05
    assert float(metrics["entropy"]) < 0.7


def test_steps_count_where_their_episode_ends_in_the_window():
    """Two windows of four steps, discounted by 1/2; the last ones are cut by the window itself."""
    no = np.zeros((2, 4), bool)
    terminations, truncations = no.copy(), no.copy()
    terminations[0, 1] = truncations[1, 2] = True
    batch = Batch(
        observations=jnp.zeros((2, 4, 1)), actions=jnp.arange(8).reshape(2, 4),
        rewards=jnp.array([[1.0, 2.0, 4.0, 8.0], [1.0, 1.0, 4.0, 2.0]]),
        terminations=jnp.asarray(terminations), truncations=jnp.asarray(truncations),
    )  # fmt: skip
    rows = policy_gradient.with_returns(batch, 0.5)
    np.testing.assert_array_equal(rows.actions, np.arange(8))
    np.testing.assert_array_equal(rows.mask, [1, 1, 0, 0, 1, 1, 1, 0])
    counted = np.asarray(rows.returns_to_go)[np.asarray(rows.mask)]
    np.testing.assert_allclose(counted, [2.0, 2.0, 2.5, 3.0, 4.0])
    state = _start(CONFIG, 4)
    four = jnp.eye(4)[jnp.array([0, 1, 1, 2, 3])]
    extra = Batch(
        observations=four, actions=jnp.array([0, 1, 2, 1, 0], jnp.int32),
        returns_to_go=jnp.array([1.0, -2.0, 0.5, 3.0, 50.0]), mask=jnp.arange(5) < 4,
    )  # fmt: skip
    whole = jax.tree.map(lambda x: x[:4], extra.replace(mask=None))
    np.testing.assert_allclose(
        _loss_gradient(CONFIG, state, extra), _loss_gradient(CONFIG, state, whole), atol=1e-6
    )


def test_it_learns_from_its_own_steps():
    """The returns are computed inside."""
    config = policy_gradient.Config(
        head="tabular", window=100, discount=1.0, learning_rate=0.2, entropy_weight=0.02
    )
    train = worlds.trainer(policy_gradient, config, worlds.IN_ROOM, updates=50, copies=6)
    learner, metrics = train(jax.random.key(0), worlds.IN_ROOM.default_params)
    policy = worlds.policy_of(policy_gradient, config, learner)
    exact = evaluation.exact_return(policy, worlds.room(), horizon=30)
    assert float(exact) == pytest.approx(worlds.BEST_IN_ROOM, abs=1e-5)
    assert float(metrics["collect/return"][0]) < 0.0
    assert 0.5 < float(metrics["share"][0]) < 1.0


def test_heads_that_cannot_be_used_are_refused():
    batch = Batch(
        observations=jnp.zeros((4, 1)), actions=jnp.zeros((4, 1)), returns_to_go=jnp.zeros(4)
    )
    with pytest.raises(InputError, match="head=mse does not explore"):
        policy_gradient.init(policy_gradient.Config(head="mse", window=0), jax.random.key(0), batch)
    with pytest.raises(InputError, match="head=tabular does not fit continuous"):
        policy_gradient.init(CONFIG, jax.random.key(0), batch)
