from __future__ import annotations

import functools

import contract
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import CONTEXT, OTHER, SMALL_MODEL, SMALL_ROUNDS

from ddm import networks
from ddm.errors import InputError
from ddm.model_based import dynamics, mbpo, rambo
from ddm.model_based.parts import logged, members
from ddm.types import Batch

CONTRACT = contract.Contract(
    small={
        **SMALL_MODEL,
        **SMALL_ROUNDS,
        "adversarial_steps": 2,
        "adversarial_batch_size": 4,
        "adversarial_weight": 1.0,
    },
    other={
        **OTHER,
        "adversarial_steps": 3,
        "adversarial_batch_size": 3,
        "adversarial_weight": 100.0,
        "bc_steps": 2,
    },
    context={**CONTEXT, "probabilistic": {"adversarial_steps": 0}},
)


class Linear(nn.Module):
    """Reward and change of the observation are linear; their noise is known."""

    log_variance: float = -2.0

    @nn.compact
    def __call__(self, observations, actions):
        mean = nn.Dense(3)(jnp.concatenate([observations, actions], axis=-1))
        return networks.Outcome(mean, jnp.full_like(mean, self.log_variance), mean[:, 0])


class Sum(nn.Module):
    """A critic: Q(s, a) is the sum of the observation."""

    @nn.compact
    def __call__(self, observations, actions):
        scale = self.param("scale", nn.initializers.ones, ())
        return (scale * jnp.sum(observations, axis=-1))[None]


def log(rows=64, seed=0):
    random = np.random.default_rng(seed)
    observations = random.normal(size=(rows, 2)).astype(np.float32)
    actions = random.uniform(-1, 1, size=(rows, 1)).astype(np.float32)
    noise = 0.1 * random.normal(size=(rows, 2)).astype(np.float32)
    no = np.zeros(rows, bool)
    fields = (observations, actions, observations[:, 0], observations + actions + noise, no, no)
    names = ("observations", "actions", "rewards", "next_observations", "terminations",
             "truncations")  # fmt: skip
    return Batch(**dict(zip(names, map(jnp.asarray, fields), strict=True)))


def linear_config(**fields):
    small = {**SMALL_MODEL, **SMALL_ROUNDS, "model_weight_decay": (0.0,), "termination": "never"}
    return rambo.Config().replace(
        **small | {"hidden_sizes": (8,), "dynamics_network": lambda config, size: Linear(),
                   "critic_network": lambda config, size: Sum(), "adversarial_steps": 300,
                   "adversarial_batch_size": 64, "adversarial_learning_rate": 1e-2} | fields
    )  # fmt: skip


def likelihood_in_float64(config, state, rows):
    kernel, bias = (
        np.asarray(state.params["params"]["Dense_0"][name], np.float64)
        for name in ("kernel", "bias")
    )
    inputs = np.concatenate([rows.observations, rows.actions], axis=-1).astype(np.float64)
    elites = np.argsort(state.holdout_errors)[: config.num_elites]
    densities = [
        np.sum(
            -0.5 * (rows.targets - inputs @ kernel[e] - bias[e]) ** 2 * np.exp(2.0)
            + 1.0
            - 0.5 * np.log(2 * np.pi),
            axis=-1,
        )
        for e in elites
    ]
    return np.logaddexp.reduce(densities, axis=0) - np.log(len(elites)), inputs


@pytest.mark.parametrize("distance", [0.0, 30.0])
def test_the_likelihood_of_the_mixture_equals_numpys_where_exponentials_underflow(distance):
    config, batch = linear_config(), log()
    state = rambo.init(config, jax.random.key(0), batch).model
    rows = logged.rows_of(batch)
    rows = rows.replace(targets=rows.targets + distance)
    expected, _ = likelihood_in_float64(config, state, rows)
    found = rambo.mixture_log_likelihood(config, state, state.params, rows)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert distance == 0.0 or np.all(np.exp(np.float32(expected)) == 0.0)


def test_the_gradient_is_the_score_functions_and_that_of_the_likelihood():
    config = linear_config(num_members=2, num_elites=1, adversarial_weight=0.7)
    batch, known = log(), log(seed=1)
    state = rambo.init(config, jax.random.key(0), batch).model
    advantages = jnp.asarray(np.random.default_rng(2).normal(size=64), jnp.float32)
    loss = functools.partial(rambo.adversarial_loss, config, state)
    gradient = jax.grad(lambda params: loss(params, batch, advantages, logged.rows_of(known))[0])(
        state.params
    )["params"]["Dense_0"]["kernel"][0]

    def by_hand(batch):
        rows = logged.rows_of(batch)
        _, inputs = likelihood_in_float64(config, state, rows)
        dense = state.params["params"]["Dense_0"]
        return inputs, rows.targets - inputs @ dense["kernel"][0] - dense["bias"][0]

    inputs, errors = by_hand(batch)
    score = inputs.T @ (errors * np.exp(2.0) * advantages[:, None]) / 64
    inputs, errors = by_hand(known)
    likelihood = -2.0 * np.exp(2.0) * inputs.T @ errors / (64 * 3)
    np.testing.assert_allclose(gradient, 0.7 * score + likelihood, rtol=1e-4, atol=1e-5)


def test_advantages_by_hand():
    """Values are sums of observations, whatever the policy does."""
    config, batch = linear_config(discount=0.9), log(8)
    batch = batch.replace(terminations=jnp.arange(8) % 3 == 0)
    policy = rambo.init(config, jax.random.key(0), batch).policy
    ahead = np.where(batch.terminations, 0.0, 0.9 * np.sum(batch.next_observations, axis=-1))
    gains = batch.rewards + ahead - np.sum(batch.observations, axis=-1)
    found = rambo.advantage(config, policy, batch, jax.random.key(1))
    np.testing.assert_allclose(found, (gains - gains.mean()) / gains.std(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("ends", "length"), [("always", 20), ("never", 1), ("never", 20)])
def test_the_adversarys_episodes_begin_anew_at_an_end_and_at_their_length(ends, length):
    """A model that makes every number a million times larger overflows in seven steps."""
    always = lambda following: jnp.ones(following.shape[:-1], bool)  # noqa: E731
    config = linear_config(
        adversarial_steps=12, adversarial_batch_size=4, adversarial_learning_rate=0.0,
        rollout_length=length, termination=always if ends == "always" else "never",
    )  # fmt: skip
    state = rambo.init(config, jax.random.key(0), log())
    params = jax.tree.map(lambda x: 1e6 * x, state.model.params)
    state = state.replace(model=state.model.replace(params=params))
    _, metrics = jax.jit(functools.partial(rambo.oppose, config))(state, log(), jax.random.key(1))
    assert np.isfinite(metrics["adversarial_loss"]) == (ends == "always" or length == 1)


@functools.cache
def opposed():
    """One compiled function for all weights: (weight, state) -> state and metrics."""
    return jax.jit(
        lambda weight, state: rambo.oppose(
            linear_config(adversarial_weight=weight), state, log(512), jax.random.key(1)
        )
    )


def value(state):
    """What the members expect of r + gamma Q(s') at the log's pairs."""
    batch, model = log(512), state.model
    found = members.predict(
        linear_config(), model.members, model.params, model.scales, batch.observations,
        batch.actions,
    )  # fmt: skip
    return float(jnp.mean(found.means[..., 0] + 0.99 * jnp.sum(found.means[..., 1:], axis=-1)))


def surprise(state):
    """Negative log-likelihood per dimension of rows that the adversary never saw."""
    unseen = log(256, seed=7)
    return float(
        dynamics.loss(linear_config(), state.model, unseen, jax.random.key(0))[
            "negative_log_likelihood"
        ]
    )


def test_the_model_becomes_pessimistic_and_still_explains_the_log_and_rows_it_never_saw():
    begin = rambo.init(linear_config(), jax.random.key(0), log())
    fitted, _ = opposed()(0.0, begin)
    fitted, honest = opposed()(0.0, fitted)
    truth, known = value(fitted), surprise(fitted)
    against, metrics = opposed()(1.0, fitted)
    longer, metrics = opposed()(1.0, against)
    alone, spoiled = opposed()(1e6, fitted)  # the likelihood no longer counts
    assert honest["model_error"] < 0.02
    for state in (against, longer):  # it falls once, and not without end
        assert truth - 0.2 < value(state) < truth - 0.05
        assert surprise(state) < known + 0.05  # found: 0.01
    assert value(alone) < truth - 1.0
    assert surprise(alone) > known + 10.0
    before = {"holdout_error": honest["model_error"]}
    assert not rambo.diagnose(linear_config(), {**before, **metrics})
    [found] = rambo.diagnose(linear_config(), {**before, **spoiled})
    assert "has spoiled the model" in found


def test_a_model_that_was_spoiled_is_reported_with_both_errors():
    fine = {"holdout_error": 0.1, "model_error": 0.3}
    assert not rambo.diagnose(linear_config(), fine)
    [found] = rambo.diagnose(linear_config(), {**fine, "model_error": 0.42})
    assert "error on the log is 0.42 of the variance, and was 0.1 before" in found


@pytest.mark.parametrize("steps", [0, 2])
def test_before_the_adversarys_first_step_it_is_mbpo_to_the_bit(steps):
    """Imagination and the policy's steps come first, and see the model as the log made it."""
    small = {**SMALL_MODEL, **SMALL_ROUNDS, "hidden_sizes": (8, 8)}
    ours = rambo.Config().replace(**small, adversarial_steps=steps, adversarial_batch_size=4)
    slow = {"actor_learning_rate": 1e-4, "temperature_learning_rate": 1e-4}  # RAMBO's
    theirs = mbpo.Config().replace(**small, **slow)
    batch = contract.make_batch(mbpo, theirs)
    states = []
    for algorithm, config in ((rambo, ours), (mbpo, theirs)):
        state = algorithm.init(config, jax.random.key(0), batch)
        states.append(jax.jit(functools.partial(algorithm.update, config))(state, batch)[0])
    names = ("policy", "imagined") if steps else ("model", "policy", "imagined")
    one, other = (
        [np.asarray(leaf) for leaf in jax.tree.leaves([getattr(state, name) for name in names])
         if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
        for state in states
    )  # fmt: skip
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)
    kept = [jax.tree.leaves(state.model.params)[0] for state in states]
    assert np.array_equal(*kept) == (steps == 0)


def test_cloning_raises_the_likelihood_of_the_log_and_moves_only_the_policy():
    config = linear_config(bc_steps=1, actor_learning_rate=1e-2)
    state = rambo.init(config, jax.random.key(0), log())
    step = jax.jit(functools.partial(rambo.clone, config))
    after, first = step(state, log())
    for _ in range(20):
        after, last = step(after, log())
    assert last["bc_loss"] < first["bc_loss"]
    assert after.step == 21
    np.testing.assert_array_equal(jax.tree.leaves(after.model.params)[0],
                                  jax.tree.leaves(state.model.params)[0])  # fmt: skip
    assert [stage.name for stage in rambo.stages(config)] == ["dynamics", "clone", "policy"]


def test_an_adversary_of_regressions_is_refused():
    with pytest.raises(InputError, match="probabilistic is False, expected True"):
        rambo.init(linear_config(probabilistic=False), jax.random.key(0), log())
