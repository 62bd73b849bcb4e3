"""BCQ: its losses by numpy, its limits, and how far from the data it goes."""

import contract
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

from ddm.errors import InputError
from ddm.policy_constraint import bcq
from ddm.policy_constraint.parts import generative

CONTRACT = contract.Contract(
    small={
        "vae_hidden_sizes": (8, 8),
        "num_target_samples": 2,
        "num_eval_samples": 3,
        "perturbation": 0.5,
    },
    other={
        "log_var_min": 1.5,
        "log_var_max": -4.0,
        "num_target_samples": 3,
        "num_eval_samples": 4,
        "vae_hidden_sizes": (8,),
        "latent_dim": 3,
    },
)

CONFIG = bcq.Config(
    hidden_sizes=(64,), vae_hidden_sizes=(32,), discount=0.9, actor_learning_rate=3e-3,
    critic_learning_rate=3e-3, vae_learning_rate=3e-3, target_rate=0.05, num_eval_samples=50,
)  # fmt: skip
LANES = {
    "default": CONFIG,
    "mean": CONFIG.replace(perturbation=0.0, latent_clip=0.0),
    "model": CONFIG.replace(perturbation=0.0, latent_clip=3.0, kl_weight=0.02),
    "moved": CONFIG.replace(perturbation=1.0),
}


@pytest.fixture(scope="module")
def data():
    """Logged actions have mean 0 and standard deviation 0.58 at the end; the best is 0.5."""
    return probes.two_steps(bcq.batch_spec(CONFIG), rows=2000, seed=0)


@pytest.fixture(scope="module")
def trained(data):
    lanes = probes.train_lanes(bcq, list(LANES.values()), [data] * len(LANES), steps=600)
    return dict(zip(LANES, lanes, strict=True))


@pytest.fixture(scope="module")
def batch(data):
    return jax.tree.map(lambda leaf: leaf[:8], data)


@pytest.fixture(scope="module")
def fresh(batch):
    """A state whose targets differ from what they follow."""
    config = CONFIG.replace(perturbation=0.3)
    init = jax.jit(bcq.init)
    state, other = (init(config, jax.random.key(seed), batch) for seed in (0, 1))
    state = state.replace(
        actor=state.actor.replace(target_params=other.actor.params),
        critic=state.critic.replace(target_params=other.critic.params),
    )
    return config, state, *_update(config, state, batch)


_update = jax.jit(bcq.update)


def _mode(trained, name):
    return probes.mode(bcq, LANES[name], trained[name][0], 1.0)


def _mlp(params, inputs):
    """A perceptron by numpy; an ensemble's leaves have a leading axis."""
    layers = sorted(name for name in params if name != "output")
    for name in [*layers, "output"]:
        inputs = inputs @ params[name]["kernel"] + params[name]["bias"][..., None, :]
        inputs = inputs if name == "output" else np.maximum(inputs, 0.0)
    return inputs


def _pairs(observations, actions):
    return np.concatenate([observations, actions], axis=-1)


def _members(params, pairs):
    return _mlp(jax.tree.map(np.asarray, params["params"]["mlp"]), pairs[None])[..., 0]


def _perturbed(params, observations, actions):
    moves = np.tanh(
        _mlp(jax.tree.map(np.asarray, params["params"]["mlp"]), _pairs(observations, actions))
    )
    return np.clip(actions + 0.3 * moves, -1.0, 1.0)


def test_the_model_loss_averages_over_batch_and_dimensions(fresh, batch):
    _, state, _, metrics = fresh
    _, vae_key, _ = jax.random.split(state.key, 3)
    params = jax.tree.map(np.asarray, state.vae.params["params"])
    pairs = _pairs(batch.observations, batch.actions)
    mean, log_var = np.split(_mlp(params["posterior"], pairs), 2, axis=-1)
    latents = mean + np.exp(0.5 * log_var) * jax.random.normal(vae_key, mean.shape)
    decoded = np.tanh(_mlp(params["decoder"], _pairs(batch.observations, latents)))
    divergence = -0.5 * np.mean(1.0 + log_var - mean**2 - np.exp(log_var))
    expected = float(np.mean((decoded - batch.actions) ** 2) + 0.5 * divergence)
    assert metrics["vae_loss"] == pytest.approx(expected, rel=1e-4)


def test_targets_critic_and_actor_losses_are_those_of_algorithm_one(fresh, batch):
    config, state, after, metrics = fresh
    _, _, proposal_key = jax.random.split(state.key, 3)
    rows, count = 8, config.num_target_samples
    latents = np.clip(jax.random.normal(proposal_key, (rows, 1 + count, 2)), -0.5, 0.5)
    decoder = jax.tree.map(np.asarray, after.vae.params["params"]["decoder"])  # the new model
    targets = []
    for row in range(rows):
        s = np.repeat(batch.next_observations[row : row + 1], count, axis=0)
        proposals = np.tanh(_mlp(decoder, _pairs(s, latents[row, 1:])))
        actions = _perturbed(state.actor.target_params, s, proposals)
        one, two = _members(state.critic.target_params, _pairs(s, actions))
        mixed = 0.75 * np.minimum(one, two) + 0.25 * np.maximum(one, two)
        alive = 0.0 if batch.terminations[row] else 1.0
        targets.append(batch.rewards[row] + 0.9 * alive * mixed.max())
    values = _members(state.critic.params, _pairs(batch.observations, batch.actions))
    expected = np.mean((values - np.array(targets)) ** 2, axis=1).sum()
    assert metrics["critic_loss"] == pytest.approx(expected, rel=1e-4)
    assert metrics["q_value"] == pytest.approx(values.mean(), abs=1e-5)

    proposals = np.tanh(_mlp(decoder, _pairs(batch.observations, latents[:, 0])))
    actions = _perturbed(state.actor.params, batch.observations, proposals)
    first = _members(after.critic.params, _pairs(batch.observations, actions))[0]
    assert metrics["actor_loss"] == pytest.approx(-first.mean(), rel=1e-4)


def test_without_perturbation_and_choice_it_samples_the_clone(trained):
    config, (state, _) = LANES["model"].replace(num_eval_samples=1), trained["model"]
    keys = jax.random.split(jax.random.key(3), 2000)
    actions, _ = jax.jit(jax.vmap(lambda key: bcq.act(config, state, jnp.array([1.0]), key)))(keys)
    clone = jax.vmap(
        lambda key: jnp.tanh(generative.propose(config, state.vae, jnp.ones((1, 1)), key))
    )
    np.testing.assert_allclose(actions, clone(keys)[:, 0], atol=1e-6)
    # The log's actions are uniform, of mean 0 and variance 1/3.
    assert actions.mean() == pytest.approx(0.0, abs=0.1)
    assert actions.std() == pytest.approx(3.0**-0.5, abs=0.1)


def test_without_perturbation_its_network_stands_still(fresh, batch):
    config, state, moved, _ = fresh
    still, _ = _update(config.replace(perturbation=0.0), state, batch)
    jax.tree.map(np.testing.assert_array_equal, still.actor.params, state.actor.params)
    kernels = [each.actor.params["params"]["mlp"]["output"]["kernel"] for each in (moved, state)]
    assert not np.array_equal(*kernels)


def test_values_of_the_two_steps(trained):
    for name in ("default", "model", "moved"):
        state, metrics = trained[name]
        observations, actions = jnp.array([[1.0], [1.0], [-1.0]]), jnp.array([[0.5], [-0.5], [0.0]])
        values = state.critic(observations, actions).mean(axis=0)
        best = 1.0 - (_mode(trained, name) - probes.BEST_ACTION) ** 2
        np.testing.assert_allclose(values, [1.0, 0.0, 0.9 * best], atol=0.06)
        assert metrics["critic_loss"] < 0.01


def test_the_policy_goes_as_far_from_the_data_as_clip_and_perturbation_let_it(trained):
    modes = {name: _mode(trained, name) for name in LANES}
    assert modes["mean"] == pytest.approx(0.0, abs=0.1)
    # The clip at half a standard deviation of z leaves about half of that of the actions.
    assert 0.15 < modes["default"] < 0.42
    assert modes["model"] == pytest.approx(probes.BEST_ACTION, abs=0.1)
    assert modes["moved"] == pytest.approx(probes.BEST_ACTION, abs=0.1)


def test_the_model_that_still_learns_is_named(trained):
    _, metrics = trained["default"]
    assert bcq.diagnose(CONFIG, metrics | {"vae_progress": 0.0}) == []
    [sentence] = bcq.diagnose(CONFIG, metrics | {"vae_progress": 0.2})
    assert "its loss fell by 20%" in sentence


def test_progress_is_the_share_that_the_loss_lost(fresh, batch):
    config, _, state, first = fresh
    state, second = _update(config, state, batch)
    assert first["vae_progress"] == pytest.approx(0.0, abs=1e-6)
    slow, fast = float(state.vae_tracker.slow), float(state.vae_tracker.fast)
    assert slow != fast
    assert second["vae_progress"] == pytest.approx((slow - fast) / slow, rel=1e-4)


def test_discrete_actions_are_refused(batch):
    with pytest.raises(InputError, match=r"bcq: batch.actions are integers"):
        bcq.init(CONFIG, jax.random.key(0), batch.replace(actions=jnp.zeros(8, jnp.int32)))


def test_the_latent_has_twice_the_dimensions_of_an_action(batch):
    batch = batch.replace(actions=jnp.zeros((8, 3)))
    state = jax.eval_shape(bcq.init, CONFIG, jax.random.key(0), batch)
    assert state.vae.params["params"]["posterior"]["output"]["bias"].shape == (2 * 6,)
