"""Decoders: what each place may see, and tokens drawn with the probabilities that they have."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from ddm.networks import autoregressive, decoding

TOKENS, BINS = 4, 5


def _decoder(name, num_tokens=TOKENS, cache=True):
    sizes = (num_tokens, BINS)
    return {
        "mlp": lambda: autoregressive.MLPDecoder(*sizes, (16, 16)),
        "factorised": lambda: autoregressive.FactorisedDecoder(*sizes, (16,)),
        "lstm": lambda: autoregressive.LSTMDecoder(*sizes, 8, (8,)),
        "transformer": lambda: autoregressive.TransformerDecoder(*sizes, 8, 2, 2, 0.0, cache),
    }[name]()


DECODERS = ("mlp", "lstm", "transformer", "factorised")


@functools.cache
def _policy(name, num_tokens=TOKENS):
    """A policy whose parameters are large enough that every token matters."""
    policy = autoregressive.AutoregressivePolicy("none", _decoder(name, num_tokens))
    tokens = jnp.zeros((1, num_tokens), int)
    params = jax.jit(policy.init)(jax.random.key(0), jnp.ones((1, 2, 3)), tokens)
    random = np.random.default_rng(0)
    # Kernels times 3, and biases that are not 0.
    params = jax.tree.map(
        lambda x: 3.0 * x if x.ndim > 1 else x + 0.3 * random.normal(size=x.shape).astype(x.dtype),
        params,
    )
    return policy, params, jax.jit(policy.apply)


def _frames(rows, seed=0):
    return jax.random.normal(jax.random.key(seed), (rows, 2, 3))


def _draw(policy, params, frames, key):
    choose = lambda logits, key: jax.random.categorical(key, logits)  # noqa: E731
    apply = functools.partial(policy.apply, params)
    return decoding.draw_tokens(apply, frames, policy.decoder.num_tokens, key, choose)


@pytest.mark.parametrize("name", DECODERS)
def test_a_token_changes_the_logits_after_it_and_no_others(name):
    _, params, apply = _policy(name)
    tokens = jnp.array([[1, 3, 0, 2]])
    before = apply(params, _frames(1), tokens)
    assert before.shape == (1, TOKENS, BINS)
    for place in range(TOKENS):
        after = apply(params, _frames(1), tokens.at[0, place].set(4))
        changes = np.abs(after - before).max(axis=-1)[0]
        np.testing.assert_array_equal(changes[: place + 1], 0.0)
        assert np.all((changes[place + 1 :] > 1e-3) == (name != "factorised"))


@pytest.mark.parametrize("name", DECODERS)
def test_steps_give_the_logits_of_teacher_forcing(name):
    policy, params, apply = _policy(name)
    frames, tokens = _frames(3), jnp.array([[1, 3, 0, 2], [0, 0, 4, 1], [2, 2, 2, 2]])

    @jax.jit
    def stepped(params):
        carry, none = policy.apply(params, frames, method="start")

        def step(carry, inputs):
            logits, carry = policy.apply(params, carry, *inputs, method="step")
            return carry, logits

        before = jnp.concatenate([none[None], tokens.T[:-1]])
        _, logits = jax.lax.scan(step, carry, (before, jnp.arange(TOKENS)))
        return jnp.moveaxis(logits, 0, 1)

    np.testing.assert_allclose(stepped(params), apply(params, frames, tokens), atol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "transformer"])
def test_sampled_frequencies_are_the_enumerated_joint(name):
    policy, params, apply = _policy(name, num_tokens=2)
    frames, rows = _frames(1), 20_000
    pairs = jnp.stack(jnp.divmod(jnp.arange(BINS**2), BINS), axis=-1)
    logits = apply(params, jnp.repeat(frames, BINS**2, axis=0), pairs)
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    joint = np.exp(np.take_along_axis(log_probs, np.asarray(pairs)[..., None], -1).sum((1, 2)))
    assert joint.sum() == pytest.approx(1.0, abs=1e-5)
    margins = joint.reshape(BINS, BINS)
    independent = np.outer(margins.sum(axis=1), margins.sum(axis=0)).ravel()
    assert np.abs(joint - independent).max() > 0.02  # or the test would not see the prefix
    tokens = jax.jit(functools.partial(_draw, policy))(
        params, jnp.repeat(frames, rows, axis=0), jax.random.key(3)
    )
    counts = np.bincount(np.asarray(tokens) @ [BINS, 1], minlength=BINS**2)
    deviations = np.sqrt(joint * (1.0 - joint) / rows)
    assert np.all(np.abs(counts / rows - joint) < 5.0 * deviations + 1e-4)


def test_the_cache_changes_the_price_and_not_the_tokens():
    policy, params, _ = _policy("transformer")
    again = autoregressive.AutoregressivePolicy("none", _decoder("transformer", cache=False))
    frames, key = _frames(64), jax.random.key(5)
    tokens = jax.jit(functools.partial(_draw, policy))(params, frames, key)
    np.testing.assert_array_equal(
        tokens, jax.jit(functools.partial(_draw, again))(params, frames, key)
    )
    assert len(np.unique(tokens)) == BINS


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_a_wide_beam_finds_the_likeliest_sequences(name):
    policy, params, apply = _policy(name, num_tokens=2)
    frames = _frames(1)
    pairs = jnp.stack(jnp.divmod(jnp.arange(BINS**2), BINS), axis=-1)
    log_probs = jax.nn.log_softmax(apply(params, jnp.repeat(frames, BINS**2, axis=0), pairs))
    joint = np.take_along_axis(np.asarray(log_probs), np.asarray(pairs)[..., None], -1).sum((1, 2))
    best = np.argsort(-joint)[:BINS]
    apply = functools.partial(policy.apply, params)
    search = jax.jit(lambda frames: decoding.beam_search(apply, frames, 2, BINS))
    tokens, scores = search(frames[0])
    np.testing.assert_array_equal(tokens, np.asarray(pairs)[best])
    np.testing.assert_allclose(scores, joint[best], atol=1e-4)


def test_the_most_likely_token_first_may_miss_the_most_likely_sequence():
    # First token: 0.4 for 0, 0.35 for 1; after 0 all five are alike, after 1 one is certain.
    class Table(autoregressive.Decoder):
        def __call__(self, features, tokens, *, deterministic=True):
            return jnp.zeros((*tokens.shape, BINS))

        def start(self, features):
            return features

        def step(self, carry, token, index):
            first = jnp.log(jnp.array([0.4, 0.35, 0.25, 1e-9, 1e-9]))
            second = jnp.where(token[..., None] == 1, 50.0 * jnp.eye(BINS)[3], jnp.zeros(BINS))
            return jnp.where(index == 0, first, second), carry

    policy = autoregressive.AutoregressivePolicy("none", Table(2, BINS))
    for width, sequence, probability in ((1, [0, 0], 0.4 / 5), (2, [1, 3], 0.35)):
        apply = functools.partial(policy.apply, {})
        tokens, scores = decoding.beam_search(apply, jnp.zeros((1, 1)), 2, width)
        np.testing.assert_array_equal(tokens[0], sequence)
        assert np.exp(scores[0]) == pytest.approx(probability, rel=1e-5)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.0, [1]), (0.3, [1]), (0.45, [1, 2]), (0.75, [0, 1, 2]), (0.95, [0, 1, 2, 3])],
)
def test_the_nucleus_is_the_smallest_set_with_the_mass(top_p, kept):
    probabilities = np.array([0.2, 0.4, 0.3, 0.1])
    logits = np.asarray(decoding.nucleus(jnp.log(probabilities), top_p))
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(logits)), kept)
    left = scipy.special.softmax(logits)
    np.testing.assert_allclose(left[kept], probabilities[kept] / probabilities[kept].sum(), 1e-5)


def test_a_nucleus_of_one_is_everything():
    logits = jnp.array([0.0, -60.0, 30.0])
    np.testing.assert_array_equal(decoding.nucleus(logits, 1.0), logits)
