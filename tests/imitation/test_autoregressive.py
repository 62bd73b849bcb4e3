"""Autoregressive policies on actions whose joint distribution is known."""

import functools

import contract
import forks
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
import scipy.special

from ddm.errors import InputError
from ddm.imitation import autoregressive
from ddm.ops import binning
from ddm.types import Batch

CONTRACT = contract.Contract(
    small={
        "decoder": "mlp",
        "width": 8,
        "num_heads": 4,
        "num_layers": 2,
        "num_bins": 8,
        "warmup_steps": 2,
    },
    variants=[
        {"decoder": "transformer", "num_layers": 1, "targets": "soft", "decode": "dither"},
        {
            "decoder": "lstm",
            "chunk_size": 3,
            "execute_steps": 2,
            "observation_steps": 2,
            "encoder": "conv",
        },
    ],
    other={
        "chunk_size": 4,
        "execute_steps": 2,
        "label_smoothing": 0.3,
        "num_bins": 16,
        "edges": tuple(np.tile(np.linspace(-1.0, 1.0, 9), 2)),
        "targets": "soft",
        "decode": "dither",
        "max_gradient_norm": 1e-3,
        "prefix_dropout": 0.5,
        "temperature": 1e-3,
        "top_p": 0.1,
        "decoder": "lstm",
    },
    context={
        "execute_steps": {"chunk_size": 4},
        "target_width": {"targets": "soft"},
        "cache": {"decoder": "transformer"},
    },
    slow=True,
)

NETWORKS = {
    "mlp": {"hidden_sizes": (64, 64)},
    "lstm": {"width": 64},
    "transformer": {"width": 32, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0},
    "factorised": {"hidden_sizes": (64, 64)},
}
STEPS = 600
UPDATE = jax.jit(autoregressive.update)
SMALL = autoregressive.Config(decoder="mlp", hidden_sizes=(16, 16), num_bins=8)


def _config(decoder, **fields):
    training = {"learning_rate": 3e-3, "warmup_steps": 50, "decay_steps": STEPS}
    return autoregressive.Config(decoder=decoder, **training | NETWORKS[decoder] | fields)


def _twins(rows, seed=0):
    """Both dimensions near 0.5, or both near -0.5; the noise is 0.05."""
    random = np.random.default_rng(seed)
    signs = np.where(random.random((rows, 1, 1)) < 0.5, -1.0, 1.0)
    actions = 0.5 * (signs + 0.1 * random.normal(size=(rows, 1, 2)))
    observations = random.uniform(-1.0, 1.0, (rows, 1, 1))
    return Batch(
        observations=jnp.asarray(observations, jnp.float32),
        actions=jnp.asarray(actions, jnp.float32),
        mask=jnp.ones((rows, 1), bool),
    )


@functools.cache
def _twin_policy(decoder):
    config = _config(decoder)
    state, _ = probes.train(autoregressive, config, _twins(4000), steps=STEPS, batch_size=128)
    return config, state


_log_prob = jax.jit(autoregressive.log_prob)


def _mean_log_prob(config, state, batch):
    return float(_log_prob(config, state, batch.observations, batch.actions).mean())


# Of the two signs and two Gaussians; half the size of the published task, so log 2 less for
# each of the two dimensions.
ENTROPY = 2 * (0.5 * np.log(2 * np.pi * np.e) + np.log(0.1)) + np.log(2) - 2 * np.log(2)


# What the other decoders see is checked without training, in tests/networks/test_by_hand.py.
TRAINED = ["mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lstm", "transformer"))]


@pytest.mark.parametrize("decoder", TRAINED)
def test_dimensions_that_belong_together_stay_together(decoder):
    config, state = _twin_policy(decoder)
    test = _twins(4000, seed=1)
    log_prob = _mean_log_prob(config, state, test)
    assert pytest.approx(-1.074 - 2 * np.log(2), abs=1e-3) == ENTROPY  # the published number
    assert ENTROPY - 0.02 < -log_prob < -0.95 - 2 * np.log(2)
    actions = np.asarray(forks.act_at(autoregressive, config, state, test.observations[:, 0]))
    near = [np.abs(actions - sign * 0.5).max(axis=1) < 0.15 for sign in (-1, 1)]
    assert np.mean(near[0] | near[1]) >= 0.97
    assert np.mean(near[0]) == pytest.approx(0.5, abs=0.05)


def test_independent_dimensions_mix_the_modes():
    config, state = _twin_policy("factorised")
    test = _twins(4000, seed=1)
    log_prob = _mean_log_prob(config, state, test)
    # At best two independent coins and Gaussians: log 2 more than the truth.
    assert -log_prob == pytest.approx(ENTROPY + np.log(2), abs=0.08)
    assert -log_prob > ENTROPY + np.log(2) - 0.03
    actions = np.asarray(forks.act_at(autoregressive, config, state, test.observations[:, 0]))
    near = [np.abs(actions - sign * 0.5).max(axis=1) < 0.15 for sign in (-1, 1)]
    assert np.mean(near[0] | near[1]) == pytest.approx(0.497, abs=0.035)
    assert np.mean(np.abs(np.abs(actions) - 0.5) < 0.15) > 0.985


@pytest.mark.slow
def test_dithered_bins_reproduce_a_fork():
    config = _config("mlp", num_bins=50, decode="dither")
    data = forks.demonstrations(4000, window=1)
    state, _ = probes.train(autoregressive, config, data, steps=STEPS, batch_size=128)
    positions = forks.demonstrations(4000, seed=1).observations
    actions = forks.act_at(autoregressive, config, state, positions)
    assert forks.validity(positions, actions) > 0.98
    assert np.mean(actions > 0) == pytest.approx(0.5, abs=0.04)
    nearest = np.abs(np.asarray(actions)) - (0.5 + 0.25 * np.asarray(positions))
    valid = np.abs(nearest) < 0.15
    # The noise, and the error of a bin.
    assert np.sqrt(np.mean(nearest[valid] ** 2)) == pytest.approx(0.0525, abs=0.004)
    test = forks.demonstrations(4000, seed=2)
    log_prob = _mean_log_prob(config, state, test)
    assert forks.BEST_LOG_PROB - 0.1 < log_prob < forks.BEST_LOG_PROB + 0.03


def test_the_deterministic_policy_plays_bin_centres_of_a_mode():
    config, state = _twin_policy("mlp")
    positions = _twins(50, seed=3).observations[:, 0]
    actions = forks.act_at(autoregressive, config, state, positions, deterministic=True)
    assert np.all(np.max(np.abs(np.abs(actions) - 0.5), axis=1) < 0.1)
    assert np.all(actions[:, 0] * actions[:, 1] > 0)
    lattice = (np.asarray(actions) + 1.0) * 32 - 0.5
    np.testing.assert_allclose(lattice, np.round(lattice), atol=1e-4)
    search = jax.jit(functools.partial(autoregressive.beam_search, width=8))
    chunks, scores = search(config, state, positions[:1])
    assert chunks.shape == (8, 1, 2)
    tiled = jnp.tile(positions[:1, None], (8, 1, 1))
    density = _log_prob(config, state, tiled, chunks)
    np.testing.assert_allclose(scores, density + 2 * np.log(2 / 64), atol=1e-4)
    greedy = _log_prob(config, state, tiled, jnp.tile(actions[:1, None], (8, 1, 1)))
    assert density[0] >= greedy[0] - 1e-5


def test_cold_or_restricted_sampling_leaves_the_likeliest_bins():
    config, state = _twin_policy("mlp")
    positions = _twins(50, seed=3).observations[:, 0]
    greedy = forks.act_at(autoregressive, config, state, positions, deterministic=True)
    for fields in ({"temperature": 1e-3}, {"top_p": 0.0}):
        drawn = forks.act_at(autoregressive, config.replace(**fields), state, positions)
        assert np.mean(np.all(np.isclose(drawn, greedy, atol=1e-5), axis=1)) > 0.95


def _random_batch(rows=16, steps=1, size=2, window=None):
    random = np.random.default_rng(0)
    window = steps if window is None else window
    return Batch(
        observations=jnp.asarray(random.normal(size=(rows, window, 3)), jnp.float32),
        actions=jnp.asarray(random.uniform(-1.1, 1.1, (rows, window, size)), jnp.float32),
        mask=jnp.ones((rows, window), bool),
    )


def _start(config, batch):
    """A state whose parameters are so large that the prefix matters."""
    state = jax.eval_shape(autoregressive.init, config, jax.random.key(0), batch)
    random = np.random.default_rng(1)
    params = jax.tree.map(
        lambda x: jnp.asarray(2.0 * random.normal(size=x.shape) / x.shape[0] ** 0.5, x.dtype),
        state.policy.params,
    )
    state = jax.jit(autoregressive.init)(config, jax.random.key(0), batch)
    return state.replace(policy=state.policy.replace(params=params))


def _mlp_logits(params, frames, tokens, num_bins):
    """The mlp decoder in double precision: features (B, F), tokens (B, D)."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)["params"]["decoder"]
    numbers = (2.0 * tokens + 1.0) / num_bins - 1.0
    before = np.concatenate([np.zeros((len(tokens), 1)), numbers[:, :-1]], axis=1)
    prefix = np.cumsum(before[..., None] * p["prefix"], axis=1)
    state = frames @ p["features"]["kernel"] + p["features"]["bias"]
    hidden = np.maximum(state[:, None] + prefix + p["place"], 0.0)
    layer = p["mlp"]["hidden_0"]
    hidden = np.maximum(hidden @ layer["kernel"] + layer["bias"], 0.0)
    return hidden @ p["mlp"]["output"]["kernel"] + p["mlp"]["output"]["bias"]


def test_log_prob_is_that_of_numpy_in_double_precision():
    actions = np.random.default_rng(3).normal(size=(500, 2)) * [0.2, 0.6]
    edges = binning.fit_edges(np.clip(actions, -1, 1), 8, "quantile")
    config = SMALL.replace(
        edges=tuple(edges.ravel().tolist()), observation_steps=2, chunk_size=3, execute_steps=1
    )
    batch = _random_batch(steps=3, window=4)
    state = _start(config, batch)
    frames, chunk = batch.observations[:, :2], batch.actions[:, 1:]
    got = _log_prob(config, state, frames, chunk)
    values = np.asarray(chunk, np.float64)
    bins = np.stack(
        [
            np.clip(np.searchsorted(row, values[..., d], side="right") - 1, 0, 7)
            for d, row in enumerate(edges)
        ],
        axis=-1,
    )
    widths = np.take_along_axis(np.diff(edges).T[None], bins, axis=1)
    tokens = bins.reshape(16, 6)
    logits = _mlp_logits(
        state.policy.params, np.asarray(frames, np.float64).reshape(16, 6), tokens, 8
    )
    log_probs = scipy.special.log_softmax(logits, axis=-1)
    expected = np.take_along_axis(log_probs, tokens[..., None], axis=-1).sum((1, 2))
    expected -= np.log(widths).sum((1, 2))
    inside = ((values >= edges[:, 0]) & (values <= edges[:, -1])).all((1, 2))
    assert 0 < inside.sum() < len(inside)
    expected = np.where(inside, expected, -np.inf)  # the policy never takes the others
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_the_density_integrates_to_one_over_actions_inside_and_outside_the_bins():
    config = SMALL.replace(bin_low=-0.5, bin_high=0.3, label_smoothing=0.2, temperature=0.5)
    places = (np.arange(200) + 0.5) / 100.0 - 1.0
    grid = np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 1, 2).astype(np.float32)
    batch = Batch(
        observations=jnp.ones((len(grid), 1, 3)),
        actions=jnp.asarray(grid),
        mask=jnp.ones((len(grid), 1), bool),
    )
    state = _start(config, batch)
    density = np.exp(np.asarray(_log_prob(config, state, batch.observations, grid), np.float64))
    assert density.sum() * 0.01**2 == pytest.approx(1.0, abs=1e-3)


def test_losses_are_the_cross_entropies_of_numpy():
    batch = _random_batch()
    state = _start(SMALL, batch)
    actions = np.clip(np.asarray(batch.actions[:, 0], np.float64), -1.0, 1.0)
    bins = np.clip((actions + 1.0) * 4.0, 0, 7).astype(int)
    frames = np.asarray(batch.observations[:, 0], np.float64)
    log_probs = scipy.special.log_softmax(
        _mlp_logits(state.policy.params, frames, bins, 8), axis=-1
    )
    centres = (np.arange(8) + 0.5) / 4.0 - 1.0
    hill = scipy.special.softmax(-0.5 * ((centres - actions[..., None]) / (0.7 * 0.25)) ** 2, -1)
    one_hot = np.eye(8)[bins]
    for fields, targets in (
        ({}, one_hot),
        ({"label_smoothing": 0.2}, 0.8 * one_hot + 0.2 / 8),
        ({"targets": "soft", "target_width": 0.7}, hill),
    ):
        _, metrics = UPDATE(SMALL.replace(**fields), state, batch)
        expected = -np.sum(targets * log_probs, axis=(1, 2)).mean()
        assert metrics["loss"] == pytest.approx(expected, rel=1e-4)
        density = np.sum(one_hot * log_probs, axis=(1, 2)).mean() + 2 * np.log(4)
        assert metrics["log_prob"] == pytest.approx(density, rel=1e-3, abs=1e-3)
        assert metrics["accuracy"] == pytest.approx(np.mean(log_probs.argmax(-1) == bins))


def test_a_chunk_is_one_sequence_and_counts_an_action_each():
    # Two dimensions of one action, or one dimension of two: the same four tokens.
    wide, long = SMALL, SMALL.replace(chunk_size=2)
    batch = _random_batch(size=2)
    state = _start(wide, batch)
    chunk = batch.replace(
        observations=jnp.repeat(batch.observations, 2, axis=1),
        actions=batch.actions.reshape(-1, 2, 1),
        mask=jnp.ones((16, 2), bool),
    )
    chunk_state = _start(long, chunk)
    np.testing.assert_array_equal(
        _log_prob(wide, state, batch.observations, batch.actions),
        _log_prob(long, chunk_state, batch.observations, chunk.actions),
    )
    update = UPDATE
    _, of_wide = update(wide, state, batch)
    _, of_long = update(long, chunk_state, chunk)
    assert of_long["loss"] == pytest.approx(float(of_wide["loss"]) / 2, rel=1e-5)
    # Beyond the episode's end nothing counts, whatever stands there.
    cut = chunk.replace(mask=chunk.mask.at[:8, 1].set(False))
    moved = cut.replace(actions=cut.actions.at[:8, 1].set(0.7))
    (after, metrics), (after_moved, metrics_moved) = (
        update(long, chunk_state, each) for each in (cut, moved)
    )
    assert metrics == metrics_moved
    assert metrics["loss"] != of_long["loss"]
    jax.tree.map(np.testing.assert_array_equal, after.policy.params, after_moved.policy.params)


def test_a_chunk_is_executed_before_the_next_is_drawn():
    config = SMALL.replace(chunk_size=4, execute_steps=3, observation_steps=2)
    state = _start(config, _random_batch(window=5))
    act = jax.jit(autoregressive.act)

    def run(change_at):
        carried, actions = autoregressive.initial_policy_state(config, state), []
        for time in range(6):
            observation = jnp.full(3, 0.1 * time + 5.0 * (time == change_at))
            key = jax.random.key(100 * (time == change_at))
            action, carried = act(config, state, observation, key, carried)
            actions.append(action)
        return np.stack(actions)

    plain = run(change_at=None)
    for change_at, first_changed in ((1, 3), (2, 3), (3, 3), (5, 6)):
        changed = np.any(run(change_at) != plain, axis=1)
        # What is seen while a chunk is played shows in the next one, if its frames reach back.
        assert not changed[:first_changed].any()
        if change_at in (2, 3):
            assert changed[3:].any()


def test_the_prefix_is_hidden_as_often_as_asked():
    batch = _random_batch(rows=4)
    state = _start(SMALL, batch)
    bins = np.asarray(binning.encode(batch.actions[:, 0], binning.uniform_edges(-1, 1, 2, 8)))
    frames = np.asarray(batch.observations[:, 0], np.float64)
    shown = scipy.special.log_softmax(_mlp_logits(state.policy.params, frames, bins, 8), -1)
    # A hidden token is the number 0, as from the middle of the bins.
    hidden_tokens = np.full_like(bins, 3.5, dtype=float)
    hidden = scipy.special.log_softmax(
        _mlp_logits(state.policy.params, frames, hidden_tokens, 8), -1
    )
    for share, log_probs in ((0.0, shown), (1.0, hidden)):
        config = SMALL.replace(prefix_dropout=share)
        _, metrics = UPDATE(config, state, batch)
        expected = -np.take_along_axis(log_probs, bins[..., None], -1).sum((1, 2)).mean()
        assert metrics["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decoder": "gru"}, "decoder=gru is unknown; choose one of transformer, lstm"),
        ({"targets": "hard"}, "targets=hard is unknown; choose one of one_hot, soft"),
        ({"decode": "mode"}, "decode=mode is unknown; choose one of centre, dither"),
        ({"num_bins": 1}, r"num_bins is 1, expected a value in \[2, inf\)"),
        ({"chunk_size": 0}, "chunk_size is 0, expected a value in"),
        (
            {"execute_steps": 3, "chunk_size": 2},
            "execute_steps is 3, expected at most chunk_size=2",
        ),
        ({"bin_low": -2.0}, r"bin_low is -2.0, expected a value in \[-1, 1\)"),
        ({"bin_high": 1.5}, "bin_high is 1.5, expected a value in"),
        ({"bin_low": 0.5, "bin_high": 0.5}, "expected bin_low < bin_high"),
        ({"temperature": 0.0}, r"temperature is 0.0, expected a value in \(0, inf\)"),
        ({"edges": (-1.0, 1.0)}, r"edges has 2 numbers, expected 18: num_bins \+ 1 = 9 for each"),
        (
            {"edges": (*np.linspace(-1, 1, 9), *np.linspace(-1, 2, 9))},
            r"edges is .*, expected a value in \[-1, 1\]",
        ),
        ({"edges": (*np.linspace(-1, 1, 9), *np.zeros(9))}, "expected increasing numbers inside"),
        ({"encoder": "conv"}, "encoder=conv is for images"),
    ],
)
def test_wrong_configurations_are_refused_by_name(fields, message):
    with pytest.raises(InputError, match=message):
        autoregressive.init(SMALL.replace(**fields), jax.random.key(0), _random_batch(rows=2))


def test_the_step_size_warms_up_from_the_first_step():
    config = SMALL.replace(learning_rate=0.1, warmup_steps=10, weight_decay=0.0)
    batch = _random_batch()
    state = _start(config, batch)
    for step, share in ((0, 0.1), (4, 0.5), (9, 1.0), (30, 1.0)):
        after, _ = UPDATE(config, state.replace(step=jnp.int32(step)), batch)
        bias, moved = (
            s.policy.params["params"]["decoder"]["features"]["bias"] for s in (state, after)
        )
        # Adam's first step has the size of the learning rate.
        assert np.abs(moved - bias).max() == pytest.approx(0.1 * share, rel=1e-3)


def test_discrete_actions_are_refused():
    batch = _random_batch(rows=2)
    batch = batch.replace(actions=batch.actions[..., 0].astype(jnp.int32))
    with pytest.raises(InputError, match=r"autoregressive: batch\.actions are integers"):
        autoregressive.init(SMALL, jax.random.key(0), batch)
