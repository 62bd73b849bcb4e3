"""Exact returns of learned policies: tables, lanes, and what is refused."""

from __future__ import annotations

import evaluation_fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import evaluation
from ddm.data import identity_normalization
from ddm.envs import tabular
from ddm.errors import InputError
from ddm.imitation import bc
from ddm.types import Batch, Discrete

CONFIG = bc.Config(head="tabular", num_actions=2)
# On the line -1, 0, 1, 2 with start 0: how likely each position goes right.
RIGHT = np.array([0.5, 0.25, 0.8, 0.5])


def _state(right):
    batch = Batch(observations=jnp.eye(4), actions=jnp.zeros(4, jnp.int32))
    state = bc.init(CONFIG, jax.random.key(0), batch)
    logits = jnp.log(jnp.stack([1.0 - right, right], axis=-1))
    return state.replace(
        policy=state.policy.replace(params={"params": {"output": {"kernel": logits}}})
    )


def _policy(*rights, normalization=None):
    states = [_state(jnp.asarray(right)) for right in rights]
    state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    config = jax.tree.map(lambda leaf: jnp.full(len(rights), leaf), CONFIG)
    return evaluation.Policy(bc, config, state, normalization)


ONE = evaluation.Policy(bc, CONFIG, _state(jnp.asarray(RIGHT)))
LINE = tabular.line_world(2, left=1, discount=0.9)


def test_probabilities_and_modes_of_a_table():
    table = evaluation.policy_table(ONE, jnp.eye(4), 2, deterministic=False)
    np.testing.assert_allclose(table, np.stack([1 - RIGHT, RIGHT], axis=-1), atol=1e-6)
    # Ties go to the first action, left.
    table = evaluation.policy_table(ONE, jnp.eye(4), 2)
    np.testing.assert_array_equal(table, [[1, 0], [1, 0], [0, 1], [1, 0]])


def test_return_by_hand():
    # With v0 of the start, v1 and w of its right and left: v1 = .8 + .2 (.9 v0),
    # w = .5 (.9 w) + .5 (.9 v0), v0 = .25 (.9 v1) + .75 (.9 w).
    w = 0.45 / 0.55
    v0 = 0.25 * 0.9 * 0.8 / (1 - 0.25 * 0.9 * 0.18 - 0.75 * 0.9 * w)
    found = evaluation.exact_return(ONE, LINE, deterministic=False)
    assert found.shape == ()
    assert float(found) == pytest.approx(v0, rel=1e-5)
    # The mode goes left and never arrives; two steps right have probability .25 * .8.
    assert float(evaluation.exact_return(ONE, LINE)) == 0.0
    found = evaluation.exact_return(ONE, LINE, deterministic=False, horizon=2)
    assert float(found) == pytest.approx(0.25 * 0.8 * 0.9, rel=1e-5)


def test_lanes_are_evaluated_side_by_side():
    always = np.ones(4) - 1e-7
    policy = _policy(RIGHT, always)
    table = evaluation.policy_table(policy, jnp.eye(4), 2, deterministic=False, lanes=True)
    assert table.shape == (2, 4, 2)
    returns = evaluation.exact_return(policy, LINE, lanes=True)
    np.testing.assert_allclose(returns, [0.0, 0.9], atol=1e-6)


def test_normalization_and_features_are_applied():
    # The environment shows 2 s + 1, which is normalised to s.
    statistics = identity_normalization((4,), action_center=np.array(0)).replace(
        observation_mean=jnp.ones(4), observation_std=2.0 * jnp.ones(4)
    )
    policy = evaluation.Policy(bc, CONFIG, _state(jnp.asarray(RIGHT)), statistics)
    features = 2.0 * jnp.eye(4) + 1.0
    for deterministic in (True, False):
        np.testing.assert_allclose(
            evaluation.policy_table(policy, features, 2, deterministic=deterministic),
            evaluation.policy_table(ONE, jnp.eye(4), 2, deterministic=deterministic),
            atol=1e-6,
        )


def test_exact_return_is_differentiable_inside_jit():
    def return_of(logits):
        state = ONE.state.replace(
            policy=ONE.state.policy.replace(params={"params": {"output": {"kernel": logits}}})
        )
        policy = evaluation.Policy(bc, CONFIG, state)
        return evaluation.exact_return(policy, LINE, deterministic=False)

    gradient = jax.jit(jax.grad(return_of))(jnp.zeros((4, 2)))
    assert (gradient[:3, 1] > 0.0).all()  # right is better everywhere
    np.testing.assert_allclose(gradient.sum(axis=1), 0.0, atol=1e-6)


def test_what_is_no_table_is_refused_by_name():
    features = jnp.eye(4)
    with pytest.raises(InputError, match="Hesitate has memory"):
        evaluation.policy_table(evaluation_fakes.hesitate(1), features, 2, lanes=True)
    with pytest.raises(InputError, match=r"Echo returns actions of float32 and shape \(1,\)"):
        evaluation.policy_table(evaluation_fakes.echo(1.0), features, 2, lanes=True)
    three = evaluation_fakes.constant(jnp.int32(3))
    with pytest.raises(InputError, match="Constant has no log_prob"):
        evaluation.policy_table(three, features, 2, deterministic=False, lanes=True)
    with pytest.raises(InputError, match="Constant: the probabilities of 2 actions miss"):
        evaluation.policy_table(three, features, 2, lanes=True)


def test_a_table_of_another_number_of_actions_is_refused():
    policy = ONE.replace(action_space=Discrete(2))
    np.testing.assert_array_equal(
        evaluation.policy_table(policy, jnp.eye(4), 2), evaluation.policy_table(ONE, jnp.eye(4), 2)
    )
    with pytest.raises(InputError, match=r"the table: it has 3 actions, .* has 2 actions"):
        evaluation.policy_table(policy, jnp.eye(4), 3)
