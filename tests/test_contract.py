"""One contract for all algorithms; modules are found, not listed."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import subprocess
import sys
from collections.abc import Mapping

import chex
import contract
import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

import ddm
from ddm.errors import InputError
from ddm.runner.checkpoints import Store
from ddm.runner.lanes import unwrap_keys, wrap_keys
from ddm.types import initial_policy_state, num_minibatches, stages_of

CASES = contract.cases()
ALGORITHMS = [
    pytest.param(
        each,
        id=contract.short_name(each),
        marks=[
            contract.one_worker(each),
            *([pytest.mark.slow] if contract.contract_of(each).slow else []),
        ],
    )
    for each in contract.algorithms()
]
every_case = pytest.mark.parametrize(("algorithm", "config"), CASES)
every_policy = pytest.mark.parametrize(("algorithm", "config"), contract.acting_cases())
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)
# Where a test compiles a program of its own, a few of each kind stand for the others by day.
FEW = ("bc", "td3_bc", "iql", "fitted_q")
few_algorithms = pytest.mark.parametrize(
    "algorithm",
    [
        each
        if each.id in FEW
        else pytest.param(*each.values, id=each.id, marks=[*each.marks, pytest.mark.slow])
        for each in ALGORITHMS
    ],
)


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
    assert names >= {"bc", "td3", "sac", "td3_bc", "iql", "cql", "tabular_cql", "kl_control"}


def test_every_algorithm_has_all_names_of_the_contract_and_a_test_file():
    for algorithm in contract.algorithms():
        contract.contract_of(algorithm)
        instead = ("act",) if contract.has_policy(algorithm) else ("predict", "transition")
        for name in ("Config", "State", "batch_spec", "init", "update", *instead):
            assert hasattr(algorithm, name), f"{algorithm.__name__} lacks {name}"


def test_a_broken_module_in_any_folder_is_noticed(tmp_path, monkeypatch):
    family = tmp_path / "new_family"
    family.mkdir()
    (family / "__init__.py").write_text("")
    (family / "broken.py").write_text("import no_such_module")
    monkeypatch.setattr(ddm, "__path__", [*ddm.__path__, str(tmp_path)])
    with pytest.raises(ImportError, match="no_such_module"):
        ddm.algorithms()
    for name in ("ddm.new_family.broken", "ddm.new_family"):
        sys.modules.pop(name, None)


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
    assert first.step == num_minibatches(algorithm.batch_spec(config))
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
@few_algorithms
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
        edited, after = contract.of_each_source(edit, batch), state
        for _ in range(3):
            after, metrics = _update(algorithm, config, after, edited)
        # A gradient that is not finite leaves Adam's moments and parameters not finite.
        assert all(np.isfinite(leaf).all() for leaf in [*_plain(after), *metrics.values()]), name


@few_algorithms
def test_a_batch_of_one(algorithm):
    config = contract.small_config(algorithm)
    state, _ = _start(algorithm, config)
    batch = contract.make_batch(algorithm, config, rows=1)
    after, metrics = _update(algorithm, config, state, batch)
    chex.assert_tree_all_finite((_plain(after), metrics))


# Of fields that many algorithms share: values that make a field bind, where halving its default
# would not show; and the other fields that must be set for it to matter. Those of one algorithm
# stand in its `CONTRACT`.
OTHER_VALUE = {
    "log_std_min": 1.5,
    "log_std_max": -4.0,
    "max_weight": 0.1,
    "decay_steps": 4,
    "actor_decay_steps": 4,
    "weight_decay": 1.0,
    "inverse_temperature": 0.1,
}
CONTEXT = {
    "num_actions": {"head": "categorical", "num_actions": contract.NUM_ACTIONS},
    "num_components": {"head": "mixture", "prior": "mixture"},
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
    "inverse_temperature": {"weight": "exponential"},
    "max_weight": {"weight": "exponential"},
    "weight": {"constraint": "kl_penalty"},
}
OTHER_STATIC = {
    "num_actions": 5,
    "hidden_sizes": (8,),
    "num_critics": 3,
    "dropout_rate": 0.5,
    "num_samples": 3,
    "num_components": 3,
    "encoder": "conv",
    "observation_steps": 3,
    "num_layers": 1,
    "width": 16,
    "num_heads": 2,
    "weight": "softmax",
}


def _fields():
    for parameter in ALGORITHMS:
        [algorithm] = parameter.values
        for field in dataclasses.fields(algorithm.Config):
            if field.metadata.get("network"):
                continue  # see test_own_networks.py
            label = f"{parameter.id}-{field.name}"
            slow = contract.short_name(algorithm) not in FEW
            marks = [
                contract.one_worker(algorithm),
                pytest.mark.slow if slow else pytest.mark.newest,
            ]
            yield pytest.param(algorithm, field, id=label, marks=marks)


@pytest.mark.parametrize(("algorithm", "field"), list(_fields()))
def test_each_config_field_changes_the_computation(algorithm, field):
    names = {each.name for each in dataclasses.fields(algorithm.Config)}
    own = contract.contract_of(algorithm)
    context = {**CONTEXT, **own.context}.get(field.name, {})
    context = {n: v for n, v in context.items() if n in names}
    if not field.metadata.get("pytree_node", True):
        base = contract.small_config(algorithm, **context)
        default = getattr(base, field.name)
        other = {**OTHER_STATIC, **own.other}.get(field.name, not default)
        changed = base.replace(**{field.name: other})
        # The text of a program takes longest: first what is asked for, and what is kept.
        assert any(
            part(algorithm, base) != part(algorithm, changed)
            for part in (_stages, _shapes, _program)
        )
        return
    base = contract.config_with(algorithm, **context)
    default = getattr(base, field.name)
    values = {**OTHER_VALUE, **own.other}
    other = values[field.name] if field.name in values else 0.5 * default
    changed = base.replace(**{field.name: other})
    assert other != default
    assert any(
        not np.allclose(one, two, rtol=1e-4, atol=1e-7)
        for one, two in zip(_outcome(algorithm, base), _outcome(algorithm, changed), strict=True)
    )


def _stages(algorithm, config):
    """What each stage asks for, how long it takes, and how the policy collects."""
    collects = getattr(algorithm, "collect_spec", lambda config: None)(config)
    stages = [(stage.batch_spec, stage.num_steps) for stage in stages_of(algorithm, config)]
    return stages, collects


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
        used = contract.use(algorithm, config, state, batch, key)
        stages = contract.stages(algorithm, config)
        return [update(config, state, batch) for update, batch in stages], used

    program = jax.make_jaxpr(first_steps)(jax.random.key(0))
    return f"{program} {program.consts}"


@functools.lru_cache(maxsize=16)
def _outcome(algorithm, config):
    """Three updates of each stage and four actions: a single discrete one may agree by chance."""
    state, _ = _start(algorithm, config)
    metrics = {}
    for update, batch in contract.stages(algorithm, config):
        for _ in range(3):
            state, metrics = contract.jitted(update)(config, state, batch)
    if not contract.has_policy(algorithm):
        used = contract.use(algorithm, config, state, batch, jax.random.key(3))
        return [
            np.asarray(each) for each in [*_plain(state), *_plain(dict(metrics)), *_plain(used)]
        ]
    policy_state, actions = initial_policy_state(algorithm, config, state), []
    for seed in range(3, 7):
        _, (action, policy_state) = _act(algorithm, config, state, batch, seed, policy_state)
        actions.append(action)
    if hasattr(algorithm, "supervise"):
        supervised = _supervised(algorithm)(config, state, batch, jax.random.key(7))
        actions.extend(jax.tree.leaves(supervised))
    return [np.asarray(each) for each in [*_plain(state), *_plain(dict(metrics)), *actions]]


@functools.cache
def _supervised(algorithm):
    return jax.jit(functools.partial(contract.supervised, algorithm))


def _act(algorithm, config, state, batch, seed, policy_state):
    """(action, policy state) of the deterministic policy, and of the one that draws."""
    observation = contract.first_observation(algorithm, config, batch)
    act = contract.jitted_act(algorithm)
    return act(config, state, observation, jax.random.key(seed), policy_state)


@every_policy
def test_act_gives_one_action_and_keeps_the_policy_states_structure(algorithm, config):
    state, batch = _start(algorithm, config)
    for form in range(2):
        before = initial_policy_state(algorithm, config, state)
        for seed in range(2):
            action, after = _act(algorithm, config, state, batch, seed, before)[form]
            windows = contract.first_source(algorithm.batch_spec(config)).window is not None
            actions = contract.first_source(batch).actions
            assert action.shape == actions.shape[2 if windows else 1 :]
            assert action.dtype == actions.dtype
            assert np.isfinite(action).all()
            if jnp.issubdtype(action.dtype, jnp.integer):
                assert 0 <= action < contract.NUM_ACTIONS
            chex.assert_trees_all_equal_structs(after, before)
            chex.assert_trees_all_equal_shapes_and_dtypes(_plain(after), _plain(before))
            before = after


@every_policy
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
    if contract.contract_of(algorithm).draws or not contract.has_policy(algorithm):
        pytest.skip("this policy has no mode, or there is none")
    config = contract.small_config(algorithm)
    state, batch = _start(algorithm, config)
    policy_state = initial_policy_state(algorithm, config, state)
    (one, _), (other, _) = (
        _act(algorithm, config, state, batch, seed, policy_state)[0] for seed in (0, 1)
    )
    np.testing.assert_array_equal(one, other)


def _each_source(algorithm, config, batch):
    """(spec, its rows, a function from other rows to the whole batch) of each source."""
    spec = algorithm.batch_spec(config)
    if not isinstance(spec, Mapping):
        return [(spec, batch, lambda rows: rows)]
    return [
        (one, batch[name], lambda rows, name=name: {**batch, name: rows})
        for name, one in spec.items()
    ]


@every_algorithm
def test_wrong_batches_are_refused_by_name(algorithm):
    config = contract.small_config(algorithm)
    state, batch = _start(algorithm, config)
    for spec, rows, whole in _each_source(algorithm, config, batch):
        for field in spec.fields:
            with pytest.raises(InputError, match=f"batch.{field} is missing"):
                algorithm.update(config, state, whole(rows.replace(**{field: None})))
            shorter = getattr(rows, field)[: -spec.minibatches]
            with pytest.raises(InputError, match="rows"):
                algorithm.update(config, state, whole(rows.replace(**{field: shorter})))
        if rows.rewards is not None:
            wrong = rows.replace(rewards=rows.rewards[:, None])
            with pytest.raises(InputError, match=r"batch.rewards has shape \(\d+, 1\b"):
                algorithm.update(config, state, whole(wrong))


@every_algorithm
def test_wrong_feature_sizes_are_refused(algorithm):
    config = contract.small_config(algorithm)
    state, batch = _start(algorithm, config)
    for _, rows, whole in _each_source(algorithm, config, batch):
        wide = np.concatenate([rows.observations, rows.observations], axis=-1)
        with pytest.raises(Exception, match="shape"):
            jax.eval_shape(algorithm.update, config, state, whole(rows.replace(observations=wide)))
