"""One contract for all algorithms; modules are found, not listed."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import subprocess
import sys

import chex
import contract
import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

from ddm.errors import InputError
from ddm.runner.checkpoints import Store
from ddm.runner.lanes import unwrap_keys, wrap_keys
from ddm.types import initial_policy_state

CASES = contract.cases()
ALGORITHMS = [
    pytest.param(
        each,
        id=contract.short_name(each),
        marks=[
            contract.one_worker(each),
            *([pytest.mark.slow] if contract.short_name(each) in contract.MANY_PROGRAMS else []),
        ],
    )
    for each in contract.algorithms()
]
every_case = pytest.mark.parametrize(("algorithm", "config"), CASES)
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def _start(algorithm, config, seed=0):
    batch = contract.make_batch(algorithm, config)
    return contract.jitted_init(algorithm)(config, jax.random.key(seed), batch), batch


def _update(algorithm, config, state, batch):
    return contract.jitted_update(algorithm)(config, state, batch)


def _plain(tree):
    return [
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in jax.tree.leaves(tree)
    ]


def test_all_algorithm_folders_are_searched():
    names = {contract.short_name(each) for each in contract.algorithms()}
    assert names >= {"bc", "td3", "sac", "td3_bc", "iql", "cql", *contract.REQUIRED}


@every_algorithm
def test_config_is_frozen_and_numeric_leaves_are_numbers(algorithm):
    config = algorithm.Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.learning_rate = 1.0
    assert all(isinstance(leaf, int | float) for leaf in jax.tree.leaves(config))
    hash(jax.tree.structure(config))  # static fields are part of a jit key


@every_case
def test_state_holds_arrays_only(algorithm, config):
    state, _ = _start(algorithm, config)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert state.step.dtype == jnp.int32
    assert state.step == 0
    assert jnp.issubdtype(state.key.dtype, jax.dtypes.prng_key)


@every_case
def test_no_two_leaves_of_a_fresh_state_are_one_value(algorithm, config):
    # They would share a buffer, which can then not be donated.
    batch = contract.make_batch(algorithm, config)
    init = contract.jitted_init(algorithm).trace(config, jax.random.key(0), batch).jaxpr
    computed = [leaf for leaf in init.jaxpr.outvars if isinstance(leaf, jax.extend.core.Var)]
    assert len(set(computed)) == len(computed)


@every_case
def test_update_is_deterministic_and_keeps_structure(algorithm, config):
    state, batch = _start(algorithm, config)
    first, metrics = _update(algorithm, config, state, batch)
    again, metrics_again = _update(algorithm, config, state, batch)
    chex.assert_trees_all_equal(_plain(first), _plain(again))
    chex.assert_trees_all_equal(metrics, metrics_again)
    chex.assert_trees_all_equal_structs(first, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(_plain(first), _plain(state))
    assert first.step == algorithm.batch_spec(config).minibatches
    for name, value in metrics.items():
        assert value.shape == (), name
        assert jnp.issubdtype(value.dtype, jnp.floating), name
        assert np.isfinite(value), name


@every_case
def test_weak_types_are_kept_so_that_scan_accepts_update(algorithm, config):
    state, batch = _start(algorithm, config)
    after, _ = contract.jitted_update(algorithm).eval_shape(config, state, batch)
    before = jax.eval_shape(lambda state: state, state)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (old.shape, old.dtype, old.weak_type) == (new.shape, new.dtype, new.weak_type)


@every_case
def test_second_call_does_not_compile_again(algorithm, config):
    state, batch = _start(algorithm, config)
    state, _ = _update(algorithm, config, state, batch)
    compiled = contract.jitted_update(algorithm)._cache_size()
    floats = {name: 0.999 * getattr(config, name) for name in _numeric_floats(config)}
    other = config.replace(**floats)  # inside their ranges
    _update(algorithm, other, state, contract.make_batch(algorithm, config, seed=1))
    assert contract.jitted_update(algorithm)._cache_size() == compiled


def _numeric_floats(config):
    return [
        field.name
        for field in dataclasses.fields(config)
        if field.metadata.get("pytree_node", True)
        and isinstance(getattr(config, field.name), float)
    ]


@pytest.mark.newest
@every_algorithm
def test_vmapped_scans_over_seeds_and_hyper_parameters_equal_single_runs(algorithm):
    config = contract.small_config(algorithm)
    batch = contract.make_batch(algorithm, config)
    lanes = [config, _halved(config)]
    configs = jax.tree.map(lambda *leaves: np.array(leaves, jnp.asarray(leaves[0]).dtype), *lanes)
    starts = [
        contract.jitted_init(algorithm)(config, jax.random.key(lane), batch)
        for lane, config in enumerate(lanes)
    ]

    @jax.jit
    @jax.vmap
    def train(config, state):
        return jax.lax.scan(
            lambda state, _: algorithm.update(config, state, batch), state, None, length=2
        )

    states, metrics = train(configs, jax.tree.map(lambda *rows: jnp.stack(rows), *starts))
    for lane, (single, state) in enumerate(zip(lanes, starts, strict=True)):
        for step in range(2):
            state, alone = _update(algorithm, single, state, batch)
            for name, value in alone.items():
                np.testing.assert_allclose(
                    metrics[name][lane, step], value, rtol=1e-3, atol=1e-5, err_msg=name
                )
        # Where a gradient is exactly zero, Adam makes steps of its rounding noise.
        pairs = zip(_plain(states), _plain(state), strict=True)
        close = [np.isclose(got[lane], want, rtol=1e-3, atol=2e-5).ravel() for got, want in pairs]
        assert np.mean(np.concatenate(close)) > 0.98


def _halved(config):
    """Half of every number, but for those whose range begins above that."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata.get("pytree_node", True) and value is not None:
            with contextlib.suppress(InputError):
                config = config.replace(**{field.name: type(value)(value / 2)})
    return config


@every_algorithm
def test_a_saved_state_comes_back_identical(algorithm, tmp_path):
    config = contract.small_config(algorithm)
    state, batch = _start(algorithm, config)
    state, _ = _update(algorithm, config, state, batch)
    store = Store(tmp_path)
    store.save(1, unwrap_keys(state), {})
    step, (arrays, _), notices = store.restore_newest(unwrap_keys(state))
    store.close()
    assert (step, notices) == (1, [])
    restored = jax.tree.map(jnp.asarray, wrap_keys(arrays, state))
    chex.assert_trees_all_equal_structs(restored, state)
    chex.assert_trees_all_equal(_plain(restored), _plain(state))
    one, _ = _update(algorithm, config, restored, batch)
    other, _ = _update(algorithm, config, state, batch)
    chex.assert_trees_all_equal(_plain(one), _plain(other))


@pytest.mark.newest
@pytest.mark.parametrize(
    "names",
    [
        pytest.param(contract.SHARDED, id="some"),
        pytest.param((), id="all", marks=pytest.mark.slow),
    ],
)
def test_updates_sharded_over_eight_devices_equal_unsharded_ones(names):
    script = pathlib.Path(__file__).with_name("contract.py")
    done = subprocess.run(
        [sys.executable, script, *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("sharded") == len(names or ALGORITHMS)


def _saturated_actions(batch):
    if jnp.issubdtype(batch.actions.dtype, jnp.integer):
        return batch
    return batch.replace(actions=np.sign(batch.actions))


def _only_where_present(field, change):
    def edited(batch):
        value = getattr(batch, field)
        return batch if value is None else batch.replace(**{field: change(np.asarray(value))})

    return edited


def _times(factor, observations):
    return observations if observations.dtype == np.uint8 else np.float32(factor) * observations


BOUNDARIES = {
    "saturated actions": _saturated_actions,
    "constant observations": _only_where_present("observations", lambda x: np.full_like(x, 3)),
    "huge observations": _only_where_present("observations", lambda x: _times(1e4, x)),
    "all terminal": _only_where_present("terminations", np.ones_like),
    "zero rewards": _only_where_present("rewards", np.zeros_like),
    "huge rewards": _only_where_present("rewards", lambda x: _times(1e6, x)),
}


@every_case
def test_losses_and_gradients_are_finite_at_the_boundaries(algorithm, config):
    state, batch = _start(algorithm, config)
    for name, edit in BOUNDARIES.items():
        edited, after = edit(batch), state
        for _ in range(3):
            after, metrics = _update(algorithm, config, after, edited)
        # A gradient that is not finite leaves Adam's moments and parameters not finite.
        assert all(np.isfinite(leaf).all() for leaf in [*_plain(after), *metrics.values()]), name


@every_algorithm
def test_a_batch_of_one(algorithm):
    config = contract.small_config(algorithm)
    state, _ = _start(algorithm, config)
    batch = contract.make_batch(algorithm, config, rows=1)
    after, metrics = _update(algorithm, config, state, batch)
    chex.assert_tree_all_finite((_plain(after), metrics))


# Values that make a field bind, where halving its default would not show; and the other fields
# that must be set for it to matter.
OTHER_VALUE = {
    "log_std_min": 1.5, "log_std_max": -4.0, "max_weight": 0.1, "target_noise_clip": 0.01,
    "decay_steps": 4, "actor_decay_steps": 4, "weight_decay": 1.0, "label_smoothing": 0.3,
    "inverse_temperature": 0.1, "backup_entropy": 0.5, "bc_steps": 10, "pseudo_count": 1.0,
    "exploration": 1.0, "initial_value": 2.0, "ridge": 1.0, "min_count": 0.5, "threshold": 0.7,
    "smoothing": 0.5, "entropy_weight": 0.5, "random_feedback_steps": 2,
    "history_dropout": 0.5, "change_point_weight": 2.0, "change_point_threshold": 1.5,
    "max_gradient_norm": 1e-3, "reset_every": 2, "gradient_margin": 0.0, "langevin_power": 8.0,
    "langevin_final_step_size": 0.05,
    "beta_warmup_steps": 4, "free_bits": 100.0, "log_var_min": 1.5, "log_var_max": -4.0,
    "ensemble_decay": 1.0,
    "ema_max": 0.1, "eta": 1.0,
    "prefix_dropout": 0.5, "temperature": 1e-3, "top_p": 0.1,
    "expert_log_prob_floor": 0.5, "anneal_steps": 4, "ratio_clip": 0.1, "instance_noise_steps": 4,
    "gradient_penalty_weight": 10.0,
    "log_alpha_min": 0.5, "log_alpha_max": -0.5, "deviation_weight": 1.0,
    "target_period": 2, "cell_size": 0.5,
    "prior_steps": 2, "max_gradient": 1e-3,
    "behavior_steps": 1, "alpha_max": 0.5, "max_slope": 0.0,
    "exponent": 2.0, "orthogonal_weight": 1.0, "temperature_max": 1.0, "temperature_min": 1.0,
    "alpha_min": 5.0,
}  # fmt: skip
CONTEXT = {
    "label_smoothing": {"head": "categorical", "num_actions": contract.NUM_ACTIONS},
    "num_actions": {"head": "categorical", "num_actions": contract.NUM_ACTIONS},
    "num_components": {"head": "mixture", "prior": "mixture"},
    "ensemble_decay": {"temporal_ensemble": True},
    "target_gap": {"lagrange": True},
    "alpha_learning_rate": {"lagrange": True, "adaptive": True},
    "target_divergence": {"adaptive": True},
    "alpha_max": {"adaptive": True, "lagrange": True},
    "alpha_min": {"lagrange": True, "target_gap": 100.0},
    "temperature_max": {"target_entropy": 50.0},
    "temperature_min": {"target_entropy": -50.0},
    "kernel": {"divergence": "mmd"},
    "bandwidth": {"divergence": "mmd"},
    "divergence_steps": {"divergence": "kl_dual"},
    "divergence_learning_rate": {"divergence": "kl_dual"},
    "slope_penalty_weight": {"divergence": "kl_dual", "max_slope": 0.0},
    "max_slope": {"divergence": "kl_dual"},
    "features": {
        "head": "linear_softmax",
        "num_actions": contract.NUM_ACTIONS,
        "features": contract.pair_features,
    },
    "unet_widths": {"denoiser": "unet"},
    "target_width": {"targets": "soft"},
    "cache": {"decoder": "transformer"},
    "execute_steps": {"chunk_size": 4},
    "num_layers": {
        "denoiser": "transformer",
        "decoder": "transformer",
        "width": 16,
        "num_layers": 2,
    },
    "width": {"denoiser": "transformer", "decoder": "transformer", "num_layers": 1},
    "num_heads": {
        "decoder": "transformer",
        "denoiser": "transformer",
        "history": "transformer",
        "num_layers": 1,
        "width": 16,
    },
    "dropout_rate": {"history": "transformer", "decoder": "transformer"},
    "observation_steps": {"history": "stack"},
    "change_point_weight": {"change_point_threshold": 1.0},
    "change_point_threshold": {"change_point_weight": 2.0},
    "gradient_penalty_weight": {"gradient_penalty": True, "gradient_margin": 0.0},
    "gradient_margin": {"gradient_penalty": True},
    "langevin_steps": {"negatives": "langevin"},
    "langevin_step_size": {"inference": "langevin"},
    "langevin_final_step_size": {"inference": "langevin"},
    "langevin_power": {"inference": "langevin"},
    "langevin_noise": {"inference": "langevin"},
    "langevin_max_step": {"inference": "langevin"},
    "causal": {"denoiser": "transformer", "num_layers": 1, "width": 16},
    "ratio_clip": {"divergence": "fkl"},
    "final_instance_noise": {"instance_noise_steps": 2},
    "ratio": {"expert_log_prob": contract.standard_normal},
    "expert_log_prob_floor": {"ratio": "known", "expert_log_prob": contract.standard_normal},
    "initial_temperature": {
        "ratio": "known",
        "expert_log_prob": contract.standard_normal,
        "anneal_steps": 100,
    },
    "anneal_steps": {"ratio": "known", "expert_log_prob": contract.standard_normal},
    "entropy": {"ratio": "known", "expert_log_prob": contract.standard_normal},
    "expert_log_prob": {"ratio": "known", "expert_log_prob": contract.standard_normal},
    "epsilon": {"constraint": "kl"},
    "backup": {"form": "q"},
    "kl_calc": {"form": "q"},
    "embedding_size": {"num_tokens": 5},
    "network": {"num_tokens": 5},
    "target_samples": {"dropout_rate": 0.5},
    "inverse_temperature": {"weight": "exponential"},
    "max_weight": {"weight": "exponential"},
    "weight": {"constraint": "kl_penalty"},
    "smoothing": {"constraint": "kl_penalty"},
}
OTHER_STATIC = {
    "head": "tanh_gaussian", "num_actions": 5, "hidden_sizes": (8,), "policy_delay": 3,
    "num_critics": 3, "dropout_rate": 0.5, "num_samples": 3, "constraint": "kl",
    "num_components": 3, "encoder": "conv",
    "denoiser": "unet", "observation_steps": 3, "chunk_size": 4, "execute_steps": 2,
    "diffusion_steps": 20, "prediction": "v", "sampler": "ddpm", "sample_steps": 5,
    "num_bins": 16, "edges": tuple(np.tile(np.linspace(-1.0, 1.0, 9), 2)), "decoder": "lstm",
    "targets": "soft", "decode": "dither",
    "spacing": "leading", "time_distribution": "beta", "solver": "midpoint",
    "history": "stack", "segment_steps": 4, "burn_in": 2, "supervise": "last", "cell": "lstm",
    "num_blocks": 2, "negatives": "langevin", "num_negatives": 5, "inference": "langevin",
    "reconstruction": "mse", "prior": "learned", "latent": "sample", "latent_dim": 3,
    "num_decoder_layers": 2, "dfo_rounds": 3, "langevin_steps": 4,
    "unet_widths": (8, 16), "num_layers": 1, "width": 16, "num_heads": 2,
    "vae_hidden_sizes": (8,), "num_target_samples": 3, "num_eval_samples": 4,
    "num_mmd_samples": 3, "kernel": "gaussian", "values": "mean",
    "count": "one_hot", "behavior": "counted", "dataset_size": 16, "hash_bits": 5,
    "weight": "softmax", "baseline": "max", "window": 4,
    "ratio": "known", "estimator": "score", "divergence": "js", "entropy": "sampled",
    "discriminator_steps": 3, "expert_log_prob": lambda observations, actions: actions[..., 0],
    "form": "q", "backup": "logsumexp", "kl_calc": "integral", "target_samples": 2,
    "embedding_size": 8, "network": "gru", "num_tokens": 6,
    "kl_control.prior": lambda observations: observations[..., :contract.NUM_ACTIONS],
    "brac.divergence": "mmd", "divergence_steps": 2,
    "target": "gaussian1991", "loss": "cross_entropy", "readout": "center_of_mass",
    "num_units": 30, "range_rows": 4,
    "features": lambda observations: 2.0 * contract.pair_features(observations),
}  # fmt: skip


def _fields():
    for parameter in ALGORITHMS:
        [algorithm] = parameter.values
        for field in dataclasses.fields(algorithm.Config):
            label = f"{parameter.id}-{field.name}"
            slow = contract.short_name(algorithm) in contract.MANY_PROGRAMS
            marks = [
                contract.one_worker(algorithm),
                pytest.mark.slow if slow else pytest.mark.newest,
            ]
            yield pytest.param(algorithm, field, id=label, marks=marks)


@pytest.mark.parametrize(("algorithm", "field"), list(_fields()))
def test_each_config_field_changes_the_computation(algorithm, field):
    names = {each.name for each in dataclasses.fields(algorithm.Config)}
    context = {n: v for n, v in CONTEXT.get(field.name, {}).items() if n in names}
    if not field.metadata.get("pytree_node", True):
        base = contract.small_config(algorithm, **context)
        own = f"{contract.short_name(algorithm)}.{field.name}"  # where a name means two things
        default = getattr(base, field.name)
        other = OTHER_STATIC.get(own, OTHER_STATIC.get(field.name, not default))
        changed = base.replace(**{field.name: other})
        # The text of a program takes longest: first what is asked for, and what is kept.
        assert any(
            part(algorithm, base) != part(algorithm, changed)
            for part in (_batch_spec, _shapes, _program)
        )
        return
    base = contract.config_with(algorithm, **context)
    default = getattr(base, field.name)
    other = OTHER_VALUE[field.name] if field.name in OTHER_VALUE else 0.5 * default
    changed = base.replace(**{field.name: other})
    assert other != default
    assert any(
        not np.allclose(one, two, rtol=1e-4, atol=1e-7)
        for one, two in zip(_outcome(algorithm, base), _outcome(algorithm, changed), strict=True)
    )


def _batch_spec(algorithm, config):
    return algorithm.batch_spec(config)


@functools.lru_cache(maxsize=16)  # the default's is traced once for all fields
def _shapes(algorithm, config):
    batch = contract.make_batch(algorithm, config)
    state = jax.eval_shape(algorithm.init, config, jax.random.key(0), batch)
    return str(jax.tree.map(lambda leaf: leaf.shape, state))


@functools.lru_cache(maxsize=16)
def _program(algorithm, config):
    """What is done with a batch, and how the policy acts."""
    batch = contract.make_batch(algorithm, config)

    def first_steps(key):
        state = algorithm.init(config, key, batch)
        observation = contract.first_observation(algorithm, config, batch)
        policy_state = initial_policy_state(algorithm, config, state)
        action = algorithm.act(config, state, observation, key, policy_state)
        return algorithm.update(config, state, batch), action

    return str(jax.make_jaxpr(first_steps)(jax.random.key(0)))


@functools.lru_cache(maxsize=16)
def _outcome(algorithm, config):
    """Three updates and four sampled actions: a single discrete one may agree by chance."""
    state, batch = _start(algorithm, config)
    for _ in range(3):
        state, metrics = _update(algorithm, config, state, batch)
    policy_state, actions = initial_policy_state(algorithm, config, state), []
    for seed in range(3, 7):
        _, (action, policy_state) = _act(algorithm, config, state, batch, seed, policy_state)
        actions.append(action)
    return [np.asarray(each) for each in [*_plain(state), *_plain(dict(metrics)), *actions]]


def _act(algorithm, config, state, batch, seed, policy_state):
    """(action, policy state) of the deterministic policy, and of the one that draws."""
    observation = contract.first_observation(algorithm, config, batch)
    act = contract.jitted_act(algorithm)
    return act(config, state, observation, jax.random.key(seed), policy_state)


@every_case
def test_act_gives_one_action_and_keeps_the_policy_states_structure(algorithm, config):
    state, batch = _start(algorithm, config)
    for form in range(2):
        before = initial_policy_state(algorithm, config, state)
        for seed in range(2):
            action, after = _act(algorithm, config, state, batch, seed, before)[form]
            windows = algorithm.batch_spec(config).window is not None
            assert action.shape == batch.actions.shape[2 if windows else 1 :]
            assert action.dtype == batch.actions.dtype
            assert np.isfinite(action).all()
            if jnp.issubdtype(action.dtype, jnp.integer):
                assert 0 <= action < contract.NUM_ACTIONS
            chex.assert_trees_all_equal_structs(after, before)
            chex.assert_trees_all_equal_shapes_and_dtypes(_plain(after), _plain(before))
            before = after


@every_case
def test_vmapped_acts_equal_single_ones(algorithm, config):
    state, batch = _start(algorithm, config)
    first = initial_policy_state(algorithm, config, state)
    observation = contract.first_observation(algorithm, config, batch)
    keys = jnp.stack([jax.random.key(seed) for seed in (0, 1)])
    # The second episode is a step ahead: plans end at different times in the rows.
    _, (_, ahead) = _act(algorithm, config, state, batch, 2, first)
    both = jax.tree.map(lambda *rows: jnp.stack(rows), first, ahead)

    def step(key, policy_state):
        return algorithm.act(config, state, observation, key, policy_state)

    actions, after = jax.jit(jax.vmap(step))(keys, both)
    for row, policy_state in enumerate((first, ahead)):
        _, (action, alone) = _act(algorithm, config, state, batch, row, policy_state)
        np.testing.assert_allclose(actions[row], action, rtol=1e-3, atol=1e-4)
        for got, want in zip(_plain(after), _plain(alone), strict=True):
            np.testing.assert_allclose(got[row], want, rtol=1e-3, atol=1e-4)


@every_algorithm
def test_deterministic_actions_do_not_depend_on_the_key(algorithm):
    if contract.short_name(algorithm) in contract.DRAWING:
        pytest.skip("this policy has no mode")
    config = contract.small_config(algorithm)
    state, batch = _start(algorithm, config)
    policy_state = initial_policy_state(algorithm, config, state)
    (one, _), (other, _) = (
        _act(algorithm, config, state, batch, seed, policy_state)[0] for seed in (0, 1)
    )
    np.testing.assert_array_equal(one, other)


@every_algorithm
def test_wrong_batches_are_refused_by_name(algorithm):
    config = contract.small_config(algorithm)
    state, batch = _start(algorithm, config)
    spec = algorithm.batch_spec(config)
    for field in spec.fields:
        with pytest.raises(InputError, match=f"batch.{field} is missing"):
            algorithm.update(config, state, batch.replace(**{field: None}))
        shorter = getattr(batch, field)[: -spec.minibatches]
        with pytest.raises(InputError, match="rows"):
            algorithm.update(config, state, batch.replace(**{field: shorter}))
    if batch.rewards is not None:
        with pytest.raises(InputError, match=r"batch.rewards has shape \(\d+, 1\b"):
            algorithm.update(config, state, batch.replace(rewards=batch.rewards[:, None]))


@every_algorithm
def test_wrong_feature_sizes_are_refused(algorithm):
    config = contract.small_config(algorithm)
    state, batch = _start(algorithm, config)
    wide = np.concatenate([batch.observations, batch.observations], axis=-1)
    with pytest.raises(Exception, match="shape"):
        jax.eval_shape(algorithm.update, config, state, batch.replace(observations=wide))
