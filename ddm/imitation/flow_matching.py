"""Flow-matching policy: chunks of actions by following a velocity field from noise.

With A a chunk of logged actions, o the last frames, t ~ U[0, 1] and eps ~ N(0, I), a network learns
the velocity of the straight path from noise to data (Lipman et al. 2023, arXiv 2210.02747; Liu et
al. 2023, arXiv 2209.03003; as a policy: Black et al. 2024, arXiv 2410.24164):

    A_t = t A + (1 - t) eps
    L(theta) = E || v_theta(A_t, t, o) - (A - eps) ||^2

Its optimum E[A - eps | A_t, o] transports N(0, I) to the demonstrator's density. To act, the
equation dA/dt = v(A, t, o) is solved from t = 0 to 1, by 10 Euler steps or fewer steps of higher
order. A single Euler step returns the conditional mean, the average of the modes.

Frames, chunks, the average of the parameters and the networks are those of the diffusion policy
(Chi et al. 2023). Only the start of a chunk is random, and the deterministic form is the same,
since the noise chooses the mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddm import ops
from ddm.imitation.parts import chunks, denoising
from ddm.types import Batch, Metrics, PRNGKey, PyTree, choice, static

# The denoisers can tell levels apart that differ by about one: as many levels as in diffusion.
LEVELS_PER_TIME = 100.0


class Config(denoising.Config):
    """Hyper-parameters; defaults are those of the diffusion policy's small preset."""

    # Where training looks: uniform (Lipman et al.), beta (near noise; Black et al.) or logit_normal
    time_distribution: str = choice(ops.flows.TIMES, "uniform")
    # euler, or midpoint, which evaluates the network twice per step
    solver: str = choice(ops.flows.SOLVERS, "euler")
    # equal steps of the solver; Black et al.: 10 of euler
    sample_steps: int = static(10, "[1, inf)")


State = denoising.State
batch_spec = chunks.batch_spec
initial_policy_state = chunks.initial_policy_state
denoiser_network = denoising.denoiser_network


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh policy for observations and actions of the shapes in `batch`.

    Raises:
      InputError: discrete actions, or sizes that do not fit each other.
    """
    return denoising.init(config, key, chunks.example(config, batch, "flow_matching"))


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One gradient step on the error of the velocity, and one of the average.

    Metrics: ``loss``, the mean squared error of the velocity over valid places. Its optimum is not
    0 but the variance of the paths that cross, and it says little about how well the policy acts.
    """
    window = chunks.split(config, batch, "flow_matching")
    clean, rows = window.actions, window.actions.shape[:1]
    key, time_key, noise_key, dropout_key = jax.random.split(state.key, 4)
    times = ops.flows.TIMES[config.time_distribution](time_key, rows)
    noise = jax.random.normal(noise_key, clean.shape, clean.dtype)
    noisy = ops.flows.interpolate(noise, clean, times)
    targets = ops.flows.target_velocity(noise, clean)

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        velocities = state.policy.apply(
            params,
            noisy,
            LEVELS_PER_TIME * times,
            window.frames,
            deterministic=config.dropout_rate == 0.0,
            rngs={"dropout": dropout_key},
        )
        loss = ops.diffusion.masked_squared_error(velocities, targets, window.mask)
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

    The policy state is a `chunks.Memory`; the empty tuple begins an episode. `deterministic`
    changes nothing: the noise at the start of a chunk is drawn in any case.
    """
    del deterministic

    def chunk(config: Config, state: State, frames: jax.Array, key: PRNGKey) -> jax.Array:
        return sample(config, state, frames[None], key)[0]

    return chunks.play(config, state, observation, policy_state, chunk, key)


def sample(config: Config, state: State, observations: jax.Array, key: PRNGKey) -> jax.Array:
    """Chunks (B, Tp, A) in the box for frames (B, To, *O), all in one call of the network."""
    shape = (observations.shape[0], config.chunk_size, *state.action.shape)
    noise = jax.random.normal(key, shape, jnp.float32)
    velocity = _velocity(state, observations)
    found = ops.flows.integrate(velocity, noise, config.sample_steps, config.solver)
    return jnp.clip(found, -1.0, 1.0).astype(state.action.dtype)


def log_prob(
    config: Config,
    state: State,
    observations: jax.Array,
    actions: jax.Array,
    *,
    num_steps: int = 50,
) -> jax.Array:
    """Log-density of chunks under the flow, before the clipping to the box.

    It uses the exact divergence: Tp * A directional derivatives at each of 2 * `num_steps` places
    of the path. This is meant for chunks of few numbers.

    Args:
      config: of the policy.
      state: of the policy.
      observations: (B, To, *O) frames.
      actions: (B, Tp, A) chunks.
      num_steps: midpoint steps of the way back to the noise; the solver for acting is not used.

    Returns:
      (B,) in nats.
    """
    velocity = _velocity(state, observations)
    del config
    return ops.flows.log_density(velocity, actions, num_steps)


def score(
    config: Config,
    state: State,
    observations: jax.Array,
    actions: jax.Array,
    time: jax.Array | float,
) -> jax.Array:
    """The score grad log p_t(A_t | o) at a time below 1; near 1 it is nearly the demonstrator's.

    Args:
      config: of the policy.
      state: of the policy.
      observations: (B, To, *O) frames.
      actions: (B, Tp, A) places A_t.
      time: (), share of the data in A_t.

    Returns:
      (B, Tp, A), one over the unit of actions.
    """
    time = jnp.asarray(time, actions.dtype)
    velocity = _velocity(state, observations)(actions, time)
    return ops.flows.score_from_velocity(velocity, actions, time)


def _velocity(state: State, observations: jax.Array) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The field (places (B, Tp, A), time ()) -> (B, Tp, A) at given frames, encoded once."""
    denoiser = denoising.acting(state)
    features = denoiser(observations, method="encode")

    def velocity(noisy: jax.Array, time: jax.Array) -> jax.Array:
        return denoiser(noisy, LEVELS_PER_TIME * time, features, method="denoise")

    return velocity
