"""BRAC: behaviour-regularised actor-critic (Wu, Tucker & Nachum 2019, arXiv 1911.11361).

    y       = r + gamma (1 - termination) (Qbar(s', a') - [v] alpha D(s')),   a' ~ pi(. | s')
    L_Q     = sum_i (Q_i(s, a) - y)^2
    L_pi    = alpha D(s) + eta log pi(a | s) - Q(s, a),   a ~ pi(. | s)
    L_beta  = - log beta(a | s) of the logged action
    L_alpha = - alpha (D(s) - target),   alpha in [0, alpha_max]; only where `adaptive`

Q is lambda min_i + (1 - lambda) max_i over critics. BRAC-v has the term [v] (`value_penalty`),
BRAC-p does not. The divergence D(s) of the policy from the behaviour policy is ``kl``, ``mmd``,
``kl_dual`` or ``wasserstein``: see `parts/behavior_divergence.py`.

The first two need a behaviour policy beta. The authors train it beforehand, for 3e5 to 1e6 steps,
and then keep it. Here it takes one step of likelihood per batch (only in the first
`behavior_steps`, if that is not 0), beside the policy and the critics. In the first `warmup_steps`
it is not yet useful: the policy ignores Q and follows it, and the targets have no value penalty.
The first divergences are hundreds of nats, and values that have learned them forget slowly. If the
behaviour policy has not converged by then, `behavior_progress` and `diagnose` say so: use a longer
warm-up.

Other differences: D, Q and the step of alpha use the same drawn actions, where the authors draw new
ones for alpha; further steps of a dual critic see the same rows with new actions of the policy, not
new rows; widths are clipped to their range, not squashed; all networks have layers of 256, where
the authors' policies have 200 and their critics 300; the behaviour policy's likelihood has no
entropy term. `act` is the authors' "max-Q" policy; without noise, its draws are fixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks, ops
from ddm.policy_constraint.parts import behavior_divergence as divergences
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
    leaf,
    network,
    static,
)


class Config(divergences.Config):
    """Hyper-parameters; defaults are those of the D4RL evaluations, whose batches have 256 rows."""

    # Adam's step size; the paper's grid is 3e-6 .. 3e-4
    actor_learning_rate: float = leaf(3e-5, "[0, inf)")
    critic_learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size
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
    value_penalty: bool = static(True)  # BRAC-v: the divergence is in the critic's target too
    adaptive: bool = static(False)  # steer alpha so that the divergence is at its target
    # actions among which `act` takes the best; 0: no such choice
    num_eval_samples: int = static(10, "[0, inf)")
    num_critics: int = static(2, "[1, inf)")  # members of the critic ensemble
    layer_norm: bool = static(False)  # in the critics
    actor_network: NetworkFn | None = network()  # in place of :func:`actor_network`
    critic_network: NetworkFn | None = network()  # in place of :func:`critic_network`


class State(struct.PyTreeNode):
    """Everything that training changes."""

    actor: networks.Trainable
    behavior: divergences.Behavior | None  # None for dual divergences
    divergence_critic: networks.Trainable | None  # None for primal divergences
    critic: networks.Tracked
    alpha: networks.Trainable  # its parameter is alpha, (); used with `adaptive`
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Transitions; with the next logged action where a dual divergence is in the target."""
    needs_next = config.value_penalty and divergences.is_dual(config)
    return BatchSpec(fields=TRANSITION_FIELDS + ("next_actions",) * needs_next)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: integer actions, or images.
    """
    check_continuous_example(config, batch, batch_spec(config), "brac")
    key, actor_key, behavior_key, dual_key, critic_key = jax.random.split(key, 5)
    observations, actions = batch.observations[:1], batch.actions[:1]
    actor = (config.actor_network or actor_network)(config, actions.shape[-1])
    critic = (config.critic_network or critic_network)(config, actions.shape[-1])
    dual = divergences.is_dual(config)
    alpha = jnp.minimum(jnp.asarray(config.alpha, jnp.float32), config.alpha_max)
    return State(
        actor=networks.trainable(
            actor, actor.init(actor_key, observations, config.log_std_min, config.log_std_max)
        ),
        behavior=None if dual else divergences.init_behavior(config, behavior_key, batch),
        divergence_critic=divergences.init_critic(config, dual_key, batch) if dual else None,
        critic=networks.tracked(critic, critic.init(critic_key, observations, actions)),
        alpha=networks.trainable(None, alpha),
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
    metrics: dict[str, jax.Array] = {"reward_max": ops.largest_reward(batch.rewards)}
    if state.behavior is not None:
        behavior, found = divergences.behavior_step(config, state.behavior, state.step, batch)
        state, metrics = state.replace(behavior=behavior), {**metrics, **found}
    targets = critic_targets(config, state, batch, target_key)

    def critic_loss(params: Any) -> tuple[jax.Array, Metrics]:
        values = state.critic.apply(params, batch.observations, batch.actions)
        loss = ops.squared_td_error(values, targets)
        return loss, {"critic_loss": loss, "q_value": jnp.mean(values)}

    critic, found = networks.minimize(critic_loss, state.critic, config.critic_learning_rate)
    state, metrics = state.replace(critic=critic), {**metrics, **found}
    actor, found = networks.minimize(
        lambda params: actor_loss(config, state, params, batch, actor_key),
        state.actor,
        config.actor_learning_rate,
    )
    weight = jnp.asarray(penalty_weight(config, state), jnp.float32)
    state, metrics = state.replace(actor=actor), {**metrics, **found, "alpha": weight}
    if state.divergence_critic is not None:
        policy = actor(batch.observations, config.log_std_min, config.log_std_max)
        dual, found = divergences.critic_steps(
            config, state.divergence_critic, policy, batch, divergence_key
        )
        state, metrics = state.replace(divergence_critic=dual), {**metrics, **found}
    state = state.replace(
        critic=networks.follow(critic, config.target_rate),
        alpha=alpha_step(config, state, metrics["divergence"]),
        step=state.step + 1,
        key=key,
    )
    return state, metrics


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
    policy = state.actor(observation, config.log_std_min, config.log_std_max)
    if config.num_eval_samples < 1:
        return (policy.mode() if deterministic else policy.sample(seed=key)), policy_state
    draw_key = jax.random.key(0) if deterministic else key
    actions = policy.sample(seed=draw_key, sample_shape=(config.num_eval_samples,))
    values = state.critic(observation[None], actions[None])
    return actions[jnp.argmax(values[0, 0])], policy_state


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences: the behaviour policy still learns, values run away, alpha is at a bound.

    Args:
      config: one lane's, with numbers.
      metrics: that lane's, means over an interval.
    """
    found = divergences.diagnose(metrics)
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


def actor_network(config: Config, action_size: int) -> networks.Network:
    """The policy, called as :func:`behavior_divergence.behavior_network`."""
    return networks.TanhGaussianPolicy(config.hidden_sizes, action_size)


def critic_network(config: Config, action_size: int) -> networks.Network:
    """The ensemble of Q_i(s, a).

    Called with observations (B, *O) and actions (B, [M,] A); returns (E, B, [M]).
    """
    del action_size
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
    policy = state.actor(batch.next_observations, config.log_std_min, config.log_std_max)
    next_actions, log_probs = policy.sample_and_log_prob(seed=action_key)
    next_values = state.critic.target(batch.next_observations, next_actions)
    values = ops.mix_ensemble(next_values, config.minimum_weight)
    values = values - config.entropy_weight * log_probs
    if config.value_penalty:
        divergence = divergences.divergence_at(
            config, state, policy, batch.next_observations, batch.next_actions, divergence_key
        )
        values = values - value_weight(config, state) * penalty_weight(config, state) * divergence
    return ops.td_target(batch.rewards, config.discount, batch.terminations, values)


def actor_loss(
    config: Config, state: State, params: Any, batch: Batch, key: PRNGKey
) -> tuple[jax.Array, Metrics]:
    """Divergence, entropy and, once the warm-up is over, minus the value."""
    action_key, divergence_key = jax.random.split(key)
    policy = state.actor.apply(params, batch.observations, config.log_std_min, config.log_std_max)
    actions, log_probs = policy.sample_and_log_prob(seed=action_key)
    values = state.critic(batch.observations, actions)
    divergence = divergences.divergence_at(
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
    rate, bounds = config.alpha_learning_rate, (0.0, config.alpha_max)
    return networks.dual_step(-gap, state.alpha, rate, *bounds)
