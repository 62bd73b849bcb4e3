"""Training is in float32 whatever the flags of the user's program; most functions are only traced.

All flags are set at once, which is the strictest of their combinations: 64-bit types are the
default, and neither types nor ranks are promoted without a word.
"""

from __future__ import annotations

import dataclasses
import shutil

import chex
import contract
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import strict_flags

from ddm import data, envs
from ddm.envs.point_mass import behavior_policy
from ddm.evaluation import Policy, evaluate
from ddm.imitation import bc
from ddm.runner import Options, load_policy, sweep, train
from ddm.runner.lanes import unwrap_keys
from ddm.types import Batch, BatchSpec, Discrete, initial_policy_state

NARROW = ("float32", "int32", "uint32", "uint8", "bool")
CASES = [pytest.param(*case.values, id=case.id, marks=case.marks) for case in contract.cases()]
ENVIRONMENTS = [name for name in envs.ids() if not name.startswith(("PointMaze-M", "PointMaze-L"))]


def _wide(tree):
    """Places of a tree whose type is wider than 32 bits."""
    return [
        f"{jax.tree_util.keystr(path)} {value.dtype}"
        for path, value in jax.tree_util.tree_leaves_with_path(tree)
        if not jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and str(value.dtype) not in NARROW
    ]


@pytest.mark.parametrize(("algorithm", "config"), CASES)
def test_an_algorithm_computes_in_float32(algorithm, config, strict):
    batch = contract.make_batch(algorithm, config)
    lane = jax.tree.map(lambda rows: rows[0], sweep.expand(config)[0])  # as the runner has it
    key = jax.random.key(0)
    observation = contract.first_observation(algorithm, config, batch)

    def act(config, state, key):
        if not contract.has_policy(algorithm):
            return (), [(contract.use(algorithm, config, state, batch, key), ())]
        before = initial_policy_state(algorithm, config, state)
        results = [
            algorithm.act(config, state, observation, key, before, deterministic=deterministic)
            for deterministic in (True, False)
        ]
        return before, results

    for numbers in (lane, config):  # arrays of 32 bits; numbers of Python
        state = jax.eval_shape(algorithm.init, numbers, key, batch)
        after, metrics = jax.eval_shape(algorithm.update, numbers, state, batch)
        before, results = jax.eval_shape(act, numbers, state, key)
        assert not _wide((state, after, metrics, before, results))
        assert {str(value.dtype) for value in metrics.values()} == {"float32"}
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        for _, memory in results:
            chex.assert_trees_all_equal_shapes_and_dtypes(memory, before)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_environment_computes_in_float32(name, strict):
    environment = envs.make(name)
    params, key = environment.default_params, jax.random.key(0)
    space = environment.action_space(params)
    shape, dtype = ((), jnp.int32) if isinstance(space, Discrete) else (space.shape, jnp.float32)
    observation, state = jax.eval_shape(environment.reset, key, params)
    after = jax.eval_shape(environment.step, key, state, jax.ShapeDtypeStruct(shape, dtype), params)
    assert not _wide((observation, state, after))
    assert str(after[2].dtype) == "float32"
    chex.assert_trees_all_equal_shapes_and_dtypes(after[:2], (observation, state))


def test_numbers_of_numpy_and_arrays_of_64_bits_do_not_widen_a_configuration(strict):
    config = bc.Config(learning_rate=np.float64(1e-3), decay_steps=np.int64(10))
    assert type(config.learning_rate) is float
    assert type(config.decay_steps) is int
    rates = jnp.asarray([1e-3, 1e-4])
    assert rates.dtype == jnp.float64
    assert config.replace(learning_rate=rates).learning_rate.dtype == jnp.float32
    assert config.replace(learning_rate=np.asarray(rates)).learning_rate.dtype == jnp.float32


class FourSteps(gymnasium.Env):
    """An environment of 64-bit numbers, as MuJoCo's are."""

    observation_space = action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float64)

    def reset(self, *, seed=None, options=None):
        self.left = 4
        return np.zeros(2), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(2), 1.0, self.left == 0, False, {}


def test_logs_batches_and_scores_are_in_float32(strict):
    environment = envs.PointMass(num_dimensions=2)
    expert = behavior_policy("expert", environment.default_params)
    episodes = envs.collect(environment, expert, jax.random.key(0), num_episodes=2)
    dataset = data.normalize(data.from_episodes(episodes, name="log"), "standardize", "minus_one")
    assert not _wide(dataset)
    fields = {field.name for field in dataclasses.fields(Batch)}
    key = jax.random.key(0)
    for left_out, window in (("mask", None), ("initial_observations", 3)):
        spec = BatchSpec(fields=tuple(sorted(fields - {left_out})), window=window)
        batch = jax.eval_shape(lambda spec=spec: data.sample(dataset, key, 4, spec))
        assert not _wide(batch)
    config = contract.small_config(bc)
    example = data.sample(dataset, key, 1, bc.batch_spec(config))
    policy = Policy(bc, config, bc.init(config, key, example), dataset.normalization)
    action, _ = policy(np.zeros(2), key)  # float64
    assert action.dtype == jnp.float32
    hosted = evaluate(policy, FourSteps, seed=0, num_episodes=3, lanes=False)
    np.testing.assert_array_equal(hosted.returns, [[4.0, 4.0, 4.0]])
    pure = evaluate(policy, environment, seed=0, num_episodes=3, lanes=False)
    assert np.isfinite(pure.returns).all()


def _train(folder, **options):
    """Twelve updates of a clone that moves a point, with a row, a score and a checkpoint at 6."""
    environment = envs.PointMass(num_dimensions=2)
    random = np.random.default_rng(0)
    observations = random.uniform(-1, 1, (17, 2)).astype(np.float32)
    episode = {
        "observations": observations,
        "actions": np.clip(observations[:-1], -0.5, 0.5),
        "rewards": np.ones(16, np.float32),
        "terminations": np.zeros(16, bool),
        "truncations": np.arange(16) == 15,
    }
    dataset = data.normalize(data.from_episodes([episode], name="log"), "standardize")
    config = contract.small_config(bc, learning_rate=1e-2)
    defaults = {
        "dataset": "log", "run_dir": str(folder), "num_updates": 12, "log_every": 6,
        "eval_every": 6, "checkpoint_every": 6, "batch_size": 8, "eval_episodes": 2,
        "progress": "none", "plots": False, "seeds": 2, "sweep": ("learning_rate=0.01,0.001",),
    }  # fmt: skip
    return train(bc, config, dataset, environment, Options(**defaults | options))


def _state(policy):
    return jax.device_get(unwrap_keys(policy.state))


def test_a_run_moves_across_the_flags(tmp_path):
    whole = _train(tmp_path / "whole")
    _train(tmp_path / "half", num_updates=6)
    shutil.copytree(tmp_path / "half", tmp_path / "there")
    with strict_flags():
        there = _train(tmp_path / "there", resume=True)
        _train(tmp_path / "back", num_updates=6)
        loaded = load_policy(tmp_path / "half", bc, lane=None)
        assert not _wide((loaded.state, loaded.config, there.policy.state))
    back = _train(tmp_path / "back", resume=True)
    for run in (there, back):
        assert run.summary["gradient_steps"] == 12
        # The last bits may differ: optax corrects Adam's bias in the default type.
        jax.tree.map(
            lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5),
            _state(run.policy),
            _state(whole.policy),
        )
    from_there = load_policy(tmp_path / "there", bc, lane=None)
    jax.tree.map(np.testing.assert_array_equal, _state(from_there), _state(there.policy))
