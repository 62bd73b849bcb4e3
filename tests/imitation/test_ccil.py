"""CCIL on dynamics that are known, where labels and their errors have closed forms."""

from __future__ import annotations

import dataclasses
import functools

import chex
import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddm
from ddm import data, envs
from ddm.envs import sine_track
from ddm.errors import InputError
from ddm.imitation import bc, ccil
from ddm.imitation.parts import corrective
from ddm.types import Batch, stages_of


def push(observation, action):
    """Two directions of four are pushed by an action of two numbers."""
    return observation + 0.1 * jnp.concatenate([action, jnp.sin(observation[:2])])


KNOWN = {"dynamics": push, "generator": "disturb_state", "rejection": "error"}
SLACK = {
    "lipschitz": "sampling_slack",
    "generator": "disturb_implicit",
    "rejection": "none",
    "num_labels": 2,
}
UNITS = {
    "observation_mean": (0.5,) * 4,
    "observation_std": (2.0,) * 4,
    "action_center": (0.5,) * 2,
    "action_scale": (2.0,) * 2,
}

CONTRACT = contract.Contract(
    small={
        "model_hidden_sizes": (8, 8),
        "steps_per_epoch": 2,
        "model_batch_size": 4,
        "max_epochs": 2,
    },
    variants=[
        KNOWN,
        SLACK,
        {"lipschitz": "spectral", "rejection": "distance"},
        {"lipschitz": "jacobian", "generator": "disturb", "head": "mse"},
        {"lipschitz": "slack", "generator": "backtrack_implicit"},
    ],
    other={
        "head": "tanh_gaussian",
        "features": lambda observations: 2.0 * contract.pair_features(observations),
        "model_weight_decay": 100.0,
        "slope_limit": 0.01,
        "slope_weight": 10.0,
        "perturbation": 0.5,
        "tolerance": 100.0,
        "max_distance": 100.0,
        "keep_share": 0.3,
        "max_error": 100.0,
        "max_action_distance": 0.01,
        "generator": "random",
        "rejection": "none",
        "lipschitz": "none",
        "num_labels": 3,
        "num_perturbations": 2,
        "max_iterations": 2,
        "max_epochs": 3,
        "steps_per_epoch": 3,
        "model_batch_size": 3,
        "model_hidden_sizes": (8,),
        "dynamics": push,
        **{name: (0.25,) * len(values) for name, values in UNITS.items()},
    },
    context={
        "features": {"head": "linear_gaussian", "features": lambda observations: observations},
        "slope_weight": {"slope_limit": 0.01},
        "slack_weight": {**SLACK, "slope_weight": 1.0},
        "perturbation": {"slope_limit": 0.01, "slope_weight": 10.0},
        "action_noise": SLACK,
        "max_action_distance": SLACK,
        "max_iterations": SLACK,
        "observation_noise": {**KNOWN, "tolerance": 100.0, "max_error": 100.0},
        "tolerance": {**KNOWN, "max_error": 100.0},
        "max_error": {**KNOWN, "tolerance": 100.0},
        "max_distance": {"lipschitz": "spectral", "rejection": "distance"},
        **{name: {**KNOWN, **UNITS} for name in UNITS},
    },
)

KEY = jax.random.key(0)
SMALL = {
    "head": "mse",
    "hidden_sizes": (64, 64),
    "learning_rate": 3e-3,
    "decay_steps": 3000,
}


# Labels.

# f(s, a) = A s + B a, with a slope of 0.3 or so.
A = 0.2 * np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
B = 0.2 * np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32)


def linear(observation, action):
    """A change that is linear in the pair."""
    return A @ observation + B @ action


def bent(observation, action):
    """A change that is not, with slopes of at most 0.3 (the frame of the matrices is 3.3)."""
    return linear(observation, action) + 0.1 * jnp.sin(observation)


def steps(field, rows=64, noise=0.0, seed=0):
    """Steps of a field from random pairs."""
    random = np.random.default_rng(seed)
    observations = jnp.asarray(random.normal(size=(rows, 3)), jnp.float32)
    actions = jnp.asarray(random.uniform(-0.9, 0.9, (rows, 2)), jnp.float32)
    changes = jax.vmap(field)(observations, actions)
    changes += noise * jnp.asarray(random.normal(size=changes.shape), jnp.float32)
    return Batch(
        observations=observations, actions=actions, next_observations=observations + changes
    )


def labels_of(field, batch, **changes):
    config = ccil.Config(rejection="none", **changes)
    return jax.jit(lambda key: corrective.propose(config, field, batch, key))(KEY)


def misses(field, labels):
    """By how much a label's successor under a field misses its target, (N, O)."""
    return (
        labels.observations + jax.vmap(field)(labels.observations, labels.actions) - labels.targets
    )


@pytest.mark.parametrize("generator", ["backtrack_implicit", "disturb_implicit"])
def test_implicit_labels_lead_to_their_targets(generator):
    batch = steps(bent)
    labels = labels_of(bent, batch, generator=generator, num_labels=3)
    assert labels.kept.all()
    assert np.linalg.norm(misses(bent, labels), axis=-1).max() < 1e-4
    goals = batch.observations if generator == "backtrack_implicit" else batch.next_observations
    np.testing.assert_array_equal(labels.targets, np.repeat(goals, 3, axis=0))
    moved = np.asarray(labels.actions - np.repeat(batch.actions, 3, axis=0))
    assert moved.std() == pytest.approx(0.0 if generator == "backtrack_implicit" else 0.1, rel=0.2)


def test_backtrack_in_a_linear_world_misses_by_a_f_and_its_bound_is_k_d():
    batch = steps(linear)
    labels = labels_of(linear, batch)
    change = np.asarray(batch.next_observations - batch.observations)
    np.testing.assert_allclose(labels.observations, batch.observations - change, atol=1e-6)
    np.testing.assert_array_equal(labels.actions, batch.actions)
    # g + A g + B a - s = -(A s + B a) + A g + B a = -A f(s, a).
    np.testing.assert_allclose(misses(linear, labels), -change @ A.T, atol=1e-6)
    distances = np.linalg.norm(change, axis=-1)
    np.testing.assert_allclose(labels.distances, distances, rtol=1e-5)
    slope = np.linalg.svd(np.hstack([A, B]))[1][0]
    np.testing.assert_allclose(labels.errors, slope * distances, rtol=1e-4, atol=1e-6)
    assert (np.linalg.norm(change @ A.T, axis=-1) <= labels.errors).all()


def test_the_bound_by_hand():
    given = {"model_error": 0.1, "slopes": (2.0, 3.0), "distance": 0.5}
    explicit = corrective.error_bound(**given, action_distance=0.0, evaluation_distance=0.0)
    assert explicit == pytest.approx(0.1 + 2.0 * 0.5)  # e + K1 d
    implicit = corrective.error_bound(**given, action_distance=0.0, evaluation_distance=0.5)
    assert implicit == pytest.approx(0.1 + 5.0 * 0.5)  # e + (K1 + K2) d
    disturbed = corrective.error_bound(**given, action_distance=0.2, evaluation_distance=0.5)
    assert disturbed == pytest.approx(0.1 + 5.0 * (0.5 + 0.2))  # ... + |noise|


@pytest.mark.parametrize("generator", list(corrective.GENERATORS))
def test_no_label_misses_by_more_than_its_predicted_error(generator):
    """The world is linear and the model is bent, so both slopes are close to those at the pair."""
    batch = steps(linear)
    labels = labels_of(bent, batch, generator=generator, tolerance=10.0)
    missed = np.linalg.norm(misses(linear, labels), axis=-1)
    assert (missed <= 1.5 * labels.errors).all()  # the model's slope varies by +-0.1
    assert missed.max() > 0.1 * float(labels.errors.max())  # the bound says something


def test_from_another_state_inverse_dynamics_finds_the_action_or_says_that_the_box_has_none():
    def move(observation, action):
        return 0.1 * action[:2] + 0.0 * observation

    random = np.random.default_rng(0)
    observations = jnp.asarray(random.normal(size=(64, 2)), jnp.float32)
    actions = jnp.zeros((64, 2), jnp.float32)
    batch = Batch(observations=observations, actions=actions, next_observations=observations)
    labels = labels_of(move, batch, generator="disturb_state", observation_noise=0.07)
    away = np.asarray(labels.observations - observations)
    assert away.std() == pytest.approx(0.07, rel=0.15)
    reachable = (np.abs(away) <= 0.1).all(axis=-1)
    assert 0.5 < reachable.mean() < 0.95
    np.testing.assert_array_equal(labels.kept, reachable)
    np.testing.assert_allclose(labels.actions[reachable], -away[reachable] / 0.1, atol=1e-4)
    assert np.abs(labels.actions).max() <= 1.0


def test_rejections_by_hand():
    distances = jnp.array([0.1, 0.2, 0.3, 0.4, 0.5])
    solved = jnp.array([True, True, True, True, False])
    empty = jnp.zeros((5, 1))
    labels = corrective.Labels(
        empty, empty, empty, distances, distances, errors=10.0 * distances, kept=solved
    )
    config = ccil.Config(max_distance=0.3, keep_share=0.5, max_error=1.5)
    kept = {name: each(config, labels) & solved for name, each in corrective.REJECTIONS.items()}
    np.testing.assert_array_equal(kept["none"], [True] * 4 + [False])
    np.testing.assert_array_equal(kept["distance"], [True, True, True, False, False])
    np.testing.assert_array_equal(kept["quantile"], [True, True, False, False, False])
    np.testing.assert_array_equal(kept["error"], [True, False, False, False, False])


def test_a_metric_of_the_user_rejects():
    def even(config, labels):
        return jnp.arange(len(labels.kept)) % 2 == 0

    config = ccil.Config(rejection=even)
    labels = corrective.propose(config, linear, steps(linear), KEY)
    np.testing.assert_array_equal(labels.kept, np.arange(64) % 2 == 0)


def test_labels_that_are_not_finite_are_not_kept_and_hurt_nobody():
    batch = steps(linear)

    def broken(observation, action):
        return jnp.where(observation[0] > 0.0, jnp.nan, 1.0) * linear(observation, action)

    for generator in ("backtrack", "disturb_implicit"):
        labels = labels_of(broken, batch, generator=generator)
        finite = np.asarray(labels.observations[:, 0] != batch.observations[:, 0])
        assert np.isfinite(labels.observations).all()
        assert not (labels.kept & ~finite).any()
        assert labels.kept.any()
        nearest = corrective.propose(ccil.Config(generator=generator), broken, batch, KEY)
        assert nearest.kept.any()  # a share of the finite ones


# Learning.


def test_without_a_label_it_is_bc_and_balance_weighs_the_demonstrations():
    config = contract.small_config(ccil, rejection="distance", lipschitz="spectral")
    batch = contract.make_batch(ccil, config)
    state = contract.jitted_init(ccil)(config, KEY, batch)
    update = contract.jitted_update(ccil)
    after, metrics = update(config.replace(max_distance=0.0), state, batch)
    pure, expected = jax.jit(bc.update)(config, state.policy, batch)
    chex.assert_trees_all_close(after.policy.policy.params, pure.policy.params, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)
    assert metrics["kept"] == 0.0


def test_each_label_weighs_as_much_as_its_share():
    """Three labels a step: demonstrations weigh 3 with balance, 1 without it."""
    losses = {}
    for balance in (True, False):
        config = contract.small_config(
            ccil, dynamics=push, generator="random", rejection="none", num_labels=3,
            balance=balance, head="mse",
        )  # fmt: skip
        batch = contract.make_batch(ccil, config)
        state = ccil.init(config, KEY, batch)
        field, key = ccil.dynamics_field(config, state), jax.random.split(state.key)[1]
        labels = corrective.propose(config, field, batch, key)
        own, label = (
            float(jnp.mean(bc.losses(config, state.policy.policy(x.observations), x.actions)))
            for x in (batch, labels)
        )
        _, metrics = ccil.update(config, state, batch)
        expected = (own + label) / 2 if balance else (own + 3 * label) / 4
        assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
        losses[balance] = expected
    assert losses[True] != pytest.approx(losses[False], rel=1e-2)


# The sine track. Numbers of 60 steps with noise; see experiments/figures/corrective_labels.py for
# those of many seeds.

TRACK = envs.SineTrack()
PARAMS = TRACK.default_params
CHANGES = {
    "generator": "disturb",
    "rejection": "distance",
    "max_distance": 0.3,
    "num_labels": 2,
}


def track(observation, action):
    """The sine track's own dynamics."""
    return sine_track.successor(observation, action, PARAMS)


@functools.cache
def demonstrations(noise=0.0, transform="standardize"):
    """Five episodes of the expert with noise on its actions, which it corrects one step later."""

    def expert(observation, key, policy_state=()):
        action = sine_track.expert_action(observation, PARAMS)
        return action + noise * jax.random.normal(key, (2,)), policy_state

    log = data.from_episodes(
        envs.collect(TRACK, expert, jax.random.key(7), num_episodes=5),
        observation_space=TRACK.observation_space(PARAMS),
        action_space=TRACK.action_space(PARAMS),
    )
    return data.normalize(log, transform)


@functools.cache
def fitted(algorithm, config, steps=3000, noise=0.0):
    log = demonstrations(noise)
    config = ddm.prepare(algorithm, config, log)
    stages = stages_of(algorithm, config)
    steps += sum(stage.num_steps or 0 for stage in stages)
    train = jax.jit(lambda log: ddm.fit(algorithm, config, log, KEY, steps, batch_size=128))
    return config, *train(log)


def acting(algorithm, config, state, noise=0.0):
    """The policy in the environment's units."""
    units = demonstrations(noise).normalization

    def policy(observation, key, policy_state=()):
        observation = units.normalize_observations(observation)
        action, _ = algorithm.act(config, state, observation, key, deterministic=True)
        return units.denormalize_actions(action), policy_state

    return policy


def final_error(algorithm, config, noise=0.0):
    config, state, _ = fitted(algorithm, config, noise=noise)
    policy = acting(algorithm, config, state, noise)
    params = dataclasses.replace(PARAMS, noise=0.02)
    episodes = envs.collect(TRACK, policy, jax.random.key(3), num_episodes=128, params=params)
    return sine_track.final_errors(episodes).mean()


CLONE = bc.Config(**SMALL)
DISTURBED = ccil.Config(**SMALL, dynamics=track, **CHANGES)


def test_with_known_dynamics_the_errors_no_longer_add_up():
    cloned = final_error(bc, CLONE)
    assert cloned > 0.15  # an open loop's is 0.17
    corrected = final_error(ccil, DISTURBED)
    assert corrected <= 0.05
    assert corrected <= 0.15 * cloned or corrected <= 0.03  # the expert's own is 0.023


def test_a_learned_model_corrects_where_actions_have_some_noise():
    cloned = final_error(bc, CLONE, noise=0.1)
    model = {"model_hidden_sizes": (64, 64), "model_batch_size": 64, "max_epochs": 200}
    learned = ccil.Config(**SMALL, **CHANGES, **model)
    assert final_error(ccil, learned, noise=0.1) <= 0.6 * cloned


def test_the_policy_of_known_dynamics_is_deadbeat():
    """Labels g = s' - dt b say b = (s' - g) / dt: a slope of -1 / dt across the wave.

    Along the wave there is none, because demonstrated states lie close to each other there.
    """
    config, state, _ = fitted(ccil, DISTURBED)
    policy = acting(ccil, config, state)

    def slope(x):
        normal = jnp.stack([-jnp.cos(x), jnp.ones(())]) / jnp.sqrt(1.0 + jnp.cos(x) ** 2)
        point = jnp.stack([x, jnp.sin(x)])
        above, below = (policy(point + d * normal, KEY)[0] for d in (0.04, -0.04))
        return (above - below) @ normal / 0.08

    slopes = jax.vmap(slope)(jnp.linspace(1.0, 5.0, 40))
    assert np.mean(slopes) == pytest.approx(-10.0, rel=0.2)


def test_labels_of_known_dynamics_are_the_same_in_all_units_and_come_back_from_a_file(tmp_path):
    saved = []
    for transform in ("none", "standardize"):
        log = demonstrations(0.1, transform)
        config = ddm.prepare(ccil, ccil.Config(dynamics=track, **CHANGES), log)
        batch = data.sample(log, KEY, 1, ccil.batch_spec(config))
        state = ccil.init(config, KEY, batch)
        labels = ccil.corrective_labels(config.replace(max_distance=9.0), state, log, KEY)
        path = tmp_path / f"{transform}.npz"
        data.save_npz(ccil.as_dataset(labels, log), path)
        saved.append(data.load(str(path)))
    assert saved[1].num_episodes == 600
    raw, scaled = (data.to_episodes(each) for each in saved)
    for one, other in zip(raw[::40], scaled[::40], strict=True):
        for field in ("observations", "actions"):
            np.testing.assert_allclose(one[field], other[field], atol=2e-4)
        successor = track(one["observations"][0], one["actions"][0])
        np.testing.assert_allclose(successor, one["observations"][1], atol=1e-4)
    log = demonstrations(0.1)
    mixed = data.Mixture((log, saved[1]), (0.5, 0.5))  # any policy class learns from it
    _, metrics = ddm.fit(bc, CLONE, mixed, KEY, 2, batch_size=8)
    assert np.isfinite(metrics["loss"]).all()


# What is refused, and what is said.


def test_known_dynamics_of_other_shapes_are_refused():
    batch = contract.make_batch(ccil, ccil.Config())
    config = ccil.Config(dynamics=lambda s, a: a)
    with pytest.raises(InputError, match=r"ccil: dynamics gives \(2,\) for an observation \(4,\)"):
        ccil.init(config, KEY, batch)
    with pytest.raises(InputError, match=r"ccil: dynamics gives tuple for"):
        ccil.init(config.replace(dynamics=lambda s, a: (s, a)), KEY, batch)


def test_units_of_known_dynamics_are_not_read_under_jit():
    config = ccil.Config(dynamics=track)
    with pytest.raises(InputError, match=r"ddm.prepare\(ccil, config, dataset\) outside of jit"):
        jax.eval_shape(lambda log: ddm.fit(ccil, config, log, KEY, 2), demonstrations())


def test_discrete_actions_and_logs_without_a_label_are_refused():
    config = contract.small_config(ccil, head="categorical", num_actions=3)
    batch = contract.make_batch(ccil, config)
    with pytest.raises(InputError, match=r"ccil: batch\.actions are integers"):
        ccil.init(config, KEY, batch)
    log = demonstrations()
    config = ddm.prepare(ccil, DISTURBED.replace(max_distance=0.0), log)
    batch = data.sample(log, KEY, 1, ccil.batch_spec(config))
    state = ccil.init(config, KEY, batch)
    with pytest.raises(InputError, match=r"none of 600 labels is kept; .* rejection=distance"):
        ccil.corrective_labels(config, state, log, KEY)
    config = ccil.Config()
    state = ccil.init(config, KEY, batch)
    with pytest.raises(InputError, match="steps_per_epoch is not set"):
        ccil.train_model(config, state, batch)


def test_it_says_when_labels_are_rejected_and_when_the_model_explains_little():
    config = ccil.Config()
    assert ccil.diagnose(config, {"kept": 0.8, "model_error": 0.01}) == []
    [few] = ccil.diagnose(config, {"kept": 0.02, "model_error": 0.01})
    assert few.startswith("2 % of the corrective labels are kept")
    [poor] = ccil.diagnose(config, {"kept": 0.8, "model_error": 0.7})
    assert "less than half" in poor
    [during] = ccil.diagnose(config, {"error": 0.7})  # of the first stage
    assert during == poor
