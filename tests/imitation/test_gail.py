"""GAIL: its parts by hand, and a room whose expert is known."""

from __future__ import annotations

import contract
import jax
import jax.numpy as jnp
import numpy as np
import on_policy_worlds as worlds
import pytest
from flax import linen as nn

from ddm import evaluation, networks
from ddm.errors import InputError
from ddm.imitation import gail
from ddm.imitation.parts import occupancy
from ddm.on_policy.parts import windows
from ddm.ops import occupancy_matching
from ddm.types import Batch, diagnose

CONTRACT = contract.Contract(
    small={
        "window": 4, "num_epochs": 2, "num_minibatches": 2, "discriminator_steps": 2,
        "discriminator_hidden_sizes": (8,),
    },
    variants=[
        {
            "head": "categorical", "num_actions": contract.NUM_ACTIONS,
            "discriminator_input": "ss", "spectral_norm": True,
        },
        {
            "discriminator_loss": "wasserstein", "reward": "wasserstein", "absorbing": False,
            "discriminator_input": "s",
        },
    ],
    other={
        "head": "gaussian",
        "features": lambda observations: 2.0 * contract.pair_features(observations),
        "clip_ratio": 1e-4,
        "value_clip": 1e-4,
        "entropy_weight": 0.5,
        "max_gradient_norm": 1e-4,
        "target_kl": 1e-9,
        "window": 5,
        "num_epochs": 3,
        "num_minibatches": 3,
        "absorbing_copies": 20.0,
        "reward_bound": 0.01,
        "reward": "airl",
        "discriminator_input": "ss",
        "discriminator_loss": "wasserstein",
        "discriminator_steps": 3,
        "discriminator_hidden_sizes": (6,),
    },
    context={
        "features": {
            "head": "linear_softmax",
            "num_actions": contract.NUM_ACTIONS,
            "features": contract.pair_features,
        },
        "encoder": {"absorbing": False},
        "reward_bound": {"reward": "chi2"},
    },
)  # fmt: skip


# Parts by hand. Observations are one number, actions one number.

LINEAR = gail.Config(
    window=3, discriminator_steps=2, hidden_sizes=(4,), discriminator_network=lambda *_: Linear()
)


class Linear(networks.Network):
    """h = w . (s, indicator, a)."""

    @nn.compact
    def __call__(self, observations, actions=None, next_observations=None):
        parts = [x for x in (observations, actions, next_observations) if x is not None]
        row = jnp.concatenate(parts, axis=-1)
        return nn.Dense(1, use_bias=False, name="w")(row)[..., 0]


def _rows(ends=(False, True, False), cuts=(False, False, True)):
    """One window of three steps: an end of the task, and a cut."""
    return Batch(
        observations=jnp.array([[[1.0], [2.0], [3.0]]]),
        actions=jnp.array([[[0.5], [-0.5], [0.0]]]),
        rewards=jnp.full((1, 3), 7.0),
        next_observations=jnp.array([[[2.0], [3.0], [4.0]]]),
        terminations=jnp.array([ends]),
        truncations=jnp.array([cuts]),
    )


def _expert(rows=4):
    flat = windows.flatten(_rows())
    return jax.tree.map(lambda x: jnp.concatenate([x] * rows)[:rows], flat)


def _start(config=LINEAR):
    own = _rows()
    state = gail.init(config, jax.random.key(0), {"own": own, "expert": _expert()})
    return state, own


def _with_weights(state, *weights):
    params = jax.tree.map(lambda _: jnp.array(weights)[:, None], state.discriminator.params)
    return state.discriminator.replace(params=params)


def test_what_follows_an_end_is_the_absorbing_reward_for_ever_and_a_cut_has_none():
    state, own = _start(LINEAR.replace(discount=0.9, reward="airl"))
    judge = _with_weights(state, 0.1, 2.0, 1.0)  # of s, of the indicator, of a
    config = LINEAR.replace(discount=0.9, reward="airl")
    rewards, worth = gail.rewards_of(config, judge, own)
    np.testing.assert_allclose(rewards, [[0.6, -0.3, 0.3]], rtol=1e-5)
    np.testing.assert_allclose(worth, [[0.6, -0.3 + 9.0 * 2.0, 0.3]], rtol=1e-5)
    state, own = _start(LINEAR.replace(absorbing=False))
    judge = _with_weights(state, 0.1, 1.0)
    rewards, worth = gail.rewards_of(LINEAR.replace(absorbing=False), judge, own)
    np.testing.assert_allclose(rewards, jax.nn.softplus(jnp.array([[0.6, -0.3, 0.3]])), rtol=1e-5)
    np.testing.assert_array_equal(worth, rewards)


@pytest.mark.parametrize(
    ("seen", "states"),
    [
        ("sa", [[1, 0, 0.5], [2, 0, -0.5]]),
        ("s", [[1, 0], [2, 0]]),
        ("ss", [[1, 0, 2, 0], [2, 0, 0, 1]]),
    ],
)
def test_what_a_discriminator_reads(seen, states):
    rows = jax.tree.map(lambda x: x[:2], windows.flatten(_rows()))
    config = LINEAR.replace(discriminator_input=seen)
    parts = occupancy.look(config, occupancy.with_indicator(rows))
    read = jnp.concatenate([x for x in parts if x is not None], axis=-1)
    np.testing.assert_array_equal(read, states)
    fields = set(occupancy.expert_spec(config.replace(absorbing=False), 1).fields)
    assert ("actions" in fields) == (seen == "sa")
    assert ("next_observations" in fields) == (seen == "ss")
    assert "rewards" not in occupancy.expert_spec(config, 1).fields


def test_the_penalty_of_a_linear_discriminator_is_that_of_its_slope():
    """|w| = |(3, 4)| = 5 everywhere: (5 - 1)^2."""
    config = LINEAR.replace(absorbing=False)
    state, own = _start(config)
    judge = _with_weights(state, 3.0, 4.0)
    sides = [occupancy.look(config, rows) for rows in (_expert(3), windows.flatten(own))]
    key = jax.random.key(0)
    penalty = occupancy.gradient_penalty(config, judge, judge.params, *sides, key)
    assert float(penalty) == pytest.approx(16.0, rel=1e-5)
    flat = config.replace(gradient_penalty_slope=0.0)
    penalty = occupancy.gradient_penalty(flat, judge, judge.params, *sides, key)
    assert float(penalty) == pytest.approx(25.0, rel=1e-5)


def test_both_sides_weigh_the_same_whatever_their_number_of_rows():
    losses = occupancy_matching.logistic_loss
    loss, metrics = occupancy.compare(losses, jnp.zeros(5), jnp.array([0.0]))
    assert float(loss) == pytest.approx(2.0 * np.log(2.0))
    assert float(metrics["estimated_divergence"]) == pytest.approx(0.0, abs=1e-6)
    _, metrics = occupancy.compare(losses, jnp.array([1.0, -1.0, 2.0]), jnp.array([-1.0, -2.0]))
    assert float(metrics["expert_accuracy"]) == pytest.approx(2 / 3)
    assert float(metrics["own_accuracy"]) == 1.0
    critic = occupancy_matching.critic_loss
    _, metrics = occupancy.compare(critic, jnp.array([3.0, 5.0]), jnp.array([1.0]))
    assert float(metrics["estimated_divergence"]) == pytest.approx(3.0)


def test_the_loss_adds_the_penalty_and_takes_the_entropy_off():
    config = LINEAR.replace(
        absorbing=False, gradient_penalty_weight=0.5, discriminator_entropy_weight=0.25
    )
    state, own = _start(config)
    judge = _with_weights(state, 0.0, 0.0)
    sides = [occupancy.look(config, rows) for rows in (_expert(3), windows.flatten(own))]
    loss, _ = occupancy.loss(config, judge, judge.params, *sides, jax.random.key(0))
    log_2 = np.log(2.0)
    assert float(loss) == pytest.approx(2.0 * log_2 + 0.5 * 1.0 - 0.25 * log_2, rel=1e-5)


def test_a_function_stands_in_for_a_reward():
    config = LINEAR.replace(reward=_doubled)
    np.testing.assert_allclose(occupancy.reward_of(config, jnp.array([1.5])), [3.0])


def _doubled(logits, bound):
    del bound
    return 2.0 * logits


def test_a_collapsed_discriminator_is_reported_with_the_metrics_that_show_it():
    config = gail.Config()
    gone = {"expert_accuracy": 1.0, "own_accuracy": 0.998, "reward_spread": 0.004}
    [sentence] = diagnose(gail, config, gone)
    for part in ("collapsed", "expert_accuracy=1", "own_accuracy=0.998", "reward_spread=0.004"):
        assert part in sentence
    for fine in ({"own_accuracy": 0.8}, {"expert_accuracy": 0.7}, {"reward_spread": 0.3}):
        assert diagnose(gail, config, {**gone, **fine}) == []


def test_sources_that_are_missing_or_of_another_environment_are_refused():
    state, own = _start()
    with pytest.raises(InputError, match="gail: expected batches of own and expert; given: own"):
        gail.update(LINEAR, state, {"own": own})
    with pytest.raises(
        InputError, match="gail: expected batches of own and expert; given: a Batch"
    ):
        gail.init(LINEAR, jax.random.key(0), own)
    expert = _expert()
    other = expert.replace(observations=jnp.ones((4, 2)), next_observations=jnp.ones((4, 2)))
    with pytest.raises(InputError, match=r"observations of the expert have shape \(2,\).*another"):
        gail.init(LINEAR, jax.random.key(0), {"own": own, "expert": other})
    images = own.replace(
        observations=jnp.zeros((1, 3, 8, 8, 1)), next_observations=jnp.zeros((1, 3, 8, 8, 1))
    )
    seen = expert.replace(
        observations=jnp.zeros((4, 8, 8, 1)), next_observations=jnp.zeros((4, 8, 8, 1))
    )
    config = gail.Config(window=3, encoder="conv", hidden_sizes=(4,))
    with pytest.raises(InputError, match="an absorbing state is one of vectors"):
        gail.init(config, jax.random.key(0), {"own": images, "expert": seen})


def test_step_sizes_end_with_the_run_counted_in_its_updates():
    assert gail.resolve(LINEAR, 40).decay_steps == 20
    assert gail.resolve(LINEAR.replace(decay_steps=0), 40).decay_steps == 0


# A room whose exit an expert takes by a shortest way, and says nothing of rewards.


def test_it_walks_to_the_exit_as_the_expert_does_and_the_game_ends():
    config = gail.Config(
        head="tabular", window=32, hidden_sizes=(16,), discount=0.95, actor_learning_rate=0.01,
        value_learning_rate=1e-2, num_epochs=4, num_minibatches=4, entropy_weight=0.01,
        discriminator_hidden_sizes=(32,), discriminator_learning_rate=3e-3,
        gradient_penalty_weight=0.1,
    )  # fmt: skip
    learner, metrics = worlds.imitate(gail, config, updates=60)
    policy = worlds.policy_of(gail, config, learner)
    exact = evaluation.exact_return(policy, worlds.room(), horizon=30)
    assert float(exact) == pytest.approx(worlds.BEST_IN_ROOM, abs=1e-5)
    sampled = evaluation.exact_return(policy, worlds.room(), deterministic=False, horizon=30)
    assert float(sampled) > worlds.BEST_IN_ROOM - 0.05
    late = jax.tree.map(lambda series: float(jnp.mean(series[-10:])), metrics)
    assert float(metrics["collect/return"][0]) < 0.0
    assert abs(late["estimated_divergence"]) < 0.05
    assert 0.3 < late["own_accuracy"] < 0.7
    assert not diagnose(gail, config, late)
