"""Networks with perturbed parameters against the same sums written out, small and quick."""

import descent
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ddm import networks
from ddm.networks import autoregressive, decoding, latent, scores, transformer
from ddm.networks.denoisers import MLPDenoiser, TransformerDenoiser

RANDOM = np.random.default_rng(0)
OBSERVATIONS = jnp.asarray(RANDOM.normal(size=(5, 3)), jnp.float32)


def _perturbed(network, *inputs, seed=0, **options):
    params = jax.jit(lambda: network.init(jax.random.key(0), *inputs, **options))()
    return descent.perturbed(params, seed)


def _apply(network, *args, **options):
    return jax.jit(lambda *args: network.apply(*args, **options))(*args)


# Heads.


def test_actions_are_the_tanh_of_a_perceptron():
    network = networks.DeterministicPolicy((4,), 2)
    params = _perturbed(network, OBSERVATIONS)
    expected = np.tanh(descent.mlp(params["params"]["mlp"], OBSERVATIONS))
    np.testing.assert_allclose(_apply(network, params, OBSERVATIONS), expected, atol=1e-6)


@pytest.mark.parametrize("state_dependent", [False, True])
def test_a_gaussian_has_a_bounded_mean_and_clipped_widths(state_dependent):
    network = networks.GaussianPolicy((4,), 2, state_dependent_std=state_dependent)
    params = _perturbed(network, OBSERVATIONS, -0.1, 0.1)
    outputs = descent.mlp(params["params"]["mlp"], OBSERVATIONS)
    mean, log_std = outputs[:, :2], outputs[:, 2:]
    if not state_dependent:
        log_std = params["params"]["log_std"]
    assert np.min(log_std) < -0.03
    assert np.max(log_std) > 0.02
    policy = network.apply(params, OBSERVATIONS, -0.03, 0.02)
    np.testing.assert_allclose(policy.mean(), np.tanh(mean), atol=1e-6)
    width = np.broadcast_to(np.exp(np.clip(log_std, -0.03, 0.02)), mean.shape)
    np.testing.assert_allclose(policy.stddev(), width, atol=1e-6)


def test_a_squashed_gaussian_has_a_free_mean_and_clipped_widths():
    network = networks.TanhGaussianPolicy((4,), 2)
    params = _perturbed(network, OBSERVATIONS, -0.1, 0.1)
    mean, log_std = np.split(descent.mlp(params["params"]["mlp"], 3.0 * OBSERVATIONS), 2, axis=-1)
    policy = network.apply(params, 3.0 * OBSERVATIONS, -0.1, 0.1)
    np.testing.assert_allclose(policy._base.mean(), mean, atol=1e-5)
    np.testing.assert_allclose(policy._base.stddev(), np.exp(np.clip(log_std, -0.1, 0.1)), 1e-5)
    np.testing.assert_allclose(policy.mode(), np.tanh(mean), atol=1e-6)


def test_a_linear_gaussian_is_not_bounded():
    network = networks.LinearGaussianPolicy(2)
    params = descent.perturbed(network.init(jax.random.key(0), OBSERVATIONS, -0.1, 0.1), scale=2.0)
    output = params["params"]["output"]
    policy = network.apply(params, OBSERVATIONS, -0.1, 0.1)
    expected = OBSERVATIONS @ output["kernel"] + output["bias"]
    assert np.abs(expected).max() > 1.0
    np.testing.assert_allclose(policy.mean(), expected, atol=1e-5)
    width = np.exp(np.clip(params["params"]["log_std"], -0.1, 0.1))
    np.testing.assert_allclose(policy.stddev(), np.broadcast_to(width, expected.shape), 1e-5)


def test_layer_norm_stands_before_each_activation():
    network = networks.MLP((4,), 2, layer_norm=True)
    params = _perturbed(network, OBSERVATIONS)["params"]
    hidden = OBSERVATIONS @ params["hidden_0"]["kernel"] + params["hidden_0"]["bias"]
    hidden = (hidden - hidden.mean(-1, keepdims=True)) / np.sqrt(hidden.var(-1, keepdims=True))
    hidden = np.maximum(hidden * params["norm_0"]["scale"] + params["norm_0"]["bias"], 0.0)
    expected = hidden @ params["output"]["kernel"] + params["output"]["bias"]
    np.testing.assert_allclose(
        _apply(network, {"params": params}, OBSERVATIONS), expected, atol=1e-4
    )


def test_values_of_logged_discrete_actions_are_their_columns():
    network = networks.DiscreteActionValue((4,), 3, num_members=2)
    params = _perturbed(network, OBSERVATIONS)
    actions = jnp.array([0, 2, 1, 1, 2])
    every = network.apply(params, OBSERVATIONS)
    chosen = network.apply(params, OBSERVATIONS, actions)
    np.testing.assert_array_equal(chosen, every[:, np.arange(5), actions])
    for member in range(2):
        single = jax.tree.map(lambda leaf, i=member: leaf[i], params["params"]["mlp"])
        np.testing.assert_allclose(every[member], descent.mlp(single, OBSERVATIONS), atol=1e-5)


def test_members_of_an_ensemble_start_apart():
    network = networks.ActionValue((4,), num_members=3)
    params = network.init(jax.random.key(0), OBSERVATIONS, OBSERVATIONS)["params"]["mlp"]
    for layer in params.values():
        kernel = np.asarray(layer["kernel"])
        assert np.abs(kernel[0] - kernel[1]).min() > 0.0
        assert np.abs(kernel[1] - kernel[2]).min() > 0.0


def test_dropout_hides_activations_and_keeps_their_mean():
    network = networks.MLP((256,), 1, dropout_rate=0.25)
    inputs = jnp.ones((1, 2))
    params = network.init(jax.random.key(0), inputs)["params"]
    params["hidden_0"] = {"kernel": jnp.zeros((2, 256)), "bias": jnp.ones(256)}
    params["output"] = {"kernel": jnp.full((256, 1), 1 / 256), "bias": jnp.zeros(1)}

    def output(seed, **options):
        return float(
            network.apply(
                {"params": params}, inputs, rngs={"dropout": jax.random.key(seed)}, **options
            )[0, 0]
        )

    assert output(0) == pytest.approx(1.0)
    drawn = [output(seed, deterministic=False) for seed in range(20)]
    assert np.mean(drawn) == pytest.approx(1.0, abs=0.03)  # of 256 * 20 units
    assert np.std(drawn) == pytest.approx((1 / 3 / 256) ** 0.5, rel=0.5)


# Histories.


def _frames_of_numpy(inputs, mask, alone, n):
    """The last n inputs of each step, oldest first, and which of the past ones are real."""
    rows, steps, _ = inputs.shape
    result = []
    for row in range(rows):
        first = int(np.argmax(mask[row]))
        for step in range(steps):
            start = step if alone[row] else first
            wanted = [step - age for age in reversed(range(n))]
            frames = [inputs[row, max(place, start)] for place in wanted]
            seen = [float(place >= start) for place in wanted[:-1]]
            result.append(np.concatenate([*frames, seen]))
    return np.reshape(result, (rows, steps, -1))


def test_a_stack_repeats_its_first_valid_step_and_says_so():
    inputs = RANDOM.normal(size=(3, 5, 2)).astype(np.float32)
    mask = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], bool)
    alone = np.array([False, False, True])
    found = networks.FrameStack(3).apply(
        {}, jnp.asarray(inputs), jnp.asarray(mask), jnp.asarray(alone)
    )
    expected = _frames_of_numpy(inputs, mask, alone, 3)
    np.testing.assert_allclose(found[mask], expected[mask], atol=1e-6)


TRUNKS = {
    "recurrent": networks.Recurrent(nn.GRUCell, 4),
    "transformer": networks.CausalTransformer(1, 4, 2),
}


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_summary_sees_the_valid_past_and_nothing_else(trunk):
    network = TRUNKS[trunk]
    inputs = jnp.asarray(RANDOM.normal(size=(2, 4, 3)), jnp.float32)
    mask = jnp.array([[False, True, True, True]] * 2)
    params = _perturbed(network, inputs, mask)
    alone = jnp.array([False, True])
    apply = jax.jit(lambda inputs: network.apply(params, inputs, mask, alone))
    features = apply(inputs)

    def changes(place):
        return np.abs(apply(inputs.at[:, place].add(1.0)) - features).max(axis=-1) > 1e-6

    np.testing.assert_array_equal(changes(0)[:, 1:], False)  # an invalid step
    np.testing.assert_array_equal(changes(2)[0], [False, False, True, True])
    np.testing.assert_array_equal(changes(2)[1], [False, False, True, False])  # alone


def test_a_recurrent_step_goes_on_from_the_steps_before():
    network = networks.Recurrent(nn.GRUCell, 4, num_layers=2)
    inputs = jnp.asarray(RANDOM.normal(size=(3, 3)), jnp.float32)
    mask = jnp.ones(3, bool)
    params = _perturbed(network, inputs, mask)
    carry = network.apply(params, inputs[0], method="initial_carry")
    step = jax.jit(lambda carry, each: network.apply(params, carry, each, method="step"))
    features = []
    for each in inputs:
        carry, feature = step(carry, each)
        features.append(feature)
    np.testing.assert_allclose(_apply(network, params, inputs, mask), features, atol=1e-6)


# Transformers.


def test_a_block_of_attention_by_hand():
    network = transformer.Transformer(1, 4, 2, 8)
    tokens = jnp.asarray(RANDOM.normal(size=(3, 4)), jnp.float32)
    mask = jnp.tril(jnp.ones((3, 3), bool))
    params = _perturbed(network, tokens, mask)["params"]
    block = params["blocks_0"]

    def norm(x, weights):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * weights["scale"] + weights["bias"]

    attention, inputs = block["attention"], norm(tokens, block["attention_norm"])
    heads = {
        name: np.einsum("tw,whd->htd", inputs, attention[name]["kernel"])
        + (np.asarray(attention[name]["bias"])[:, None] if name != "key" else 0.0)
        for name in ("query", "key", "value")
    }
    logits = np.einsum("htd,hsd->hts", heads["query"], heads["key"]) / np.sqrt(2.0)
    weights = jax.nn.softmax(np.where(np.tril(np.ones((3, 3))), logits, -np.inf))
    mixed = np.einsum("hts,hsd->thd", weights, heads["value"])
    mixed = np.einsum("thd,hdw->tw", mixed, attention["out"]["kernel"]) + attention["out"]["bias"]
    hidden = tokens + mixed
    inner = norm(hidden, block["mlp_norm"])
    inner = nn.gelu(inner @ block["expand"]["kernel"] + block["expand"]["bias"])
    hidden = hidden + inner @ block["contract"]["kernel"] + block["contract"]["bias"]
    expected = norm(hidden, params["norm"])
    found = _apply(network, {"params": params}, tokens, mask)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # Token by token it is the same.
    cache = network.apply({"params": params}, (), 3, method="empty_cache")
    step = jax.jit(lambda *args: network.apply({"params": params}, *args, method="step"))
    for place in range(3):
        output, cache = step(tokens[place], cache, place)
        np.testing.assert_allclose(output, expected[place], atol=1e-4)


def test_positions_are_sines_and_cosines():
    found = transformer.sinusoids(jnp.array([0.0, 3.0]), 4, max_period=100.0)
    angles = np.array([[0.0, 0.0], [3.0, 0.03]])
    np.testing.assert_allclose(found, np.concatenate([np.sin(angles), np.cos(angles)], -1), 1e-5)
    tokens = jnp.ones((3, 4))
    waves = transformer.sinusoids(jnp.arange(3), 4)
    np.testing.assert_allclose(transformer.add_positions(tokens), 1.0 + waves, atol=1e-6)


# Denoisers.

DENOISERS = {
    "mlp": MLPDenoiser((4,)),
    "residual": MLPDenoiser((4, 4), layer_norm=True, residual=True),
    "transformer": TransformerDenoiser(1, 4, 2),
    "causal": TransformerDenoiser(1, 4, 2, causal=True),
}


@pytest.mark.parametrize("name", DENOISERS)
def test_a_denoiser_sees_chunk_level_and_all_frames(name):
    noisy = jnp.asarray(RANDOM.normal(size=(1, 3, 2)), jnp.float32)
    frames = jnp.asarray(RANDOM.normal(size=(1, 2, 3)), jnp.float32)
    levels = jnp.array([5.0])
    network = DENOISERS[name]
    params = _perturbed(network, noisy, levels, frames)
    apply = jax.jit(lambda *inputs: network.apply(params, *inputs))
    output = apply(noisy, levels, frames)

    def changed(*inputs):
        return np.abs(apply(*inputs) - output)[0].max(axis=-1) > 1e-6

    assert changed(noisy, levels + 1.0, frames).all()
    for frame in range(2):
        assert changed(noisy, levels, frames.at[:, frame, 1].add(1.0)).all()
    for place in range(3):
        expected = np.arange(3) >= place if name == "causal" else np.ones(3, bool)
        np.testing.assert_array_equal(
            changed(noisy.at[:, place, 0].add(1.0), levels, frames), expected
        )


# Tokens.


def _decoder(name):
    return {
        "mlp": autoregressive.MLPDecoder(3, 4, (8,)),
        "lstm": autoregressive.LSTMDecoder(3, 4, 4),
        "transformer": autoregressive.TransformerDecoder(3, 4, 4, 1, 2),
        "again": autoregressive.TransformerDecoder(3, 4, 4, 1, 2, cache=False),
    }[name]


@pytest.mark.parametrize("name", ["mlp", "lstm", "transformer", "again"])
def test_a_decoder_sees_the_tokens_before_and_steps_as_it_learns(name):
    network = _decoder(name)
    features = jnp.asarray(RANDOM.normal(size=(2,)), jnp.float32)
    tokens = jnp.array([1, 3, 0])
    params = _perturbed(network, features, tokens)
    call = jax.jit(lambda *inputs: network.apply(params, *inputs))
    logits = call(features, tokens)
    for place in range(3):
        other = tokens.at[place].set(2)
        changed = np.abs(call(features, other) - logits).max(axis=-1) > 1e-6
        np.testing.assert_array_equal(changed, np.arange(3) > place)
    assert (np.abs(call(features + 1.0, tokens) - logits).max(axis=-1) > 1e-6).all()
    carry = network.apply(params, features, method="start")
    step = jax.jit(lambda *inputs: network.apply(params, *inputs, method="step"))
    before = [4, 1, 3]
    for place in range(3):
        found, carry = step(carry, jnp.int32(before[place]), jnp.int32(place))
        np.testing.assert_allclose(found, logits[place], atol=1e-5)


def test_the_nucleus_is_the_smallest_set_with_its_probability():
    logits = jnp.log(jnp.array([[0.1, 0.4, 0.2, 0.3], [0.05, 0.05, 0.85, 0.05]]))
    kept = np.isfinite(decoding.nucleus(logits, 0.65))
    np.testing.assert_array_equal(kept, [[0, 1, 0, 1], [0, 0, 1, 0]])
    kept = np.isfinite(decoding.nucleus(logits, 0.75))
    np.testing.assert_array_equal(kept, [[0, 1, 1, 1], [0, 0, 1, 0]])
    np.testing.assert_array_equal(decoding.nucleus(logits, 1.0), logits)


def test_scores_of_tokens_are_a_perceptron_on_their_embeddings():
    network = scores.ActionScores((4,), 3, num_tokens=5, embedding_size=2)
    tokens = jnp.array([[0.0, 3.0, 9.0], [1.0, 1.0, -2.0]])
    params = _perturbed(network, tokens)["params"]
    table = np.asarray(params["embedding"]["embedding"])
    inputs = table[np.array([[0, 3, 4], [1, 1, 0]])].reshape(2, -1)
    np.testing.assert_allclose(
        network.apply({"params": params}, tokens), descent.mlp(params["mlp"], inputs), atol=1e-5
    )


# Latent variables.


def test_a_mixture_prior_has_clipped_widths_and_spread_means():
    network = latent.MixturePrior((4,), 2, 3)
    params = _perturbed(network, OBSERVATIONS, -0.2, 0.1)["params"]
    outputs = descent.mlp(params["mlp"], OBSERVATIONS)
    prior = network.apply({"params": params}, OBSERVATIONS, -0.2, 0.1)
    np.testing.assert_allclose(prior.logits, outputs[:, :3], atol=1e-5)
    means = outputs[:, 3:9].reshape(5, 3, 2) + params["offsets"]
    np.testing.assert_allclose(prior.means, means, atol=1e-5)
    widths = np.exp(0.5 * np.clip(outputs[:, 9:].reshape(5, 3, 2), -0.2, 0.1))
    np.testing.assert_allclose(prior._components.stddev(), widths, atol=1e-5)


# Dual variables.


def test_a_dual_variable_near_an_end_is_reported_and_projected():
    def sentence(value):
        return networks.dual_at_bound("alpha", value, 0.1, 10.0, below="low", above="high")

    assert "lower" in sentence(0.1009)[0]
    assert sentence(0.1011) == []
    assert sentence(9.89) == []
    assert "upper" in sentence(9.91)[0]
    low, high = networks.log_bounds(0.1, 10.0)
    np.testing.assert_allclose([low, high], np.log([0.1, 10.0]), rtol=1e-6)
