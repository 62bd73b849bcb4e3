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

# The denoisers can tell levels apart that differ by about one: as many levels as in diffusion.
LEVELS_PER_TIME = 100.0


class Config(Configuration):
    """Hyper-parameters; defaults are those of the diffusion policy's small preset."""

    learning_rate: float = leaf(3e-4, "[0, inf)")  # AdamW's step size
    # gradient steps over which a cosine takes the step size to 0; 0: constant
    decay_steps: int = leaf(0, "[0, inf)")
    weight_decay: float = leaf(1e-6, "[0, inf)")  # decoupled weight decay (AdamW); Chi et al. 2023
    # the acting average spans about n^power of n updates; Chi et al.
    ema_power: float = leaf(0.75, "[0, inf)")
    ema_max: float = leaf(0.9999, "[0, 1]")  # ceiling of the average's decay; Chi et al.
    denoiser: str = static("mlp")  # mlp, unet or transformer
    encoder: str = static("none")  # none: observations are vectors; conv: images
    observation_steps: int = static(2, "[1, inf)")  # frames To that the policy sees
    # actions Tp that are predicted, from the current step on
    chunk_size: int = static(8, "[1, inf)")
    # actions executed before a new chunk is drawn; Chi et al.: half
    execute_steps: int = static(4, "[1, inf)", at_most="chunk_size")
    # Where training looks: uniform (Lipman et al.), beta (near noise; Black et al.) or logit_normal
    time_distribution: str = static("uniform")
    solver: str = static("euler")  # euler, or midpoint, which evaluates the network twice a step
    # equal steps of the solver; Black et al.: 10 of euler
    sample_steps: int = static(10, "[1, inf)")
    hidden_sizes: tuple[int, ...] = static((256, 256, 256), "[1, inf)")  # mish layers of the mlp
    layer_norm: bool = static(True)  # in the mlp, before each activation; without, it learns slowly
    residual: bool = static(False)  # mlp of residual branches; layers of one size
    # channels of each level of the unet
    unet_widths: tuple[int, ...] = static((64, 128, 256), "[1, inf)")
    num_layers: int = static(8, "[1, inf)")  # of the transformer; Chi et al.: 8
    width: int = static(256, "[1, inf)")  # of the transformer's tokens; Chi et al.: 256
    num_heads: int = static(4, "[1, inf)")  # of the transformer; Chi et al.: 4
    # The transformer's actions do not see later ones (Chi et al.), so a chunk's may disagree.
    causal: bool = static(False)
    dropout_rate: float = static(0.0, "[0, 1)")  # in mlp and transformer


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
    params = _network(config).init(
        params_key, chunks[:1], jnp.zeros(1, jnp.float32), observations[:1]
    )
    return State(
        policy=networks.trainable(params, _optimizer(config, 0)),
        average=jax.tree.map(jnp.copy, params),
        observation=jnp.zeros_like(observations[0, 0]),
        action=jnp.zeros_like(chunks[0, 0]),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One gradient step on the error of the velocity, and one of the average.

    Metrics: ``loss``, the mean squared error of the velocity over valid places. Its optimum is not
    0 but the variance of the paths that cross, and it says little about how well the policy acts.
    """
    _check(config, batch)
    observations, chunks, mask = _split(config, batch)
    key, time_key, noise_key, dropout_key = jax.random.split(state.key, 4)
    times = ops.diffusion.TIMES[config.time_distribution](time_key, chunks.shape[:1])
    noise = jax.random.normal(noise_key, chunks.shape, chunks.dtype)
    noisy = ops.diffusion.interpolate(noise, chunks, times)
    targets = ops.diffusion.target_velocity(noise, chunks)

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        velocities = _network(config).apply(
            params,
            noisy,
            LEVELS_PER_TIME * times,
            observations,
            deterministic=config.dropout_rate == 0.0,
            rngs={"dropout": dropout_key},
        )
        loss = ops.diffusion.masked_squared_error(velocities, targets, mask)
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

    The policy state is that of :func:`initial_policy_state`: frames and plan. `deterministic`
    changes nothing: the noise at the start of a chunk is drawn in any case.
    """
    del deterministic
    frames, plan = policy_state
    frames = ops.plans.push(frames, observation)

    def chunk(config: Config, params: Any, action: Any, frames: Any, key: PRNGKey) -> jax.Array:
        return _sample(config, params, action, frames[None], key)[0]

    operands = (config, state.average, state.action, frames.observations, key)
    action, plan = ops.plans.next_action(plan, config.execute_steps, chunk, *operands)
    return action, (frames, plan)


def sample(config: Config, state: State, observations: jax.Array, key: PRNGKey) -> jax.Array:
    """Chunks (B, Tp, A) in the box for frames (B, To, *O), all in one call of the network."""
    return _sample(config, state.average, state.action, observations, key)


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
    velocity = _velocity(config, state.average, observations)
    return ops.diffusion.log_density(velocity, actions, num_steps)


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
    velocity = _velocity(config, state.average, observations)(actions, time)
    return ops.diffusion.score_from_velocity(velocity, actions, time)


def _sample(
    config: Config, params: Any, action: jax.Array, observations: jax.Array, key: PRNGKey
) -> jax.Array:
    shape = (observations.shape[0], config.chunk_size, *action.shape)
    noise = jax.random.normal(key, shape, jnp.float32)
    velocity = _velocity(config, params, observations)
    chunks = ops.diffusion.integrate(velocity, noise, config.sample_steps, config.solver)
    return jnp.clip(chunks, -1.0, 1.0).astype(action.dtype)


def _velocity(config: Config, params: Any, observations: jax.Array) -> Any:
    """The field (places (B, Tp, A), time ()) -> (B, Tp, A) at given frames, encoded once."""
    network = _network(config)
    features = network.apply(params, observations, method="encode")

    def velocity(noisy: jax.Array, time: jax.Array) -> jax.Array:
        return network.apply(params, noisy, LEVELS_PER_TIME * time, features, method="denoise")

    return velocity


def _check(config: Config, batch: Batch) -> None:
    name = "flow_matching"
    check_batch(batch, batch_spec(config), name)
    check_continuous(batch, name)
    networks.check_encoder(config.encoder, batch.observations.shape[2:], name)
    tables = {"time_distribution": ops.diffusion.TIMES, "solver": ops.diffusion.SOLVERS}
    for field, table in tables.items():
        if (value := getattr(config, field)) not in table:
            raise InputError(
                f"{name}: {field}={value} is unknown; choose one of {', '.join(table)}"
            )


def _split(config: Config, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    return networks.split_window(
        batch, config.observation_steps, config.chunk_size, "flow_matching"
    )


def _network(config: Config) -> networks.Denoiser:
    return networks.denoiser(config, "flow_matching")


def _optimizer(config: Config, step: jax.Array | int) -> optax.GradientTransformation:
    rate = ops.cosine_decay(config.learning_rate, step, config.decay_steps)
    return optax.adamw(rate, weight_decay=config.weight_decay)
