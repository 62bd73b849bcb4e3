"""KL-control: batch Q-learning held near a prior, for dialogue (Jaques et al. 2019).

    maximise E sum_t gamma^t [ r_t - c KL(pi(. | s_t) || p(. | s_t)) ]

with p a policy that was trained before, such as a language model. The discrete policy is
pi = softmax Psi, and Psi starts from log p. With `form`

- psi (Psi-learning, G-learning):
    Psi(s, a) <- r/c + log p(a | s) + gamma (1 - termination) log sum_a' exp Psi'(s', a')
- q (Q-learning with the penalty in the reward), Q = c Psi:
    Q(s, a)   <- r + gamma (1 - termination) V'(s') + c (log p(a | s) - log pi(a | s))
    V' = max Q', Q'(argmax Q) (`backup` double), or c log sum exp (Q'/c) (logsumexp)

Psi' and Q' are moving averages. The loss is smooth L1. The networks hold
D(s, a) = c (Psi(s, a) - log p(a | s)), the gain of an action over what the prior gives it, in units
of the reward: pi ~ p exp(D / c), and form psi becomes

    D(s, a) <- r + gamma (1 - termination) c log sum_a' p(a' | s') exp (D'(s', a') / c)

So p may be a network or any function. Without rewards D = 0 and pi = p stay exact. At c = 0 form
psi is Q-learning (on the support of p), and form q is DQN (double DQN with that backup).

Form psi has the optimum of the objective as its fixed point. Form q counts the entropy twice, in
the reward and in the softmax: with the logsumexp backup its fixed point is
pi ~ p^(1/2) exp((r + gamma V) / 2c), flatter than p even without rewards.

The lower bound (`target_samples` M > 1) is the smallest of M backed-up values, each with
its own dropout mask in the target network; the penalty is added after it.

Conventions where paper and authors' code differ: the code adds log p - log pi also in Psi-learning,
leaves rewards undivided by c, and its `integral` penalty is KL(p || pi); here it is KL(pi || p).
Rewards are not changed; the authors standardise them. In the first `prior_steps` updates the prior
is fitted to the log by likelihood; :func:`with_prior` sets one that was trained elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from ddm import networks, ops
from ddm.errors import InputError
from ddm.policy_constraint.parts import discrete_prior, soft_policy
from ddm.types import (
    TRANSITION_FIELDS,
    Batch,
    BatchSpec,
    Metrics,
    PRNGKey,
    PyTree,
    check_batch,
    check_example,
    leaf,
    static,
)


class Config(soft_policy.Config, discrete_prior.Config):
    """Hyper-parameters; numbers without a remark are those of the authors' code."""

    learning_rate: float = leaf(1e-4, "[0, inf)")  # Adam's step size
    discount: float = leaf(0.99, "[0, 1]")  # gamma
    target_rate: float = leaf(0.005, "(0, 1]")  # tau of the moving average of the target network
    # each entry of the gradient is clipped to this size
    max_gradient: float = leaf(1.0, "(0, inf)")
    # M dropout masks of the lower bound; authors' best 5; 1: none
    target_samples: int = static(1, "[1, inf)")


class State(struct.PyTreeNode):
    """Everything that training changes."""

    critic: networks.Tracked  # D
    prior: networks.Trainable | None  # its output is log p up to a constant; None for a function
    step: jax.Array  # () int32, updates done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Transitions."""
    return BatchSpec(fields=TRANSITION_FIELDS, num_actions=config.num_actions)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`; D is 0, so the policy equals the prior.

    A user's own `critic_network` gives the D that it starts with.

    Raises:
      InputError: continuous actions, no `num_actions`, or choices that do not fit.
    """
    check_example(batch, batch_spec(config), "kl_control")
    discrete_prior.check(config, batch, "kl_control")
    if config.target_samples > 1 and config.dropout_rate <= 0.0:
        raise InputError(
            f"kl_control: target_samples is {config.target_samples}, which are dropout masks, "
            "and dropout_rate is 0; expected a rate above 0"
        )
    key, critic_key, prior_key = jax.random.split(key, 3)
    return State(
        critic=discrete_prior.init_critic(config, critic_key, batch, clipped_adam),
        prior=discrete_prior.init_prior(config, prior_key, batch),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step: of the prior, while it is fitted, then of D and its target.

    Metrics: ``prior_log_prob``, mean log p of the logged actions; ``reward_max``, the largest size
    of a reward in the batch; and, 0 while the prior is fitted, ``critic_loss``, ``q_value``, mean D
    of the logged actions, and ``kl``, mean KL(pi || p) at the logged states in nats.
    """
    check_batch(batch, batch_spec(config), "kl_control")
    key, prior_key, learn_key = jax.random.split(state.key, 3)
    fits = discrete_prior.is_fitted(config, state)
    if state.prior is not None:
        prior, critic = ops.cond_if_any(
            fits, discrete_prior.fit, discrete_prior.keep, config, state, batch, prior_key
        )
        state = state.replace(prior=prior, critic=critic)
    critic, metrics = ops.cond_if_any(~fits, _learn, _keep, config, state, batch, learn_key)
    metrics = {**metrics, "reward_max": ops.largest_reward(batch.rewards)}
    return state.replace(critic=critic, step=state.step + 1, key=key), metrics


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """A sample of the policy, or the first of its likeliest actions; always greedy at c = 0."""
    logits = log_policy(config, state, observation)
    action = jnp.argmax(logits) if deterministic else jax.random.categorical(key, logits)
    return action.astype(jnp.int32), policy_state


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """A sentence if values exceed what rewards and discount allow.

    For form psi only: it backs up a mean of later values, whatever the prior. The penalty of form q
    has no bound.
    """
    return ops.values_beyond_rewards(config.discount, metrics) if config.form == "psi" else []


def with_prior(config: Config, state: State, params: Any) -> State:
    """The state with a prior that was trained elsewhere; the policy starts from it.

    Args:
      config: with `prior` "learned"; set `prior_steps` to 0 to keep the given prior.
      state: of :func:`init`.
      params: of the network in `state.prior`, for example of another run of this module, or
        of `ddm.imitation.bc` with head "categorical" (network "mlp", observations vectors).

    Raises:
      InputError: the prior is a function, or the parameters are of another network.
    """
    if state.prior is None:
        raise InputError("kl_control: with_prior needs prior=learned; the prior is a function")
    prior = discrete_prior.with_params(state.prior, params, "kl_control")
    critic = discrete_prior.start_from(config, prior, state.critic)
    return state.replace(prior=prior, critic=critic)


def log_prior(config: Config, state: State, observations: jax.Array) -> jax.Array:
    """Log p (..., K) at observations (..., O), normalised."""
    return discrete_prior.log_prior(config, state.prior, observations)


def log_policy(config: Config, state: State, observations: jax.Array) -> jax.Array:
    """Log pi (..., K) at observations (..., O); at c = 0 of the greedy policy."""
    log_priors, gains = log_prior(config, state, observations), state.critic(observations)
    return soft_policy.log_policy(config, log_priors, gains)


def log_prob(
    config: Config, state: State, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    """Log-probability (B,) of actions."""
    return ops.of_actions(log_policy(config, state, observations), actions)


def state_values(config: Config, state: State, observations: jax.Array) -> jax.Array:
    """The learner's estimate of the objective (...,): reward minus c times the divergence."""
    log_priors, gains = log_prior(config, state, observations), state.critic(observations)
    return soft_policy.backed_up_value(config, log_priors, gains, gains)


# Pieces.


def clipped_adam(
    learning_rate: Any, max_gradient: Any = float("inf")
) -> optax.GradientTransformation:
    """Adam on gradients whose entries are clipped to a size."""
    return optax.chain(optax.clip(max_gradient), optax.adam(learning_rate))


def critic_targets(config: Config, state: State, batch: Batch, key: PRNGKey) -> jax.Array:
    """Targets (B,) of D at the logged actions."""
    observations, critic = batch.next_observations, state.critic
    log_priors, online = log_prior(config, state, observations), critic(observations)

    def backed_up(key: PRNGKey | None) -> jax.Array:
        gains = discrete_prior.scores(config, critic, critic.target_params, observations, key)
        return soft_policy.backed_up_value(config, log_priors, gains, online)

    if config.target_samples > 1:
        keys = jax.random.split(key, config.target_samples)
        next_values = jnp.min(jax.vmap(backed_up)(keys), axis=0)
    else:
        next_values = backed_up(None)
    rewards = batch.rewards
    if config.form == "q":
        now = log_prior(config, state, batch.observations), critic(batch.observations)
        rewards = rewards + soft_policy.penalty(config, *now, batch.actions)
    return ops.td_target(rewards, config.discount, batch.terminations, next_values)


def _learn(
    config: Config, state: State, batch: Batch, key: PRNGKey
) -> tuple[networks.Tracked, Metrics]:
    """One step of D towards its targets, and of the moving average."""
    target_key, dropout_key = jax.random.split(key)
    targets = critic_targets(config, state, batch, target_key)
    log_priors = log_prior(config, state, batch.observations)

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        gains = discrete_prior.scores(config, state.critic, params, batch.observations, dropout_key)
        values = ops.of_actions(gains, batch.actions)
        loss = jnp.mean(optax.huber_loss(values, targets))
        divergence = jnp.mean(soft_policy.divergence(config, log_priors, gains))
        return loss, {"critic_loss": loss, "q_value": jnp.mean(values), "kl": divergence}

    critic, metrics = networks.minimize(
        loss_fn, state.critic, config.learning_rate, config.max_gradient
    )
    likelihood = jnp.mean(ops.of_actions(log_priors, batch.actions))
    return networks.follow(critic, config.target_rate), {**metrics, "prior_log_prob": likelihood}


def _keep(
    config: Config, state: State, batch: Batch, key: PRNGKey
) -> tuple[networks.Tracked, Metrics]:
    """D as it is, and its metrics."""
    del key
    zeros = dict.fromkeys(("critic_loss", "q_value", "kl"), jnp.zeros((), jnp.float32))
    log_priors = log_prior(config, state, batch.observations)
    likelihood = jnp.mean(ops.of_actions(log_priors, batch.actions))
    return state.critic, {**zeros, "prior_log_prob": likelihood}
