"""PPO: its loss by hand, and problems whose best return and values are known."""

from __future__ import annotations

import contract
import jax
import jax.numpy as jnp
import numpy as np
import on_policy_worlds as worlds
import pytest

from ddm import networks
from ddm.errors import InputError
from ddm.on_policy import ppo
from ddm.on_policy.parts import actor_critic, windows
from ddm.types import Batch

CONTRACT = contract.Contract(
    small={"window": 4, "num_epochs": 2, "num_minibatches": 2},
    variants=[
        {"head": "categorical", "num_actions": contract.NUM_ACTIONS, "entropy_weight": 0.1},
        {"head": "gaussian", "value_clip": 0.1, "target_kl": 0.01},
    ],
    other={
        **worlds.OTHER_HEAD,
        "clip_ratio": 1e-4,
        "value_clip": 1e-4,
        "entropy_weight": 0.5,
        "max_gradient_norm": 1e-4,
        "target_kl": 1e-9,
    },
    context=worlds.HEAD_CONTEXT,
)

# One state, three actions of equal probability.
TABLE = ppo.Config(head="tabular", num_actions=3, window=4, num_epochs=2, num_minibatches=2)


def _steps(actions, advantages, returns=None):
    rows = len(actions)
    zeros = jnp.zeros(rows)
    return windows.Steps(
        observations=jnp.ones((rows, 1)), actions=jnp.array(actions, jnp.int32),
        advantages=jnp.array(advantages), returns=zeros if returns is None else returns,
        values=zeros, weights=jnp.ones(rows),
    )  # fmt: skip


def _start(config=TABLE, action=None):
    action = jnp.zeros((1, 4), jnp.int32) if action is None else action
    no = jnp.zeros((1, 4), bool)
    rows = jnp.ones((1, 4, 1))
    batch = Batch(
        observations=rows, actions=action, rewards=jnp.ones((1, 4)), next_observations=rows,
        terminations=no, truncations=no,
    )  # fmt: skip
    return ppo.init(config, jax.random.key(0), batch), batch


def test_the_gradient_of_the_clipped_loss_by_hand():
    """Only rows inside the bounds, or outside where that is bad, move the policy."""
    state, _ = _start()
    ratios = np.array([1.1, 1.5, 1.5, 0.5, 0.5])
    advantages = np.array([2.0, 2.0, -1.0, 2.0, -1.0])
    actions = np.array([0, 1, 2, 1, 0])
    old_log_probs = jnp.asarray(np.log(1.0 / 3.0) - np.log(ratios), jnp.float32)
    steps = _steps(actions, advantages.tolist())
    (loss, metrics), gradient = jax.value_and_grad(
        lambda params: ppo.policy_loss(TABLE, state.actor, params, steps, old_log_probs),
        has_aux=True,
    )(state.actor.params)
    # min(rho A, clip(rho, .8, 1.2) A): 1.1 * 2, 1.2 * 2, 1.5 * -1, .5 * 2, .8 * -1.
    assert float(loss) == pytest.approx(-np.mean([2.2, 2.4, -1.5, 1.0, -0.8]), rel=1e-5)
    counts = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    scores = np.eye(3)[actions] - 1.0 / 3.0
    expected = -np.mean((counts * ratios * advantages)[:, None] * scores, axis=0)
    np.testing.assert_allclose(gradient["params"]["output"]["kernel"][0], expected, atol=1e-6)
    assert float(metrics["clip_share"]) == pytest.approx(0.8)
    assert float(metrics["kl"]) == pytest.approx(np.mean(ratios - 1 - np.log(ratios)), rel=1e-4)
    assert float(metrics["entropy"]) == pytest.approx(np.log(3.0), rel=1e-5)


def test_the_loss_of_values_and_their_clip_by_hand():
    """V = 1 after 0, target 3: (1 - 3)^2 / 2, or with a clip of 1/4, (1/4 - 3)^2 / 2."""
    value = networks.trainable(networks.StateValue(()), None)
    params = {"params": {"mlp": {"output": {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}}}}
    steps = _steps([0, 0], [0.0, 0.0], returns=jnp.array([3.0, 3.0]))
    steps = steps._replace(weights=jnp.array([1.0, 0.0]))
    assert float(actor_critic.value_loss(value, params, steps)) == pytest.approx(2.0)
    clipped = actor_critic.value_loss(value, params, steps, 0.25)
    assert float(clipped) == pytest.approx(0.5 * 2.75**2)
    slope = jax.grad(lambda p: actor_critic.value_loss(value, p, steps, 0.25))(params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(slope))  # it has moved enough


@pytest.fixture(scope="module")
def improve():
    return jax.jit(ppo.improve)


def test_a_large_divergence_ends_the_update(improve):
    """Four mini-batches; with a bound, none is taken after the first that is beyond it."""
    state, _ = _start()
    steps = _steps([0, 1, 2, 0, 1, 2, 0, 1], [1.0, -1.0, 0.0, 1.0, -1.0, 0.0, 1.0, -1.0])
    fast = TABLE.replace(actor_learning_rate=0.5)
    free, metrics = improve(fast, state, steps)
    assert float(metrics["minibatches"]) == 4.0
    bound, metrics = improve(fast.replace(target_kl=1e-4), state, steps)
    assert float(metrics["minibatches"]) == 1.0
    assert float(metrics["kl"]) == pytest.approx(0.0, abs=1e-6)
    table = lambda state: np.asarray(state.actor.params["params"]["output"]["kernel"][0])  # noqa: E731
    np.testing.assert_allclose(np.abs(table(bound)).max(), 0.5, rtol=1e-2)  # one step of Adam
    assert np.abs(table(free)).max() > 0.8
    assert int(bound.step) == int(free.step) == 1


def test_step_sizes_fall_on_a_line_to_the_end_of_the_run(improve):
    steps = _steps([0, 1], [1.0, -1.0])
    state, _ = _start()
    config = ppo.resolve(TABLE.replace(max_gradient_norm=100.0), 4)
    assert config.decay_steps == 4
    moved = {}
    for step in (0, 3, 4):
        later = state.replace(step=jnp.array(step, jnp.int32))
        after, _ = improve(config, later, steps)
        moved[step] = np.abs(after.actor.params["params"]["output"]["kernel"]).max()
    assert moved[3] == pytest.approx(0.25 * moved[0], rel=0.02)
    assert moved[4] == 0.0
    assert ppo.resolve(TABLE.replace(decay_steps=0), 4).decay_steps == 0


def test_it_finds_the_way_out_of_a_room():
    config = ppo.Config(
        head="tabular", window=32, hidden_sizes=(16,), discount=1.0, actor_learning_rate=0.05,
        value_learning_rate=1e-2, num_epochs=4, num_minibatches=4, entropy_weight=0.01,
    )  # fmt: skip
    learner = worlds.check_room(ppo, config)
    first = learner.state.value(jnp.eye(10)[:1])
    assert float(first[0]) == pytest.approx(worlds.BEST_IN_ROOM, abs=0.15)


def test_a_cut_episode_is_worth_what_follows_and_an_ended_one_is_not():
    """Rewards of 1 for ever are worth 1 / (1 - 0.8); four of them less, seen from any step."""
    config = ppo.Config(
        hidden_sizes=(8,), window=16, discount=0.8, trace_decay=1.0, actor_learning_rate=0.0,
        value_learning_rate=0.02, num_epochs=4, num_minibatches=1, max_gradient_norm=100.0,
    )  # fmt: skip
    world = worlds.Steady()
    train = worlds.trainer(ppo, config, world, updates=150, copies=2)
    values = {}
    for terminates in (False, True):
        params = world.default_params.replace(terminates=jnp.array(terminates))
        learner, _ = train(jax.random.key(0), params)
        values[terminates] = float(learner.state.value(jnp.ones((1, 1)))[0])
    assert values[False] == pytest.approx(1.0 / (1.0 - 0.8), abs=0.1)
    ahead = [(1.0 - 0.8**left) / (1.0 - 0.8) for left in (1, 2, 3, 4)]
    assert values[True] == pytest.approx(np.mean(ahead), abs=0.05)


@pytest.mark.parametrize("head", ["tanh_gaussian", "gaussian"])
def test_it_aims_at_a_point_inside_the_box_and_at_its_bound(head):
    """The bound is where samples of a Gaussian are clipped."""
    config = ppo.Config(
        head=head, hidden_sizes=(8,), window=16, discount=0.5, actor_learning_rate=0.01,
        value_learning_rate=0.01, num_epochs=4, num_minibatches=2, log_std_min=-3.0,
    )  # fmt: skip
    worlds.check_aim(ppo, config, first_return=4 * 0.65)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="ppo: head=mse does not explore"):
        _start(ppo.Config(head="mse"), action=jnp.zeros((1, 4, 1)))
    with pytest.raises(InputError, match="ppo: head=tanh_gaussian does not fit discrete"):
        _start(ppo.Config())
    state, batch = _start()
    with pytest.raises(InputError, match=r"ppo: batch.rewards has shape \(4,\), expected \(B, T\)"):
        ppo.update(TABLE, state, batch.replace(rewards=jnp.zeros(4)))
