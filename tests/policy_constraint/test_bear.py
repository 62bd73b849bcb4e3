"""BEAR: its losses by numpy, its dual variable, and supports against densities."""

import contract
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

from ddm.errors import InputError
from ddm.ops import improvement, kernels
from ddm.policy_constraint import bear
from ddm.policy_constraint.parts import generative
from ddm.types import Batch

CONTRACT = contract.Contract(
    small={
        "vae_hidden_sizes": (8, 8),
        "num_target_samples": 2,
        "num_eval_samples": 3,
        "num_mmd_samples": 2,
        "warmup_steps": 2,
        "bandwidth": 1.0,
    },
    other={
        "log_var_min": 1.5,
        "log_var_max": -4.0,
        "num_target_samples": 3,
        "num_eval_samples": 4,
        "vae_hidden_sizes": (8,),
        "latent_dim": 3,
        "log_alpha_min": 0.5,
        "log_alpha_max": -0.5,
        "deviation_weight": 1.0,
        "kernel": "gaussian",
        "values": "mean",
        "num_mmd_samples": 3,
    },
)

CONFIG = bear.Config(
    hidden_sizes=(64,), vae_hidden_sizes=(32,), discount=0.9, actor_learning_rate=3e-3,
    critic_learning_rate=3e-3, vae_learning_rate=3e-3, alpha_learning_rate=1e-2, target_rate=0.05,
    kl_weight=0.02, latent_clip=3.0, num_eval_samples=50, warmup_steps=200, epsilon=0.12,
    num_target_samples=5,
)  # fmt: skip
ROWS, EDGE = 2000, 0.5


def _bandit(reward, edge):
    """One step from one observation; actions are uniform on [-edge, edge]."""
    actions = np.random.default_rng(0).uniform(-edge, edge, (ROWS, 1))
    ones = jnp.ones((ROWS, 1))
    return Batch(
        observations=ones,
        actions=jnp.asarray(actions, jnp.float32),
        rewards=jnp.asarray(reward(actions[:, 0]), jnp.float32),
        next_observations=ones,
        terminations=jnp.ones(ROWS, bool),
    )


def _peak(actions):
    """A reward that few uniform actions earn: near 0.5, with a width of 0.1."""
    return np.exp(-0.5 * ((actions - 0.5) / 0.1) ** 2)


# Two steps; a rare best action; a slope on which every action beyond the data looks better.
TWO_STEPS, PEAK, SLOPE = (
    probes.two_steps(bear.batch_spec(CONFIG), rows=ROWS, seed=0),
    _bandit(_peak, 1.0),
    _bandit(lambda actions: actions, EDGE),
)
LANES = {
    "two steps": (CONFIG, TWO_STEPS),
    "tight": (CONFIG.replace(epsilon=0.05, alpha_learning_rate=0.03), TWO_STEPS),
    "warm-up": (CONFIG.replace(warmup_steps=10**6), SLOPE),
    "peak": (CONFIG.replace(epsilon=0.16), PEAK),
    "slope": (CONFIG, SLOPE),
    "no constraint": (CONFIG.replace(log_alpha_min=-20.0, log_alpha_max=-20.0), SLOPE),
}


@pytest.fixture(scope="module")
def trained():
    configs, data = zip(*LANES.values(), strict=True)
    lanes = probes.train_lanes(bear, list(configs), list(data), steps=600)
    return dict(zip(LANES, lanes, strict=True))


@pytest.fixture(scope="module")
def batch():
    return jax.tree.map(lambda leaf: leaf[:8], TWO_STEPS)


@pytest.fixture(scope="module")
def fresh(batch):
    """A state whose targets differ from the critics, after its warm-up."""
    init = jax.jit(bear.init)
    state, other = (init(CONFIG, jax.random.key(seed), batch) for seed in (0, 1))
    critic = state.critic.replace(target_params=other.critic.params)
    return state.replace(critic=critic, step=jnp.array(200, jnp.int32))


_update = jax.jit(bear.update)


def _policy(state, observations):
    return state.actor(observations, CONFIG.log_std_min, CONFIG.log_std_max)


def _samples(state, observation, count=4000):
    policy = _policy(state, jnp.array([observation]))
    return np.asarray(policy.sample(seed=jax.random.key(1), sample_shape=(count,)))[:, 0]


def _values(critic, observations, actions):
    return np.asarray(critic(jnp.asarray(observations), jnp.asarray(actions)))


def _mmd(one, other):
    """Of samples (N, A), by numpy, with the Laplacian kernel at bandwidth 20."""

    def mean(x, y):
        return np.mean([[np.exp(-np.abs(a - b).sum() / 40.0) for b in y] for a in x])

    return np.sqrt(mean(one, one) + mean(other, other) - 2.0 * mean(one, other) + 1e-6)


def test_losses_are_those_of_the_authors_code(fresh, batch):
    state = fresh.replace(alpha=fresh.alpha.replace(params=jnp.float32(0.7)))
    after, metrics = _update(CONFIG, state, batch)
    _, _, target_key, actor_key = jax.random.split(state.key, 4)
    policy = _policy(state, batch.next_observations)
    next_actions = policy.sample(seed=target_key, sample_shape=(5,))
    targets = []
    for row in range(8):
        s = np.repeat(batch.next_observations[row : row + 1], 5, axis=0)
        one, two = _values(state.critic.target, s, next_actions[:, row])
        mixed = 0.75 * np.minimum(one, two) + 0.25 * np.maximum(one, two)
        targets.append(batch.rewards[row] + 0.9 * (1 - batch.terminations[row]) * mixed.max())
    values = _values(state.critic, batch.observations, batch.actions)
    expected = float(np.mean((values - np.array(targets)) ** 2, axis=1).sum())
    assert metrics["critic_loss"] == pytest.approx(expected, rel=1e-4)

    policy_key, proposal_key = jax.random.split(actor_key)
    policy = _policy(state, batch.observations)
    raw = np.asarray(policy.sample_raw(seed=policy_key, sample_shape=(4,)))
    s = jnp.broadcast_to(batch.observations[:, None], (8, 4, 1))
    # The new behaviour model's actions, before the tanh.
    logged = np.asarray(generative.propose(CONFIG, after.vae, s, proposal_key))
    mmd = np.mean([_mmd(raw[:, row], logged[row]) for row in range(8)])
    assert metrics["mmd"] == pytest.approx(float(mmd), rel=1e-3)
    lowest = _values(state.critic, batch.observations, np.tanh(raw[0])).min(axis=0)
    expected = float(-lowest.mean() + np.exp(0.7) * (mmd - CONFIG.epsilon))
    assert metrics["actor_loss"] == pytest.approx(expected, rel=1e-3)


def test_the_warm_up_leaves_the_values_out(fresh, batch):
    before = fresh.replace(step=jnp.array(199, jnp.int32))
    _, metrics = _update(CONFIG, before, batch)
    expected = float(metrics["mmd"]) - CONFIG.epsilon  # alpha is 1
    assert metrics["actor_loss"] == pytest.approx(expected, rel=1e-4)


def test_the_ensembles_deviation_lowers_its_value(fresh, batch):
    losses = [
        float(_update(CONFIG.replace(deviation_weight=weight), fresh, batch)[1]["actor_loss"])
        for weight in (0.0, 1.0, 2.0)
    ]
    assert losses[0] < losses[1]
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)


@pytest.mark.parametrize("kernel", [kernels.gaussian, kernels.laplacian])
def test_the_mmd_grows_away_from_the_data_on_both_sides(kernel):
    logged = jnp.array([[0.3], [0.5]])
    slope = jax.grad(lambda shift: kernels.mmd(jnp.full((2, 1), shift), logged, kernel, 20.0))
    assert slope(-1.0) < 0.0 < slope(1.0)


@pytest.mark.parametrize(("mmd", "sign"), [(0.2, 1.0), (0.12, 0.0), (0.05, -1.0)])
def test_alpha_rises_while_the_mmd_is_above_epsilon(fresh, mmd, sign):
    alpha = bear.alpha_step(CONFIG, fresh.alpha, jnp.float32(mmd))
    assert alpha.params == pytest.approx(sign * CONFIG.alpha_learning_rate, abs=1e-5)


@pytest.mark.parametrize(("start", "mmd"), [(9.999, 0.2), (-4.999, 0.05)])
def test_alpha_stays_inside_its_bounds(fresh, start, mmd):
    alpha = fresh.alpha.replace(params=jnp.float32(start))
    after = bear.alpha_step(CONFIG, alpha, jnp.float32(mmd))
    assert float(after.params) in (CONFIG.log_alpha_min, CONFIG.log_alpha_max)


def test_the_mmds_gradient_pulls_the_policy_to_the_data(trained):
    # Nothing but the MMD moves the policy during the warm-up; values point to 1.
    actions = _samples(trained["warm-up"][0], 1.0)
    assert actions.mean() == pytest.approx(0.0, abs=0.1)


def test_values_of_the_two_steps(trained):
    state, _ = trained["two steps"]
    values = _values(state.critic, [[1.0], [1.0], [-1.0]], [[0.5], [-0.5], [0.0]]).mean(axis=0)
    np.testing.assert_allclose(values, [1.0, 0.0, 0.9], atol=0.05)
    best = probes.mode(bear, CONFIG, state, 1.0)
    assert best == pytest.approx(probes.BEST_ACTION, abs=0.1)


def test_supports_let_the_policy_choose_where_densities_do_not(trained):
    # Uniform actions, of which one in five earns much. A policy near them by the KL divergence
    # stays wide; its best return is known. BEAR's stands on the best action.
    grid = jnp.linspace(-1.0, 1.0, 2001)
    rewards, uniform = jnp.asarray(_peak(np.asarray(grid))), jnp.full(2001, 1.0 / 2001)
    near = improvement.kl_constraint(rewards, uniform, 0.5)
    assert float(uniform @ rewards) == pytest.approx(0.125, abs=0.005)
    assert float(near.values) < 0.5

    actions = _samples(trained["peak"][0], 1.0)
    assert _peak(actions).mean() > 0.9
    # What a KL constraint would have to allow for that, from the width of the samples: the
    # entropy of a Gaussian is an upper bound of theirs.
    divergence = np.log(2.0) - 0.5 * np.log(2.0 * np.pi * np.e * actions.var())
    assert divergence > 1.5
    assert trained["peak"][1]["mmd"] < 0.16 + 0.01


def test_supports_hold_the_policy_where_the_values_extrapolate(trained):
    # Logged actions end at 0.5; the critics' slope goes on.
    assert _samples(trained["no constraint"][0], 1.0).mean() > 0.9
    actions = _samples(trained["slope"][0], 1.0)
    # The point at which the MMD to four logged actions is epsilon.
    logged = np.arctanh(np.random.default_rng(1).uniform(-EDGE, EDGE, (200, 4, 1)))
    points = np.linspace(0.0, 1.0, 21)
    distances = [
        np.mean([_mmd(np.full((1, 1), point), four) for four in logged]) for point in points
    ]
    expected = np.tanh(np.interp(CONFIG.epsilon, distances, points))
    assert 0.2 < expected < EDGE
    assert actions.mean() == pytest.approx(expected, abs=0.1)


def test_what_is_amiss_is_said(trained):
    _, metrics = trained["tight"]
    settled = {"vae_progress": 0.0}
    # Samples of four from a wide log are farther apart than 0.05.
    tight = LANES["tight"][0]
    [sentence] = bear.diagnose(tight, metrics | settled)
    assert "log_alpha stands at its upper bound of 10" in sentence
    assert "raise epsilon" in sentence
    assert bear.diagnose(CONFIG, trained["two steps"][1] | settled) == []
    [sentence] = bear.diagnose(CONFIG, {"log_alpha": -5.0, "mmd": 0.01, **settled})
    assert "lower bound" in sentence
    [sentence] = bear.diagnose(CONFIG, {"log_alpha": 0.0, "mmd": 0.1, "vae_progress": 0.3})
    assert "fell by 30%" in sentence


def test_kernels_and_values_may_be_functions(fresh, batch):
    outcomes = [
        jax.jit(bear.actor_loss)(config, fresh, fresh.actor.params, batch, jax.random.key(0))[0]
        for config in (
            CONFIG.replace(kernel="gaussian", values="mean"),
            CONFIG.replace(kernel=kernels.gaussian, values=bear.VALUES["mean"]),
            CONFIG,
        )
    ]
    assert outcomes[0] == outcomes[1] != outcomes[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": "cubic"}, "bear: kernel=cubic is unknown; choose one of gaussian, laplacian"),
        ({"values": "largest"}, "bear: values=largest is unknown"),
    ],
)
def test_unknown_choices_are_refused(batch, change, message):
    with pytest.raises(InputError, match=message):
        bear.init(CONFIG.replace(**change), jax.random.key(0), batch)


def test_discrete_actions_are_refused(batch):
    with pytest.raises(InputError, match=r"bear: batch.actions are integers"):
        bear.init(CONFIG, jax.random.key(0), batch.replace(actions=jnp.zeros(8, jnp.int32)))
