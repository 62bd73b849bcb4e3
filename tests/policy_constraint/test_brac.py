"""BRAC: its losses against numpy, its divergences against known ones, and the probe."""

from __future__ import annotations

import functools

import contract
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from scipy import optimize, stats

from ddm import networks
from ddm.errors import InputError
from ddm.ops import divergences
from ddm.policy_constraint import brac
from ddm.policy_constraint.parts import behavior_divergence
from ddm.types import Batch

CONTRACT = contract.Contract(
    small={"warmup_steps": 2, "num_eval_samples": 3},
    variants=[
        {"divergence": "mmd", "adaptive": True, "value_penalty": False},
        {"divergence": "kl_dual", "divergence_steps": 2},
    ],
    other={
        "behavior_steps": 1,
        "max_slope": 0.0,
        "divergence": "mmd",
        "kernel": "gaussian",
        "divergence_steps": 2,
        "alpha_max": 0.5,
        "entropy_weight": 0.5,
        "num_eval_samples": 4,
    },
    context={
        "divergence_learning_rate": {"divergence": "kl_dual"},
        "bandwidth": {"divergence": "mmd"},
        "slope_penalty_weight": {"divergence": "kl_dual", "max_slope": 0.0},
        "max_slope": {"divergence": "kl_dual"},
        "kernel": {"divergence": "mmd"},
        "divergence_steps": {"divergence": "kl_dual"},
        "target_divergence": {"adaptive": True},
        "alpha_learning_rate": {"adaptive": True},
        "alpha_max": {"adaptive": True},
    },
)

CONFIG = brac.Config(
    hidden_sizes=(32, 32), discount=0.9, actor_learning_rate=3e-3, critic_learning_rate=3e-3,
    behavior_learning_rate=3e-3, target_rate=0.02, warmup_steps=100, num_eval_samples=0,
)  # fmt: skip
SMALL = CONFIG.replace(hidden_sizes=(8, 8), warmup_steps=0)


def example(rows=6, seed=0):
    random = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)  # noqa: E731
    return Batch(
        observations=draw(rows, 3),
        actions=jnp.tanh(draw(rows, 2)),
        rewards=draw(rows),
        next_observations=draw(rows, 3),
        terminations=jnp.arange(rows) % 3 == 0,
        next_actions=jnp.tanh(draw(rows, 2)),
    )


@pytest.fixture(scope="module")
def start():
    return jax.jit(brac.init)(SMALL, jax.random.key(3), example())


def distribution(model, observations, config=SMALL):
    """Of a policy at observations (..., O)."""
    return model(observations, config.log_std_min, config.log_std_max)


def log_density(policy, actions):
    """Of tanh of a Gaussian, by the change of variables, in float64."""
    mean = np.arctanh(np.asarray(policy.mode(), np.float64))
    std = np.asarray(policy._base.distribution.scale, np.float64)
    actions = np.clip(np.asarray(actions, np.float64), -1 + 1e-7, 1 - 1e-7)
    each = stats.norm.logpdf(np.arctanh(actions), mean, std) - np.log1p(-np.square(actions))
    return each.sum(axis=-1)


# Losses.


@pytest.mark.parametrize("value_penalty", [False, True])
def test_the_critics_targets_by_hand(start, value_penalty):
    config = SMALL.replace(
        value_penalty=value_penalty, alpha=0.7, entropy_weight=0.2, minimum_weight=0.75
    )
    batch, key = example(), jax.random.key(5)
    action_key, divergence_key = jax.random.split(key)
    policy = distribution(start.actor, batch.next_observations)
    behavior = distribution(start.behavior.policy, batch.next_observations)
    actions = policy.sample(seed=action_key)
    values = start.critic.target(batch.next_observations, actions)
    mixed = 0.75 * np.min(values, axis=0) + 0.25 * np.max(values, axis=0)
    expected = mixed - 0.2 * log_density(policy, actions)
    if value_penalty:
        samples = policy.sample(seed=divergence_key, sample_shape=(4,))
        clipped = np.clip(samples, -0.999, 0.999)
        gaps = log_density(policy, samples) - log_density(behavior, clipped)
        expected = expected - 0.7 * gaps.mean(axis=0)
    expected = batch.rewards + 0.9 * np.where(batch.terminations, 0.0, expected)
    targets = brac.critic_targets(config, start, batch, key)
    np.testing.assert_allclose(targets, expected, rtol=2e-4, atol=2e-4)


def test_the_policys_loss_by_hand_and_without_a_penalty(start):
    batch, key = example(), jax.random.key(6)
    action_key, divergence_key = jax.random.split(key)
    policy = distribution(start.actor, batch.observations)
    behavior = distribution(start.behavior.policy, batch.observations)
    actions = policy.sample(seed=action_key)
    values = start.critic(batch.observations, actions)
    value = float(np.min(values, axis=0).mean())
    divergence = float(jnp.mean(behavior_divergence.kl(SMALL, policy, behavior, divergence_key)))
    log_probs = log_density(policy, actions).mean()

    config = SMALL.replace(alpha=0.7, entropy_weight=0.2)
    loss, metrics = brac.actor_loss(config, start, start.actor.params, batch, key)
    expected = 0.7 * divergence + 0.2 * log_probs - value
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert float(metrics["divergence"]) == pytest.approx(divergence, rel=1e-5)
    assert float(metrics["entropy"]) == pytest.approx(-log_probs, rel=1e-4)
    # Without a weight BRAC-p is a plain actor-critic: - min Q, and min Qbar in the target.
    plain, _ = brac.actor_loss(SMALL.replace(alpha=0.0), start, start.actor.params, batch, key)
    assert float(plain) == pytest.approx(-value, rel=1e-5)


def test_in_the_warm_up_the_policy_ignores_its_values_and_these_the_penalty(start):
    batch, key = example(), jax.random.key(6)

    def loss(warmup_steps, factor):
        config = SMALL.replace(warmup_steps=warmup_steps, alpha=0.7)
        critic = start.critic.replace(
            params=jax.tree.map(lambda x: factor * x, start.critic.params)
        )
        state = start.replace(critic=critic)
        return float(brac.actor_loss(config, state, state.actor.params, batch, key)[0])

    assert loss(1, 1.0) == loss(1, 2.0)
    assert loss(0, 1.0) != loss(0, 2.0)

    def targets(warmup_steps, alpha):
        config = SMALL.replace(warmup_steps=warmup_steps, alpha=alpha)
        return brac.critic_targets(config, start, batch, key)

    np.testing.assert_array_equal(targets(1, 0.7), targets(0, 0.0))
    assert np.any(targets(0, 0.7) != targets(0, 0.0))


def test_the_behaviour_policy_learns_by_likelihood_and_stops_when_told(start):
    batch, update = example(), jax.jit(brac.update)
    config = SMALL.replace(behavior_steps=2)
    policy = distribution(start.behavior.policy, batch.observations)
    expected = -log_density(policy, np.clip(batch.actions, -0.999, 0.999)).mean()
    states, losses = [start], []
    for _ in range(4):
        state, metrics = update(config, states[-1], batch)
        states.append(state)
        losses.append(float(metrics["behavior_loss"]))
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    assert losses[2] < losses[1] < losses[0]
    assert losses[3] == losses[2]
    for moves, before, after in zip((1, 1, 0, 0), states[:-1], states[1:], strict=True):
        same = jax.tree.map(
            lambda x, y: bool((x == y).all()), before.behavior.policy.params,
            after.behavior.policy.params,
        )  # fmt: skip
        assert all(jax.tree.leaves(same)) == (not moves)
    assert int(state.behavior.fit.count) == 2
    assert float(metrics["behavior_progress"]) > 0.0


# Divergences of the policy from the behaviour policy.


def pair(shift=0.0, rows=2):
    """A policy whose mean is `shift` from the behaviour policy's, and that policy."""
    mean, log_std = jnp.full((rows, 2), 0.2), jnp.full((rows, 2), -1.0)
    return networks.TanhGaussian(mean + shift, log_std), networks.TanhGaussian(mean, log_std)


def test_kl_is_that_of_the_gaussians_before_the_tanh():
    std = np.exp(-1.0)
    policy = networks.TanhGaussian(jnp.full((1, 2), 0.5), jnp.full((1, 2), -1.2))
    _, behavior = pair(rows=1)
    estimate = behavior_divergence.kl(
        CONFIG.replace(num_samples=20_000), policy, behavior, jax.random.key(0)
    )
    expected = 2 * (np.log(std / np.exp(-1.2)) + (np.exp(-2.4) + 0.3**2) / (2 * std**2) - 0.5)
    assert float(estimate[0]) == pytest.approx(expected, abs=0.02)


def test_mmd_has_the_authors_kernel():
    policy, behavior = pair(0.7)
    config = CONFIG.replace(num_samples=3)
    one, two = (
        np.asarray(each.sample(seed=seed, sample_shape=(3,)))[:, 0]
        for each, seed in zip((policy, behavior), jax.random.split(jax.random.key(0)), strict=True)
    )
    kernel = lambda x, y: np.exp(-np.abs(x[:, None] - y[None]).sum(axis=-1) / 20.0)  # noqa: E731
    expected = kernel(one, one).mean() + kernel(two, two).mean() - 2 * kernel(one, two).mean()
    estimate = behavior_divergence.mmd(config, policy, behavior, jax.random.key(0))
    assert float(estimate[0]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("divergence", [behavior_divergence.kl, behavior_divergence.mmd])
def test_moving_away_from_the_behaviour_policy_increases_primal_divergences(divergence):
    config = CONFIG.replace(num_samples=300)

    def total(shift):
        return jnp.sum(divergence(config, *pair(shift), jax.random.key(0)))

    shifts = jnp.array([-0.8, -0.4, 0.0, 0.4, 0.8])
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(total)))(shifts)
    assert values[0] > values[1] > values[2] < values[3] < values[4]
    assert all(slopes[:2] < 0.0)
    assert all(slopes[3:] > 0.0)


MEAN, STD = 0.8, 0.6  # of the logged actions before their tanh


@pytest.fixture(scope="module")
def dual_estimates():
    """Trained critics of both dual divergences, for a policy that stands still."""
    rows = 128
    noise = jax.random.normal(jax.random.key(1), (rows * 8, 1))
    logged = jnp.tanh(MEAN + STD * noise)
    batch = example(rows).replace(observations=jnp.zeros((rows, 3)))

    @functools.cache
    def estimate(divergence, slope_penalty_weight):
        config = CONFIG.replace(
            divergence=divergence, value_penalty=False, actor_learning_rate=0.0,
            hidden_sizes=(16, 16), divergence_learning_rate=3e-3, divergence_steps=1,
            slope_penalty_weight=slope_penalty_weight,
        )  # fmt: skip

        @jax.jit
        def run(state):
            def step(state, key):
                actions = logged[jax.random.randint(key, (rows,), 0, len(logged))]
                critic, _ = behavior_divergence.critic_steps(
                    config,
                    state.divergence_critic,
                    distribution(state.actor, batch.observations),
                    batch.replace(actions=actions),
                    key,
                )
                return state.replace(divergence_critic=critic), None

            return jax.lax.scan(step, state, jax.random.split(jax.random.key(2), 1000))[0]

        state = jax.jit(brac.init)(config, jax.random.key(0), batch.replace(actions=logged[:rows]))
        return config, run(state), batch, logged

    return estimate


def _policy(state, rows):
    return distribution(state.actor, jnp.zeros((rows, 3)))


def _mean_estimate(config, state, logged, shift=0.0):
    """Over all logged actions and as many of a policy whose mean is moved by `shift`."""
    policy = _policy(state, len(logged))
    moved = networks.TanhGaussian(policy._mean + shift, jnp.log(policy._base.distribution.scale))
    values = behavior_divergence.divergence_at(
        config, state, moved, jnp.zeros((len(logged), 3)), logged, jax.random.key(9)
    )
    return jnp.mean(values)


def test_dual_kl_estimates_the_divergence_of_two_gaussians(dual_estimates):
    config, state, _, logged = dual_estimates("kl_dual", 0.0)
    policy = _policy(state, 1)
    mean, std = policy._mean, policy._base.distribution.scale
    expected = divergences.gaussian_kl(mean, std, jnp.full((1, 1), MEAN), jnp.full((1, 1), STD))
    assert float(expected[0]) > 0.5
    estimate = _mean_estimate(config, state, logged)
    assert float(estimate) == pytest.approx(float(expected[0]), rel=0.2)


def test_dual_wasserstein_estimates_the_distance_times_the_slope_that_is_paid_for(dual_estimates):
    config, state, _, logged = dual_estimates("wasserstein", 5.0)
    actions = _policy(state, len(logged)).sample(seed=jax.random.key(9))
    distance = stats.wasserstein_distance(np.ravel(actions), np.ravel(logged))
    estimate = _mean_estimate(config, state, logged)
    assert distance > 0.3
    assert float(estimate) == pytest.approx(distance * (1.0 + distance / (2 * 5.0)), rel=0.1)


@pytest.mark.parametrize(("divergence", "weight"), [("kl_dual", 0.0), ("wasserstein", 5.0)])
def test_moving_away_from_the_logged_actions_increases_dual_divergences(
    dual_estimates, divergence, weight
):
    config, state, _, logged = dual_estimates(divergence, weight)
    assert float(_policy(state, 1)._mean[0, 0]) < MEAN
    slope = jax.grad(lambda shift: _mean_estimate(config, state, logged, shift))(0.0)
    assert float(slope) < 0.0  # the policy's mean lies below: up is nearer


# The weight.


@pytest.mark.parametrize(("divergence", "sign"), [(2.0, 1.0), (0.1, -1.0)])
def test_an_adaptive_weight_rises_above_its_target_and_falls_below(start, divergence, sign):
    config = SMALL.replace(adaptive=True, alpha_learning_rate=0.01, alpha_max=1.5)
    state, seen = start, [1.0]
    for _ in range(200):
        alpha = brac.alpha_step(config, state, jnp.array(divergence))
        state = state.replace(alpha=alpha)
        seen.append(float(alpha.params))
    steps = np.diff(seen)
    assert sign * steps[0] > 0.0
    assert np.all(sign * steps >= 0.0)
    assert seen[-1] == (1.5 if sign > 0 else 0.0)
    fixed = brac.alpha_step(SMALL, start, jnp.array(divergence))
    assert float(fixed.params) == 1.0


def test_diagnose_speaks_of_bounds_and_of_a_behaviour_policy_that_still_learns():
    metrics = {"alpha": 1.0, "divergence": 0.5, "behavior_progress": 0.01, "value_weight": 1.0}
    config = CONFIG.replace(adaptive=True)
    assert brac.diagnose(config, metrics) == []
    [high] = brac.diagnose(config, metrics | {"alpha": 499.0})
    assert "upper bound" in high
    [low] = brac.diagnose(config, metrics | {"alpha": 0.0})
    assert "lower bound" in low
    assert brac.diagnose(CONFIG, metrics | {"alpha": 0.0}) == []  # the user's own choice
    [learning] = brac.diagnose(config, metrics | {"behavior_progress": 0.5})
    assert "fell by 0.50 nats" in learning
    assert brac.diagnose(config, metrics | {"behavior_progress": 0.5, "value_weight": 0.0}) == []


# The probe.

ALPHAS = np.array([0.0, 1.0, 3.0, 1e3])
RAW_STD = np.pi / (2.0 * np.sqrt(3.0))  # of the inverse tanh of uniform actions, of mean 0
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)


def gaussian_kl(mean, std):
    return np.log(RAW_STD / std) + (std**2 + mean**2) / (2.0 * RAW_STD**2) - 0.5


def expected_reward(mean, std):
    rewards = 1.0 - np.square(np.tanh(mean + std * NODES) - probes.BEST_ACTION)
    return float(rewards @ WEIGHTS / np.sqrt(2.0 * np.pi))


def best_policy(alpha):
    """Mean and width, before the tanh, of the tanh-Gaussian that BRAC asks for at the end."""
    loss = lambda x: alpha * gaussian_kl(x[0], np.exp(x[1])) - expected_reward(x[0], np.exp(x[1]))  # noqa: E731
    found = optimize.minimize(loss, [0.1, -0.5], method="Nelder-Mead")
    return found.x[0], np.exp(found.x[1])


@pytest.fixture(scope="module")
def lanes():
    """BRAC-v for all weights at once."""
    data = probes.two_steps(brac.batch_spec(CONFIG), rows=4000, seed=0)

    @jax.jit
    @jax.vmap
    def train(alpha):
        config = CONFIG.replace(alpha=alpha)

        def step(state, key):
            index = jax.random.randint(key, (64,), 0, 4000)
            rows = jax.tree.map(lambda leaf: leaf[index], data)
            return brac.update(config, state, rows)

        state = brac.init(config, jax.random.key(0), jax.tree.map(lambda leaf: leaf[:1], data))
        return jax.lax.scan(step, state, jax.random.split(jax.random.key(1), 1000))

    states, metrics = train(jnp.asarray(ALPHAS, jnp.float32))
    lane = lambda i: jax.tree.map(lambda leaf: leaf[i], states)  # noqa: E731
    return [lane(i) for i in range(len(ALPHAS))], metrics


def test_the_weight_moves_the_policy_from_the_best_action_to_the_data(lanes):
    states, _ = lanes
    modes = [probes.mode(brac, CONFIG, state, 1.0) for state in states]
    expected = [probes.BEST_ACTION] + [np.tanh(best_policy(a)[0]) for a in ALPHAS[1:]]
    assert expected[0] > expected[1] + 0.1 > expected[2] + 0.2 > 0.3  # the weights tell
    np.testing.assert_allclose(modes, expected, atol=0.1)


def test_the_value_penalty_is_in_the_value_of_the_start(lanes):
    states, _ = lanes
    for alpha, state in list(zip(ALPHAS, states, strict=True))[1:3]:
        mean, std = best_policy(alpha)
        expected = 0.9 * (expected_reward(mean, std) - alpha * gaussian_kl(mean, std))
        values = state.critic(-jnp.ones((1, 1)), jnp.zeros((1, 1)))
        assert float(values.mean()) == pytest.approx(expected, abs=0.05)


def test_a_large_weight_leaves_the_behaviour_policy(lanes):
    states, metrics = lanes
    for observation in (-1.0, 1.0):
        policy, behavior = (
            distribution(model, jnp.array([observation]))
            for model in (states[-1].actor, states[-1].behavior.policy)
        )
        moments = lambda each: (each._mean, each._base.distribution.scale)  # noqa: E731
        assert float(divergences.gaussian_kl(*moments(policy), *moments(behavior))) < 0.02
        assert float(behavior._base.distribution.scale[0]) == pytest.approx(RAW_STD, abs=0.1)
    assert float(metrics["behavior_progress"][-1, -1]) < behavior_divergence.SETTLED


# Edges.


def test_the_best_of_several_actions_is_taken(start):
    config = SMALL.replace(num_eval_samples=16)
    observation = jnp.array([0.3, -0.2, 0.5])
    action, _ = brac.act(config, start, observation, jax.random.key(4))
    candidates = distribution(start.actor, observation).sample(
        seed=jax.random.key(4), sample_shape=(16,)
    )
    repeated = jnp.tile(observation, (16, 1))
    values = start.critic(repeated, candidates)[0]
    np.testing.assert_array_equal(action, candidates[np.argmax(values)])


def test_only_a_dual_divergence_in_the_target_needs_the_next_action():
    needs = lambda **options: "next_actions" in brac.batch_spec(brac.Config(**options)).fields  # noqa: E731
    assert needs(divergence="kl_dual")
    assert needs(divergence=behavior_divergence.Dual(divergences.wasserstein_lower_bound))
    assert not needs(divergence="kl_dual", value_penalty=False)
    assert not needs(divergence="kl")


def test_a_function_is_a_divergence_too(start):
    batch, key = example(), jax.random.key(0)
    config = SMALL.replace(divergence=lambda config, policy, behavior, key: policy.mode()[:, 0])
    _, metrics = brac.actor_loss(config, start, start.actor.params, batch, key)
    mode = distribution(start.actor, batch.observations).mode()
    assert float(metrics["divergence"]) == pytest.approx(float(mode[:, 0].mean()), rel=1e-5)


def test_what_does_not_fit_is_refused():
    batch = example()
    with pytest.raises(InputError, match="brac: divergence=tv is unknown; choose one of kl, mmd"):
        brac.init(SMALL.replace(divergence="tv"), jax.random.key(0), batch)
    with pytest.raises(InputError, match="brac: kernel=cosine is unknown"):
        brac.init(SMALL.replace(kernel="cosine"), jax.random.key(0), batch)
    integers = batch.replace(actions=jnp.zeros(6, jnp.int32))
    with pytest.raises(InputError, match=r"brac: batch.actions are integers"):
        brac.init(SMALL, jax.random.key(0), integers)
