from __future__ import annotations

import functools

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ddm import data, envs, evaluation, networks
from ddm.envs import memory
from ddm.errors import InputError
from ddm.imitation import bc, history_bc
from ddm.types import Batch, initial_policy_state

CONTRACT = contract.Contract(
    small={
        "width": 8,
        "num_layers": 2,
        "observation_steps": 2,
        "segment_steps": 3,
        "burn_in": 1,
    },
    variants=[
        {"history": "stack", "head": "categorical", "num_actions": 3, "previous_actions": True},
        {"history": "transformer", "dropout_rate": 0.5, "history_dropout": 0.5},
        {"previous_actions": True, "cell": "lstm", "supervise": "last", "reset_every": 2},
    ],
    other={
        "head": "tanh_gaussian",
        "features": lambda observations: 2.0 * contract.pair_features(observations),
        "label_smoothing": 0.3,
        "history": "stack",
        "segment_steps": 4,
        "burn_in": 2,
        "supervise": "last",
        "history_dropout": 0.5,
        "change_point_weight": 2.0,
        "change_point_threshold": 1.5,
        "max_gradient_norm": 1e-3,
        "cell": "lstm",
        "reset_every": 2,
    },
    context={
        "features": {
            "head": "linear_softmax",
            "num_actions": contract.NUM_ACTIONS,
            "features": contract.pair_features,
        },
        "label_smoothing": {"head": "categorical", "num_actions": contract.NUM_ACTIONS},
        "change_point_weight": {"change_point_threshold": 1.0},
        "change_point_threshold": {"change_point_weight": 2.0},
    },
    slow=True,
)

# Every number below is at most a few standard errors of 200 episodes away from an exact answer.
STACK = history_bc.Config(
    history="stack", observation_steps=1, head="categorical", num_actions=2,
    hidden_sizes=(32,), learning_rate=1e-2, decay_steps=300,
)  # fmt: skip
RECURRENT = STACK.replace(
    history="recurrent", width=16, hidden_sizes=(16,), segment_steps=10, burn_in=0
)


_init, _update, _log_prob = map(jax.jit, (history_bc.init, history_bc.update, history_bc.log_prob))


def _demonstrate(environment, episodes=200, seed=0, **changes):
    params = environment.default_params.replace(**changes)
    return envs.collect(
        environment, environment.expert, jax.random.key(seed), num_episodes=episodes,
        params=params, initial_policy_state=environment.expert_memory,
    )  # fmt: skip


def _train(config, dataset, batch_size=64):
    """As many steps as the learning rate decays over; returns the state and the last losses."""
    spec = history_bc.batch_spec(config)

    @jax.jit
    def run(dataset):
        batch = data.sample(dataset, jax.random.key(0), 1, spec)
        state = history_bc.init(config, jax.random.key(0), batch)

        def one(state, key):
            batch = data.sample(dataset, key, batch_size, spec)
            return history_bc.update(config, state, batch)

        keys = jax.random.split(jax.random.key(1), config.decay_steps)
        return jax.lax.scan(one, state, keys)

    state, metrics = run(dataset)
    return state, {name: float(series[-50:].mean()) for name, series in metrics.items()}


def _evaluate(config, state, environment, deterministic=True):
    policy = evaluation.Policy(history_bc, config, state)
    return evaluation.evaluate(
        policy, environment, seed=1, num_episodes=200, deterministic=deterministic, lanes=False
    )


# Alternation: a fair first move, and then the other one each time.


@pytest.fixture(scope="module")
def alternation():
    return data.from_episodes(_demonstrate(memory.Alternator()))


def test_alternation_is_a_coin_for_whoever_does_not_see_its_own_moves(alternation):
    # Also four observations hold nothing but the time.
    config = STACK.replace(observation_steps=4)
    state, metrics = _train(config, alternation)
    assert metrics["loss"] == pytest.approx(np.log(2.0), abs=0.01)
    result = _evaluate(config, state, memory.Alternator(), deterministic=False)
    assert result.returns.mean() == pytest.approx(0.5, abs=0.05)
    # Repeating the last move is always wrong.
    assert metrics["copy_error"] == 1.0


@pytest.mark.parametrize(
    "config", [STACK, pytest.param(RECURRENT, marks=pytest.mark.slow)], ids=["stack", "recurrent"]
)
def test_alternation_is_learned_from_the_previous_move(alternation, config):
    config = config.replace(previous_actions=True)
    state, _ = _train(config, alternation)
    for deterministic in (True, False):
        result = _evaluate(config, state, memory.Alternator(), deterministic)
        assert result.returns.mean() > 0.995
    moves = jnp.array([[0, 1, 0, 1, 0, 1]])
    log_probs = _log_prob(config, state, jnp.ones((1, 6, 1)), moves)[0]
    first_moves = alternation.actions[alternation.episode_starts[:-1]]
    assert log_probs[0] == pytest.approx(np.log(np.mean(first_moves == 0)), abs=0.15)
    assert log_probs[1:].min() > -0.02


# A cue, a corridor of d steps, and a turn.


@pytest.mark.parametrize(("steps", "success"), [(5, 1.0), (4, 0.5)])
def test_a_stack_of_n_frames_spans_a_corridor_below_n(steps, success):
    environment = memory.TMaze(corridor=4)
    dataset = data.from_episodes(_demonstrate(environment))
    config = STACK.replace(observation_steps=steps, num_actions=3)
    state, _ = _train(config, dataset)
    result = _evaluate(config, state, environment)
    assert result.successes.mean() == pytest.approx(success, abs=0.1 if steps < 5 else 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(("burn_in", "segment", "success"), [(10, 11, 1.0), (3, 5, 0.5)])
def test_a_recurrent_policy_remembers_as_long_as_its_training_windows(burn_in, segment, success):
    # In the first case each window reaches from any step back to the cue; in the second none
    # holds both the cue and the turn.
    environment = memory.TMaze(corridor=10)
    dataset = data.from_episodes(_demonstrate(environment))
    config = RECURRENT.replace(burn_in=burn_in, segment_steps=segment, num_actions=3)
    state, _ = _train(config, dataset)
    result = _evaluate(config, state, environment)
    assert result.successes.mean() == pytest.approx(success, abs=0.01 if success == 1.0 else 0.1)


@pytest.mark.slow
def test_a_recurrent_policy_remembers_for_fifty_steps():
    environment = memory.TMaze(corridor=50)
    dataset = data.from_episodes(_demonstrate(environment, max_steps=60))
    config = RECURRENT.replace(
        burn_in=50, segment_steps=51, num_actions=3, width=32, learning_rate=3e-3, decay_steps=1500
    )
    state, _ = _train(config, dataset)
    assert _evaluate(config, state, environment).successes.mean() > 0.99


# Copying: the light changes in 2 % of the steps; it is dim, so that copying is learned first.


@pytest.fixture(scope="module")
def driving():
    """Training and test drives in which only the light is observed, not the speed."""
    drives = [
        _demonstrate(memory.Brake(), 100, seed, contrast=0.5, max_steps=50) for seed in (0, 1)
    ]
    for episode in [*drives[0], *drives[1]]:
        episode["observations"] = episode["observations"][:, :1]
    return drives


def _reaction_rate(config, driving):
    """Share of the changes of the light that the policy follows at once, on the test drives."""
    train, test = driving
    state, metrics = _train(config, data.from_episodes(train))
    observations = jnp.stack([episode["observations"][:-1] for episode in test])
    actions = jnp.stack([episode["actions"] for episode in test])
    likely = np.exp(_log_prob(config, state, observations, actions)) > 0.5
    changed = np.diff(actions, axis=1) != 0
    assert changed.sum() > 50
    return likely[:, 1:][changed].mean(), metrics


@pytest.mark.slow
def test_a_policy_that_sees_its_last_action_copies_it_unless_it_is_kept_from_it(driving):
    config = STACK.replace(learning_rate=1e-3)
    plain, metrics = _reaction_rate(config, driving)
    assert plain > 0.95
    assert metrics["copy_error"] == pytest.approx(0.02, abs=0.01)
    config = config.replace(previous_actions=True)
    copying, metrics = _reaction_rate(config, driving)
    assert copying < 0.5
    # It is nearly always right, and wrong where it matters.
    assert metrics["action_error"] < 0.03
    assert metrics["change_error"] > 0.5
    assert _reaction_rate(config.replace(history_dropout=0.8), driving)[0] > 0.9
    assert _reaction_rate(config.replace(change_point_weight=100.0), driving)[0] > 0.9


# What does not need training.

HISTORIES = {
    "stack": {"history": "stack", "observation_steps": 3},
    "recurrent": {"history": "recurrent", "num_layers": 2, "segment_steps": 4, "burn_in": 1},
    "transformer": {"history": "transformer", "observation_steps": 3, "num_heads": 2},
}
# A Gaussian of variance 1/2, whose log-density is minus the squared error and half of log(pi).
FIXED = {"log_std_min": -0.5 * np.log(2.0), "log_std_max": -0.5 * np.log(2.0)}
SMALL = history_bc.Config(hidden_sizes=(8,), width=8, num_layers=1, **FIXED)


def _squared_errors(config, state, observations, actions):
    log_probs = np.asarray(_log_prob(config, state, observations, actions), np.float64)
    return -log_probs - 0.5 * np.log(np.pi)


def _window(config, rows=4, seed=0):
    random = np.random.default_rng(seed)
    shape = (rows, history_bc.batch_spec(config).window)
    return Batch(
        observations=jnp.asarray(random.normal(size=(*shape, 2)), jnp.float32),
        actions=jnp.asarray(random.uniform(-1, 1, (*shape, 1)), jnp.float32),
        mask=jnp.ones(shape, bool),
    )


@functools.cache
def _fresh(history, **changes):
    config = SMALL.replace(previous_actions=True, **HISTORIES[history], **changes)
    state = _init(config, jax.random.key(0), _window(config))
    act = jax.jit(functools.partial(history_bc.act, deterministic=True))
    return config, state, functools.partial(act, config, state, key=jax.random.key(1))


def _walk(history, observations, memory):
    _, _, act = _fresh(history)
    actions = []
    for observation in observations:
        action, memory = act(observation=observation, policy_state=memory)
        actions.append(action)
    return jnp.stack(actions), memory


@pytest.mark.parametrize("history", HISTORIES)
def test_acting_step_by_step_is_what_was_trained(history):
    config, state, _ = _fresh(history)
    observations = jax.random.normal(jax.random.key(2), (6, 2))
    actions, _ = _walk(history, observations, initial_policy_state(history_bc, config, state))
    assert np.ptp(actions) > 1e-2
    errors = _squared_errors(config, state, observations[None], actions[None])
    np.testing.assert_allclose(errors, 0.0, atol=1e-6)
    elsewhere = _squared_errors(config, state, observations[None], actions[None] + 0.1)
    # The first action's error is its own; later ones also see a previous action that is another.
    assert elsewhere[0, 0] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("history", HISTORIES)
def test_without_a_memory_an_episode_begins(history):
    config, state, act = _fresh(history)
    observation = jnp.ones(2)
    start = initial_policy_state(history_bc, config, state)
    expected = act(observation=observation, policy_state=start)
    found = jax.jit(functools.partial(history_bc.act, deterministic=True))(
        config, state, observation, jax.random.key(1)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), found, expected)
    assert jax.tree.leaves(found[1])  # and goes on with one


@pytest.mark.parametrize("history", HISTORIES)
def test_an_episode_that_begins_leaves_the_others_alone(history):
    config, state, act = _fresh(history)
    start = initial_policy_state(history_bc, config, state)
    observations = jax.random.normal(jax.random.key(3), (2, 3, 2))
    _, begun = _walk(history, observations[0], start)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), begun, begun)
    ends = jnp.array([True, False])
    reset = jax.tree.map(
        lambda new, old: jax.vmap(jnp.where, (0, None, 0))(ends, new, old), start, both
    )
    actions, _ = jax.vmap(lambda memory: act(observation=observations[1, 0], policy_state=memory))(
        reset
    )
    for row, past in enumerate((start, begun)):
        alone, _ = act(observation=observations[1, 0], policy_state=past)
        np.testing.assert_allclose(actions[row], alone, atol=1e-6)
    assert np.abs(actions[0] - actions[1]).max() > 1e-4


def test_a_recurrent_policy_may_forget_at_intervals():
    config, state, act = _fresh("recurrent", reset_every=2)
    observation = jnp.ones(2)
    memory, actions = initial_policy_state(history_bc, config, state), []
    for _ in range(6):
        action, memory = act(
            observation=observation, policy_state=memory.replace(action=jnp.ones(1))
        )
        actions.append(float(action[0]))
    # From the third step on everything repeats: only the first step has no previous action.
    np.testing.assert_allclose(actions[2:4], actions[4:6], atol=1e-6)
    assert abs(actions[2] - actions[3]) > 1e-4


def test_log_probabilities_sum_to_one_whatever_the_loss():
    config = SMALL.replace(
        **HISTORIES["stack"], head="categorical", num_actions=3, label_smoothing=0.3
    )
    batch = _window(config, rows=3)
    batch = batch.replace(actions=jnp.zeros(batch.mask.shape, jnp.int32))
    state = _init(config, jax.random.key(0), batch)
    # One episode three times, which ends with each of the actions.
    observations = jnp.repeat(batch.observations[:1], 3, axis=0)
    actions = batch.actions.at[:, -1].set(jnp.arange(3))
    last = _log_prob(config, state, observations, actions)[:, -1]
    assert np.exp(last).sum() == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(InputError, match="head=mse is one action"):
        history_bc.log_prob(*_mse())


def _mse():
    config = SMALL.replace(**HISTORIES["stack"], head="mse")
    batch = _window(config)
    return config, _init(config, jax.random.key(0), batch), batch.observations, batch.actions


@pytest.mark.slow
def test_the_loss_is_a_weighted_mean_over_supervised_valid_steps():
    # A segment after one step of burn-in; the first place of a window only lends its action.
    config = SMALL.replace(**HISTORIES["recurrent"])
    state = _init(config, jax.random.key(0), _window(config))
    batch = _window(config)
    ends = jnp.array([6, 6, 4, 5])  # places of each row before its episode's end
    batch = batch.replace(
        mask=jnp.arange(6) < ends[:, None], actions=batch.actions.at[:, 4].set(batch.actions[:, 3])
    )
    actions = batch.actions[:, 1:]
    errors = _squared_errors(config, state, batch.observations[:, 1:], actions)
    losses = errors + 0.5 * np.log(np.pi)
    valid = np.asarray(batch.mask[:, 2:])
    changed = np.abs(np.diff(batch.actions[:, 1:, 0], axis=1)) > 0.3
    assert 0 < (valid & changed).sum() < valid.sum()
    for weight in (0.0, 2.0):
        options = config.replace(change_point_weight=weight, change_point_threshold=0.3)
        _, metrics = _update(options, state, batch)
        weights = valid * (1.0 + weight * changed)
        expected = np.sum(weights * losses[:, 1:]) / weights.sum()
        assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
        assert metrics["action_error"] == pytest.approx(errors[:, 1:][valid].mean(), rel=1e-5)
        assert metrics["change_error"] == pytest.approx(
            errors[:, 1:][valid & changed].mean(), rel=1e-5
        )
        copies = np.diff(batch.actions[:, 1:, 0], axis=1) ** 2
        assert metrics["copy_error"] == pytest.approx(copies[valid].mean(), rel=1e-5)
    _, metrics = _update(config.replace(supervise="last"), state, batch)
    last = losses[np.arange(4), np.asarray(ends) - 2]
    assert metrics["loss"] == pytest.approx(last.mean(), rel=1e-5)


def test_burn_in_before_an_episode_is_skipped():
    config = SMALL.replace(**HISTORIES["recurrent"], previous_actions=True)
    state = _init(config, jax.random.key(0), _window(config))
    batch = _window(config)
    batch = batch.replace(mask=batch.mask.at[:, :2].set(False))
    changed = batch.replace(
        observations=batch.observations.at[:, :2].add(1.0), actions=batch.actions.at[:, :2].add(1.0)
    )
    one, other = (_update(config, state, each)[1]["loss"] for each in (batch, changed))
    assert one == other
    start = _log_prob(config, state, batch.observations[:, 2:], batch.actions[:, 2:])
    assert one == pytest.approx(-float(start.mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"history": "diary"}, "history=diary is unknown; choose one of stack, recurrent"),
        ({"cell": "rnn"}, "cell=rnn is unknown; choose one of gru, lstm"),
        ({"supervise": "first"}, "supervise=first is unknown; choose one of all, last"),
        ({"history": "transformer", "num_heads": 3}, "width=8 does not divide into num_heads=3"),
        ({"head": "categorical", "num_actions": 2}, "head=categorical does not fit continuous"),
        ({"head": "gauss"}, "head=gauss is unknown"),
    ],
)
def test_wrong_configurations_are_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        history_bc.init(SMALL.replace(**changes), jax.random.key(0), _window(SMALL))


def test_discrete_previous_actions_need_their_number():
    config = SMALL.replace(previous_actions=True)
    batch = _window(config)
    batch = batch.replace(actions=jnp.zeros(batch.mask.shape, jnp.int32))
    with pytest.raises(InputError, match="previous_actions that are discrete need num_actions"):
        history_bc.init(config, jax.random.key(0), batch)


def test_without_a_past_it_is_behaviour_cloning():
    config = SMALL.replace(history="stack", observation_steps=1, max_gradient_norm=1e9)
    batch = _window(config)
    state = _init(config, jax.random.key(0), batch)
    options = bc.Config(hidden_sizes=(8,), **FIXED)
    example = Batch(observations=batch.observations[:, 1], actions=batch.actions[:, 1])
    plain = bc.init(options, jax.random.key(0), example)
    head = {"params": state.policy.params["params"]["head"]}
    plain = plain.replace(policy=plain.policy.replace(params=head))
    expected = -bc.log_prob(options, plain, batch.observations[:, 1], batch.actions[:, 1]).mean()
    _, metrics = _update(config, state, batch)
    assert metrics["loss"] == pytest.approx(float(expected), rel=1e-6)


class MeanOfThePast(nn.Module):
    """The mean of the valid observations of a window, at each of its steps."""

    @nn.compact
    def __call__(self, observations, previous, mask, alone=None, *, deterministic=True):
        valid = mask[..., None].astype(jnp.float32)
        mean = jnp.sum(valid * observations, axis=-2) / jnp.sum(valid, axis=-2)
        return jnp.broadcast_to(mean[..., None, :], observations.shape)


class Same(nn.Module):
    """A Gaussian around the features."""

    @nn.compact
    def __call__(self, features, log_std_min, log_std_max):
        return networks.diagonal_gaussian(features[..., :1], jnp.float32(log_std_max))


def test_summary_and_head_may_be_ones_own():
    config = SMALL.replace(
        history="transformer", observation_steps=3, trunk_network=lambda *_: MeanOfThePast(),
        policy_network=lambda *_: Same(),
    )  # fmt: skip
    state = _init(config, jax.random.key(0), _window(config))
    assert not jax.tree.leaves(state.policy.params)
    observations = jnp.arange(10.0).reshape(5, 2) / 10
    memory = initial_policy_state(history_bc, config, state)
    for time, observation in enumerate(observations):
        action, memory = history_bc.act(
            config, state, observation, jax.random.key(0), memory, deterministic=True
        )
        expected = observations[max(time - 2, 0) : time + 1, 0].mean()
        assert action[0] == pytest.approx(float(expected), rel=1e-5)
