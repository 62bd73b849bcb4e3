"""Advantages, log-probabilities and Fisher products against numbers from elsewhere."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from ddm import networks
from ddm.networks import heads
from ddm.on_policy.parts import actor_critic, natural, windows
from ddm.types import Batch

DISCOUNT, TRACE_DECAY = 0.9, 0.7


def value(observations):
    """A known V(s)."""
    return 2.0 * observations[:, 0] - observations[:, 1]


def random_windows(copies=3, steps=9):
    """A next observation is the observation of the next column, but where an episode ends."""
    random = np.random.default_rng(0)
    shape = (copies, steps)
    ends = random.random(shape)
    observations = random.normal(size=(*shape, 2))
    reached = random.normal(size=(*shape, 2))
    following = np.roll(observations, -1, axis=1)
    last = np.arange(steps) == steps - 1
    over = (ends < 0.2) | (ends > 0.8) | last
    arrays = {
        "observations": observations,
        "next_observations": np.where(over[..., None], reached, following),
        "actions": random.normal(size=(*shape, 1)),
        "rewards": random.normal(size=shape),
    }
    arrays = {name: jnp.asarray(each, jnp.float32) for name, each in arrays.items()}
    return Batch(
        **arrays, terminations=jnp.asarray(ends < 0.2), truncations=jnp.asarray(ends > 0.8)
    )


def by_hand(batch):
    """Equation 16 as a loop over each window, from its end."""
    batch = jax.tree.map(np.asarray, batch)
    copies, steps = batch.rewards.shape
    advantages = np.zeros((copies, steps))
    for copy in range(copies):
        later = 0.0
        for t in reversed(range(steps)):
            row = jax.tree.map(lambda x, copy=copy, t=t: x[copy, t], batch)
            now, following = (
                float(value(each[None])[0]) for each in (row.observations, row.next_observations)
            )
            if row.terminations:
                following = later = 0.0
            elif row.truncations:
                later = 0.0
            delta = row.rewards + DISCOUNT * following - now
            later = advantages[copy, t] = delta + DISCOUNT * TRACE_DECAY * later
    return advantages


def test_advantages_are_those_of_a_loop():
    batch = random_windows()
    assert batch.terminations.any()
    assert batch.truncations.any()
    steps = windows.evaluate(value, batch, DISCOUNT, TRACE_DECAY)
    np.testing.assert_allclose(steps.advantages, by_hand(batch).ravel(), atol=1e-5)
    np.testing.assert_allclose(steps.returns, steps.advantages + steps.values, atol=1e-5)
    np.testing.assert_array_equal(steps.actions, batch.actions.reshape(-1, 1))
    np.testing.assert_array_equal(steps.weights, 1.0)


@pytest.mark.parametrize(
    ("terminates", "expected"), [(False, [-5.0, -4.0, -4.0]), (True, [-6.25, -9.0, -4.0])]
)
def test_a_truncation_bootstraps_and_cuts_the_trace_and_a_termination_does_not_bootstrap(
    terminates, expected
):
    """V = 10 everywhere, rewards 1, discount and decay 1/2; the end is after the second step."""
    end = jnp.array([[False, True, False]])
    no = jnp.zeros_like(end)
    ones = jnp.ones((1, 3, 1))
    batch = Batch(
        observations=ones, actions=ones, rewards=jnp.ones((1, 3)), next_observations=ones,
        terminations=end if terminates else no, truncations=no if terminates else end,
    )  # fmt: skip
    steps = windows.evaluate(lambda observations: 10.0 * observations[:, 0], batch, 0.5, 0.5)
    np.testing.assert_allclose(steps.advantages, expected, atol=1e-6)


def test_steps_outside_the_mask_do_not_count():
    """A window of nine steps of which six are valid is the window of these six."""
    whole = random_windows()
    short = jax.tree.map(lambda x: x[:, :6], whole)
    masked = whole.replace(mask=jnp.arange(9) < jnp.full((3, 1), 6))
    expected = windows.evaluate(value, short, DISCOUNT, TRACE_DECAY)
    got = windows.evaluate(value, masked, DISCOUNT, TRACE_DECAY)
    first = got.advantages.reshape(3, 9)[:, :6]
    np.testing.assert_allclose(first.ravel(), expected.advantages, atol=1e-6)
    np.testing.assert_array_equal(
        got.weights.reshape(3, 9), np.broadcast_to(np.arange(9) < 6, (3, 9))
    )
    ours, theirs = (windows.standardized(each) for each in (got, expected))
    np.testing.assert_allclose(
        ours.advantages.reshape(3, 9)[:, :6].ravel(), theirs.advantages, atol=1e-5
    )
    np.testing.assert_allclose(
        windows.explained_variance(got), windows.explained_variance(expected), rtol=1e-5
    )
    assert float(windows.weighted_mean(theirs.advantages, theirs.weights)) == pytest.approx(
        0, abs=1e-6
    )
    assert float(theirs.advantages.std()) == pytest.approx(1.0, rel=1e-5)


def test_every_epoch_visits_all_rows_once_but_for_a_rest():
    orders = windows.shuffled_minibatches(jax.random.key(0), 11, num_epochs=3, num_minibatches=2)
    assert orders.shape == (6, 5)
    epochs = np.sort(np.asarray(orders).reshape(3, 10), axis=1)
    assert all(len(set(epoch.tolist())) == 10 for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])  # another one is left out
    few = windows.shuffled_minibatches(jax.random.key(0), 3, num_epochs=1, num_minibatches=8)
    assert sorted(few[:, 0].tolist()) == [0, 1, 2]


def test_clipped_samples_have_the_probability_of_the_tails():
    """Of a Gaussian and a mixture: all add up to 1, and the tail is the share of samples there."""
    gaussian = networks.diagonal_gaussian(jnp.array([0.8]), jnp.log(jnp.array([0.5])))
    mixture = networks.GaussianMixture(
        jnp.log(jnp.array([0.3, 0.7])), jnp.array([[-0.9], [0.6]]),
        jnp.log(jnp.array([[0.4], [0.3]])),
    )  # fmt: skip
    for policy in (gaussian, mixture):
        inside = jnp.linspace(-1.0, 1.0, 4001)[1:-1, None]
        density = np.exp(networks.clipped_log_prob(policy, inside))
        below, above = np.exp(networks.clipped_log_prob(policy, jnp.array([[-1.0], [1.0]])))
        assert below + above + density.sum() * (2.0 / 4000) == pytest.approx(1.0, abs=1e-3)
        keys = jax.random.split(jax.random.key(0), 4000)
        samples = jax.vmap(lambda key, policy=policy: policy.sample(seed=key))(keys)
        assert np.mean(samples >= 1.0) == pytest.approx(above, abs=0.03)
    # log P(z > (1 - 0.8) / 0.5) = log 0.3446
    upper = networks.clipped_log_prob(gaussian, jnp.array([0.999999]))
    assert float(upper) == pytest.approx(np.log(0.344578), rel=1e-4)
    tanh = networks.TanhGaussian(jnp.zeros(1), jnp.zeros(1))
    actions = jnp.array([[0.3], [1.0]])
    np.testing.assert_array_equal(networks.clipped_log_prob(tanh, actions), tanh.log_prob(actions))


def test_the_estimate_of_an_entropy_has_its_gradient():
    """Of tanh(u): against the derivative through samples; exact for a softmax and a Gaussian."""
    config = actor_critic.Config()
    samples = jnp.tanh(0.2 + 0.6 * jax.random.normal(jax.random.key(0), (60_000, 1)))
    old = networks.TanhGaussian(jnp.full((1,), 0.2), jnp.log(jnp.full((1,), 0.6)))
    old_log_probs = old.log_prob(samples)

    def estimate(log_std):
        outputs = networks.TanhGaussian(jnp.full((1,), 0.2), log_std[None])
        log_probs = outputs.log_prob(samples)
        ratios = jnp.exp(log_probs - old_log_probs)
        return actor_critic.entropies(config, outputs, log_probs, ratios).mean()

    def through_samples(log_std):
        policy = networks.TanhGaussian(jnp.full((1,), 0.2), log_std[None])
        _, log_probs = policy.sample_and_log_prob(seed=jax.random.key(1), sample_shape=(60_000,))
        return -log_probs.mean()

    at = jnp.log(0.6)
    got, want = (jax.value_and_grad(each)(at) for each in (estimate, through_samples))
    np.testing.assert_allclose(got, want, atol=0.03)
    gaussian = networks.diagonal_gaussian(jnp.zeros((1, 2)), jnp.log(jnp.full((1, 2), 0.5)))
    [entropy] = actor_critic.entropies(config.replace(head="gaussian"), gaussian, None, None)
    assert float(entropy) == pytest.approx(2 * np.log(0.5 * np.sqrt(2 * np.pi * np.e)), rel=1e-5)
    shares = np.array([0.5, 0.25, 0.25])
    softmax = networks.categorical(jnp.log(jnp.asarray(shares, jnp.float32))[None])
    discrete = config.replace(head="categorical", num_actions=3)
    [entropy] = actor_critic.entropies(discrete, softmax, None, None)
    assert float(entropy) == pytest.approx(1.5 * np.log(2.0), rel=1e-5)


def _policy(head, rows, **fields):
    config = actor_critic.Config(head=head, hidden_sizes=(3,), **fields)
    size = fields.get("num_actions", 2)
    network = heads.policy_network(config, size)
    params = network.init(jax.random.key(0), rows, *heads.bounds(config))
    return config, lambda params: network.apply(params, rows, *heads.bounds(config)), params


def _dense_fisher(config, outputs, params, weights, actions):
    """Columns of products with unit vectors."""
    flat, back = ravel_pytree(params)
    coordinates = lambda params: natural.coordinates(config, outputs(params), actions)  # noqa: E731
    product = lambda v: ravel_pytree(  # noqa: E731
        natural.fisher_product(coordinates, params, back(v), weights)
    )[0]
    return jax.vmap(product)(jnp.eye(flat.size)), flat, back


ROWS = jnp.asarray(np.random.default_rng(2).normal(size=(5, 2)), jnp.float32)
WEIGHTS = jnp.array([1.0, 1.0, 0.0, 1.0, 1.0])


def test_the_fisher_product_of_a_softmax_is_that_of_its_dense_matrix():
    """Sum over states and actions of p grad log p grad log p', from all derivatives."""
    config, outputs, params = _policy("categorical", ROWS, num_actions=3)
    got, flat, back = _dense_fisher(config, outputs, params, WEIGHTS, None)
    log_shares = lambda flat: jax.nn.log_softmax(outputs(back(flat)).logits)  # noqa: E731
    scores = np.asarray(jax.jacrev(log_shares)(flat))  # (states, actions, parameters)
    shares = np.exp(log_shares(flat)) * np.asarray(WEIGHTS)[:, None] / 4.0
    expected = np.einsum("sa,sap,saq->pq", shares, scores, scores)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert np.abs(expected).max() > 0.01


@pytest.mark.parametrize("head", ["gaussian", "tanh_gaussian"])
def test_the_fisher_product_of_a_gaussian_is_the_curvature_of_its_divergence(head):
    config, outputs, params = _policy(head, ROWS)
    got, flat, back = _dense_fisher(config, outputs, params, WEIGHTS, None)
    old_mean, old_std = networks.gaussian_parameters(outputs(params))

    def divergence(flat):
        mean, std = networks.gaussian_parameters(outputs(back(flat)))
        each = (
            jnp.log(std / old_std)
            + (jnp.square(old_std) + jnp.square(old_mean - mean)) / (2.0 * jnp.square(std))
            - 0.5
        )
        return jnp.sum(each * WEIGHTS[:, None]) / 4.0

    np.testing.assert_allclose(got, jax.hessian(divergence)(flat), atol=2e-5)


def test_the_fisher_product_of_a_mixture_is_that_of_the_scores_of_its_actions():
    config, outputs, params = _policy("mixture", ROWS, num_components=2)
    actions = jnp.tanh(ROWS)
    got, flat, back = _dense_fisher(config, outputs, params, WEIGHTS, actions)
    scores = np.asarray(jax.jacrev(lambda flat: outputs(back(flat)).log_prob(actions))(flat))
    expected = np.einsum("s,sp,sq->pq", np.asarray(WEIGHTS) / 4.0, scores, scores)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_conjugate_gradients_solve_a_system():
    random = np.random.default_rng(3)
    half = random.normal(size=(6, 6)).astype(np.float32)
    matrix, target = half @ half.T + np.eye(6, dtype=np.float32), random.normal(size=6)
    _, back = ravel_pytree({"a": jnp.zeros(2), "b": jnp.zeros((2, 2))})
    product = lambda tree: back(jnp.asarray(matrix) @ ravel_pytree(tree)[0])  # noqa: E731
    aim = back(jnp.asarray(target, jnp.float32))
    solution = natural.conjugate_gradient(product, aim, 8)  # two more than there are numbers
    np.testing.assert_allclose(
        ravel_pytree(solution)[0], np.linalg.solve(matrix, target), rtol=2e-3, atol=2e-4
    )
    nothing = natural.conjugate_gradient(product, jax.tree.map(jnp.zeros_like, aim), 3)
    assert not any(leaf.any() for leaf in jax.tree.leaves(nothing))
