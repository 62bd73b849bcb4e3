"""NPG: the length and the direction of its steps, and problems whose best return is known."""

from __future__ import annotations

import contract
import jax
import jax.numpy as jnp
import numpy as np
import on_policy_worlds as worlds
import pytest

from ddm import networks
from ddm.on_policy import npg
from ddm.on_policy.parts import windows
from ddm.types import Batch

CONTRACT = contract.Contract(
    small={"window": 4, "cg_iterations": 3, "num_epochs": 2, "num_minibatches": 2},
    variants=[
        {"head": "categorical", "num_actions": contract.NUM_ACTIONS},
        {"head": "mixture"},
    ],
    other={
        **worlds.OTHER_HEAD,
        "damping": 1.0,
        "cg_iterations": 2,
        "max_halvings": 3,
    },
    context=worlds.HEAD_CONTEXT,
)

TABLE = npg.Config(head="tabular", num_actions=3, window=6, damping=0.0, num_minibatches=2)


def _start(states=2):
    no = jnp.zeros((1, 6), bool)
    rows = jnp.eye(states)[jnp.array([[0, 0, 0, 1, 1, 1]])]
    batch = Batch(
        observations=rows, actions=jnp.array([[0, 1, 2, 0, 1, 2]], jnp.int32),
        rewards=jnp.ones((1, 6)), next_observations=rows, terminations=no, truncations=no,
    )  # fmt: skip
    return npg.init(TABLE, jax.random.key(0), batch), windows.evaluate(
        lambda observations: observations[:, 0], batch, 0.9, 0.9
    )


def test_the_natural_direction_of_a_table_is_the_advantage_itself():
    """Kakade's theorem 1 for a table: F x = g at x(s, a) = A(s, a), whatever the probabilities."""
    state, steps = _start()
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]))
    actor = state.actor.replace(params={"params": {"output": {"kernel": logits}}})
    # Steps in the proportions of policy and states, so that there is no sampling error.
    states = np.repeat([0, 1], 4)
    actions = np.array([0, 0, 1, 2, 0, 1, 1, 2])
    advantages = np.array([[1.0, -3.0, 1.0], [2.0, 0.0, -2.0]])  # means of 0 under the policy
    steps = windows.Steps(
        observations=jnp.eye(2)[states], actions=jnp.asarray(actions, jnp.int32),
        advantages=jnp.asarray(advantages[states, actions], jnp.float32),
        returns=jnp.zeros(8), values=jnp.zeros(8), weights=jnp.ones(8),
    )  # fmt: skip
    config = TABLE.replace(damping=1e-6)
    direction, slope = npg.natural_direction(config, actor, steps)
    got = np.asarray(direction["params"]["output"]["kernel"])
    np.testing.assert_allclose(got - got.mean(axis=1, keepdims=True), advantages - advantages.mean(
        axis=1, keepdims=True), atol=2e-3)  # fmt: skip
    # g . x = x' F x = E[A^2]
    assert float(slope) == pytest.approx(np.mean(advantages[states, actions] ** 2), rel=1e-3)


def test_a_step_changes_the_policy_by_the_divergence_that_is_asked_for():
    state, steps = _start()
    improve = jax.jit(npg.improve)
    config = TABLE.replace(damping=1e-6)
    for scale in (1.0, 1e3):  # whatever the scale of the advantages
        steps = steps._replace(advantages=scale * jnp.array([1.0, -1.0, 0.0, 0.5, 0.5, -1.0]))
        for kl_step in (1e-4, 4e-4):
            after, metrics = improve(config.replace(kl_step=kl_step), state, steps)
            old, new = (
                jax.nn.log_softmax(each.actor.params["params"]["output"]["kernel"])
                for each in (state, after)
            )
            divergence = jnp.mean(jnp.sum(jnp.exp(old) * (old - new), axis=-1))
            assert float(divergence) == pytest.approx(kl_step, rel=0.05)
            assert float(metrics["kl"]) == pytest.approx(kl_step, rel=0.05)
    assert float(metrics["entropy"]) == pytest.approx(np.log(3.0), rel=1e-5)


def test_a_step_that_changes_too_much_is_halved():
    """At the end of a tanh, the second order is no guide: the mean would jump from 1 to -1."""
    config = npg.Config(
        head="gaussian", hidden_sizes=(), window=6, kl_step=0.03, damping=1e-6, num_minibatches=1
    )
    rows = jnp.ones((1, 64, 1))
    actions = jnp.linspace(-0.9, 0.9, 64)[None, :, None]
    no = jnp.zeros((1, 64), bool)
    batch = Batch(
        observations=rows, actions=actions, rewards=-actions[..., 0], next_observations=rows,
        terminations=~no, truncations=no,
    )  # fmt: skip
    state = npg.init(config, jax.random.key(0), batch)
    far = lambda x: jnp.array([3.0, 0.0]) if x.shape == (2,) else jnp.zeros_like(x)  # noqa: E731
    state = state.replace(actor=state.actor.replace(params=jax.tree.map(far, state.actor.params)))
    update = jax.jit(npg.update)
    _, free = update(config.replace(max_halvings=0), state, batch)
    _, held = update(config, state, batch)
    assert float(free["kl"]) > 0.1
    assert 1e-3 < float(held["kl"]) <= 0.06
    assert 0.0 < float(held["gain"]) < float(free["gain"])


def test_it_finds_the_way_out_of_a_room():
    config = npg.Config(
        head="tabular", window=32, hidden_sizes=(16,), discount=1.0, kl_step=0.05,
        value_learning_rate=1e-2, num_epochs=4, num_minibatches=4, cg_iterations=5,
    )  # fmt: skip
    worlds.check_room(npg, config)


def test_it_aims_at_a_point_inside_the_box_and_at_its_bound():
    config = npg.Config(
        head="gaussian", hidden_sizes=(8,), window=16, discount=0.5, value_learning_rate=0.01,
        kl_step=0.03, num_minibatches=4, log_std_min=-3.0,
    )  # fmt: skip
    worlds.check_aim(npg, config)


def test_values_are_fitted_to_their_returns():
    """On steps with returns of 2 and 5 in two states, half the squared error goes to 0."""
    state, steps = _start()
    returns = jnp.where(steps.observations[:, 0] > 0, 2.0, 5.0)
    config = TABLE.replace(value_learning_rate=0.01, num_epochs=150)
    after, _ = jax.jit(npg.improve)(config, state, steps._replace(returns=returns))
    np.testing.assert_allclose(after.value(jnp.eye(2)), [2.0, 5.0], atol=0.1)
    assert isinstance(after.value, networks.Trainable)
