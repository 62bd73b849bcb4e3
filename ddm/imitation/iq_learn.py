"""IQ-Learn: inverse soft Q-learning (Garg et al. 2021, arXiv 2106.12142).

A soft Q-function says both the policy, pi = softmax(Q / alpha) or a SAC actor, and the reward that
it is optimal for:

    r(s, a) = Q(s, a) - gamma (1 - termination) V(s')
    max_Q   E_E[phi(r)] - J_V - 1 / (4 c) E[r^2]                              (eq. 9 and 10)

phi belongs to a divergence, see :mod:`ddm.ops.matching`. The quadratic term is the chi-square
divergence; without it values have no bound, so `chi2_on` takes it at demonstrated rows (``expert``,
"chi" in the authors' code), or at demonstrated and own ones (``all``, "regularize"). J_V is the
return of the policy under r, by telescoping (`loss`):

    value_expert:  E_E[V(s) - gamma V(s')]      demonstrated rows only
    value:         the same over demonstrated and own rows, half each
    v0:            (1 - gamma) E_E[V(s)]        the demonstrated states stand for initial ones

Offline it learns from demonstrations alone. With chi2 and value_expert the loss is then

    E_E[V(s) - Q(s, a)] + 1 / (4 c) E_E[r^2]:

alpha times the negative log-likelihood of the demonstrated actions, and a regulariser that knows
next states. With `own_rows`, the policy's own rows are the source "own" beside "expert".

The gradient flows through V(s'), there is no target network by default; `use_target` takes V(s')
from one, without a gradient. That is another algorithm, and the authors' on MuJoCo. With two
critics V is the smaller value, and the loss is the mean over both.

Settings of the authors. Discrete, offline: `num_critics=1 hidden_sizes=64,64 temperature=0.01`
(0.001 on CartPole and LunarLander), `critic_learning_rate=1e-4`, batches of 32. MuJoCo: `own_rows
use_target chi2_on=all actor_learning_rate=3e-5`, batches of 256, with `loss=v0` on Hopper, Walker2d
and Humanoid and `loss=value` on HalfCheetah and Ant; one critic on Hopper and HalfCheetah;
`temperature=0.001` on Ant, 1 on Humanoid.

Two options that are not theirs, because their values stop at terminations and may run away: with
`absorbing` a termination leads to a state whose value is learned; `clip_values` keeps V(s') inside
the values that rewards of up to 4 c, the most that chi2 gives with ``chi2_on=all``, can add up to
(Al-Hafez et al. 2023, "LS-IQ", arXiv 2303.00599).

From the authors' code: the log std of the actor is clipped, not squashed, into its range; slopes of
phi are at most 100 (theirs are infinite at the end of the range of r, and turn back beyond it);
offline, the gradient penalty is taken between demonstrated actions and the policy's at the same
states, where theirs needs own rows (for discrete actions, between pairs of demonstrated states);
relu layers, not elu, for offline discrete values. They sample actions at evaluation, too; the
deterministic form here takes the best one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ddm import networks
from ddm.errors import InputError
from ddm.experience import CollectSpec
from ddm.imitation.parts import interpolation, soft_critic
from ddm.imitation.parts.soft_critic import State, act
from ddm.ops import matching
from ddm.types import Batch, Metrics, PRNGKey, Spec, check_batch, choice, leaf, static

__all__ = [
    "Config", "State", "act", "batch_spec", "collect_spec", "diagnose", "init", "reward", "update",
]  # fmt: skip


class Config(soft_critic.Config):
    """Hyper-parameters; defaults learn offline."""

    # c: the quadratic term is E[r^2] / (4 c)
    chi2_coefficient: float = leaf(0.5, "(0, inf)")
    # of the critic's slopes between demonstrated and own rows; the authors' is 10 where they use it
    gradient_penalty_weight: float = leaf(0.0, "[0, inf)")
    divergence: str = choice(matching.SLOPES, "chi2")  # phi, see ddm/ops/matching.py
    chi2_on: str = choice(("expert", "all", "none"), "expert")  # rows of the quadratic term
    loss: str = choice(lambda: VALUE_TERMS, "value_expert")  # J_V, see above
    own_rows: bool = static(False)  # learn from own rows, too
    use_target: bool = static(False)  # V(s') from a moving average, without a gradient
    clip_values: bool = static(False)  # keep V(s') inside the bound of the rewards, see above


def batch_spec(config: Config) -> Spec:
    """Transitions without rewards: of demonstrations, and with `own_rows` of the policy."""
    spec = soft_critic.step_spec(config)
    return {"expert": spec, "own": spec} if config.own_rows else spec


def collect_spec(config: Config) -> CollectSpec | None:
    """One step of the environment for each update, if it learns from own rows, too."""
    return CollectSpec(random_steps=1_000) if config.own_rows else None


def init(config: Config, key: PRNGKey, batch: Any) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: actions of the other kind, images, or a `loss` or `chi2_on` that needs own rows.
    """
    for name, value in (("loss", "value"), ("chi2_on", "all")):
        if getattr(config, name) == value and not config.own_rows:
            raise InputError(
                f"iq_learn: {name}={value} needs the policy's own rows: set own_rows, or choose "
                f"{name}={'value_expert' if name == 'loss' else 'expert'}"
            )
    return soft_critic.init(config, key, batch["expert"] if config.own_rows else batch, "iq_learn")


def update(config: Config, state: State, batch: Any) -> tuple[State, Metrics]:
    """One step of the critic, of the actor if there is one, and of the target.

    Metrics: ``critic_loss``; ``q_value``, mean Q(s, a) of demonstrated rows; ``reward``, the mean
    reward there, and ``own_reward`` at own rows; ``entropy`` in nats; ``actor_loss``.
    """
    key, expert_key, own_key, critic_key, actor_key = jax.random.split(state.key, 5)
    expert, own = _sources(config, batch)
    expert = soft_critic.steps(config, expert, expert_key)
    own = None if own is None else soft_critic.steps(config, own, own_key, own=True)
    critic, critic_metrics = networks.minimize(
        lambda params: critic_loss(config, state, params, expert, own, critic_key),
        state.critic,
        config.critic_learning_rate,
    )
    state = state.replace(critic=critic)
    observations = _joined(expert, own).observations
    state, actor_metrics = soft_critic.improve(config, state, observations, actor_key)
    state = state.replace(
        critic=networks.follow(critic, config.target_rate), step=state.step + 1, key=key
    )
    return state, {**critic_metrics, **actor_metrics}


def critic_loss(
    config: Config, state: State, params: Any, expert: Batch, own: Batch | None, key: PRNGKey
) -> tuple[jax.Array, Metrics]:
    """The negative objective, a mean over critics."""
    value_key, next_key, penalty_key = jax.random.split(key, 3)
    rows, count = _joined(expert, own), len(expert.observations)
    action_values = soft_critic.action_values(config, state.critic, params, rows)
    values = soft_critic.values(config, state, params, rows.observations, value_key)
    backups = _backups(config, state, params, rows, next_key)
    rewards = action_values - backups[None]  # (E, B): demonstrated rows first
    demonstrated, others = rewards[:, :count], rewards[:, count:]
    slopes = jax.lax.stop_gradient(matching.SLOPES[config.divergence](demonstrated))
    value_term = VALUE_TERMS[config.loss](config, values, values - backups, count)
    loss = value_term - jnp.mean(slopes * demonstrated)
    if config.chi2_on != "none":
        seen = rewards if config.chi2_on == "all" else demonstrated
        loss = loss + jnp.mean(jnp.square(seen)) / (4.0 * config.chi2_coefficient)
    loss = loss + config.gradient_penalty_weight * _slope_penalty(
        config, state, params, expert, own, penalty_key
    )
    metrics = {
        "critic_loss": loss,
        "q_value": jnp.mean(action_values[:, :count]),
        "reward": jnp.mean(demonstrated),
    }
    return loss, metrics if own is None else {**metrics, "own_reward": jnp.mean(others)}


def reward(config: Config, state: State, batch: Batch, key: PRNGKey) -> jax.Array:
    """The learned reward r(s, a, s'), (B,), the mean over critics; its shaping is arbitrary."""
    rows = batch
    if config.absorbing:
        rows = soft_critic.steps(config.replace(absorbing_copies=0.0), batch, jax.random.key(0))
    values = soft_critic.action_values(config, state.critic, state.critic.params, rows)
    return jnp.mean(values, axis=0) - _backups(config, state, state.critic.params, rows, key)


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """A sentence if values are larger than the rewards of the chi-square term can add up to.

    Args:
      config: one lane's, with numbers.
      metrics: that lane's, means over an interval.
    """
    bonus = config.temperature * abs(metrics.get("entropy", 0.0))
    bound = (4.0 * config.chi2_coefficient + bonus) / (1.0 - config.discount)
    found = metrics.get("q_value", 0.0)
    if abs(found) <= bound:
        return []
    return [
        f"iq_learn: values run away: q_value={found:.3g} lies beyond {bound:.3g}, what rewards of "
        f"up to 4 chi2_coefficient={4.0 * config.chi2_coefficient:g} can add up to at "
        f"discount={config.discount:g}; take clip_values, absorbing, gradient_penalty_weight=10, a "
        "smaller critic_learning_rate, or chi2_on=expert if it is none"
    ]


# J_V, (): values (B,) and gaps V(s) - gamma V(s') (B,), of which the first `count` are of
# demonstrated rows.
VALUE_TERMS: dict[str, Callable[[Config, jax.Array, jax.Array, int], jax.Array]] = {
    "value": lambda config, values, gaps, count: jnp.mean(gaps),
    "value_expert": lambda config, values, gaps, count: jnp.mean(gaps[:count]),
    "v0": lambda config, values, gaps, count: (1.0 - config.discount) * jnp.mean(values[:count]),
}


def _sources(config: Config, batch: Any) -> tuple[Batch, Batch | None]:
    """The demonstrated rows, and the own ones if it learns from own rows, too."""
    spec = soft_critic.step_spec(config)
    expert, own = (batch["expert"], batch["own"]) if config.own_rows else (batch, None)
    for rows in (expert, own):
        if rows is not None:
            check_batch(rows, spec, "iq_learn")
    return expert, own


def _joined(expert: Batch, own: Batch | None) -> Batch:
    """Demonstrated rows, then own ones."""
    if own is None:
        return expert
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), expert, own)


def _backups(config: Config, state: State, params: Any, rows: Batch, key: PRNGKey) -> jax.Array:
    """The bootstrap gamma (1 - termination) V(s'), (B,); without a gradient if it has a target."""
    if config.use_target:
        params = jax.lax.stop_gradient(state.critic.target_params)
    values = soft_critic.values(config, state, params, rows.next_observations, key)
    if config.clip_values:
        bound = 4.0 * config.chi2_coefficient / (1.0 - config.discount)
        values = jnp.clip(values, -bound, bound)
    return config.discount * jnp.where(rows.terminations, 0.0, values)


def _slope_penalty(
    config: Config, state: State, params: Any, expert: Batch, own: Batch | None, key: PRNGKey
) -> jax.Array:
    """The penalty on the critic's slopes between demonstrated and other rows."""
    point_key, action_key = jax.random.split(key)
    if config.num_actions:
        others = jnp.roll(expert.observations, 1, axis=0) if own is None else own.observations
        return interpolation.slope_penalty(
            lambda points: jnp.moveaxis(state.critic.apply(params, points), -1, 1),
            expert.observations,
            others,
            point_key,
        )
    if own is None:
        policy = soft_critic.policy_at(config, state.actor, expert.observations)
        own = expert.replace(actions=policy.sample(seed=action_key))
    size = expert.observations.shape[-1]
    return interpolation.slope_penalty(
        lambda points: state.critic.apply(params, points[:, :size], points[:, size:]),
        networks.concatenate_inputs(expert.observations, expert.actions),
        networks.concatenate_inputs(own.observations, own.actions),
        point_key,
    )
