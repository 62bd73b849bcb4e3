"""BEAR: bootstrapping error accumulation reduction (Kumar et al. 2019, arXiv 1906.00949).

    y       = r + gamma (1 - termination) max_m [lambda min_i + (1 - lambda) max_i] Qbar_i(s', a_m)
    L_Q     = sum_i (Q_i(s, a) - y)^2
    L_pi    = - min_i Q_i(s, tanh u_1) + alpha (MMD({u_n}, {b_n}) - epsilon)
    L_alpha = - alpha (MMD({u_n}, {b_n}) - epsilon),   alpha in [exp(-5), exp(10)]
    act     = argmax_m Q_1(s, a_m),   a_m ~ pi(. | s)

with a_m ~ pi(. | s') in the target, u_n ~ pi(. | s) and b_n of a behaviour model, both before their
tanh, where gradients do not vanish. The policy may choose any action that the data supports, not
only where the data is dense: with few samples and a bandwidth that is large compared with the
actions, the maximum mean discrepancy says little about densities and much about supports (section
5.2 and appendix).

MMD is the root of (the mean over all pairs + 1e-6), where pairs of a sample with itself count too.
So two samples of 4 from the same wide distribution are already far apart (0.1 for uniform actions
and the defaults). If epsilon is below that, alpha grows to its bound. Watch ``mmd`` and
``log_alpha``; `diagnose` does.

The form is that of rail-berkeley/d4rl_evaluations: the behaviour model steps first; then all
losses see the same critics, policy and alpha; in the first `warmup_steps` the policy only imitates;
the target's actions are those of the policy itself. The code of BEAR's authors
(aviralkumar2907/BEAR) also subtracts the ensemble's deviation from its value: this is
`deviation_weight`, 1.2 there. Without noise, `act` draws its actions from a fixed key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks, ops
from ddm.ops import convergence
from ddm.ops.kernels import KernelFn
from ddm.policy_constraint.parts import generative
from ddm.types import (
    TRANSITION_FIELDS,
    Batch,
    BatchSpec,
    Metrics,
    NetworkFn,
    PRNGKey,
    PyTree,
    check_batch,
    check_continuous_example,
    choice,
    chosen,
    leaf,
    network,
    static,
)

# One value (B,) from an ensemble (E, B); the policy is improved by it.
ValueFn = Callable[[jax.Array], jax.Array]
VALUES: dict[str, ValueFn] = {
    "minimum": lambda values: jnp.min(values, axis=0),
    "mean": lambda values: jnp.mean(values, axis=0),
}


class Config(generative.Config):
    """Hyper-parameters; defaults are those of the D4RL evaluations, whose batches have 256 rows."""

    actor_learning_rate: float = leaf(1e-4, "[0, inf)")  # Adam's step size
    critic_learning_rate: float = leaf(3e-4, "[0, inf)")  # Adam's step size
    vae_learning_rate: float = leaf(3e-4, "[0, inf)")  # Adam's step size of the behaviour model
    # Adam's step size of log alpha; 0 fixes alpha at 1
    alpha_learning_rate: float = leaf(1e-3, "[0, inf)")
    epsilon: float = leaf(0.05, "[0, inf)")  # MMD that alpha steers to; authors: 0.05 to 0.07
    # sigma of the kernel, before the tanh; authors: 20, or 50 for large
    bandwidth: float = leaf(20.0, "(0, inf)")
    log_alpha_min: float = leaf(-5.0, at_most="log_alpha_max")  # floor of log alpha
    log_alpha_max: float = leaf(10.0, "(-inf, inf)")  # ceiling of log alpha
    # first gradient steps, in which the policy ignores its values
    warmup_steps: int = leaf(40_000, "[0, inf)")
    # standard deviations of the ensemble taken off its value
    deviation_weight: float = leaf(0.0, "[0, inf)")
    # floor of the policy's log standard deviation
    log_std_min: float = leaf(-5.0, at_most="log_std_max")
    log_std_max: float = leaf(2.0, "(-inf, inf)")  # ceiling of the policy's log standard deviation
    kernel: str | KernelFn = choice(ops.kernels.KERNELS, "laplacian")  # or a function
    values: str | ValueFn = choice(VALUES, "minimum")  # of the critics; or a function
    # actions from policy and model each; paper: 4 to 10
    num_mmd_samples: int = static(4, "[1, inf)")
    # relu layers of policy and critics
    hidden_sizes: tuple[int, ...] = static((256, 256), "[1, inf)")
    actor_network: NetworkFn | None = network()  # in place of :func:`actor_network`


class State(struct.PyTreeNode):
    """Everything that training changes."""

    vae: networks.Trainable
    vae_tracker: convergence.Convergence
    actor: networks.Trainable
    critic: networks.Tracked
    alpha: networks.Trainable  # its parameter is log alpha, ()
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Transitions."""
    del config
    return BatchSpec(fields=TRANSITION_FIELDS)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: integer actions, or images.
    """
    check_continuous_example(config, batch, batch_spec(config), "bear")
    key, vae_key, actor_key, critic_key = jax.random.split(key, 4)
    actor = (config.actor_network or actor_network)(config, batch.actions.shape[-1])
    bounds = config.log_std_min, config.log_std_max
    return State(
        vae=generative.init_vae(config, vae_key, batch),
        vae_tracker=convergence.start(),
        actor=networks.trainable(actor, actor.init(actor_key, batch.observations[:1], *bounds)),
        critic=generative.init_critic(config, critic_key, batch),
        alpha=networks.trainable(None, jnp.zeros((), jnp.float32)),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step of behaviour model, critics, policy, dual variable and targets.

    Metrics: ``vae_loss``; ``vae_progress``, the share of it that about the last 900 updates took
    off; ``critic_loss``; ``q_value``, mean Q(s, a) over members; ``reward_max``, the largest size
    of a reward in the batch; ``actor_loss``; ``mmd``, mean over the batch; ``log_alpha``, after the
    step.
    """
    check_batch(batch, batch_spec(config), "bear")
    key, vae_key, target_key, actor_key = jax.random.split(state.key, 4)
    vae, tracker, vae_metrics = generative.vae_step(
        config, state.vae, state.vae_tracker, batch, vae_key
    )
    state = state.replace(vae=vae, vae_tracker=tracker)
    policy = state.actor(batch.next_observations, config.log_std_min, config.log_std_max)
    next_actions = policy.sample(seed=target_key, sample_shape=(config.num_target_samples,))
    next_values = state.critic.target(batch.next_observations, jnp.moveaxis(next_actions, 0, 1))
    targets = ops.td_target(
        batch.rewards,
        config.discount,
        batch.terminations,
        generative.best_value(config, next_values),
    )

    def critic_loss(params: Any) -> tuple[jax.Array, Metrics]:
        values = state.critic.apply(params, batch.observations, batch.actions)
        loss = ops.squared_td_error(values, targets)
        return loss, {"critic_loss": loss, "q_value": jnp.mean(values)}

    actor, actor_metrics = networks.minimize(
        lambda params: actor_loss(config, state, params, batch, actor_key),
        state.actor,
        config.actor_learning_rate,
    )
    alpha = alpha_step(config, state.alpha, actor_metrics["mmd"])
    critic, critic_metrics = networks.minimize(
        critic_loss, state.critic, config.critic_learning_rate
    )
    state = state.replace(
        actor=actor,
        critic=networks.follow(critic, config.target_rate),
        alpha=alpha,
        step=state.step + 1,
        key=key,
    )
    metrics = {**vae_metrics, **critic_metrics, **actor_metrics, "log_alpha": alpha.params}
    return state, {**metrics, "reward_max": ops.largest_reward(batch.rewards)}


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """The best by Q_1 of `num_eval_samples` actions of the policy, new ones or always the same."""
    policy = state.actor(observation, config.log_std_min, config.log_std_max)
    key = generative.candidate_key(key, deterministic)
    actions = policy.sample(seed=key, sample_shape=(config.num_eval_samples,))
    return generative.choose(state.critic, observation, actions), policy_state


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences: the behaviour model still learns, values run away, alpha is at a bound."""
    found = generative.diagnose(metrics)
    found += ops.values_beyond_rewards(config.discount, metrics)
    if "log_alpha" not in metrics:
        return found
    mmd = f"the MMD of {metrics.get('mmd', float('nan')):.3f} "
    return found + networks.dual_at_bound(
        "log_alpha",
        metrics["log_alpha"],
        config.log_alpha_min,
        config.log_alpha_max,
        below=f"{mmd}is below epsilon={config.epsilon:g}, so nothing holds the policy near the "
        "data; lower epsilon",
        above=f"{mmd}stays above epsilon={config.epsilon:g}, and values hardly count any more; "
        "raise epsilon",
        margins=(0.01, 0.01),
    )


def actor_loss(
    config: Config, state: State, params: Any, batch: Batch, key: PRNGKey
) -> tuple[jax.Array, Metrics]:
    """Minus the value, once the warm-up is over, and the weighted distance to the data."""
    policy_key, proposal_key = jax.random.split(key)
    policy = state.actor.apply(params, batch.observations, config.log_std_min, config.log_std_max)
    raw = policy.sample_raw(seed=policy_key, sample_shape=(config.num_mmd_samples,))
    features = generative.repeated_features(state.vae, batch.observations, config.num_mmd_samples)
    logged = generative.propose(config, state.vae, features, proposal_key)
    mmd = ops.kernels.mmd(
        jnp.moveaxis(raw, 0, 1), logged, chosen(config, "kernel"), config.bandwidth
    )
    mmd = jnp.mean(mmd)
    values = state.critic(batch.observations, jnp.tanh(raw[0]))
    value = chosen(config, "values")(values)
    # The variance of equal critics is 0, where its root has no gradient.
    deviation = jnp.sqrt(jnp.var(values, axis=0) + 1e-12)
    merit = jnp.mean(value - config.deviation_weight * deviation)
    improves = (state.step >= config.warmup_steps).astype(jnp.float32)
    loss = jnp.exp(state.alpha.params) * (mmd - config.epsilon) - improves * merit
    return loss, {"actor_loss": loss, "mmd": mmd}


def alpha_step(config: Config, alpha: networks.Trainable, mmd: jax.Array) -> networks.Trainable:
    """Alpha rises while the MMD is above epsilon: ascent on alpha (MMD - epsilon)."""
    gradient = -jnp.exp(alpha.params) * (mmd - config.epsilon)
    bounds = config.log_alpha_min, config.log_alpha_max
    return networks.dual_step(gradient, alpha, config.alpha_learning_rate, *bounds)


def actor_network(config: Config, action_size: int) -> networks.Network:
    """The policy.

    Called with observations (..., *O), and the floor and the ceiling of the log standard
    deviations; returns a `networks.TanhGaussian`.
    """
    return networks.TanhGaussianPolicy(config.hidden_sizes, action_size)
