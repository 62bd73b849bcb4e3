"""BRAC: behaviour-regularised actor-critic (Wu, Tucker & Nachum 2019, arXiv 1911.11361).

    y       = r + gamma (1 - termination) (Qbar(s', a') - [v] alpha D(s')),   a' ~ pi(. | s')
    L_Q     = sum_i (Q_i(s, a) - y)^2
    L_pi    = alpha D(s) + eta log pi(a | s) - Q(s, a),   a ~ pi(. | s)
    L_beta  = - log beta(a | s) of the logged action
    L_alpha = - alpha (D(s) - target),   alpha in [0, alpha_max]; only where `adaptive`

Q is lambda min_i + (1 - lambda) max_i over critics. BRAC-v has the term [v] (`value_penalty`),
BRAC-p does not. The divergence D(s) of the policy from the behaviour policy is one of

- ``kl``: mean over samples of log pi(a | s) - log beta(a | s), a ~ pi. Primal, as is
- ``mmd``: squared maximum mean discrepancy of samples of pi and of beta.
- ``kl_dual``: the largest E_pi log h(s, a) - E_data h(s, a) + 1 with h = softplus(c(s, a)).
- ``wasserstein``: the largest E_pi c(s, a) - E_data c(s, a). Both are dual: a critic c is trained,
  with a penalty on slopes above `max_slope`, and no behaviour policy is needed.

Primal divergences need a behaviour policy beta. The authors train it beforehand, for 3e5 to 1e6
steps, and then keep it. Here it is part of the state: a network that takes one step of maximum
likelihood per batch (only in the first `behavior_steps`, if that is not 0). It has the first
`warmup_steps` to become useful: in these the policy ignores Q and follows the behaviour policy. The
value penalty also waits for the end of the warm-up: the first divergences are hundreds of nats, and
values that have learned them forget slowly. If the behaviour policy has not converged by then,
`behavior_progress` and `diagnose` say so: use a longer warm-up.

Other differences: D, Q and the step of alpha use the same drawn actions, where the authors draw new
ones for alpha; further steps of a dual critic see the same rows with new actions of the policy, not
new rows; widths are clipped to their range, not squashed; all networks have layers of 256, where
the authors' policies have 200 and their critics 300; the behaviour policy's likelihood has no
entropy term. `act` is the authors' "max-Q" policy; without noise, its draws are fixed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from ddm import networks, ops
from ddm.ops import convergence
from ddm.ops.kernels import KernelFn
from ddm.types import (
    TRANSITION_FIELDS,
    Batch,
    BatchSpec,
    Configuration,
    Metrics,
    PRNGKey,
    PyTree,
    check_batch,
    check_continuous_example,
    find_choice,
    leaf,
    static,
)

# Actions are moved this far inside their box before the behaviour policy's density is computed.
ACTION_MARGIN = 1e-3
# The behaviour policy has converged if its loss falls by at most this many nats in about 900
# updates.
SETTLED = 0.1

# (config, pi, beta, key) -> estimates (B,) at the observations of the two distributions.
PrimalFn = Callable[[Any, networks.TanhGaussian, networks.TanhGaussian, PRNGKey], jax.Array]


@dataclasses.dataclass(frozen=True)
class Dual:
    """A divergence that is the supremum over critics c(s, a) of the mean of `bound`."""

    # c (B,) at actions of the policy, c (B,) at the logged actions -> (B,)
    bound: Callable[[jax.Array, jax.Array], jax.Array]


DivergenceFn = PrimalFn | Dual


class Config(Configuration):
    """Hyper-parameters; defaults are those of the D4RL evaluations, whose batches have 256 rows."""

    # Adam's step size; the paper's grid is 3e-6 .. 3e-4
    actor_learning_rate: float = leaf(3e-5, "[0, inf)")
    critic_learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size
    # Adam's step size of the behaviour policy
    behavior_learning_rate: float = leaf(5e-4, "[0, inf)")
    # Adam's step size of a dual divergence's critic
    divergence_learning_rate: float = leaf(1e-3, "[0, inf)")
    # weight of the divergence; with `adaptive`, where it starts, at most `alpha_max`
    alpha: float = leaf(1.0, "[0, inf)")
    # that `adaptive` steers to, nats for KL; authors 0: alpha rises
    target_divergence: float = leaf(0.5, "(-inf, inf)")
    # Adam's step size of alpha; authors 1e-5, too slow to matter
    alpha_learning_rate: float = leaf(1e-3, "[0, inf)")
    alpha_max: float = leaf(500.0, "(0, inf)")  # ceiling of an adaptive alpha
    # eta, weight of the entropy in the policy's loss and in y
    entropy_weight: float = leaf(0.0, "[0, inf)")
    # lambda: share of the smallest Q_i in Q, against the largest
    minimum_weight: float = leaf(1.0, "[0, 1]")
    discount: float = leaf(0.99, "[0, 1]")  # gamma
    target_rate: float = leaf(0.005, "(0, 1]")  # tau of the moving average of the critic targets
    # first gradient steps, without Q in L_pi and without D in y
    warmup_steps: int = leaf(20_000, "[0, inf)")
    # gradient steps of the behaviour policy; 0: as many as there are
    behavior_steps: int = leaf(0, "[0, inf)")
    # of mmd's kernel; laplacian: half the authors' sigma of 20
    bandwidth: float = leaf(10.0, "(0, inf)")
    # weight of squared excess slopes of a dual's critic
    slope_penalty_weight: float = leaf(5.0, "[0, inf)")
    # slope of a dual's critic, in the action, that is not penalised
    max_slope: float = leaf(1.0, "[0, inf)")
    # floor of the log standard deviation of policy and behaviour
    log_std_min: float = leaf(-5.0, at_most="log_std_max")
    # ceiling of the log standard deviation of policy and behaviour
    log_std_max: float = leaf(2.0, "(-inf, inf)")
    value_penalty: bool = static(True)  # BRAC-v: the divergence is in the critic's target too
    divergence: str | DivergenceFn = static("kl")  # kl, mmd, kl_dual or wasserstein; or a function
    adaptive: bool = static(False)  # steer alpha so that the divergence is at its target
    kernel: str | KernelFn = static("laplacian")  # of mmd: laplacian or gaussian; or a function
    num_samples: int = static(4, "[1, inf)")  # actions for a primal divergence, of each policy
    # steps of a dual divergence's critic in each update
    divergence_steps: int = static(3, "[1, inf)")
    # actions among which `act` takes the best; 0: no such choice
    num_eval_samples: int = static(10, "[0, inf)")
    num_critics: int = static(2, "[1, inf)")  # members of the critic ensemble
    hidden_sizes: tuple[int, ...] = static((256, 256), "[1, inf)")  # relu layers of all networks
    layer_norm: bool = static(False)  # in the critics


class Behavior(struct.PyTreeNode):
    """The behaviour policy, and how far its training has converged."""

    policy: networks.Trainable
    fit: convergence.Convergence  # of its loss


class State(struct.PyTreeNode):
    """Everything that training changes."""

    actor: networks.Trainable
    behavior: Behavior | tuple[()]  # empty for dual divergences
    divergence_critic: networks.Trainable | tuple[()]  # empty for primal divergences
    critic: networks.Trainable
    critic_target_params: Any
    alpha: networks.Trainable  # its parameter is alpha, (); used with `adaptive`
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Transitions; with the next logged action where a dual divergence is in the target."""
    needs_next = config.value_penalty and isinstance(_divergence(config), Dual)
    return BatchSpec(fields=TRANSITION_FIELDS + ("next_actions",) * needs_next)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: integer actions, or images; an unknown divergence or kernel.
    """
    check_continuous_example(batch, batch_spec(config), "brac")
    _kernel(config)  # refuses an unknown one
    key, actor_key, behavior_key, dual_key, critic_key = jax.random.split(key, 5)
    observations, actions = batch.observations[:1], batch.actions[:1]
    policy = _policy_network(config, actions.shape[-1])
    fresh_policy = lambda key: policy.init(key, observations, *_log_std_bounds(config))  # noqa: E731
    behavior, divergence_critic = (), ()
    if isinstance(_divergence(config), Dual):
        divergence_params = _divergence_network(config).init(dual_key, observations, actions)
        divergence_critic = networks.trainable(
            divergence_params, optax.adam(config.divergence_learning_rate)
        )
    else:
        behavior = Behavior(
            networks.trainable(
                fresh_policy(behavior_key), optax.adam(config.behavior_learning_rate)
            ),
            convergence.start(),
        )
    critic_params = critic_network(config).init(critic_key, observations, actions)
    return State(
        actor=networks.trainable(fresh_policy(actor_key), optax.adam(config.actor_learning_rate)),
        behavior=behavior,
        divergence_critic=divergence_critic,
        critic=networks.trainable(critic_params, optax.adam(config.critic_learning_rate)),
        critic_target_params=jax.tree.map(jnp.copy, critic_params),
        alpha=networks.trainable(
            jnp.minimum(jnp.asarray(config.alpha, jnp.float32), config.alpha_max),
            optax.adam(config.alpha_learning_rate),
        ),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step of behaviour policy, critics, policy, the divergence's critic, alpha and targets.

    Metrics: ``critic_loss``; ``q_value``, mean Q(s, a) over members; ``actor_loss``;
    ``divergence``, mean over the batch; ``entropy``, the sample estimate -log pi; ``alpha``, before
    its step; ``value_weight``, 1 once the warm-up is over; ``reward_max``, the largest size of a
    reward in the batch. Primal divergences: ``behavior_loss``,
    in nats, and ``behavior_progress``, its fall over about the last 900 updates. Dual
    ones: ``slope_penalty``, the mean squared excess slope of the divergence's critic.
    """
    check_batch(batch, batch_spec(config), "brac")
    key, target_key, actor_key, divergence_key = jax.random.split(state.key, 4)
    state, behavior_metrics = _behavior_step(config, state, batch)
    targets = critic_targets(config, state, batch, target_key)

    def critic_loss(params: Any) -> tuple[jax.Array, Metrics]:
        values = critic_network(config).apply(params, batch.observations, batch.actions)
        loss = ops.squared_td_error(values, targets)
        return loss, {"critic_loss": loss, "q_value": jnp.mean(values)}

    critic, critic_metrics = networks.minimize(
        critic_loss, state.critic, optax.adam(config.critic_learning_rate)
    )
    state = state.replace(critic=critic)
    actor, actor_metrics = networks.minimize(
        lambda params: actor_loss(config, state, params, batch, actor_key),
        state.actor,
        optax.adam(config.actor_learning_rate),
    )
    weight = penalty_weight(config, state)
    state = state.replace(actor=actor)
    state, dual_metrics = _divergence_steps(config, state, batch, divergence_key)
    state = state.replace(
        critic_target_params=ops.polyak(
            state.critic_target_params, critic.params, config.target_rate
        ),
        alpha=alpha_step(config, state, actor_metrics["divergence"]),
        step=state.step + 1,
        key=key,
    )
    metrics = {**behavior_metrics, **critic_metrics, **actor_metrics, **dual_metrics}
    reward_max = ops.largest_reward(batch.rewards)
    others = {"alpha": jnp.asarray(weight, jnp.float32), "reward_max": reward_max}
    return state, {**metrics, **others}


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """The best by Q_1 of `num_eval_samples` actions of the policy, new ones or always the same.

    If `num_eval_samples` is 0: a sample, or tanh of the mean.
    """
    policy = policy_at(config, state.actor.params, observation)
    if config.num_eval_samples < 1:
        return (policy.mode() if deterministic else policy.sample(seed=key)), policy_state
    draw_key = jax.random.key(0) if deterministic else key
    actions = policy.sample(seed=draw_key, sample_shape=(config.num_eval_samples,))
    values = critic_network(config).apply(state.critic.params, observation[None], actions[None])
    return actions[jnp.argmax(values[0, 0])], policy_state


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences: the behaviour policy still learns, values run away, alpha is at a bound.

    Args:
      config: one lane's, with numbers.
      metrics: that lane's, means over an interval.
    """
    found = []
    improvement = metrics.get("behavior_progress", 0.0)
    if improvement > SETTLED and metrics.get("value_weight", 0.0) > 0.0:
        found.append(
            f"the behaviour policy has not converged: its loss fell by {improvement:.2f} nats over "
            "about the last 900 updates, and the policy is already held near it; raise "
            "warmup_steps, or behavior_steps if it is not 0"
        )
    alpha, divergence = metrics.get("alpha", 0.0), metrics.get("divergence", 0.0)
    bonus = abs(config.entropy_weight * metrics.get("entropy", 0.0))
    bonus += abs(alpha * divergence) if config.value_penalty else 0.0
    found += ops.values_beyond_rewards(config.discount, metrics, bonus=bonus)
    if not config.adaptive or "alpha" not in metrics:
        return found
    target = f"target_divergence={config.target_divergence:g}"
    return found + networks.dual_at_bound(
        "alpha",
        alpha,
        0.0,
        config.alpha_max,
        below=f"the divergence of {divergence:.3g} is below {target} without it, so nothing holds "
        "the policy near the data; lower target_divergence",
        above=f"the divergence of {divergence:.3g} stays above {target}, and values hardly count "
        "any more; raise target_divergence",
        margins=(config.alpha_learning_rate, 0.01 * config.alpha_max),
    )


# Divergences.


def kl(
    config: Config, policy: networks.TanhGaussian, behavior: networks.TanhGaussian, key: PRNGKey
) -> jax.Array:
    """KL(pi || beta) in nats, (B,), by `num_samples` actions of pi; may be below 0."""
    actions, log_probs = policy.sample_and_log_prob(seed=key, sample_shape=(config.num_samples,))
    return jnp.mean(log_probs - behavior.log_prob(_inside(actions)), axis=0)


def mmd(
    config: Config, policy: networks.TanhGaussian, behavior: networks.TanhGaussian, key: PRNGKey
) -> jax.Array:
    """Squared maximum mean discrepancy (B,) of `num_samples` actions of each."""
    policy_actions, behavior_actions = (
        jnp.moveaxis(each.sample(seed=seed, sample_shape=(config.num_samples,)), 0, 1)
        for each, seed in zip((policy, behavior), jax.random.split(key), strict=True)
    )
    return ops.kernels.squared_mmd(
        policy_actions, behavior_actions, _kernel(config), config.bandwidth
    )


DIVERGENCES: dict[str, DivergenceFn] = {
    "kl": kl,
    "mmd": mmd,
    "kl_dual": Dual(ops.divergences.kl_lower_bound),
    "wasserstein": Dual(ops.divergences.wasserstein_lower_bound),
}


def divergence_at(
    config: Config,
    state: State,
    policy: networks.TanhGaussian,
    observations: jax.Array,
    logged_actions: jax.Array,
    key: PRNGKey,
) -> jax.Array:
    """Estimates D(s), (B,), of a policy at observations (B, O).

    Args:
      config: says which divergence.
      state: with the behaviour policy, or with the critic of a dual divergence.
      policy: pi(. | s) at the observations, differentiable in its parameters.
      observations: (B, O).
      logged_actions: (B, A), read by dual divergences only.
      key: used once.
    """
    estimate = _divergence(config)
    if isinstance(estimate, Dual):
        assert isinstance(state.divergence_critic, networks.Trainable)
        params = state.divergence_critic.params
        actions = policy.sample(seed=key)
        return estimate.bound(
            _divergence_value(config, params, observations, actions),
            _divergence_value(config, params, observations, logged_actions),
        )
    assert isinstance(state.behavior, Behavior)
    behavior = policy_at(config, state.behavior.policy.params, observations)
    return estimate(config, policy, behavior, key)


# Pieces.


def policy_at(config: Config, params: Any, observations: jax.Array) -> networks.TanhGaussian:
    """The distribution pi(. | s), or beta(. | s), at observations (..., O)."""
    network = _policy_network(config, networks.output_size(params) // 2)
    return network.apply(params, observations, *_log_std_bounds(config))


def critic_network(config: Config) -> networks.ActionValue:
    """The ensemble of Q_i(s, a)."""
    return networks.ActionValue(config.hidden_sizes, config.num_critics, config.layer_norm)


def penalty_weight(config: Config, state: State) -> jax.Array | float:
    """Alpha: the learned value, or the configured one."""
    return state.alpha.params if config.adaptive else config.alpha


def value_weight(config: Config, state: State) -> jax.Array:
    """0 in the warm-up, then 1."""
    return (state.step >= config.warmup_steps).astype(jnp.float32)


def critic_targets(config: Config, state: State, batch: Batch, key: PRNGKey) -> jax.Array:
    """Targets y (B,)."""
    action_key, divergence_key = jax.random.split(key)
    policy = policy_at(config, state.actor.params, batch.next_observations)
    next_actions, log_probs = policy.sample_and_log_prob(seed=action_key)
    next_values = critic_network(config).apply(
        state.critic_target_params, batch.next_observations, next_actions
    )
    values = ops.mix_ensemble(next_values, config.minimum_weight)
    values = values - config.entropy_weight * log_probs
    if config.value_penalty:
        divergence = divergence_at(
            config, state, policy, batch.next_observations, batch.next_actions, divergence_key
        )
        values = values - value_weight(config, state) * penalty_weight(config, state) * divergence
    return ops.td_target(batch.rewards, config.discount, batch.terminations, values)


def actor_loss(
    config: Config, state: State, params: Any, batch: Batch, key: PRNGKey
) -> tuple[jax.Array, Metrics]:
    """Divergence, entropy and, once the warm-up is over, minus the value."""
    action_key, divergence_key = jax.random.split(key)
    policy = policy_at(config, params, batch.observations)
    actions, log_probs = policy.sample_and_log_prob(seed=action_key)
    values = critic_network(config).apply(state.critic.params, batch.observations, actions)
    divergence = divergence_at(
        config, state, policy, batch.observations, batch.actions, divergence_key
    )
    improves = value_weight(config, state)
    loss = jnp.mean(
        penalty_weight(config, state) * divergence
        + config.entropy_weight * log_probs
        - improves * ops.mix_ensemble(values, config.minimum_weight)
    )
    metrics = {
        "actor_loss": loss,
        "divergence": jnp.mean(divergence),
        "entropy": -jnp.mean(log_probs),
        "value_weight": improves,
    }
    return loss, metrics


def alpha_step(config: Config, state: State, divergence: jax.Array) -> networks.Trainable:
    """Alpha rises while the divergence is above its target: ascent, then back into bounds."""
    if not config.adaptive:
        return state.alpha
    gap = divergence - config.target_divergence
    optimizer = optax.adam(config.alpha_learning_rate)
    return networks.dual_step(-gap, state.alpha, optimizer, 0.0, config.alpha_max)


def _behavior_step(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """Maximum likelihood, until `behavior_steps`; nothing for a dual divergence."""
    if not isinstance(state.behavior, Behavior):
        return state, {}
    old = state.behavior

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        behavior = policy_at(config, params, batch.observations)
        loss = -jnp.mean(behavior.log_prob(_inside(batch.actions)))
        return loss, {"behavior_loss": loss}

    learns = (config.behavior_steps < 1) | (state.step < config.behavior_steps)
    rate = jnp.where(learns, config.behavior_learning_rate, 0.0)
    policy, metrics = networks.minimize(loss_fn, old.policy, optax.adam(rate))
    # Stopping a model's training does not make it converge: the tracker stops with it.
    fit = jax.tree.map(
        lambda now, before: jnp.where(learns, now, before),
        convergence.observe(old.fit, metrics["behavior_loss"]),
        old.fit,
    )
    metrics = {**metrics, "behavior_progress": convergence.progress(fit)}
    return state.replace(behavior=Behavior(policy, fit)), metrics


def _divergence_steps(
    config: Config, state: State, batch: Batch, key: PRNGKey
) -> tuple[State, Metrics]:
    """Steps of a dual divergence's critic against the new policy; nothing for a primal one."""
    estimate, critic = _divergence(config), state.divergence_critic
    if not isinstance(estimate, Dual) or not isinstance(critic, networks.Trainable):
        return state, {}
    bound = estimate.bound
    policy = policy_at(config, state.actor.params, batch.observations)

    def loss_fn(params: Any, key: PRNGKey) -> tuple[jax.Array, Metrics]:
        action_key, mix_key = jax.random.split(key)
        actions = policy.sample(seed=action_key)
        value = lambda actions: _divergence_value(config, params, batch.observations, actions)  # noqa: E731
        gain = jnp.mean(bound(value(actions), value(batch.actions)))
        shares = jax.random.uniform(mix_key, actions[:, :1].shape, actions.dtype)
        between = actions + shares * (batch.actions - actions)
        penalty = ops.divergences.slope_penalty(value, between, config.max_slope)
        return config.slope_penalty_weight * penalty - gain, {"slope_penalty": penalty}

    metrics: Metrics = {}
    optimizer = optax.adam(config.divergence_learning_rate)
    for step_key in jax.random.split(key, config.divergence_steps):
        critic, metrics = networks.minimize(
            lambda params, step_key=step_key: loss_fn(params, step_key), critic, optimizer
        )
    return state.replace(divergence_critic=critic), metrics


def _divergence(config: Config) -> DivergenceFn:
    if isinstance(config.divergence, Dual):
        return config.divergence
    return find_choice(config.divergence, DIVERGENCES, "divergence", "brac")


def _kernel(config: Config) -> KernelFn:
    return find_choice(config.kernel, ops.kernels.KERNELS, "kernel", "brac")


def _divergence_network(config: Config) -> networks.ActionValue:
    """c(s, a), as an ensemble of one."""
    return networks.ActionValue(config.hidden_sizes, 1)


def _divergence_value(
    config: Config, params: Any, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    return _divergence_network(config).apply(params, observations, actions)[0]


def _policy_network(config: Config, action_size: int) -> networks.TanhGaussianPolicy:
    return networks.TanhGaussianPolicy(config.hidden_sizes, action_size)


def _log_std_bounds(config: Config) -> tuple[jax.Array | float, jax.Array | float]:
    return config.log_std_min, config.log_std_max


def _inside(actions: jax.Array) -> jax.Array:
    return jnp.clip(actions, -1.0 + ACTION_MARGIN, 1.0 - ACTION_MARGIN)
