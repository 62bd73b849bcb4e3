"""One whole update of each method from the middle of training, against the loss written out.

The gradient is that of the written-out loss, and the step is AdamW's in numpy.
"""

from __future__ import annotations

import contract
import descent
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import networks, ops
from ddm.imitation import (
    bc,
    cvae,
    diffusion,
    flow_matching,
    history_bc,
    implicit_bc,
    reverse_kl,
)
from ddm.imitation.flow_matching import LEVELS_PER_TIME
from ddm.imitation.parts import search

STEP = 10  # gradient steps done; a quarter of the decay
COMMON = {"learning_rate": 0.01, "decay_steps": 40, "weight_decay": 0.1, "hidden_sizes": (8, 8)}
RATE = 0.01 * 0.5 * (1.0 + np.cos(np.pi * 0.25))


def _start(algorithm, config):
    """A state in the middle of training, with an average that is not the parameters."""
    batch = contract.make_batch(algorithm, config)
    state = jax.jit(algorithm.init)(config, jax.random.key(0), batch)
    state = state.replace(policy=descent.midway(state.policy), step=jnp.int32(STEP))
    if hasattr(state, "average"):
        state = state.replace(average=descent.perturbed(state.policy.params, seed=7))
    return state, batch


def _check(algorithm, config, loss_fn, state, batch, clip=None):
    """The update is AdamW's step down the gradient of `loss_fn`; returns state and metrics."""
    after, metrics = jax.jit(algorithm.update)(config, state, batch)
    loss, gradients = jax.jit(jax.value_and_grad(loss_fn))(state.policy.params)
    if clip is not None:
        norm = np.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(gradients)))
        assert norm > clip  # it binds
        gradients = jax.tree.map(lambda g: g * clip / norm, gradients)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-4)
    expected = descent.adamw(state.policy, gradients, RATE, 0.1)
    descent.assert_close(after.policy.params, expected)
    assert after.step == STEP + 1
    return after, metrics


def _gaussian(values, mean, log_std):
    """Log-density, summed over dimensions."""
    scaled = (values - mean) * jnp.exp(-log_std)
    return jnp.sum(-0.5 * scaled**2 - log_std - 0.5 * jnp.log(2 * jnp.pi), axis=-1)


# Behaviour cloning: the log-probability and the mode of each head, from the network's output.

BOUNDS = {"log_std_min": -0.3, "log_std_max": 0.2}  # both bind


def _clipped(log_std):
    return jnp.clip(log_std, BOUNDS["log_std_min"], BOUNDS["log_std_max"])


def _mse(params, observations, actions):
    mode = jnp.tanh(descent.mlp(params["mlp"], observations))
    return -jnp.sum((mode - actions) ** 2, axis=-1), mode


def _gaussian_head(params, observations, actions):
    mean, log_std = jnp.split(descent.mlp(params["mlp"], observations), 2, axis=-1)
    return _gaussian(actions, jnp.tanh(mean), _clipped(log_std)), jnp.tanh(mean)


def _tanh_gaussian_head(params, observations, actions):
    mean, log_std = jnp.split(descent.mlp(params["mlp"], observations), 2, axis=-1)
    density = _gaussian(jnp.arctanh(actions), mean, _clipped(log_std))
    return density - jnp.sum(jnp.log(1.0 - actions**2), axis=-1), jnp.tanh(mean)


def _mixture_head(params, observations, actions):
    outputs = descent.mlp(params["mlp"], observations)
    logits, means, log_stds = outputs[:, :2], outputs[:, 2:6], outputs[:, 6:]
    means = jnp.tanh(means.reshape(-1, 2, 2) + params["offsets"])
    each = _gaussian(actions[:, None], means, _clipped(log_stds.reshape(-1, 2, 2)))
    density = jax.nn.logsumexp(jax.nn.log_softmax(logits) + each, axis=-1)
    rows = jnp.arange(len(actions))
    return density, means[rows, jnp.argmax(logits, axis=-1)]


def _categorical_head(params, observations, actions):
    log_probs = jax.nn.log_softmax(descent.mlp(params["mlp"], observations))
    rows = jnp.arange(len(actions))
    smoothed = 0.8 * log_probs[rows, actions] + 0.2 * log_probs.mean(axis=-1)
    return smoothed, jnp.argmax(log_probs, axis=-1)


def _linear_gaussian_head(params, observations, actions):
    mean = observations @ params["output"]["kernel"] + params["output"]["bias"]
    return _gaussian(actions, mean, _clipped(params["log_std"])), mean


HEADS = {
    "mse": _mse,
    "gaussian": _gaussian_head,
    "tanh_gaussian": _tanh_gaussian_head,
    "mixture": _mixture_head,
    "categorical": _categorical_head,
    "linear_gaussian": _linear_gaussian_head,
}


@pytest.mark.parametrize("head", HEADS)
def test_bc(head):
    options = {"num_actions": 3, "label_smoothing": 0.2} if head == "categorical" else {}
    config = bc.Config(head=head, num_components=2, **COMMON, **BOUNDS, **options)
    state, batch = _start(bc, config)

    def loss_fn(params):
        scores, _ = HEADS[head](params["params"], batch.observations, batch.actions)
        return -jnp.mean(scores)

    _, metrics = _check(bc, config, loss_fn, state, batch)
    _, modes = HEADS[head](state.policy.params["params"], batch.observations, batch.actions)
    errors = (modes - batch.actions) ** 2 if head != "categorical" else modes != batch.actions
    np.testing.assert_allclose(metrics["action_error"], np.mean(errors), rtol=1e-4)
    if head == "mixture":  # its noiseless form draws a component
        return
    act = jax.jit(lambda each: bc.act(config, state, each, jax.random.key(1), deterministic=True))
    for row in range(2):
        action, _ = act(batch.observations[row])
        np.testing.assert_allclose(action, modes[row], rtol=1e-4, atol=1e-6)


# Chunks that are denoised.

CHUNKS = {
    **COMMON, "observation_steps": 2, "chunk_size": 3, "execute_steps": 2, "layer_norm": False,
    "ema_power": 0.75, "sample_steps": 3,
}  # fmt: skip


def _split(batch):
    return batch.observations[:, :2], batch.actions[:, 1:], batch.mask[:, 1:]


def _masked_mean(predictions, targets, mask):
    weights = jnp.broadcast_to(mask[..., None], predictions.shape).astype(jnp.float32)
    return jnp.sum(weights * (predictions - targets) ** 2) / jnp.sum(weights)


def _check_average(state, after):
    decay = 1.0 - (1.0 + STEP - 1.0) ** -0.75
    expected = jax.tree.map(
        lambda old, new: decay * old + (1.0 - decay) * new, state.average, after.policy.params
    )
    descent.assert_close(after.average, expected)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v"])
def test_diffusion(prediction):
    config = diffusion.Config(diffusion_steps=20, prediction=prediction, **CHUNKS)
    state, batch = _start(diffusion, config)
    frames, chunks, mask = _split(batch)
    assert not mask.all()
    _, level_key, noise_key, _ = jax.random.split(state.key, 4)
    levels = jax.random.randint(level_key, (8,), 0, 20)
    noise = jax.random.normal(noise_key, chunks.shape)
    alpha_bars = ops.diffusion.squared_cosine(20).alpha_bars[levels][:, None, None]
    signal, spread = jnp.sqrt(alpha_bars), jnp.sqrt(1.0 - alpha_bars)
    noisy = signal * chunks + spread * noise
    targets = {"epsilon": noise, "sample": chunks, "v": signal * noise - spread * chunks}

    def loss_fn(params):
        predictions = state.policy.apply(params, noisy, levels, frames)
        return _masked_mean(predictions, targets[prediction], mask)

    after, _ = _check(diffusion, config, loss_fn, state, batch)
    _check_average(state, after)


def test_flow_matching():
    config = flow_matching.Config(**CHUNKS)
    state, batch = _start(flow_matching, config)
    frames, chunks, mask = _split(batch)
    _, time_key, noise_key, _ = jax.random.split(state.key, 4)
    times = ops.flows.TIMES["uniform"](time_key, (8,))
    noise = jax.random.normal(noise_key, chunks.shape)
    share = times[:, None, None]
    noisy = (1.0 - share) * noise + share * chunks

    def loss_fn(params):
        velocities = state.policy.apply(params, noisy, LEVELS_PER_TIME * times, frames)
        return _masked_mean(velocities, chunks - noise, mask)

    after, _ = _check(flow_matching, config, loss_fn, state, batch)
    _check_average(state, after)


def _play(algorithm, config, state, observations, deterministic=False):
    act = jax.jit(algorithm.act, static_argnames="deterministic")
    policy_state, actions = algorithm.initial_policy_state(config, state), []
    for row, observation in enumerate(observations):
        key = jax.random.key(row)
        action, policy_state = act(
            config, state, observation, key, policy_state, deterministic=deterministic
        )
        actions.append(action)
    return np.stack(actions)


@pytest.mark.parametrize("algorithm", [diffusion, flow_matching])
def test_the_average_acts_and_a_new_chunk_sees_new_frames(algorithm):
    config = algorithm.Config(**CHUNKS)
    state, batch = _start(algorithm, config)
    observations = batch.observations[:3, 0]
    actions = _play(algorithm, config, state, observations)
    other = state.replace(policy=descent.midway(state.policy, seed=5))
    np.testing.assert_array_equal(_play(algorithm, config, other, observations), actions)
    sample = jax.jit(algorithm.sample)
    first = sample(config, state, jnp.stack([observations[0]] * 2)[None], jax.random.key(0))[0]
    third = sample(config, state, observations[None, 1:3], jax.random.key(2))[0]
    np.testing.assert_allclose(actions, [first[0], first[1], third[0]], atol=1e-6)
    assert np.abs(first - third).max() > 1e-3


def test_deterministic_diffusion_adds_no_noise_on_its_way():
    config = diffusion.Config(eta=1.0, **CHUNKS)
    state, batch = _start(diffusion, config)
    observations = batch.observations[:1, 0]
    still = _play(diffusion, config, state, observations, deterministic=True)
    plain = _play(diffusion, config.replace(eta=0.0), state, observations)
    np.testing.assert_allclose(still, plain, atol=1e-6)
    assert np.abs(still - _play(diffusion, config, state, observations)).max() > 1e-3


def test_a_flow_is_followed_from_noise_to_the_action():
    config = flow_matching.Config(**CHUNKS)
    state, batch = _start(flow_matching, config)
    frames, chunks, _ = _split(batch)
    velocity = jax.jit(state.policy.network.apply)
    places = jax.random.normal(jax.random.key(3), chunks.shape)
    for step in range(3):
        levels = jnp.full(8, LEVELS_PER_TIME * step / 3)
        places += velocity(state.average, places, levels, frames) / 3
    found = jax.jit(flow_matching.sample)(config, state, frames, jax.random.key(3))
    np.testing.assert_allclose(found, np.clip(places, -1.0, 1.0), atol=1e-5)
    assert np.abs(places).max() > 1.0


# Latent variables.


def _prior(config, params, features):
    """Mean and log-variance."""
    if config.prior == "standard_normal":
        return jnp.zeros((len(features), 3)), jnp.zeros((len(features), 3))
    mean, log_var = jnp.split(descent.mlp(params["prior_network"]["mlp"], features), 2, axis=-1)
    return mean, jnp.clip(log_var, -0.4, 0.3)


@pytest.mark.parametrize("prior", ["standard_normal", "learned"])
def test_cvae(prior):
    config = cvae.Config(
        **COMMON, prior=prior, beta=2.0, beta_warmup_steps=40, log_var_min=-0.4, log_var_max=0.3,
        log_std_min=-1.9, latent_dim=3,
    )  # fmt: skip
    state, batch = _start(cvae, config)
    observations, actions = batch.observations, batch.actions
    _, noise_key = jax.random.split(state.key)
    noise = jax.random.normal(noise_key, (8, 3))

    def loss_fn(params):
        params = params["params"]
        inputs = jnp.concatenate([observations, actions], axis=-1)
        mean, log_var = jnp.split(descent.mlp(params["posterior"], inputs), 2, axis=-1)
        log_var = jnp.clip(log_var, -0.4, 0.3)
        latents = mean + jnp.exp(0.5 * log_var) * noise
        inputs = jnp.concatenate([observations, latents], axis=-1)
        decoded = jnp.tanh(descent.mlp(params["decoder"], inputs))
        log_std = jnp.clip(params["log_std"], -1.9, 2.0)
        other, other_log_var = _prior(config, params, observations)
        ratio = jnp.exp(log_var - other_log_var)
        squares = (mean - other) ** 2 * jnp.exp(-other_log_var)
        kl = 0.5 * jnp.sum(ratio + squares - 1.0 - log_var + other_log_var, axis=-1)
        weight = 2.0 * STEP / 40
        return -jnp.mean(_gaussian(actions, decoded, log_std)) + weight * jnp.mean(kl)

    _check(cvae, config, loss_fn, state, batch)
    params = state.policy.params["params"]
    mean, log_var = _prior(config, params, observations[:1])
    noise = jax.random.normal(jax.random.key(1), mean.shape[1:])
    act = jax.jit(cvae.act, static_argnames="deterministic")
    for deterministic in (True, False):
        latent = mean + (0.0 if deterministic else jnp.exp(0.5 * log_var) * noise)
        inputs = jnp.concatenate([observations[:1], latent], axis=-1)
        expected = jnp.tanh(descent.mlp(params["decoder"], inputs))[0]
        found, _ = act(
            config, state, observations[0], jax.random.key(1), deterministic=deterministic
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)


# Energies.

SCORES = jax.jit(implicit_bc.scores)
MARGIN = 1.3  # about half of the slopes lie below


def test_implicit_bc():
    config = implicit_bc.Config(
        **{name: COMMON[name] for name in ("learning_rate", "decay_steps", "weight_decay")},
        width=8, num_negatives=4, gradient_penalty=True, gradient_penalty_weight=0.7,
        gradient_margin=MARGIN, box_margin=0.2,
    )  # fmt: skip
    state, batch = _start(implicit_bc, config)
    _, negatives_key = jax.random.split(state.key)
    negatives = 1.4 * jax.random.uniform(negatives_key, (8, 4, 2), minval=-1.0, maxval=1.0)
    actions = jnp.concatenate([batch.actions[:, -1:], negatives], axis=1)
    score = implicit_bc.Score(8, 1)

    def loss_fn(params):
        scores = score.apply(params, batch.observations, actions)
        slopes = jax.grad(lambda each: score.apply(params, batch.observations, each).sum())(actions)
        penalty = jnp.maximum(jnp.abs(slopes).max(axis=-1) - MARGIN, 0.0) ** 2
        return jnp.mean(-jax.nn.log_softmax(scores)[:, 0]) + 0.7 * jnp.mean(penalty)

    _, metrics = _check(implicit_bc, config, loss_fn, state, batch)
    slopes = jax.grad(lambda each: SCORES(config, state, batch.observations, each).sum())(actions)
    assert 0.2 < np.mean(np.abs(slopes).max(axis=-1) > MARGIN) < 0.8
    scores = SCORES(config, state, batch.observations, actions)
    np.testing.assert_allclose(metrics["accuracy"], np.mean(np.argmax(scores, axis=1) == 0))


def test_implicit_bc_takes_the_best_candidate_or_draws_one():
    config = implicit_bc.Config(width=8, num_samples=6, dfo_rounds=0, observation_steps=1)
    state, batch = _start(implicit_bc, config)
    key = jax.random.key(4)
    start_key, _, draw_key = jax.random.split(key, 3)
    candidates = 1.1 * jax.random.uniform(start_key, (1, 6, 2), minval=-1.0, maxval=1.0)
    act = jax.jit(implicit_bc.act, static_argnames="deterministic")
    scores = SCORES(config, state, batch.observations[:1], candidates)[0]
    for deterministic in (True, False):
        best = jnp.argmax(scores) if deterministic else jax.random.categorical(draw_key, scores)
        found, _ = act(config, state, batch.observations[0, 0], key, deterministic=deterministic)
        np.testing.assert_allclose(found, np.clip(candidates[0, best], -1.0, 1.0), rtol=1e-6)


def test_each_round_of_the_search_draws_by_score_and_moves_less():
    config = implicit_bc.Config(
        width=8, num_samples=6, dfo_rounds=3, dfo_std=0.4, dfo_decay=0.25, observation_steps=1
    )
    state, batch = _start(implicit_bc, config)
    frames = batch.observations
    candidates = jax.random.uniform(jax.random.key(5), (8, 6, 2), minval=-1.0, maxval=1.0)
    score = lambda actions: SCORES(config, state, frames, actions)  # noqa: E731
    find = jax.jit(lambda *args: search.derivative_free(config, score, *args))
    found = find(jax.random.key(6), candidates)
    draw = jax.jit(search.draw)
    for spread, key in zip((0.4, 0.1, 0.025), jax.random.split(jax.random.key(6), 3), strict=True):
        draw_key, noise_key = jax.random.split(key)
        drawn = draw(draw_key, score(candidates), candidates)
        noise = jax.random.normal(noise_key, drawn.shape)
        candidates = jnp.clip(drawn + spread * noise, -1.1, 1.1)
    np.testing.assert_allclose(found, candidates, atol=1e-5)


# A discriminator, and the policy that learns from it.


def test_reverse_kl():
    config = reverse_kl.Config(
        **COMMON, num_samples=3, discriminator_steps=2, gradient_penalty_weight=20.0,
        instance_noise=0.3, final_instance_noise=0.1, instance_noise_steps=40, logit_bound=2.0,
    )  # fmt: skip
    state, batch = _start(reverse_kl, config)
    assert isinstance(state.discriminator, networks.Trainable)
    state = state.replace(discriminator=descent.midway(state.discriminator, seed=3))
    after, metrics = jax.jit(reverse_kl.update)(config, state, batch)
    noise_scale = 0.3 + STEP / 40 * (0.1 - 0.3)
    network = networks.GaussianPolicy((8, 8), 2, state_dependent_std=True)
    policy = lambda params, each: network.apply(params, each, -4.6, 2.0)  # noqa: E731

    def logits(params, observations, actions):
        observations = jnp.broadcast_to(observations, (*actions.shape[:-1], 4))
        inputs = jnp.concatenate([observations, actions], axis=-1)
        outputs = descent.mlp(params["params"]["mlp"], inputs, jax.nn.silu)[..., 0]
        return 2.0 * jnp.tanh(outputs / 2.0)

    _, fit_key, policy_key = jax.random.split(state.key, 3)
    fake_key, noise_key = jax.random.split(fit_key)
    own = jax.jit(lambda each: policy(state.policy.params, each).sample(seed=fake_key))(
        batch.observations
    )
    pairs = jnp.stack([batch.actions, own])
    pairs = pairs + noise_scale * jax.random.normal(noise_key, pairs.shape)

    @jax.jit
    @jax.grad
    def descent_direction(params, observations, real, fake):
        slopes = jax.grad(lambda each: logits(params, observations, each).sum())(real)
        loss = -jnp.mean(jax.nn.log_sigmoid(logits(params, observations, real)))
        loss -= jnp.mean(jax.nn.log_sigmoid(-logits(params, observations, fake)))
        return loss + 10.0 * jnp.mean(jnp.sum(slopes**2, axis=-1))

    first, second = slice(0, 8), slice(8, 16)  # a mini-batch for each step
    model = state.discriminator
    minibatch = batch.observations[first], pairs[0, first], pairs[1, first]
    gradients = descent_direction(model.params, *minibatch)
    model = jax.jit(lambda *args: networks.descend(*args, 1e-3))(gradients, model)
    minibatch = batch.observations[second], pairs[0, second], pairs[1, second]
    gradients = descent_direction(model.params, *minibatch)
    expected = descent.adamw(model, gradients, 1e-3)
    descent.assert_close(after.discriminator.params, expected, tolerance=1e-6)

    # The policy's step is against the discriminator after its steps, at the last observations.
    draw_key, ratio_key = jax.random.split(policy_key)
    observations = batch.observations[second]

    def policy_loss(params):
        actions = policy(params, observations).sample(seed=draw_key, sample_shape=(3,))
        noisy = actions + noise_scale * jax.random.normal(ratio_key, actions.shape)
        return -jnp.mean(logits(after.discriminator.params, observations, noisy))

    loss, gradients = jax.jit(jax.value_and_grad(policy_loss))(state.policy.params)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-4, atol=1e-6)
    expected = descent.adamw(state.policy, gradients, RATE, 0.1)
    descent.assert_close(after.policy.params, expected)
    assert after.step == STEP + 2


# A policy with a past.


def test_history_bc():
    config = history_bc.Config(
        **COMMON, history="stack", observation_steps=2, previous_actions=True, head="gaussian",
        max_gradient_norm=0.05, change_point_weight=3.0, change_point_threshold=0.8,
        history_dropout=0.5,
    )  # fmt: skip
    state, batch = _start(history_bc, config)
    begun = jnp.array([False, True] * 4)  # half of the episodes begin at the drawn step
    mask = jnp.stack([~begun, ~begun, ~begun | begun], axis=1)
    batch = batch.replace(mask=mask)
    _, forget_key, _ = jax.random.split(state.key, 3)
    alone = jax.random.bernoulli(forget_key, jnp.float32(0.5), (8,))
    assert alone.any()
    assert not alone.all()
    # The last two steps, each with the action before it; the first one, if nothing is forgotten.
    before, now, actions = batch.actions[:, 0], batch.actions[:, 1], batch.actions[:, 2]
    seen = (~begun & ~alone)[:, None]
    earlier = jnp.concatenate([batch.observations[:, 1], jnp.where(seen, before, 0.0)], axis=-1)
    current = jnp.concatenate([batch.observations[:, 2], jnp.where(seen, now, 0.0)], axis=-1)
    stacked = [jnp.where(seen, earlier, current), current, seen.astype(jnp.float32)]
    features = jnp.concatenate(stacked, axis=-1)
    changed = ~begun & (jnp.abs(actions - now).max(axis=-1) > 0.8)
    weights = 1.0 + 3.0 * changed

    def loss_fn(params):
        mean, log_std = jnp.split(
            descent.mlp(params["params"]["head"]["mlp"], features), 2, axis=-1
        )
        scores = _gaussian(actions, jnp.tanh(mean), jnp.clip(log_std, -5.0, 2.0))
        return -jnp.sum(weights * scores) / jnp.sum(weights)

    _check(history_bc, config, loss_fn, state, batch, clip=0.05)
