"""Transformers against numpy, and what attention may and may not see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from ddm import networks
from ddm.errors import InputError

LENGTH, WIDTH, HEADS = 5, 8, 2


def _tokens(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _random(shapes):
    """Parameters without the zeros and ones that some start from."""
    random = np.random.default_rng(2)
    return jax.tree.map(
        lambda x: jnp.asarray(random.normal(size=x.shape) / x.shape[0] ** 0.5, x.dtype), shapes
    )


@pytest.fixture(scope="module")
def stack():
    """Two blocks whose parameters are all random, and causal outputs of a batch of two."""
    network = networks.Transformer(2, WIDTH, HEADS, 16)
    tokens = _tokens(2, LENGTH, WIDTH)
    params = _random(jax.eval_shape(network.init, jax.random.key(1), tokens))
    return network, params, tokens, jax.jit(network.apply)


def _norm(x, p):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def _gelu(x):  # the tanh approximation, flax's default
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


def _block(x, p):
    normed = _norm(x, p["attention_norm"])
    query, key, value = (
        np.einsum("btw,whd->bhtd", normed, p["attention"][name]["kernel"])
        + (0.0 if name == "key" else p["attention"][name]["bias"][:, None])
        for name in ("query", "key", "value")
    )
    scores = np.einsum("bhtd,bhsd->bhts", query, key) / np.sqrt(WIDTH / HEADS)
    scores = np.where(np.tril(np.ones(scores.shape[-2:])) > 0, scores, -np.inf)
    mixed = np.einsum("bhts,bhsd->bthd", scipy.special.softmax(scores, axis=-1), value)
    out = p["attention"]["out"]
    x = x + np.einsum("bthd,hdw->btw", mixed, out["kernel"]) + out["bias"]
    hidden = _norm(x, p["mlp_norm"]) @ p["expand"]["kernel"] + p["expand"]["bias"]
    return x + _gelu(hidden) @ p["contract"]["kernel"] + p["contract"]["bias"]


def test_a_causal_stack_is_what_numpy_computes(stack):
    _, params, tokens, apply = stack
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)["params"]
    expected = np.asarray(tokens, np.float64)
    for index in range(2):
        expected = _block(expected, p[f"blocks_{index}"])
    expected = _norm(expected, p["norm"])
    got = apply(params, tokens, networks.causal_mask(LENGTH))
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_a_token_changes_nothing_before_it(stack):
    _, params, tokens, apply = stack
    mask = networks.causal_mask(LENGTH)
    before = apply(params, tokens, mask)
    after = apply(params, tokens.at[:, 2, 0].add(1.0), mask)
    np.testing.assert_array_equal(after[:, :2], before[:, :2])
    assert np.all(np.abs(after[:, 2:] - before[:, 2:]).max(axis=-1) > 1e-3)


def test_steps_give_what_the_causal_call_gives(stack):
    network, params, tokens, apply = stack

    @jax.jit
    def run(params, tokens):
        def step(cache, inputs):
            index, token = inputs
            output, cache = network.apply(params, token, cache, index, method="step")
            return cache, output

        cache = network.apply(params, tokens.shape[:-2], LENGTH, method="empty_cache")
        inputs = jnp.arange(LENGTH), jnp.moveaxis(tokens, -2, 0)
        return jax.lax.scan(step, cache, inputs)

    cache, outputs = run(params, tokens)
    expected = apply(params, tokens, networks.causal_mask(LENGTH))
    np.testing.assert_allclose(jnp.moveaxis(outputs, 0, 1), expected, atol=2e-6)
    assert len(cache.keys) == len(cache.values) == 2
    assert cache.keys[0].shape == (2, HEADS, LENGTH, WIDTH // HEADS)
    alone = run(params, tokens[0])[1]  # without an axis of the batch
    np.testing.assert_allclose(alone, expected[0], atol=2e-6)


def test_without_a_mask_the_order_of_tokens_does_not_matter(stack):
    _, params, tokens, apply = stack
    order = np.array([3, 0, 4, 1, 2])
    np.testing.assert_allclose(
        apply(params, tokens[:, order]), apply(params, tokens)[:, order], atol=2e-6
    )


def test_only_the_memory_that_the_mask_allows_is_seen():
    network = networks.Transformer(1, WIDTH, HEADS, 16, cross=True)
    tokens, memory = _tokens(2, 3, WIDTH), _tokens(2, 4, WIDTH, seed=1)
    params = jax.jit(network.init)(jax.random.key(0), tokens, None, memory)
    apply = jax.jit(network.apply)
    allowed = jnp.broadcast_to(jnp.array([True, True, False, True]), (2, 3, 4))
    seen = apply(params, tokens, None, memory, allowed)
    hidden_changed = apply(params, tokens, None, memory.at[:, 2].add(5.0), allowed)
    np.testing.assert_array_equal(hidden_changed, seen)
    seen_changed = apply(params, tokens, None, memory.at[:, 1].add(5.0), allowed)
    assert np.abs(seen_changed - seen).max() > 1e-3
    without = apply(params, tokens, None, jnp.delete(memory, 2, axis=1), allowed[..., :3] | True)
    np.testing.assert_allclose(without, seen, atol=1e-6)
    with pytest.raises(InputError, match="cross-attention need a memory"):
        network.apply(params, tokens)
    with pytest.raises(InputError, match="without cross-attention"):
        network.apply(params, tokens[:, 0], None, 0, method="step")


def test_dropout_draws_only_in_training():
    network = networks.Transformer(1, WIDTH, HEADS, 16, dropout_rate=0.5)
    tokens = _tokens(2, LENGTH, WIDTH)
    params = _random(jax.eval_shape(network.init, jax.random.key(0), tokens))
    plain = jax.jit(networks.Transformer(1, WIDTH, HEADS, 16).apply)(params, tokens)
    np.testing.assert_array_equal(jax.jit(network.apply)(params, tokens), plain)

    @jax.jit
    def train(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return network.apply(params, tokens, deterministic=False, rngs=rngs)

    np.testing.assert_array_equal(train(0), train(0))
    assert np.abs(train(0) - train(1)).max() > 0.1


def test_a_width_that_does_not_divide_into_heads_is_refused():
    network = networks.Transformer(1, 8, 3, 16)
    with pytest.raises(InputError, match="width of 8 does not divide into 3 heads"):
        network.init(jax.random.key(0), _tokens(1, 2, 8))


def test_sinusoids_by_hand():
    # Half of 4 numbers: frequencies 1 and 1 / 10000.
    got = networks.sinusoids(jnp.array([0, 3]), 4)
    expected = [[0, 0, 1, 1], [np.sin(3), np.sin(3e-4), np.cos(3), np.cos(3e-4)]]
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert networks.sinusoids(jnp.zeros((2, 3)), 6).shape == (2, 3, 6)
    with pytest.raises(InputError, match="width is 3, expected an even number"):
        networks.sinusoids(jnp.array(1), 3)
