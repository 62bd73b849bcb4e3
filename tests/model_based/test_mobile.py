"""MOBILE: its penalty by hand, on imagined rows only, and where it changes the best action."""

from __future__ import annotations

import functools

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import Squashed, critics, disagree, some_state, transitions
from flax import linen as nn
from models import CONTEXT, OTHER, SMALL_MODEL, SMALL_ROUNDS

from ddm import networks
from ddm.model_based import mbpo, mobile
from ddm.networks.mlp import Network
from ddm.off_policy import sac
from ddm.types import Batch

SMALL = {**SMALL_MODEL, **SMALL_ROUNDS}
CONTRACT = contract.Contract(
    small={**SMALL, "num_next_states": 2},
    other={**OTHER, "num_next_states": 3, "temperature_max": 2.0},
    context=CONTEXT,
)

# The penalty and the targets, with five real rows of 16 and three elites of four members.

NUM_REAL = 5
CONFIG = mobile.Config(
    **{**SMALL_MODEL, "num_members": 4, "num_elites": 3}, hidden_sizes=(8, 8), discount=0.9,
    log_std_min=-1.0, log_std_max=0.3, num_next_states=6, penalty=1.3, backup_entropy=0.6,
)  # fmt: skip


@pytest.fixture(scope="module")
def setting():
    """A policy and a model of noise, a batch, and the step on them, compiled once."""
    batch = transitions()
    for seed in range(50):
        state = some_state(mobile, CONFIG, batch, seed=seed)
        values = critics(state.policy.critic.target_params, batch.next_observations, batch.actions)
        if disagree(values):  # their minimum is neither of them
            break
    # Scales of a log are positive, and small enough here that no unit of a network saturates.
    scales = jax.tree.map(lambda x: 0.5 + 0.2 * x**2, state.model.scales)
    errors = jnp.array([0.3, 0.1, 0.9, 0.2])
    model = state.model.replace(holdout_errors=errors, scales=scales)
    step = jax.jit(functools.partial(mobile.step, num_real=NUM_REAL))
    return state.policy, batch, model, step


def outcome_by_hand(params, observations, actions):
    """Mean and standard deviation of one member, from its parameters."""
    layers = params["params"]
    values = np.concatenate([observations, actions], axis=-1)
    for name in sorted(layers["perceptron"]):
        values = values @ layers["perceptron"][name]["kernel"] + layers["perceptron"][name]["bias"]
        values = values if name == "output" else values / (1.0 + np.exp(-values))
    mean, log_variance, _ = np.split(values, (4, 8), axis=-1)
    low, high = layers["log_variance_min"], layers["log_variance_max"]
    log_variance = high - np.log1p(np.exp(high - log_variance))
    log_variance = low + np.log1p(np.exp(log_variance - low))
    return mean, np.exp(0.5 * log_variance)


def spread_by_hand(policy, model, rows, key):
    """U of rows (B,): one elite, one next state after the other."""
    noise_key, action_key = jax.random.split(key)
    count, size = rows.observations.shape
    noise = np.asarray(jax.random.normal(noise_key, (6, 3, count, size)))
    scales = jax.tree.map(np.asarray, model.scales)
    observations = (rows.observations - scales.observation_mean) / scales.observation_std
    actions = (rows.actions - scales.action_mean) / scales.action_std
    following = np.zeros((6, 3, count, size), np.float32)
    for place, elite in enumerate((1, 3, 0)):  # by their held-out errors
        params = jax.tree.map(lambda x, elite=elite: np.asarray(x[elite]), model.params)
        mean, std = outcome_by_hand(params, observations, actions)
        mean = mean * scales.target_std + scales.target_mean
        std = std * scales.target_std
        for m in range(6):
            change = mean[:, 1:] + std[:, 1:] * noise[m, place]
            following[m, place] = rows.observations + change
    flat = jnp.asarray(following.reshape(-1, size))
    next_actions, _ = Squashed(CONFIG, policy.actor.params, flat).sample(action_key)
    values = np.asarray(critics(policy.critic.target_params, flat, next_actions))
    worth = values.min(axis=0).reshape(6, 3, count).mean(axis=0)
    center = worth.sum(axis=0) / 3.0
    return np.sqrt(((worth - center) ** 2).sum(axis=0) / 2.0), values


def targets_by_hand(policy, batch, rewards):
    _, target_key, _ = jax.random.split(policy.key, 3)
    following = Squashed(CONFIG, policy.actor.params, batch.next_observations)
    actions, log_probs = following.sample(target_key)
    values = critics(policy.critic.target_params, batch.next_observations, actions).min(axis=0)
    soft = values - 0.6 * jnp.exp(policy.temperature.params) * log_probs
    return np.asarray(rewards + 0.9 * (1.0 - batch.terminations) * soft)


def test_targets_by_hand(setting):
    policy, batch, model, step = setting
    imagined = jax.tree.map(lambda x: x[NUM_REAL:], batch)
    unsure, seen = spread_by_hand(policy, model, imagined, jax.random.fold_in(policy.key, 3))
    assert 0.05 < np.mean(seen[0] < seen[1]) < 0.95  # their minimum is neither of the critics
    penalties = np.concatenate([np.zeros(NUM_REAL), 1.3 * unsure])
    assert penalties[NUM_REAL:].min() > 1e-3
    targets = targets_by_hand(policy, batch, batch.rewards - penalties)
    assert targets.min() < -0.5  # targets below 0 are learned as they are
    values = np.asarray(critics(policy.critic.params, batch.observations, batch.actions))
    _, metrics = step(CONFIG, policy, batch, model)
    errors = ((values - targets) ** 2).mean(axis=1).sum()
    np.testing.assert_allclose(metrics["critic_loss"], errors, rtol=2e-4)
    np.testing.assert_allclose(metrics["penalty"], 1.3 * unsure.mean(), rtol=2e-4)


def test_real_rows_are_not_penalised(setting):
    policy, batch, model, _ = setting
    all_real = jax.jit(functools.partial(mobile.step, num_real=len(batch.rewards)))
    found, metrics = all_real(CONFIG, policy, batch, model)
    expected, _ = jax.jit(sac.update)(CONFIG, policy, batch)
    assert metrics["penalty"] == 0.0
    for name in expected.__dataclass_fields__:
        assert_same_bits(getattr(found, name), getattr(expected, name), name)


class Exploding(Network):
    """A member without a limit to its noise beyond 50, where `force` is 1."""

    @nn.compact
    def __call__(self, observations: jax.Array, actions: jax.Array) -> networks.Outcome:
        del actions
        force = self.param("force", nn.initializers.zeros, (1,), jnp.float32)
        mean = jnp.zeros((len(observations), 1 + observations.shape[1]))
        wide = jnp.where(observations[:, :1] > 50.0, 200.0 * force, 0.0)  # exp(100) overflows
        return networks.Outcome(mean, mean + wide, mean[:, 0])


def exploding(config, action_size):
    del config, action_size
    return Exploding()


def test_rows_after_which_a_member_is_not_finite_are_cut_and_counted(setting):
    policy, batch, model, _ = setting
    config = CONFIG.replace(
        dynamics_network=exploding, model_weight_decay=(0.0,), penalty=0.0
    )  # nothing but the cut changes SAC's step
    far = batch.replace(observations=batch.observations.at[jnp.array([2, 6, 15]), 0].set(60.0))
    broken = mobile.init(config, jax.random.key(0), batch).model
    force = jnp.array([0.0, 1.0, 0.0, 0.0])[:, None]  # one of three elites
    broken = broken.replace(
        params={"params": {"force": force}}, holdout_errors=model.holdout_errors
    )
    found, metrics = jax.jit(functools.partial(mobile.step, num_real=NUM_REAL))(
        config, policy, far, broken
    )
    # Of 11 imagined rows the second and the last; the real one counts whatever a model says of it.
    kept = np.array([0, 1, 2, 3, 4, 5, 7, 7, 8, 9, 10, 11, 12, 13, 14, 1])
    expected, _ = jax.jit(sac.update)(config, policy, jax.tree.map(lambda x: x[kept], far))
    for name in expected.__dataclass_fields__:
        assert_same_bits(getattr(found, name), getattr(expected, name), name)
    assert metrics["not_valued"] == pytest.approx(2 / 11)
    assert metrics["penalty"] == 0.0
    [sentence] = mobile.diagnose(config, {"not_valued": 2 / 11})
    assert "18.2 % of the imagined rows were left out" in sentence


class Clipped(Network):
    """Values that are finite whatever the observation."""

    @nn.compact
    def __call__(self, observations: jax.Array, actions: jax.Array) -> jax.Array:
        del actions
        self.param("unused", nn.initializers.zeros, (1,), jnp.float32)
        return jnp.clip(jnp.sum(observations, axis=-1), -1.0, 1.0)[None]


def test_a_state_that_is_not_finite_has_no_value_even_where_the_critics_give_one():
    config = CONFIG.replace(
        dynamics_network=exploding, model_weight_decay=(0.0,), num_critics=1,
        critic_network=lambda config, size: Clipped(),
    )  # fmt: skip
    rows = transitions()
    state = mobile.init(config, jax.random.key(0), rows)
    model = state.model.replace(params={"params": {"force": jnp.ones((4, 1))}})
    observations = rows.observations.at[2, 0].set(60.0)
    found = mobile.value_spread(
        config, state.policy, model, observations, rows.actions, jax.random.key(1)
    )
    assert np.flatnonzero(~np.isfinite(found)).tolist() == [2]


def assert_same_bits(one, other, name):
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.array_equal(x, y), name


def test_without_a_penalty_it_is_mbpo_to_the_bit():
    config = contract.small_config(mobile, penalty=0.0)
    plain = mbpo.Config(
        **SMALL, hidden_sizes=config.hidden_sizes, actor_learning_rate=1e-4,
        temperature_learning_rate=1e-4, temperature_max=1.0, backup_entropy=0.0,
    )  # fmt: skip
    batch = contract.make_batch(mobile, config)
    states, metrics = zip(
        *(
            contract.jitted_update(algorithm)(
                each, algorithm.init(each, jax.random.key(0), batch), batch
            )
            for algorithm, each in ((mobile, config), (mbpo, plain))
        ),
        strict=True,
    )
    ours, theirs = states
    assert_same_bits(ours, theirs, "state")
    for name, value in metrics[1].items():
        assert metrics[0][name] == value, name
    _, paid = contract.jitted_update(mobile)(
        config.replace(penalty=1.0), mobile.init(config, jax.random.key(0), batch), batch
    )
    assert paid["penalty"] > 0.0
    assert paid["critic_loss"] != metrics[0]["critic_loss"]


# A problem whose answer is known. The reward is the position, and an action moves to itself. The
# members know this for actions up to 0, where the log is; beyond, member i adds w_i a. Values have
# slope 1 in the position, so an action above 0 gains discount * a, and its penalty is c std(w) a:
# the best action is 1 where c < discount / std(w), and 0 where it is larger.

SLOPES, DISCOUNT = np.array([-1.5, 0.0, 1.5], np.float32), 0.6
THRESHOLD = DISCOUNT / np.std(SLOPES, ddof=1)  # 0.4


class Mover(Network):
    """One member; `slope` is its w."""

    @nn.compact
    def __call__(self, observations: jax.Array, actions: jax.Array) -> networks.Outcome:
        slope = self.param("slope", nn.initializers.zeros, (1, 1), jnp.float32)
        position = actions + slope[0] * jnp.maximum(actions, 0.0)
        mean = jnp.concatenate([observations, position - observations], axis=-1)
        return networks.Outcome(mean, jnp.zeros_like(mean), mean[..., 0])


def mover(config, action_size):
    del config, action_size
    return Mover()


MOVER = mobile.Config(
    dynamics_network=mover, model_weight_decay=(0.0,), num_members=3, num_elites=3,
    probabilistic=False, max_epochs=0, termination="never", hidden_sizes=(16, 16),
    rollout_length=1, num_rollouts=2000, rollout_frequency=200, retained_rounds=2, real_share=0.1,
    discount=DISCOUNT, initial_temperature=0.01, temperature_learning_rate=0.0, target_rate=0.03,
    actor_learning_rate=3e-3, critic_learning_rate=3e-3, num_next_states=2,
)  # fmt: skip
ROUNDS, ROWS = 6, 64


@jax.jit
def trained_action(config):
    """The policy's mode after training, and the penalty at the end."""

    def log(key):
        position_key, action_key = jax.random.split(key)
        shape = (200 * ROWS, 1)
        positions = jax.random.uniform(position_key, shape, minval=-2.5, maxval=2.5)
        actions = jax.random.uniform(action_key, shape, minval=-1.0, maxval=0.0)
        ends = jnp.zeros(len(actions), bool)
        return Batch(positions, actions, positions[:, 0], actions, ends)

    def one(state, key):
        return mobile.update(config, state, log(key))

    state = mobile.init(config, jax.random.key(0), log(jax.random.key(1)))
    params = {"params": {"slope": jnp.asarray(SLOPES).reshape(3, 1, 1)}}
    state = state.replace(model=state.model.replace(params=params))
    state, metrics = jax.lax.scan(one, state, jax.random.split(jax.random.key(2), ROUNDS))
    action, _ = mobile.act(config, state, jnp.zeros(1), jax.random.key(3), deterministic=True)
    return action[0], metrics["penalty"][-1]


def test_the_best_action_changes_at_the_known_penalty():
    below, _ = trained_action(MOVER.replace(penalty=0.5 * THRESHOLD))
    above, penalty = trained_action(MOVER.replace(penalty=2.0 * THRESHOLD))
    assert below > 0.8
    assert above == pytest.approx(0.0, abs=0.2)
    assert penalty < 0.3  # c std(w) is 1.2 at action 1
