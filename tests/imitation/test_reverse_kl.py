"""Reverse KL: the exact optima of a demonstrator with two modes, and of tables.

The demonstrator is w N(1/2, s^2) + (1 - w) N(-1/2, s^2): published optima, scaled by one half into
the action box, which leaves divergences as they are.
"""

from __future__ import annotations

import functools

import contract
import forks
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from flax import linen as nn

from ddm import networks
from ddm.envs import tabular
from ddm.errors import InputError
from ddm.imitation import bc, reverse_kl
from ddm.ops import divergences, improvement
from ddm.types import Batch

CONTRACT = contract.Contract(
    variants=[
        {"ratio": "known", "expert_log_prob": contract.standard_normal, "head": "mixture"},
        {"head": "categorical", "num_actions": contract.NUM_ACTIONS},
    ],
    other={
        "gradient_penalty_weight": 10.0,
        "instance_noise_steps": 4,
        "discriminator_steps": 3,
        "head": "tanh_gaussian",
        "features": lambda observations: 2.0 * contract.pair_features(observations),
        "expert_log_prob_floor": 0.5,
        "anneal_steps": 4,
        "ratio_clip": 0.1,
        "ratio": "known",
        "estimator": "score",
        "divergence": "js",
        "entropy": "sampled",
        "expert_log_prob": lambda observations, actions: actions[..., 0],
    },
    context={
        "final_instance_noise": {"instance_noise_steps": 2},
        "features": {
            "head": "linear_softmax",
            "num_actions": contract.NUM_ACTIONS,
            "features": contract.pair_features,
        },
        "expert_log_prob_floor": {"ratio": "known", "expert_log_prob": contract.standard_normal},
        "initial_temperature": {
            "ratio": "known",
            "expert_log_prob": contract.standard_normal,
            "anneal_steps": 100,
        },
        "anneal_steps": {"ratio": "known", "expert_log_prob": contract.standard_normal},
        "ratio_clip": {"divergence": "fkl"},
        "ratio": {"expert_log_prob": contract.standard_normal},
        "entropy": {"ratio": "known", "expert_log_prob": contract.standard_normal},
        "expert_log_prob": {"ratio": "known", "expert_log_prob": contract.standard_normal},
    },
    slow=True,
)

GRID = jnp.linspace(-3.0, 3.0, 6_001)
LINEAR = reverse_kl.Config(hidden_sizes=(), ratio="known", learning_rate=0.02, decay_steps=1_500)


def two_modes(observations, actions, weight=0.5, std=0.05):
    """Log-density (...,) of the demonstrator at actions (..., 1)."""
    del observations
    upper, lower = (
        -0.5 * jnp.square((actions[..., 0] - mean) / std) - jnp.log(std * jnp.sqrt(2 * jnp.pi))
        for mean in (0.5, -0.5)
    )
    return jnp.logaddexp(jnp.log(weight) + upper, jnp.log1p(-weight) + lower)


def _demonstrate(key, rows, weight=0.5, std=0.05):
    sign_key, noise_key = jax.random.split(key)
    signs = jnp.where(jax.random.bernoulli(sign_key, weight, (rows, 1)), 0.5, -0.5)
    actions = signs + std * jax.random.normal(noise_key, (rows, 1))
    return Batch(observations=jnp.ones((rows, 1)), actions=actions)


def _fit(config, steps, rows, key, expert=two_modes):
    """State after `steps` updates on fresh rows, last metrics, and exact scores."""
    rows = rows * reverse_kl.batch_spec(config).minibatches
    init_key, key = jax.random.split(key)
    state = reverse_kl.init(config, init_key, _demonstrate(key, rows))
    update = lambda state, key: reverse_kl.update(config, state, _demonstrate(key, rows))  # noqa: E731
    state, metrics = jax.lax.scan(update, state, jax.random.split(key, steps))
    metrics = jax.tree.map(lambda series: series[-50:].mean(), metrics)
    return state, metrics, _measure(config, state, expert)


def _train(config, steps, rows, seeds, expert=two_modes):
    """The same for several seeds, in one compiled scan."""
    one = lambda key: _fit(config, steps, rows, key, expert)  # noqa: E731
    states, metrics, found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), seeds))
    return states, metrics, jax.tree.map(np.asarray, found)


def _measure(config, state, expert):
    """Mean, standard deviation, KL to the expert and validity, by quadrature."""
    log_q = reverse_kl.log_prob(config, state, jnp.ones((len(GRID), 1)), GRID[:, None])
    density, spacing = jnp.exp(log_q), GRID[1] - GRID[0]
    mean = jnp.sum(density * GRID) * spacing
    near = jnp.abs(jnp.abs(GRID) - 0.5) < 0.15
    return {
        "mean": mean,
        "std": jnp.sqrt(jnp.sum(density * jnp.square(GRID - mean)) * spacing),
        "kl": divergences.kl_on_grid(log_q, expert(None, GRID[:, None]), GRID),
        "valid": jnp.sum(density * near) * spacing,
    }


EXPERTS = {"even": (0.5, 0.05), "uneven": (0.7, 0.05), "close": (0.5, 0.25)}  # weight, width


@pytest.fixture(scope="module", params=["pathwise", pytest.param("score", marks=pytest.mark.slow)])
def known(request):
    """Eight seeds for each expert, in one program: metrics and scores by name of the expert."""

    def one(weight, std, key):
        expert = functools.partial(two_modes, weight=weight, std=std)
        config = LINEAR.replace(expert_log_prob=expert, estimator=request.param)
        return _fit(config, 1_500, 8, key, expert)[1:]

    over_seeds = jax.vmap(one, (None, None, 0))
    weights, stds = jnp.array(list(EXPERTS.values())).T
    keys = jax.random.split(jax.random.key(0), 8)
    found = jax.jit(jax.vmap(over_seeds, (0, 0, None)))(weights, stds, keys)
    return {
        name: jax.tree.map(lambda leaf, row=row: np.asarray(leaf[row]), found)
        for row, name in enumerate(EXPERTS)
    }


def test_random_starts_reach_a_published_minimum(known):
    metrics, found = known["even"]
    # KL <= 0.70, |mean| in [.97, 1.03] / 2, width in [.09, .11] / 2, in 7 of 8.
    passed = (
        (found["kl"] <= 0.70)
        & (np.abs(np.abs(found["mean"]) - 0.5) < 0.015)
        & (np.abs(found["std"] - 0.05) < 0.005)
    )
    assert passed.sum() >= 7
    assert {-1.0, 1.0} == set(np.sign(found["mean"]))  # seeds are restarts
    np.testing.assert_allclose(metrics["loss"], found["kl"], atol=0.03)
    np.testing.assert_allclose(metrics["loss"], -metrics["log_ratio"], rtol=1e-6)


def test_the_nearest_mode_is_found_and_not_the_best(known):
    _, found = known["uneven"]
    best = np.where(found["mean"] > 0, -np.log(0.7), -np.log(0.3))
    np.testing.assert_allclose(found["kl"], best, atol=0.01)
    assert len(np.unique(np.sign(found["mean"]))) == 2


def test_modes_too_close_to_separate_are_covered(known):
    _, found = known["close"]
    np.testing.assert_allclose(found["mean"], 0.0, atol=0.03)
    np.testing.assert_allclose(found["std"], 1.0235 / 2, atol=0.02)
    np.testing.assert_allclose(found["kl"], 0.2265, atol=0.01)


def test_forward_kl_of_samples_covers_both_modes():
    data = _demonstrate(jax.random.key(3), 50_000)
    config = bc.Config(head="linear_gaussian", learning_rate=0.1, decay_steps=120)
    state, _ = jax.jit(
        lambda state: jax.lax.scan(
            lambda state, _: bc.update(config, state, data), state, length=120
        )
    )(bc.init(config, jax.random.key(0), data))
    states = jax.tree.map(lambda leaf: leaf[None], state)
    log_q = bc.log_prob(config, state, jnp.ones((len(GRID), 1)), GRID[:, None])
    mean = probes.mode(bc, config, state, 1.0)
    std = float(np.exp(states.policy.params["params"]["log_std"][0, 0]))
    assert mean == pytest.approx(0.0, abs=0.01)
    assert std == pytest.approx(1.005 / 2, abs=0.005)
    forward = divergences.kl_on_grid(two_modes(None, GRID[:, None]), log_q, GRID)
    assert forward == pytest.approx(1.614, abs=0.01)


@pytest.fixture(scope="module")
def learned():
    """Four seeds with a learned ratio."""
    config = reverse_kl.Config(
        hidden_sizes=(32, 32),
        num_samples=4,
        learning_rate=1.5e-3,
        decay_steps=7_500,
        discriminator_learning_rate=5e-3,
        instance_noise=0.025,
    )
    states, metrics, found = _train(config, 1_500, 32, seeds=4)
    return config, states, metrics, found


@pytest.mark.slow
def test_a_learned_ratio_finds_a_mode(learned):
    _, _, metrics, found = learned
    assert (found["valid"] >= 0.95).all()  # 0.29 by forward KL
    # One mode of two has half the demonstrations: three of four rows can be told apart at best.
    np.testing.assert_allclose(metrics["discriminator_accuracy"], 0.75, atol=0.1)


@pytest.mark.slow
def test_a_learned_ratio_is_the_ratio_of_the_densities(learned):
    config, states, _, found = learned

    @jax.jit
    @jax.vmap
    def compare(state, mode):
        observations = jnp.ones((2, 1))
        actions = mode * jnp.array([[1.0], [-1.0]])
        own = reverse_kl.log_prob(config, state, observations, actions)
        ratio = reverse_kl.log_ratio(config, state, observations, actions)
        return ratio, two_modes(observations, actions) - own

    learned, exact = compare(states, 0.5 * jnp.sign(found["mean"]))
    # At the policy's own mode; at the one that it leaves out the ratio is bounded.
    assert (np.abs(learned[:, 0] - exact[:, 0]) < 0.5).sum() >= 3
    assert (learned[:, 1] > 5.0).all()
    assert (learned <= config.logit_bound).all()


@pytest.fixture(scope="module")
def gradients():
    """Gradients (30,000, 2) in (mean, log std) of single estimates, by name, and the exact one."""
    batch = Batch(observations=jnp.zeros((1, 1)), actions=jnp.zeros((1, 1)))
    expert = functools.partial(two_modes, std=0.25)
    base = LINEAR.replace(expert_log_prob=expert, num_samples=2)
    state = reverse_kl.init(base, jax.random.key(0), batch)
    bias = jnp.array([jnp.arctanh(0.3), jnp.log(0.3)])

    def params(bias):
        dense = {"kernel": jnp.zeros((1, 2)), "bias": bias}
        return {"params": {"mlp": {"output": dense}}}

    def samples(config):
        one = lambda bias, key: reverse_kl.policy_loss(  # noqa: E731
            config, state, params(bias), batch.observations, key
        )[0]
        keys = jax.random.split(jax.random.key(1), 30_000)
        return np.asarray(jax.jit(jax.vmap(jax.grad(one), (None, 0)))(bias, keys))

    def exact(bias):
        policy = state.replace(policy=state.policy.replace(params=params(bias)))
        log_q = reverse_kl.log_prob(base, policy, jnp.zeros((len(GRID), 1)), GRID[:, None])
        return divergences.kl_on_grid(log_q, expert(None, GRID[:, None]), GRID)

    found = {
        "sticking_the_landing": samples(base),
        "sampled": samples(base.replace(entropy="sampled")),
        "closed_form": samples(base.replace(entropy="closed_form")),
        "score": samples(base.replace(estimator="score")),
    }
    return found, np.asarray(jax.grad(exact)(bias))


def test_all_estimators_have_the_exact_gradient_as_their_mean(gradients):
    found, exact = gradients
    assert np.abs(exact).min() > 0.1
    for name, samples in found.items():
        errors = samples.std(axis=0) / np.sqrt(len(samples))
        assert (np.abs(samples.mean(axis=0) - exact) < 4.0 * errors).all(), name
        assert (errors < 0.1 * np.abs(exact)).all(), name


def test_sticking_the_landing_has_no_variance_at_a_perfect_fit():
    def normal(observations, actions):
        return -0.5 * jnp.square((actions[..., 0] - 0.3) / 0.2) - jnp.log(
            0.2 * jnp.sqrt(2 * jnp.pi)
        )

    batch = Batch(observations=jnp.zeros((4, 1)), actions=jnp.zeros((4, 1)))
    bias = jnp.array([jnp.arctanh(0.3), jnp.log(0.2)])
    params = {"params": {"mlp": {"output": {"kernel": jnp.zeros((1, 2)), "bias": bias}}}}

    @functools.partial(jax.jit, static_argnames="entropy")
    def slope(params, entropy):
        config = LINEAR.replace(expert_log_prob=normal, entropy=entropy)
        state = reverse_kl.init(config, jax.random.key(0), batch)
        loss = lambda params: reverse_kl.policy_loss(  # noqa: E731
            config, state, params, batch.observations, jax.random.key(1)
        )[0]
        return jax.grad(loss)(params)["params"]["mlp"]["output"]["bias"]

    spread = {
        entropy: float(jnp.abs(slope(params, entropy)).max())
        for entropy in ("sticking_the_landing", "sampled")
    }
    assert spread["sticking_the_landing"] < 1e-4
    assert spread["sampled"] > 0.05


def _expert_of_three(observations, actions):
    """Log-probabilities of three actions, .5, .3 and .2 at every observation."""
    del observations
    return jnp.log(jnp.array([0.5, 0.3, 0.2]))[actions]


def test_heads_without_hidden_layers_rest_at_their_expert():
    def normal(observations, actions):
        return -0.5 * jnp.square((actions[..., 0] - 0.3) / 0.2) - jnp.log(0.2)

    def same(observations):
        return jnp.broadcast_to(jnp.eye(3), (*observations.shape[:-1], 3, 3))

    gaussian = {
        "output": {"kernel": jnp.zeros((1, 1)), "bias": jnp.full(1, 0.3)},
        "log_std": jnp.full(1, jnp.log(0.2)),
    }
    cases = {
        "linear_gaussian": (normal, gaussian, {}, jnp.zeros((4, 1))),
        "linear_softmax": (
            _expert_of_three, {"weights": jnp.log(jnp.array([0.5, 0.3, 0.2]))},
            {"features": same, "num_actions": 3}, jnp.zeros(4, jnp.int32),
        ),
    }  # fmt: skip
    for head, (expert, optimum, options, actions) in cases.items():
        config = LINEAR.replace(head=head, expert_log_prob=expert, **options)
        batch = Batch(observations=jnp.zeros((4, 1)), actions=actions)
        state = reverse_kl.init(config, jax.random.key(0), batch)
        slope = jax.jit(jax.grad(reverse_kl.policy_loss, argnums=2, has_aux=True))
        for shift in (0.0, 0.1):
            params = jax.tree.map(lambda x, d=shift: x.at[..., :1].add(d), {"params": optimum})
            found, _ = slope(config, state, params, batch.observations, jax.random.key(1))
            largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(found))
            assert largest > 1e-2 if shift else largest < 1e-5


def test_a_mixture_finds_both_modes_with_exact_weights():
    config = LINEAR.replace(
        expert_log_prob=functools.partial(two_modes, weight=0.7),
        head="mixture",
        num_components=2,
        num_samples=8,
    )
    # Components may start at the same side; the class contains the demonstrator, so 0 is the best.
    expert = config.expert_log_prob
    _, _, found = _train(config, 1_500, 4, seeds=6, expert=expert)
    both = np.abs(found["mean"] - 0.2) < 0.05
    assert both.sum() >= 2
    assert (found["kl"][both] < 0.02).all()
    assert (found["kl"][~both] > 0.3).all()


# The reward of each divergence is the derivative of its mean in the policy.


@pytest.mark.parametrize("divergence", ["rkl", "fkl", "js", "chi2"])
def test_rewards_have_the_divergences_gradient(divergence, float64):
    generators = {
        "rkl": lambda u: -jnp.log(u),
        "fkl": lambda u: u * jnp.log(u),
        "js": lambda u: u * jnp.log(u) - (1.0 + u) * jnp.log((1.0 + u) / 2.0),
        "chi2": lambda u: jnp.square(u - 1.0),
    }
    expert, logits = jnp.array([0.5, 0.3, 0.2]), jnp.array([0.3, -0.2, 0.4])

    def exact(logits):
        policy = jax.nn.softmax(logits)
        return jnp.sum(policy * generators[divergence](expert / policy))

    def surrogate(logits):
        fixed = jax.lax.stop_gradient(jnp.log(expert) - jax.nn.log_softmax(logits))
        return -jnp.sum(jax.nn.softmax(logits) * reverse_kl.DIVERGENCES[divergence](fixed, 20.0))

    np.testing.assert_allclose(jax.grad(surrogate)(logits), jax.grad(exact)(logits), rtol=1e-10)


def test_the_baseline_of_equal_rewards_leaves_none():
    config = reverse_kl.Config(estimator="score", num_samples=3, hidden_sizes=(4,))
    batch = Batch(observations=jnp.ones((5, 2)), actions=jnp.zeros((5, 1)))
    state = jax.jit(reverse_kl.init)(config, jax.random.key(0), batch)
    # A discriminator that says 1 everywhere, but for the bound.
    params = jax.tree.map(jnp.zeros_like, state.discriminator.params)
    params["params"]["mlp"]["output"]["bias"] = jnp.ones(1)
    state = state.replace(discriminator=state.discriminator.replace(params=params))
    loss = jax.jit(jax.value_and_grad(reverse_kl.policy_loss, argnums=2, has_aux=True))
    (value, metrics), gradients = loss(
        config, state, state.policy.params, batch.observations, jax.random.key(1)
    )
    assert metrics["loss"] == pytest.approx(-10.0 * np.tanh(0.1), rel=1e-5)
    assert value == pytest.approx(0.0, abs=1e-6)
    for leaf in jax.tree.leaves(gradients):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-5)


def test_large_ratios_are_clipped():
    ratios = jnp.array([0.0, 5.0])
    np.testing.assert_allclose(reverse_kl.DIVERGENCES["fkl"](ratios, 20.0), [1.0, 20.0], rtol=1e-5)
    np.testing.assert_allclose(reverse_kl.DIVERGENCES["chi2"](ratios, 3.0), [1.0, 9.0], rtol=1e-5)


# Tables.


def _soft_expert():
    """A stochastic policy (23, 4) of the discount grid, and each state once, as one-hot rows."""
    solution = tabular.value_iteration(tabular.discount_grid())
    expert = improvement.soft_greedy(solution.action_values, 0.5).policy
    return 0.9 * expert + 0.1 / 4, jnp.eye(len(expert))


@pytest.mark.parametrize("estimator", ["exact", "score"])
def test_a_table_becomes_its_expert(estimator):
    expert, states = _soft_expert()
    table = np.log(np.asarray(expert))

    def expert_log_prob(observations, actions):
        return jnp.take_along_axis(observations @ table, actions.T, axis=-1).T

    steps = 1_000
    config = reverse_kl.Config(
        ratio="known", expert_log_prob=expert_log_prob, head="tabular", num_actions=4,
        estimator=estimator, learning_rate=0.1, decay_steps=steps, num_samples=8,
    )  # fmt: skip
    batch = Batch(observations=states, actions=jnp.zeros(len(states), jnp.int32))
    state = reverse_kl.init(config, jax.random.key(0), batch)
    state, _ = jax.jit(
        lambda state: jax.lax.scan(
            lambda state, _: reverse_kl.update(config, state, batch), state, length=steps
        )
    )(state)
    log_policy = jax.nn.log_softmax(state.policy.params["params"]["output"]["kernel"])
    kl = improvement.kl_divergence(jnp.exp(log_policy), expert)
    assert improvement.kl_divergence(jnp.full_like(expert, 0.25), expert).max() > 0.5
    assert kl.max() < {"exact": 1e-6, "score": 2e-2}[estimator]


# The fork, where the optimum depends on the state.


def test_a_gaussian_takes_one_branch_of_a_fork_on_connected_positions():
    config = reverse_kl.Config(
        ratio="known", expert_log_prob=forks.FORK.log_prob, hidden_sizes=(64, 64), num_samples=4,
        learning_rate=3e-3, decay_steps=1_000,
    )  # fmt: skip
    state, metrics = probes.train(reverse_kl, config, forks.demonstrations(4_000), steps=1_000)
    positions = jnp.linspace(-1.0, 1.0, 200)[:, None]
    repeated = jnp.repeat(positions, 20, axis=0)
    actions = forks.act_at(reverse_kl, config, state, repeated)
    assert forks.validity(repeated, actions) >= 0.95
    modes = forks.act_at(reverse_kl, config, state, positions, deterministic=True)
    assert forks.validity(positions, modes) >= 0.98
    shares = np.asarray(actions > 0).reshape(200, 20).mean(axis=1)
    assert np.mean((shares < 0.05) | (shares > 0.95)) > 0.97
    assert np.count_nonzero(np.diff(np.round(shares))) <= 2  # few changes of side
    assert metrics["loss"] == pytest.approx(np.log(2.0), abs=0.1)


# Options.


def test_annealing_and_the_floor_by_hand():
    batch = Batch(observations=jnp.zeros((1, 1)), actions=jnp.array([[0.5]]))
    config = LINEAR.replace(expert_log_prob=two_modes, anneal_steps=10, initial_temperature=5.0)
    state = reverse_kl.init(config, jax.random.key(0), batch)
    own = reverse_kl.log_prob(config, state, batch.observations, batch.actions)[0]
    expert = float(two_modes(None, batch.actions)[0])
    for step, temperature in ((0, 5.0), (5, 3.0), (10, 1.0), (99, 1.0)):
        later = state.replace(step=jnp.int32(step))
        ratio = reverse_kl.log_ratio(config, later, batch.observations, batch.actions)[0]
        assert ratio == pytest.approx(expert / temperature - float(own), rel=1e-5)
    floored = config.replace(expert_log_prob_floor=0.7, anneal_steps=0)
    far = jnp.array([[0.0]])
    ratio = reverse_kl.log_ratio(floored, state, batch.observations, far)[0]
    own = reverse_kl.log_prob(config, state, batch.observations, far)[0]
    assert ratio == pytest.approx(0.7 - float(own), rel=1e-5)


def test_starts_are_narrow_and_random_and_those_of_cloning_fit():
    batch = Batch(observations=jnp.zeros((1, 1)), actions=jnp.zeros((1, 2)))
    config = reverse_kl.Config(
        hidden_sizes=(4,), initial_std=0.1, ratio="known", expert_log_prob=two_modes
    )
    start = jax.jit(jax.vmap(lambda key: reverse_kl.init(config, key, batch)))
    states = start(jax.random.split(jax.random.key(0), 40))
    mode = lambda state: reverse_kl.act(  # noqa: E731
        config, state, jnp.zeros(1), jax.random.key(0), deterministic=True
    )[0]
    means = jax.jit(jax.vmap(mode))(states)
    first = jax.tree.map(lambda leaf: leaf[0], states)
    assert np.ptp(means, axis=0).min() > 0.8
    cloned = bc.init(bc.Config(hidden_sizes=(4,)), jax.random.key(1), batch)
    one = lambda policy: reverse_kl.log_prob(  # noqa: E731
        config, first.replace(policy=policy), batch.observations, batch.actions
    )
    assert one(cloned.policy) == pytest.approx(
        bc.log_prob(bc.Config(hidden_sizes=(4,)), cloned, batch.observations, batch.actions)
    )
    peak = reverse_kl.log_prob(config, first, jnp.zeros((1, 1)), means[:1])
    # Two dimensions of about the initial width: the network's own output adds at most a few tenths.
    assert peak[0] == pytest.approx(-2 * np.log(0.1 * np.sqrt(2 * np.pi)), abs=1.5)


class Clock(nn.Module):
    """A logit that is the observation, whatever the action; and a policy with one weight."""

    @nn.compact
    def __call__(self, observations, actions, bound):
        return jnp.broadcast_to(observations[:, 0], actions.shape[:-1]) / bound


class Weight(nn.Module):
    """A Gaussian around a learned number."""

    @nn.compact
    def __call__(self, observations, log_std_min, log_std_max):
        mean = self.param("mean", nn.initializers.constant(0.25), (1,))
        mean = jnp.broadcast_to(mean, (*observations.shape[:-1], 1))
        return networks.diagonal_gaussian(mean, jnp.float32(log_std_min))


def test_policy_and_discriminator_may_be_ones_own():
    config = reverse_kl.Config(
        policy_network=lambda *_: Weight(), discriminator_network=lambda *_: Clock(),
        instance_noise=0.0, discriminator_steps=1,
    )  # fmt: skip
    batch = Batch(observations=jnp.arange(4.0)[:, None], actions=jnp.zeros((4, 1)))
    state = reverse_kl.init(config, jax.random.key(0), batch)
    action, _ = reverse_kl.act(config, state, jnp.zeros(1), jax.random.key(0), deterministic=True)
    assert action == pytest.approx(0.25)  # nothing is added to where it starts
    ratios = reverse_kl.log_ratio(config, state, batch.observations, batch.actions)
    np.testing.assert_allclose(ratios, np.arange(4.0) / 10.0, rtol=1e-6)


CONTINUOUS, DISCRETE = jnp.zeros((5, 1)), jnp.zeros(5, jnp.int32)


@pytest.mark.parametrize(
    ("options", "actions", "message"),
    [
        ({"ratio": "known"}, CONTINUOUS, "ratio=known needs expert_log_prob"),
        ({"ratio": "guessed"}, CONTINUOUS, "ratio=guessed is unknown; choose one of learned"),
        ({"head": "mse"}, CONTINUOUS, "head=mse is unknown; choose one of gaussian"),
        ({"divergence": "tv"}, CONTINUOUS, "divergence=tv is unknown; choose one of rkl"),
        ({"estimator": "exact"}, CONTINUOUS, "estimator=exact is unknown with head=gaussian"),
        ({"entropy": "closed_form"}, CONTINUOUS, "entropy=closed_form needs ratio=known"),
        ({"estimator": "pathwise", "head": "categorical"}, DISCRETE, "choose one of auto, exact"),
        (
            {"entropy": "closed_form", "ratio": "known", "head": "mixture",
             "expert_log_prob": two_modes},
            CONTINUOUS,
            "entropy=closed_form needs head=gaussian, found head=mixture",
        ),
        ({"num_samples": 1}, CONTINUOUS, "num_samples is 1, expected a value in"),
        ({"discriminator_steps": 0}, CONTINUOUS, "discriminator_steps is 0, expected a value in"),
        ({}, DISCRETE, "head=gaussian does not fit discrete actions of dtype int32"),
        (
            {"head": "categorical", "num_actions": 3},
            CONTINUOUS,
            "head=categorical does not fit continuous",
        ),
        ({"head": "tabular"}, DISCRETE, "head=tabular needs num_actions"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(options, actions, message):
    batch = Batch(observations=jnp.zeros((5, 1)), actions=actions)
    with pytest.raises(InputError, match=message):
        reverse_kl.init(reverse_kl.Config(**options), jax.random.key(0), batch)
