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

from ddm import ops
from ddm.imitation.parts import chunks, denoising
from ddm.types import Batch, Metrics, PRNGKey, PyTree, choice, leaf, static


class Config(denoising.Config):
    """Hyper-parameters; defaults are a small preset for vectors, with the authors' ratios."""

    # noise of DDIM's steps, as a share of DDPM's; Song et al. and authors: 0
    eta: float = leaf(0.0, "[0, 1]")
    diffusion_steps: int = static(50, "[1, inf)")  # noise levels K; authors: 100
    # what is learned; authors: epsilon
    prediction: str = choice(ops.diffusion.PREDICTIONS, "epsilon")
    sampler: str = choice(lambda: SAMPLERS, "ddim")  # how a chunk is drawn
    # steps of the sampler, at most K; robomimic: 10 of ddim
    sample_steps: int = static(10, "[1, inf)", at_most="diffusion_steps")
    # which levels it visits: trailing (from noise) or leading
    spacing: str = choice(ops.denoising.SPACINGS, "trailing")
    clip: bool = static(True)  # keep estimates of the actions in [-1, 1] while sampling; authors


State = denoising.State
batch_spec = chunks.batch_spec
initial_policy_state = chunks.initial_policy_state
denoiser_network = denoising.denoiser_network


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh policy for observations and actions of the shapes in `batch`.

    Raises:
      InputError: discrete actions, or sizes that do not fit each other.
    """
    return denoising.init(config, key, chunks.example(config, batch, "diffusion"))


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One gradient step on the error of the predicted noise, and one of the average.

    Metrics: ``loss``, the mean squared error of the prediction over valid places; 1 for a network
    that has learned nothing and predicts epsilon or v. It says little about how well the policy
    acts.
    """
    window = chunks.split(config, batch, "diffusion")
    clean, rows = window.actions, window.actions.shape[:1]
    key, level_key, noise_key, dropout_key = jax.random.split(state.key, 4)
    schedule = ops.diffusion.squared_cosine(config.diffusion_steps)
    levels = jax.random.randint(level_key, rows, 0, config.diffusion_steps, jnp.int32)
    noise = jax.random.normal(noise_key, clean.shape, clean.dtype)
    noisy = ops.diffusion.add_noise(schedule, clean, noise, levels)
    targets = _prediction(config).target(clean, noise, schedule.alpha_bars[levels])

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        predictions = state.policy.apply(
            params,
            noisy,
            levels,
            window.frames,
            deterministic=config.dropout_rate == 0.0,
            rngs={"dropout": dropout_key},
        )
        loss = ops.diffusion.masked_squared_error(predictions, targets, window.mask)
        return loss, {"loss": loss}

    return denoising.descend(config, state, loss_fn, key)


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

    The policy state is a `chunks.Memory`; the empty tuple begins an episode. The deterministic
    form also draws the noise at the start of a chunk.
    """

    def chunk(config: Config, state: State, frames: jax.Array, key: PRNGKey) -> jax.Array:
        return sample(config, state, frames[None], key, deterministic=deterministic)[0]

    return chunks.play(config, state, observation, policy_state, chunk, key)


def sample(
    config: Config,
    state: State,
    observations: jax.Array,
    key: PRNGKey,
    *,
    deterministic: bool = False,
) -> jax.Array:
    """Chunks (B, Tp, A) in the box for frames (B, To, *O), all in one call of the network."""
    denoiser = denoising.acting(state)
    features = denoiser(observations, method="encode")

    def predict(noisy: jax.Array, step: jax.Array) -> jax.Array:
        return denoiser(noisy, step, features, method="denoise")

    sampler = _deterministic if deterministic else SAMPLERS[config.sampler]
    found = sampler(
        config,
        predict,
        ops.diffusion.squared_cosine(config.diffusion_steps),
        key,
        (observations.shape[0], config.chunk_size, *state.action.shape),
        timesteps=ops.denoising.ddim_timesteps(
            config.diffusion_steps, config.sample_steps, config.spacing
        ),
        prediction=config.prediction,
        clip=config.clip,
    )
    return jnp.clip(found, -1.0, 1.0).astype(state.action.dtype)


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
    output = denoising.acting(state)(actions, step, observations)
    noise = _prediction(config).noise(output, actions, alpha_bar)
    return ops.diffusion.score_from_noise(noise, alpha_bar)


def _prediction(config: Config) -> ops.diffusion.Prediction:
    return ops.diffusion.PREDICTIONS[config.prediction]


def _ddpm(config: Config, *args: Any, **options: Any) -> jax.Array:
    del config
    return ops.denoising.sample_ddpm(*args, **options)


def _ddim(config: Config, *args: Any, **options: Any) -> jax.Array:
    return ops.denoising.sample_ddim(*args, eta=config.eta, **options)


def _deterministic(config: Config, *args: Any, **options: Any) -> jax.Array:
    del config
    return ops.denoising.sample_ddim(*args, eta=0.0, **options)


SAMPLERS: dict[str, Callable[..., jax.Array]] = {"ddim": _ddim, "ddpm": _ddpm}
