"""Diffusion policy: chunks of actions by removing noise (Chi et al. 2023, arXiv 2303.04137).

With A a chunk of logged actions, o the last frames, abar_k the squared-cosine schedule (Nichol &
Dhariwal 2021), k ~ U{0 .. K - 1} and eps ~ N(0, I), a network learns the noise (Ho et al. 2020):

    A_k = sqrt(abar_k) A + sqrt(1 - abar_k) eps
    L(theta) = E || eps - eps_theta(A_k, k, o) ||^2

Its optimum is E[eps | A_k, o] = - sqrt(1 - abar_k) grad log p_k(A_k | o): the network learns the
score of the demonstrator's density (:func:`score`), and samples keep every mode. To act, noise is
taken through the levels by DDPM or, in fewer steps, DDIM (Song et al. 2021), with each estimate of
A kept in [-1, 1]; the first `execute_steps` of the chunk are executed, then a new one is drawn.

What acts is the average of the parameters over the last updates, not their last value.

Deterministic acting is DDIM without noise in its steps (eta = 0), whatever the sampler. The noise
at its start is still drawn: it chooses the mode.

Differences from the authors' code: the chunk begins at the current step, not To - 1 steps before
it, so that no past action is predicted; places beyond an episode's end do not count in the loss
(theirs: the repeated last action counts); the transformer's actions see the whole chunk, because
otherwise its modes mix; the step size is not warmed up (theirs: over 500 steps), and Adam's decay
rates are its defaults (theirs: 0.95 and 0.999); DDIM's levels are spaced from pure noise on
(theirs, as in diffusers: up to the least noisy one); the perceptron is not theirs. Their settings:
K = 100 with 100 steps to sample, chunks of 16 with 8 executed, a U-Net of widths 256, 512, 1024,
and AdamW at 1e-4 with a cosine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from ddm import networks, ops
from ddm.errors import InputError
from ddm.types import (
    Batch,
    BatchSpec,
    Configuration,
    Metrics,
    PRNGKey,
    PyTree,
    check_batch,
    check_continuous,
    leaf,
    static,
)


class Config(Configuration):
    """Hyper-parameters; defaults are a small preset for vectors, with the authors' ratios."""

    # AdamW's step size; authors: 1e-4 with larger networks
    learning_rate: float = leaf(3e-4, "[0, inf)")
    # gradient steps over which a cosine takes the step size to 0; 0: constant
    decay_steps: int = leaf(0, "[0, inf)")
    weight_decay: float = leaf(1e-6, "[0, inf)")  # decoupled weight decay (AdamW), authors' value
    # the acting average spans about n^power of n updates; authors
    ema_power: float = leaf(0.75, "[0, inf)")
    ema_max: float = leaf(0.9999, "[0, 1]")  # ceiling of the average's decay; authors
    # noise of DDIM's steps, as a share of DDPM's; Song et al. and authors: 0
    eta: float = leaf(0.0, "[0, 1]")
    denoiser: str = static("mlp")  # mlp, unet or transformer
    encoder: str = static("none")  # none: observations are vectors; conv: images
    observation_steps: int = static(2, "[1, inf)")  # frames To that the policy sees; authors: 2
    # actions Tp that are predicted, from the current step on
    chunk_size: int = static(8, "[1, inf)")
    # actions executed before a new chunk is drawn; authors: half
    execute_steps: int = static(4, "[1, inf)", at_most="chunk_size")
    diffusion_steps: int = static(50, "[1, inf)")  # noise levels K; authors: 100
    prediction: str = static("epsilon")  # what is learned: epsilon (authors), sample or v
    sampler: str = static("ddim")  # ddim or ddpm
    # steps of the sampler, at most K; robomimic: 10 of ddim
    sample_steps: int = static(10, "[1, inf)", at_most="diffusion_steps")
    spacing: str = static("trailing")  # which levels it visits: trailing (from noise) or leading
    clip: bool = static(True)  # keep estimates of the actions in [-1, 1] while sampling; authors
    hidden_sizes: tuple[int, ...] = static((256, 256, 256), "[1, inf)")  # mish layers of the mlp
    layer_norm: bool = static(True)  # in the mlp, before each activation; without, it learns slowly
    residual: bool = static(False)  # mlp of residual branches; layers of one size
    # channels of each level of the unet
    unet_widths: tuple[int, ...] = static((64, 128, 256), "[1, inf)")
    num_layers: int = static(8, "[1, inf)")  # of the transformer; authors: 8
    width: int = static(256, "[1, inf)")  # of the transformer's tokens; authors: 256
    num_heads: int = static(4, "[1, inf)")  # of the transformer; authors: 4
    # The transformer's actions do not see later ones (authors); a chunk's actions may then
    # disagree.
    causal: bool = static(False)
    dropout_rate: float = static(0.0, "[0, 1)")  # in mlp and transformer; authors: 0.01 to 0.3


class State(struct.PyTreeNode):
    """Everything that training changes, and the shapes that acting needs."""

    policy: networks.Trainable
    average: Any  # moving average of the policy's parameters, which acts
    observation: jax.Array  # (*O,) zeros: the shape and type of one observation
    action: jax.Array  # (A,) zeros
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Windows of the frames before the drawn step and the chunk after it."""
    return BatchSpec(
        fields=("observations", "actions", "mask"),
        window=config.observation_steps - 1 + config.chunk_size,
        history=config.observation_steps - 1,
        min_episode_steps=config.chunk_size,
    )


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh policy for observations and actions of the shapes in `batch`.

    Raises:
      InputError: discrete actions, or a configuration that contradicts itself.
    """
    _check(config, batch)
    observations, chunks, _ = _split(config, batch)
    key, params_key = jax.random.split(key)
    levels = jnp.zeros(1, jnp.int32)
    params = _network(config).init(params_key, chunks[:1], levels, observations[:1])
    return State(
        policy=networks.trainable(params, _optimizer(config, 0)),
        average=jax.tree.map(jnp.copy, params),
        observation=jnp.zeros_like(observations[0, 0]),
        action=jnp.zeros_like(chunks[0, 0]),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One gradient step on the error of the predicted noise, and one of the average.

    Metrics: ``loss``, the mean squared error of the prediction over valid places; 1 for a network
    that has learned nothing and predicts epsilon or v. It says little about how well the policy
    acts.
    """
    _check(config, batch)
    observations, chunks, mask = _split(config, batch)
    key, level_key, noise_key, dropout_key = jax.random.split(state.key, 4)
    schedule = ops.diffusion.squared_cosine(config.diffusion_steps)
    levels = jax.random.randint(level_key, chunks.shape[:1], 0, config.diffusion_steps, jnp.int32)
    noise = jax.random.normal(noise_key, chunks.shape, chunks.dtype)
    noisy = ops.diffusion.add_noise(schedule, chunks, noise, levels)
    targets = _prediction(config).target(chunks, noise, schedule.alpha_bars[levels])

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        predictions = _network(config).apply(
            params,
            noisy,
            levels,
            observations,
            deterministic=config.dropout_rate == 0.0,
            rngs={"dropout": dropout_key},
        )
        loss = ops.diffusion.masked_squared_error(predictions, targets, mask)
        return loss, {"loss": loss}

    policy, metrics = networks.minimize(loss_fn, state.policy, _optimizer(config, state.step))
    average = ops.averaging.average(
        state.average, policy.params, state.step, config.ema_power, config.ema_max
    )
    return state.replace(policy=policy, average=average, step=state.step + 1, key=key), metrics


def initial_policy_state(config: Config, state: State) -> tuple[ops.plans.Frames, ops.plans.Plan]:
    """No frames and no plan."""
    return (
        ops.plans.no_frames(config.observation_steps, state.observation),
        ops.plans.no_plan(config.chunk_size, state.action),
    )


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """The next action of the plan, inside the box; a new chunk is drawn when the plan is used up.

    The policy state is that of :func:`initial_policy_state`: frames and plan. The deterministic
    form also draws the noise at the start of a chunk.
    """
    frames, plan = policy_state
    frames = ops.plans.push(frames, observation)

    def chunk(config: Config, params: Any, action: Any, frames: Any, key: PRNGKey) -> jax.Array:
        return _sample(config, params, action, frames[None], key, deterministic)[0]

    operands = (config, state.average, state.action, frames.observations, key)
    action, plan = ops.plans.next_action(plan, config.execute_steps, chunk, *operands)
    return action, (frames, plan)


def sample(
    config: Config,
    state: State,
    observations: jax.Array,
    key: PRNGKey,
    *,
    deterministic: bool = False,
) -> jax.Array:
    """Chunks (B, Tp, A) in the box for frames (B, To, *O), all in one call of the network."""
    return _sample(config, state.average, state.action, observations, key, deterministic)


def score(
    config: Config, state: State, observations: jax.Array, actions: jax.Array, step: jax.Array | int
) -> jax.Array:
    """The score grad log p_k(A_k | o): at level 0 nearly that of the demonstrator, grad log pi.

    Args:
      config: of the policy.
      state: of the policy.
      observations: (B, To, *O) frames.
      actions: (B, Tp, A) noisy chunks A_k; any place in space.
      step: the level k, () or (B,), in 0 .. K - 1.

    Returns:
      (B, Tp, A), one over the unit of actions.
    """
    schedule = ops.diffusion.squared_cosine(config.diffusion_steps)
    step = jnp.asarray(step, jnp.int32)
    alpha_bar = schedule.alpha_bars[step]
    output = _network(config).apply(state.average, actions, step, observations)
    noise = _prediction(config).noise(output, actions, alpha_bar)
    return ops.diffusion.score_from_noise(noise, alpha_bar)


def _sample(
    config: Config,
    params: Any,
    action: jax.Array,
    observations: jax.Array,
    key: PRNGKey,
    deterministic: bool,
) -> jax.Array:
    network = _network(config)
    features = network.apply(params, observations, method="encode")

    def predict(noisy: jax.Array, step: jax.Array) -> jax.Array:
        return network.apply(params, noisy, step, features, method="denoise")

    sampler = _deterministic if deterministic else SAMPLERS[config.sampler]
    shape = (observations.shape[0], config.chunk_size, *action.shape)
    schedule = ops.diffusion.squared_cosine(config.diffusion_steps)
    options = {
        "timesteps": ops.diffusion.ddim_timesteps(
            config.diffusion_steps, config.sample_steps, config.spacing
        ),
        "prediction": config.prediction,
        "clip": config.clip,
    }
    chunks = sampler(config, predict, schedule, key, shape, **options)
    return jnp.clip(chunks, -1.0, 1.0).astype(action.dtype)


def _ddpm(config: Config, *args: Any, **options: Any) -> jax.Array:
    del config
    return ops.diffusion.sample_ddpm(*args, **options)


def _ddim(config: Config, *args: Any, **options: Any) -> jax.Array:
    return ops.diffusion.sample_ddim(*args, eta=config.eta, **options)


def _deterministic(config: Config, *args: Any, **options: Any) -> jax.Array:
    del config
    return ops.diffusion.sample_ddim(*args, eta=0.0, **options)


SAMPLERS: dict[str, Callable[..., jax.Array]] = {"ddim": _ddim, "ddpm": _ddpm}


def _check(config: Config, batch: Batch) -> None:
    name = "diffusion"
    check_batch(batch, batch_spec(config), name)
    check_continuous(batch, name)
    networks.check_encoder(config.encoder, batch.observations.shape[2:], name)
    for field, table in (("sampler", SAMPLERS), ("prediction", ops.diffusion.PREDICTIONS)):
        if (value := getattr(config, field)) not in table:
            raise InputError(
                f"{name}: {field}={value} is unknown; choose one of {', '.join(table)}"
            )
    ops.diffusion.ddim_timesteps(config.diffusion_steps, config.sample_steps, config.spacing)


def _split(config: Config, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    return networks.split_window(batch, config.observation_steps, config.chunk_size, "diffusion")


def _network(config: Config) -> networks.Denoiser:
    return networks.denoiser(config, "diffusion")


def _prediction(config: Config) -> ops.diffusion.Prediction:
    return ops.diffusion.PREDICTIONS[config.prediction]


def _optimizer(config: Config, step: jax.Array | int) -> optax.GradientTransformation:
    rate = ops.cosine_decay(config.learning_rate, step, config.decay_steps)
    return optax.adamw(rate, weight_decay=config.weight_decay)
