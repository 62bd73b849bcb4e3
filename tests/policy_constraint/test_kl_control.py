"""KL-control on chains and on the 16-token utterances, whose optima are exact."""

from __future__ import annotations

from typing import Any

import by_hand
import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ddm import networks
from ddm.envs import tabular
from ddm.errors import InputError
from ddm.imitation import bc
from ddm.policy_constraint import kl_control
from ddm.types import Batch

CONTRACT = contract.Contract(
    small={
        "num_actions": contract.NUM_ACTIONS,
        "prior_steps": 1,
        "learning_rate": 0.1,
        "target_rate": 0.5,
        "embedding_size": 4,
    },
    variants=[
        {"form": "q", "network": "gru", "num_tokens": 5},
        {"dropout_rate": 0.5, "target_samples": 2},
    ],
    other={
        "prior_steps": 2,
        "prior": lambda observations: observations[..., : contract.NUM_ACTIONS],
        "network": "gru",
        "num_tokens": 6,
        "embedding_size": 8,
        "form": "q",
        "backup": "logsumexp",
        "kl_calc": "integral",
        "max_gradient": 1e-3,
        "target_samples": 2,
    },
    context={
        "network": {"num_tokens": 5},
        "embedding_size": {"num_tokens": 5},
        "backup": {"form": "q"},
        "kl_calc": {"form": "q"},
        "target_samples": {"dropout_rate": 0.5},
    },
)


class Table(nn.Module):
    """A linear layer on one-hot observations."""

    num_actions: int
    start: Any

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        return nn.Dense(self.num_actions, use_bias=False, kernel_init=self.start)(observations)


def zero_table(config: Any, num_actions: int) -> nn.Module:
    return Table(num_actions, nn.initializers.zeros)


def some_table(config: Any, num_actions: int) -> nn.Module:
    return Table(num_actions, networks.fan_in_uniform)


TABLES = {"critic_network": zero_table, "prior_network": some_table}


class Chain:
    """Three steps, four actions that all lead on; every pair is logged once."""

    steps, actions, discount = 3, 4, 0.9
    random = np.random.default_rng(0)
    rewards = random.normal(size=(steps, actions))
    logits = random.normal(size=(steps, actions))
    prior = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)

    @classmethod
    def batch(cls) -> Batch:
        states, actions = np.divmod(np.arange(cls.steps * cls.actions), cls.actions)
        return Batch(
            observations=jnp.asarray(np.eye(cls.steps)[states], jnp.float32),
            actions=jnp.asarray(actions, jnp.int32),
            rewards=jnp.asarray(cls.rewards[states, actions], jnp.float32),
            next_observations=jnp.asarray(np.eye(cls.steps)[(states + 1) % cls.steps], jnp.float32),
            terminations=jnp.asarray(states == cls.steps - 1),
        )

    @classmethod
    def optimum(cls, weight: float, power: float = 1.0) -> np.ndarray:
        """Pi (steps, actions) of V = w log sum p^power exp((r + gamma V') / w)."""
        value, policy = 0.0, np.zeros_like(cls.prior)
        for step in reversed(range(cls.steps)):
            exponents = (cls.rewards[step] + cls.discount * value) / weight
            weights = cls.prior[step] ** power * np.exp(exponents)
            value, policy[step] = weight * np.log(weights.sum()), weights / weights.sum()
        return policy


def chain_prior(observations: jax.Array) -> jax.Array:
    return observations @ jnp.asarray(Chain.logits, jnp.float32)


def chain_config(**overrides: Any) -> kl_control.Config:
    return kl_control.Config(
        learning_rate=0.03, target_rate=1.0, discount=Chain.discount, num_actions=Chain.actions,
        prior=chain_prior, **TABLES,
    ).replace(**overrides)  # fmt: skip


def fit(config: kl_control.Config, batch: Batch, steps: int, initial: Any = 0.0) -> Any:
    """The state after full-batch updates from a table of `initial`."""
    state = kl_control.init(config, jax.random.key(0), batch)
    params, target_params = (
        jax.tree.map(lambda leaf: leaf + initial, each)
        for each in (state.critic.params, state.critic.target_params)
    )
    state = state.replace(critic=state.critic.replace(params=params, target_params=target_params))
    return jax.lax.scan(
        lambda state, _: kl_control.update(config, state, batch), state, None, length=steps
    )


def fit_weights(config: kl_control.Config, weights: list[float], steps: int = 800) -> Any:
    """Policies (weights, steps, actions) and D on the chain; one compilation."""

    def one(weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        own = config.replace(kl_weight=weight)
        state, _ = fit(own, Chain.batch(), steps)
        observations = jnp.eye(Chain.steps)
        policy = jnp.exp(kl_control.log_policy(own, state, observations))
        return policy, state.critic(observations)

    return jax.jit(jax.vmap(one))(jnp.asarray(weights))


def q_values(temperature: float = 0.0) -> np.ndarray:
    """Optimal Q (steps, actions) of the chain without a prior."""
    value, values = 0.0, np.zeros_like(Chain.rewards)
    for step in reversed(range(Chain.steps)):
        values[step] = Chain.rewards[step] + Chain.discount * value
        value = values[step].max()
    return values


def test_psi_learning_finds_the_exact_optimum_and_q_learning_in_the_limit():
    weights = [0.3, 1.0, 5.0, 0.0, 1e-3]
    policies, gains = fit_weights(chain_config(), weights)
    for policy, weight in zip(policies[:3], weights, strict=False):
        np.testing.assert_allclose(policy, Chain.optimum(weight), atol=1e-4)
    greedy = np.eye(Chain.actions)[q_values().argmax(axis=-1)]
    for row in (3, 4):
        np.testing.assert_allclose(policies[row], greedy, atol=1e-6)
        np.testing.assert_allclose(gains[row], q_values(), atol=0.01)


def test_the_reward_form_finds_the_flatter_fixed_point_that_is_documented():
    policies, _ = fit_weights(chain_config(form="q", backup="logsumexp"), [0.3, 1.0])
    for policy, weight in zip(policies, (0.3, 1.0), strict=True):
        np.testing.assert_allclose(policy, Chain.optimum(2 * weight, power=0.5), atol=1e-3)


@pytest.mark.parametrize("backup", ["max", "double"])
def test_without_a_penalty_the_reward_form_is_q_learning(backup):
    _, gains = fit_weights(chain_config(form="q", backup=backup), [0.0])
    np.testing.assert_allclose(gains[0], q_values(), atol=1e-4)


def test_without_rewards_the_policy_stays_the_prior_exactly():
    batch = Chain.batch().replace(rewards=jnp.zeros(Chain.steps * Chain.actions))
    config = chain_config()
    state, metrics = jax.jit(lambda: fit(config, batch, 200))()
    policy = jnp.exp(kl_control.log_policy(config, state, jnp.eye(Chain.steps)))
    np.testing.assert_allclose(policy, Chain.prior, atol=1e-6)
    assert not jax.tree.leaves(state.critic.params)[0].any()
    np.testing.assert_allclose(metrics["kl"], 0.0, atol=1e-6)


def _state_of(config, gains, target_gains):
    """A state whose tables are given."""
    state = kl_control.init(config, jax.random.key(0), Chain.batch())
    tree = jax.tree.structure(state.critic.params)
    params = [jax.tree.unflatten(tree, [jnp.asarray(each, jnp.float32)]) for each in (
        gains, target_gains)]  # fmt: skip
    return state.replace(critic=state.critic.replace(params=params[0], target_params=params[1]))


def _numpy_targets(gains, target_gains, c, form, backup="max", kl_calc="sample"):
    """Targets of D from the formulas for Psi and Q, row by row."""
    targets = []
    for step, action in np.ndindex(Chain.steps, Chain.actions):
        log_p = np.log(Chain.prior)
        last = step == Chain.steps - 1
        psi_next = log_p[(step + 1) % 3] + target_gains[(step + 1) % 3] / c
        soft = np.log(np.exp(psi_next).sum())
        if form == "psi":
            later = 0.0 if last else Chain.discount * soft
            psi = Chain.rewards[step, action] / c + log_p[step, action] + later
            targets.append(c * (psi - log_p[step, action]))
            continue
        online_next = log_p[(step + 1) % 3] + gains[(step + 1) % 3] / c
        values = {
            "max": c * psi_next.max(),
            "double": c * psi_next[online_next.argmax()],
            "logsumexp": c * soft,
        }
        psi = log_p[step] + gains[step] / c
        log_pi = psi - np.log(np.exp(psi).sum())
        gap = log_p[step] - log_pi
        penalty = gap[action] if kl_calc == "sample" else np.exp(log_pi) @ gap
        later = 0.0 if last else Chain.discount * values[backup]
        q = Chain.rewards[step, action] + later + c * penalty
        targets.append(q - c * log_p[step, action])
    return np.array(targets)


@pytest.mark.parametrize(
    "choices",
    [
        {"form": "psi"},
        {"form": "q"},
        {"form": "q", "backup": "double"},
        {"form": "q", "backup": "logsumexp"},
        {"form": "q", "kl_calc": "integral"},
    ],
    ids=lambda choices: "-".join(choices.values()),
)
def test_targets_and_loss_against_numpy(choices):
    random = np.random.default_rng(1)
    gains, target_gains = random.normal(size=(2, Chain.steps, Chain.actions))
    config = chain_config(kl_weight=0.7, **choices)
    state, batch = _state_of(config, gains, target_gains), Chain.batch()
    targets = kl_control.critic_targets(config, state, batch, jax.random.key(0))
    expected = _numpy_targets(gains, target_gains, 0.7, **choices)
    np.testing.assert_allclose(targets, expected, rtol=1e-4, atol=1e-5)
    errors = np.abs(gains.ravel() - expected)
    losses = np.where(errors < 1.0, 0.5 * errors**2, errors - 0.5)
    _, metrics = kl_control.update(config, state, batch)
    assert float(metrics["critic_loss"]) == pytest.approx(losses.mean(), rel=1e-4)
    policy = Chain.prior * np.exp(gains / 0.7)
    policy /= policy.sum(axis=-1, keepdims=True)
    divergence = (policy * np.log(policy / Chain.prior)).sum(axis=-1).mean()
    assert float(metrics["kl"]) == pytest.approx(divergence, rel=1e-4)


def test_the_lower_bound_is_the_smallest_over_dropout_masks():
    config = kl_control.Config(
        hidden_sizes=(16,), dropout_rate=0.5, target_samples=3, num_actions=Chain.actions,
        prior=chain_prior,
    )  # fmt: skip
    batch, key = Chain.batch(), jax.random.key(1)
    state = kl_control.init(config, jax.random.key(0), batch)
    random = jax.tree.map(
        lambda leaf: jax.random.normal(jax.random.key(2), leaf.shape), state.critic.target_params
    )
    state = state.replace(critic=state.critic.replace(target_params=random))
    lower = jax.jit(kl_control.critic_targets)(config, state, batch, key)
    values = []
    for mask_key in jax.random.split(key, 3):
        gains = state.critic.apply(
            random, batch.next_observations, deterministic=False, rngs={"dropout": mask_key}
        )
        log_p = jax.nn.log_softmax(chain_prior(batch.next_observations))
        soft = config.kl_weight * jax.nn.logsumexp(log_p + gains / config.kl_weight, axis=-1)
        values.append(np.where(batch.terminations, 0.0, soft))
    expected = batch.rewards + config.discount * np.min(values, axis=0)
    np.testing.assert_allclose(lower, expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(values, axis=0).max() > 0.1


# The 16-token utterances.


def utterances(count: int, seed: int) -> Batch:
    """The different transitions among utterances of the prior; one-hot states."""
    random = np.random.default_rng(seed)
    mdp = tabular.dialogue_world()
    following, over = np.asarray(mdp.next_states)[..., 0], mdp.num_states - 1
    sums = np.cumsum(np.asarray(tabular.dialogue_prior(), float), axis=-1)
    states = np.full(count, tabular.dialogue_state(0, None))
    pairs = set()
    for _ in range(8):
        drawn = random.random(count) * sums[states, -1]
        tokens = np.argmax(sums[states] > drawn[:, None], axis=-1)
        alive = states != over
        pairs |= set(zip(states[alive].tolist(), tokens[alive].tolist(), strict=True))
        states = np.where(alive, following[states, tokens], over)
    states, tokens = np.array(sorted(pairs)).T
    eye = jnp.eye(mdp.num_states)
    return Batch(
        observations=eye[states],
        actions=jnp.asarray(tokens, jnp.int32),
        rewards=jnp.asarray(tokens < 4, jnp.float32),
        next_observations=eye[following[states, tokens]],
        terminations=jnp.asarray(following[states, tokens] == over),
    )


def utterance_prior(observations: jax.Array) -> jax.Array:
    return observations @ jnp.log(tabular.dialogue_prior())


def learn_to_speak(weights: list[float], initial: list[float], steps: int = 400) -> list[Any]:
    """What is said and what is believed, from 2000 utterances, for pairs of weight and start."""
    batch = utterances(2000, seed=0)
    mdp, prior = tabular.dialogue_world(), tabular.dialogue_prior()

    def one(weight: jax.Array, start: jax.Array) -> Any:
        config = kl_control.Config(
            learning_rate=0.05, target_rate=0.5, discount=1.0, num_actions=16, kl_weight=weight,
            prior=utterance_prior, **TABLES,
        )  # fmt: skip
        state, _ = fit(config, batch, steps, start)
        begin = jnp.eye(mdp.num_states)[tabular.dialogue_state(0, None)]
        policy = jnp.exp(kl_control.log_policy(config, state, jnp.eye(mdp.num_states)))
        return policy, kl_control.state_values(config, state, begin)

    policies, values = jax.jit(jax.vmap(one))(jnp.asarray(weights), jnp.asarray(initial))
    return [
        (jax.tree.map(float, tabular.judge_speech(mdp, policy, prior)), float(value))
        for policy, value in zip(policies, values, strict=True)
    ]


def test_from_2000_utterances_kl_control_nears_the_optimum_and_q_learning_believes_too_much():
    # Pairs that were never logged keep their start: 0, or 3, an optimistic guess.
    found = learn_to_speak([1.0, 0.5, 0.5, 0.0], [0.0, 0.0, 3.0, 3.0])
    for (speech, _), weight in zip(found, (1.0, 0.5, 0.5), strict=False):
        mdp, prior = tabular.dialogue_world(), tabular.dialogue_prior()
        best = tabular.judge_speech(mdp, tabular.kl_optimum(weight), prior)
        assert speech.reward == pytest.approx(float(best.reward), rel=0.15)
        assert speech.kl <= 2.0 * best.kl
        assert speech.prior_log_prob > -2.8
    speech, value = found[3]
    assert value - speech.reward >= 1.5  # 10 is believed, of at most 8
    assert speech.kl > 10.0
    assert speech.prior_log_prob < -3.2


# The prior and the choices.


def test_the_policy_starts_from_a_prior_of_bc_with_its_hidden_layers():
    batch = Chain.batch()
    bc_config = bc.Config(head="categorical", num_actions=Chain.actions, hidden_sizes=(8, 8))
    cloned = bc.init(bc_config, jax.random.key(1), batch).policy.params
    config = kl_control.Config(num_actions=Chain.actions, hidden_sizes=(8, 8), prior_steps=0)
    state = kl_control.init(config, jax.random.key(0), batch)
    state = kl_control.with_prior(config, state, cloned)
    expected = by_hand.mlp(cloned, batch.observations)
    np.testing.assert_allclose(
        kl_control.log_policy(config, state, batch.observations),
        jax.nn.log_softmax(expected), atol=1e-6,
    )  # fmt: skip
    hidden, output = (state.critic.params["params"]["mlp"][name] for name in ("hidden_0", "output"))
    np.testing.assert_array_equal(hidden["kernel"], cloned["params"]["mlp"]["hidden_0"]["kernel"])
    assert not output["kernel"].any()
    with pytest.raises(InputError, match="shapes"):
        kl_control.with_prior(config, state, cloned["params"])
    functional = chain_config()
    empty = kl_control.init(functional, jax.random.key(0), batch)
    with pytest.raises(InputError, match="prior is a function"):
        kl_control.with_prior(functional, empty, cloned)


def test_a_learned_prior_is_fitted_first_and_stays():
    counts = np.array([[5, 2, 2, 1], [1, 1, 4, 4], [1, 7, 1, 1]])
    states, actions = np.repeat(
        np.stack(np.divmod(np.arange(12), 4)), counts.ravel(), axis=1
    )  # fmt: skip
    batch = Chain.batch()
    rows = states * 4 + actions
    batch = jax.tree.map(lambda leaf: leaf[rows], batch)
    config = kl_control.Config(
        prior_learning_rate=0.05, prior_steps=300, num_actions=4, learning_rate=0.01, **TABLES,
    )  # fmt: skip

    @jax.jit
    def run():
        state = kl_control.init(config, jax.random.key(0), batch)
        step = lambda state, _: kl_control.update(config, state, batch)  # noqa: E731
        fitted, first = jax.lax.scan(step, state, None, length=300)
        return fitted, first, *jax.lax.scan(step, fitted, None, length=20)

    fitted, first, later, second = run()
    prior = jnp.exp(kl_control.log_prior(config, fitted, jnp.eye(3)))
    np.testing.assert_allclose(prior, counts / 10, atol=0.01)
    policy = jnp.exp(kl_control.log_policy(config, fitted, jnp.eye(3)))
    np.testing.assert_allclose(policy, prior, atol=1e-6)
    assert not np.any(first["critic_loss"])
    assert np.all(second["critic_loss"] > 0.0)
    assert second["kl"][-1] > 0.0
    np.testing.assert_array_equal(
        jax.tree.leaves(later.prior.params)[0], jax.tree.leaves(fitted.prior.params)[0]
    )


class Ladder(nn.Module):
    """An own network whose layers have names that once meant something, or none."""

    num_actions: int
    start: Any

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        hidden = nn.relu(nn.Dense(8, name="output_features")(observations))
        hidden = nn.relu(nn.Dense(8, name="output")(hidden))
        return nn.Dense(self.num_actions, kernel_init=self.start, name="last")(hidden)


def test_an_own_network_learns_whatever_its_layers_are_called():
    def own(start: Any) -> Any:
        return lambda config, num_actions: Ladder(num_actions, start)

    config = chain_config(learning_rate=0.01, critic_network=own(nn.initializers.zeros))
    policies, _ = fit_weights(config, [1.0], steps=500)
    np.testing.assert_allclose(policies[0], Chain.optimum(1.0), atol=0.02)

    # It starts as it is made, and stays so while the prior is fitted.
    made = own(networks.fan_in_uniform)
    config = chain_config(prior="learned", critic_network=made, prior_network=made)
    state = jax.jit(kl_control.init)(config, jax.random.key(0), Chain.batch())
    after, _ = jax.jit(kl_control.update)(config, state, Chain.batch())
    assert all(leaf.any() for leaf in jax.tree.leaves(state.critic.params) if leaf.ndim == 2)
    jax.tree.map(np.testing.assert_array_equal, after.critic, state.critic)
    moved = jax.tree.map(lambda *pair: np.any(pair[0] != pair[1]), after.prior, state.prior)
    assert all(jax.tree.leaves(moved.params))


def test_a_gru_reads_tokens_and_not_what_lies_before_the_text():
    config = kl_control.Config(
        network="gru", num_tokens=6, hidden_sizes=(8, 8), embedding_size=4, num_actions=3
    )
    batch = Chain.batch().replace(
        observations=jnp.ones((12, 5)), next_observations=jnp.ones((12, 5))
    )
    state = jax.jit(kl_control.init)(config, jax.random.key(0), batch)
    log_prior = jax.jit(lambda tokens: kl_control.log_prior(config, state, tokens))
    read = lambda *tokens: log_prior(jnp.array(tokens, float))  # noqa: E731
    np.testing.assert_allclose(read(0, 0, 3, 5, 1), read(3, 5, 1), rtol=1e-5)
    assert np.abs(read(0, 0, 3, 5, 1) - read(0, 0, 5, 3, 1)).max() > 1e-3


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"num_actions": 0}, "num_actions is 0"),
        ({"form": "phi"}, "form=phi is unknown; choose one of psi, q"),
        ({"backup": "mean"}, "backup=mean"),
        ({"kl_calc": "exact"}, "kl_calc=exact"),
        ({"prior": "uniform"}, "prior=uniform"),
        ({"network": "lstm"}, "network=lstm"),
        ({"network": "gru"}, "num_tokens is 0"),
        ({"target_samples": 5}, "dropout_rate is 0"),
    ],
    ids=str,
)
def test_choices_that_do_not_exist_or_fit_are_named(choices, message):
    small = kl_control.Config(num_actions=4, hidden_sizes=(8,))
    with pytest.raises(InputError, match=message):
        kl_control.init(small.replace(**choices), jax.random.key(0), Chain.batch())


@pytest.mark.parametrize("num_actions", [0, 4])
def test_continuous_actions_are_refused(num_actions):
    batch = Chain.batch().replace(actions=jnp.zeros((12, 2)))
    with pytest.raises(InputError, match="real vectors"):
        kl_control.init(kl_control.Config(num_actions=num_actions), jax.random.key(0), batch)
