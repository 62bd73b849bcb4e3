from __future__ import annotations

import contract
import forks
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

from ddm.errors import InputError
from ddm.imitation import implicit_bc
from ddm.imitation.parts import search
from ddm.types import Batch, initial_policy_state

CONTRACT = contract.Contract(
    small={"width": 8, "num_negatives": 4, "langevin_steps": 3},
    variants=[{"negatives": "langevin", "gradient_penalty": True, "inference": "langevin"}],
    other={
        "negatives": "langevin",
        "num_negatives": 5,
        "inference": "langevin",
        "dfo_rounds": 3,
        "langevin_steps": 4,
        "langevin_final_step_size": 0.05,
        "langevin_power": 8.0,
        "num_blocks": 2,
        "gradient_penalty_weight": 10.0,
        "gradient_margin": 0.0,
    },
    context={
        "langevin_steps": {"negatives": "langevin"},
        "langevin_step_size": {"inference": "langevin"},
        "langevin_final_step_size": {"inference": "langevin"},
        "langevin_power": {"inference": "langevin"},
        "langevin_noise": {"inference": "langevin"},
        "langevin_max_step": {"inference": "langevin"},
        "gradient_penalty_weight": {"gradient_penalty": True, "gradient_margin": 0.0},
        "gradient_margin": {"gradient_penalty": True},
    },
    draws=True,
    slow=True,
)

CONFIG = implicit_bc.Config(
    observation_steps=1, width=32, num_negatives=32, num_samples=128, learning_rate=3e-3,
    decay_steps=1500,
)  # fmt: skip
HALF_WIDTH = 1.1  # of the box of counter-examples


@pytest.fixture(scope="module")
def demonstrations():
    return forks.demonstrations(4000, window=1).replace(mask=None)


@pytest.fixture(scope="module")
def trained(demonstrations):
    return probes.train(implicit_bc, CONFIG, demonstrations, steps=1500, batch_size=64)


def _best_info_nce(num_negatives, rows=4000):
    """The loss of the true log-density, which no score beats."""
    batch = forks.demonstrations(rows, seed=5)
    random = np.random.default_rng(0)
    negatives = random.uniform(-HALF_WIDTH, HALF_WIDTH, (rows, num_negatives, 1))
    actions = jnp.concatenate([batch.actions[:, None], jnp.asarray(negatives, jnp.float32)], 1)
    observations = jnp.broadcast_to(batch.observations[:, None], actions.shape)
    log_probs = forks.FORK.log_prob(observations, actions)
    return float(jnp.mean(jax.nn.logsumexp(log_probs, axis=1) - log_probs[:, 0]))


def test_the_loss_reaches_that_of_the_generating_law(trained):
    _, metrics = trained
    best = _best_info_nce(32)
    assert np.log(33) - best > 1.0
    assert metrics["info_nce"] == pytest.approx(best, abs=0.08)
    assert metrics["loss"] == metrics["info_nce"]


def test_the_score_is_the_log_density_up_to_a_constant(trained):
    state, _ = trained
    actions = jnp.linspace(-1.0, 1.0, 201)[None, :, None]
    for position in (-0.8, 0.0, 0.8):
        at = jnp.full((1, 1, 1), position)
        scores = implicit_bc.scores(CONFIG, state, at, actions)[0]
        observations = jnp.full((201, 1), position)
        density = np.exp(forks.FORK.log_prob(observations, actions[0])) / 100
        fitted = np.asarray(jax.nn.softmax(scores))
        # Total variation.
        assert 0.5 * np.abs(fitted - density / density.sum()).sum() < 0.2


@pytest.mark.parametrize("inference", ["dfo", pytest.param("langevin", marks=pytest.mark.slow)])
def test_the_search_keeps_both_branches_of_a_fork(trained, inference):
    state, _ = trained
    config = CONFIG.replace(inference=inference, langevin_steps=50)
    observations = forks.demonstrations(400, seed=1).observations
    for deterministic, valid in ((True, 0.995), (False, 0.95)):
        actions = forks.act_at(
            implicit_bc, config, state, observations, deterministic=deterministic
        )
        assert forks.validity(observations, actions) > valid
        if not deterministic:
            assert np.mean(actions > 0) == pytest.approx(0.5, abs=0.1)


@pytest.mark.slow
def test_langevin_training_with_a_penalty_finds_the_branches(demonstrations):
    config = CONFIG.replace(
        negatives="langevin", num_negatives=8, gradient_penalty=True, inference="langevin",
        langevin_steps=10, decay_steps=600,
    )  # fmt: skip
    state, metrics = probes.train(implicit_bc, config, demonstrations, steps=600, batch_size=64)
    observations = forks.demonstrations(400, seed=1).observations
    actions = forks.act_at(implicit_bc, config, state, observations, deterministic=True)
    assert forks.validity(observations, actions) > 0.9
    assert metrics["loss"] == pytest.approx(
        metrics["info_nce"] + metrics["gradient_penalty"], rel=1e-5
    )


# What does not need training.


def _fresh(config, rows=3, frames=1):
    random = np.random.default_rng(0)
    batch = Batch(
        observations=jnp.asarray(random.normal(size=(rows, frames, 2)), jnp.float32),
        actions=jnp.asarray(random.uniform(-1, 1, (rows, frames, 2)), jnp.float32),
    )
    return jax.jit(implicit_bc.init)(config, jax.random.key(0), batch), batch


def _linear(config, state, slopes):
    """The state of a score f(s, a) = <slopes, a>, by the skip connection alone."""
    params = jax.tree.map(jnp.zeros_like, state.policy.params)
    kernel = params["params"]["action"]["kernel"].at[:, 0].set(jnp.array(slopes))
    params["params"]["action"]["kernel"] = kernel
    params["params"]["output"]["kernel"] = params["params"]["output"]["kernel"].at[0, 0].set(1.0)
    return state.replace(policy=state.policy.replace(params=params))


def test_the_penalty_of_a_linear_score_by_hand():
    config = CONFIG.replace(
        width=4, gradient_penalty=True, gradient_penalty_weight=3.0, gradient_margin=0.5
    )
    state, batch = _fresh(config)
    state = _linear(config, state, [-2.0, 0.7])
    _, metrics = jax.jit(implicit_bc.update)(config, state, batch)
    # The largest slope is 2 in absolute value.
    assert metrics["gradient_penalty"] == pytest.approx((2.0 - 0.5) ** 2, rel=1e-5)
    assert metrics["loss"] == pytest.approx(float(metrics["info_nce"]) + 6.75, rel=1e-5)
    flat = _linear(config, state, [0.0, 0.0])
    _, metrics = jax.jit(implicit_bc.update)(config, flat, batch)
    assert metrics["info_nce"] == pytest.approx(np.log(33), rel=1e-5)
    assert metrics["gradient_penalty"] == 0.0


@pytest.mark.parametrize("inference", ["dfo", pytest.param("langevin", marks=pytest.mark.slow)])
def test_the_best_action_of_a_steep_linear_score_is_a_corner_of_the_action_box(inference):
    config = CONFIG.replace(width=4, inference=inference)
    state, batch = _fresh(config)
    state = _linear(config, state, [-30.0, 30.0])
    action, _ = jax.jit(implicit_bc.act, static_argnames="deterministic")(
        config, state, batch.observations[0, 0], jax.random.key(0), deterministic=True
    )
    # Candidates lie in the wider box; what is played does not.
    np.testing.assert_array_equal(action, [-1.0, 1.0])


def test_draws_follow_the_softmax_of_the_scores():
    scores = jnp.log(jnp.array([[0.5, 0.0, 0.3, 0.2], [0.0, 0.0, 0.0, 1.0]]))
    candidates = jnp.broadcast_to(jnp.arange(4.0)[:, None], (2, 4, 1))
    keys = jax.random.split(jax.random.key(0), 5000)
    drawn = jax.vmap(lambda key: search.draw(key, scores, candidates))(keys)[..., 0]
    shares = [np.mean(drawn[:, 0] == each) for each in range(4)]
    np.testing.assert_allclose(shares, [0.5, 0.0, 0.3, 0.2], atol=0.02)
    np.testing.assert_array_equal(drawn[:, 1], 3.0)


def test_the_default_search_perturbs_twice_as_the_authors_do():
    config = implicit_bc.Config(observation_steps=1, width=4, dfo_std=0.1)
    state, _ = _fresh(config, rows=1)
    # A single candidate in each of many rows is always drawn: what moves it is the noise alone.
    start = jnp.zeros((20_000, 1, 2))
    score = lambda actions: state.policy(jnp.zeros((20_000, 1, 2)), actions)  # noqa: E731
    moved = jax.jit(lambda *args: search.derivative_free(config, score, *args))(
        jax.random.key(0), start
    )
    variance = 0.1**2 * (1.0 + 0.5**2)  # a third round would add 0.25^2
    assert np.var(moved) == pytest.approx(variance, rel=0.03)


def test_the_score_sees_all_frames_and_the_policy_keeps_them():
    config = CONFIG.replace(observation_steps=3, width=8)
    state, batch = _fresh(config, frames=3)
    score = lambda frames: implicit_bc.scores(config, state, frames, batch.actions)  # noqa: E731
    slopes = jax.jit(jax.grad(lambda frames: score(frames).sum()))(batch.observations)
    assert np.abs(slopes).max(axis=(0, 2)).min() > 0
    memory = initial_policy_state(implicit_bc, config, state)
    act = jax.jit(implicit_bc.act)
    for observation in batch.observations[0]:
        _, memory = act(config, state, observation, jax.random.key(0), memory)
    np.testing.assert_array_equal(memory.observations, batch.observations[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"negatives": "mined"}, "negatives=mined is unknown; choose one of uniform, langevin"),
        ({"inference": "grid"}, "inference=grid is unknown; choose one of dfo, langevin"),
    ],
)
def test_wrong_configurations_are_refused_by_name(changes, message):
    _, batch = _fresh(CONFIG)
    with pytest.raises(InputError, match=message):
        implicit_bc.init(CONFIG.replace(**changes), jax.random.key(0), batch)


def test_discrete_actions_are_refused():
    _, batch = _fresh(CONFIG)
    batch = batch.replace(actions=jnp.zeros((3, 1), jnp.int32))
    with pytest.raises(InputError, match="actions are integers"):
        implicit_bc.init(CONFIG, jax.random.key(0), batch)
