from __future__ import annotations

import functools

import chex
import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import CONTEXT, OTHER, SMALL_MODEL, SMALL_ROUNDS

from ddm.errors import InputError
from ddm.model_based import dynamics, mbpo, mopo
from ddm.model_based.parts import branched

CONTRACT = contract.Contract(
    small={**SMALL_MODEL, **SMALL_ROUNDS},
    other=OTHER,
    context=CONTEXT,
)


@functools.cache
def _programs():
    return jax.jit(mbpo.update), jax.jit(mopo.update)


def _started(algorithm, **changes):
    config = contract.small_config(algorithm, **changes)
    batch = contract.make_batch(algorithm, config)
    return config, contract.jitted_init(algorithm)(config, jax.random.key(0), batch), batch


def test_without_a_penalty_it_is_mbpo_to_the_bit():
    ours, state, batch = _started(mopo, penalty=0.0)
    theirs, believed, _ = _started(mbpo)
    believe, penalize = _programs()
    for _ in range(2):
        state, metrics = penalize(ours, state, batch)
        believed, others = believe(theirs, believed, batch)
    assert metrics.pop("penalty") == 0.0
    chex.assert_trees_all_equal(metrics, others)
    bits = [jax.tree.leaves(jax.tree.map(_bits, each)) for each in (state, believed)]
    for got, want in zip(*bits, strict=True):
        np.testing.assert_array_equal(got, want)


def _bits(leaf):
    typed = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if typed else leaf)


def test_imagined_rewards_are_lower_by_the_penalty_and_real_ones_are_not():
    """With the same keys both imagine the same steps, and the environment's unit counts."""
    config, state, batch = _started(mopo, penalty=3.0, reward_unit=2.0)
    free, believed, _ = _started(mopo, penalty=0.0, reward_unit=2.0)
    after, metrics = _programs()[1](config, state, batch)
    before, _ = _programs()[1](free, believed, batch)
    rows, expected = after.imagined.rows, before.imagined.rows
    size = int(after.imagined.size)
    assert size == before.imagined.size > 0
    np.testing.assert_array_equal(rows.observations[:size], expected.observations[:size])
    prediction = dynamics.predict(
        config, state.model, rows.observations[:size], rows.actions[:size]
    )
    units = np.array([0.5, 1.0, 1.0, 1.0, 1.0])  # of the reward, and of the observation
    unsure = np.max(np.linalg.norm(np.asarray(prediction.stds) * units, axis=-1), axis=0)
    lower = np.asarray(expected.rewards[:size]) - 3.0 * 2.0 * unsure
    np.testing.assert_allclose(rows.rewards[:size], lower, rtol=1e-4)
    np.testing.assert_allclose(metrics["penalty"], np.mean(6.0 * unsure), rtol=1e-4)


def test_batches_have_their_share_of_real_rows():
    config, state, batch = _started(mopo, real_share=0.75)
    real = branched.real_rows(config, batch)
    assert real.rewards.shape == (2, 6)
    np.testing.assert_array_equal(real.rewards[1], batch.rewards[8:14])
    for share, rows in ((0.0, 0), (0.01, 1), (0.99, 7), (1.0, 8)):
        kept = branched.real_rows(config.replace(real_share=share), batch)
        assert kept.rewards.shape == (2, rows)
    filled = state.imagined.insert(jax.tree.map(lambda x: x[:2] * 0, batch.replace(
        truncations=batch.terminations)))  # fmt: skip
    mixed = branched.mix(config, jax.tree.map(lambda x: x[0], real), filled, 8, jax.random.key(1))
    np.testing.assert_array_equal(mixed.rewards[:6], batch.rewards[:6])
    np.testing.assert_array_equal(mixed.rewards[6:], 0.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rollout_length": 0}, "rollout_length is 0"),
        ({"real_share": 1.5}, r"real_share is 1.5, expected a value in \[0, 1\]"),
        ({"num_elites": 4}, "num_elites is 4, expected at most num_members=3"),
        ({"uncertainty": "guess"}, "uncertainty=guess is unknown"),
        ({"num_rollouts": 17}, "num_rollouts is 17, and an update has 16 real rows"),
        ({"termination": "auto"}, r"termination=auto is replaced .* ddm.prepare"),
        ({"model_weight_decay": (1.0, 2.0)}, "model_weight_decay has 2 numbers, expected 3"),
    ],
)
def test_what_cannot_be_is_refused(changes, words):
    with pytest.raises(InputError, match=words):
        _trace(changes)


def _trace(changes):
    config = contract.small_config(mopo, **changes)
    batch = contract.make_batch(mopo, config)
    state = jax.eval_shape(mopo.init, config, jax.random.key(0), batch)
    jax.eval_shape(mopo.update, config, state, batch)


def test_what_is_wrong_with_a_model_is_said():
    config = contract.small_config(mopo)
    fine = {"holdout_error": 0.1, "idle_epochs": 5.0, "epoch": 2.0, "not_finite": 0.0}
    assert mopo.diagnose(config, fine) == []
    assert mopo.diagnose(config, fine | {"idle_epochs": 0.0, "epoch": 1.0}) == []
    [text] = mopo.diagnose(config, fine | {"idle_epochs": 0.0})
    assert "still improved at its last epoch (held-out error 0.1" in text
    [text] = mopo.diagnose(config, fine | {"holdout_error": 0.7})
    assert "explains less than half" in text
    [text] = mopo.diagnose(config, fine | {"not_finite": 3.0})
    assert "3 imagined episodes of 2 in a round" in text
