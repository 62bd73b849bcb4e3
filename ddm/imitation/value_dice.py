"""ValueDICE: imitation by matching occupancies (Kostrikov et al. 2020, arXiv 1912.05032).

    max_pi min_nu  J = log E_E[exp(nu(s, a) - gamma nu(s', a'))] - (1 - gamma) E[nu(s_0, a_0)]

with a' ~ pi(. | s') and a_0 ~ pi(. | s_0). By the Donsker-Varadhan form and a change of variables
the inner minimum is -KL(d_pi || d_E), where nu - gamma P^pi nu is the log ratio of occupancies
(eq. 12): the expectation under pi has gone, and demonstrations alone are enough. Both players step
at once on

    J + w_g (|slope of nu| - 1)^2 - w_o (squared products of different features of the policy)

nu down and the policy up; the penalty on slopes moves only nu, that of features only the policy.

Online (`own_rows`), own rows are mixed into both occupancies in a share beta (`replay_share`); the
policy matches all the same (eq. 16), and the slopes are those between demonstrated and own rows.
Offline beta is 0, and the policy's actions at demonstrated states take the place of own rows.

Initial states: with ``all``, as in the authors' code, every demonstrated state begins an episode;
then J is right if the demonstrated states are those of a process that goes on for ever. With
``first`` they are first states of episodes, the paper's J.

Terminations: there is no reward to stop at, so that values always go on. With `absorbing`, the
authors' way, a termination leads to an absorbing state; without it nu is 0 after a termination.

Discrete actions: the means over a' and a_0 are exact, and so is the policy's gradient. Continuous
ones: a SAC actor, one sample each. In both cases the mean over the next states of a row stands
inside the exponential only where transitions are deterministic; else its estimate is biased, as is
the logarithm of a mean over a batch.

From the authors' code: log stds are clipped, not squashed; the orthogonal start of all layers has a
gain of sqrt(2) in hidden ones here and the last one starts as for all modules; one update per step
of the environment, where theirs has five (`--collect_copies` and batches the other way round);
`absorbing_copies` is one number for demonstrations (theirs: 1) and own rows (theirs: 10). Offline,
by their flags, is not offline: replay rows enter the penalty. Observations are standardised by
demonstrations there, which is a flag of the data here (`--normalize_observations`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks, ops
from ddm.experience import CollectSpec
from ddm.imitation.parts import log_ratio
from ddm.ops import matching
from ddm.types import (
    Batch,
    BatchSpec,
    Configuration,
    Metrics,
    NetworkFn,
    PRNGKey,
    PyTree,
    Spec,
    check_actions,
    check_batch,
    check_example,
    check_vectors,
    choice,
    leaf,
    network,
    static,
)

# Below this share of its rows a batch says little about the mean of the exponentials.
FEW_ROWS = 0.02
# Spread of nu's residuals (nats) below which it tells nothing, while actions differ by more than
FLAT, APART = 1e-3, 0.1


class Config(Configuration):
    """Hyper-parameters; defaults of the authors' code."""

    actor_learning_rate: float = leaf(1e-5, "[0, inf)")  # Adam's step size
    critic_learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size of nu
    discount: float = leaf(0.99, "[0, 1)")  # gamma
    replay_share: float = leaf(0.1, "[0, 1)")  # beta: of own rows in both occupancies; own_rows
    gradient_penalty_weight: float = leaf(10.0, "[0, inf)")  # w_g
    orthogonal_weight: float = leaf(1e-4, "[0, inf)")  # w_o
    # standard deviation of the noise that is added to the mean action while it collects
    exploration_noise: float = leaf(0.1, "[0, inf)")
    log_std_min: float = leaf(-5.0, at_most="log_std_max")  # floor of the policy's log std
    log_std_max: float = leaf(2.0, "(-inf, inf)")  # ceiling of the policy's log standard deviation
    # absorbing transitions that each termination brings; used with `absorbing`
    absorbing_copies: float = leaf(1.0, "[0, inf)")
    initial: str = choice(("all", "first"), "all")  # states that begin episodes, see above
    num_actions: int = static(0, "[0, inf)")  # size of a discrete action space
    hidden_sizes: tuple[int, ...] = static((256, 256), "[1, inf)")  # relu layers
    own_rows: bool = static(False)  # learn from own rows, too
    absorbing: bool = static(False)  # terminations lead to a state of their own
    actor_network: NetworkFn | None = network()  # in place of that of `parts/log_ratio.py`
    critic_network: NetworkFn | None = network()  # in place of that of `parts/log_ratio.py`


class State(struct.PyTreeNode):
    """Everything that training changes."""

    actor: networks.Trainable
    critic: networks.Trainable  # nu
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> Spec:
    """Transitions without rewards: of demonstrations, and with `own_rows` of the policy."""
    fields = ("observations", "actions", "next_observations", "terminations")
    own = BatchSpec(fields=fields, num_actions=config.num_actions)
    first = ("initial_observations",) if config.initial == "first" else ()
    expert = BatchSpec(fields=(*fields, *first), num_actions=config.num_actions)
    return {"expert": expert, "own": own} if config.own_rows else expert


def collect_spec(config: Config) -> CollectSpec | None:
    """One step of the environment for each update, if it learns from own rows, too."""
    return CollectSpec(random_steps=2_000) if config.own_rows else None


def init(config: Config, key: PRNGKey, batch: Any) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: actions of the other kind, or images.
    """
    spec: Any = batch_spec(config)
    batch, spec = (batch["expert"], spec["expert"]) if config.own_rows else (batch, spec)
    check_example(batch, spec, "value_dice")
    check_actions(batch, config.num_actions, "value_dice")
    check_vectors(config, batch, "value_dice")
    key, actor_key, critic_key = jax.random.split(key, 3)
    observations, actions = log_ratio.observed(config, batch.observations[:1]), batch.actions[:1]
    size = config.num_actions or actions.shape[-1]
    actor = (config.actor_network or log_ratio.actor_network)(config, size)
    critic = (config.critic_network or log_ratio.critic_network)(config, size)
    inputs = (observations,) if config.num_actions else (observations, actions)
    return State(
        actor=networks.trainable(
            actor, actor.init(actor_key, observations, *log_ratio.bounds(config))
        ),
        critic=networks.trainable(critic, critic.init(critic_key, *inputs)),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Any) -> tuple[State, Metrics]:
    """One step of nu and one of the policy, both from the parameters before it.

    Metrics: ``divergence``, -J, the estimate of KL(d_pi || d_E) in nats; ``nu_spread``, the
    standard deviation of nu's residuals over the demonstrated rows, which are log ratios;
    ``effective_share`` of the rows that carry the mean of the exponentials; ``slope_penalty``;
    ``action_error``, the mean squared error of the policy's mode (the error rate if discrete).
    """
    key, expert_key, own_key, loss_key = jax.random.split(state.key, 4)
    expert, own = _sources(config, batch)
    expert = log_ratio.steps(config, expert, expert_key)
    own = None if own is None else log_ratio.steps(config, own, own_key, own=True)
    (actor_up, critic_down), metrics = jax.grad(objective, (2, 3), has_aux=True)(
        config, state, state.actor.params, state.critic.params, expert, own, loss_key
    )
    actor_down = jax.tree.map(jnp.negative, actor_up)
    state = state.replace(
        actor=networks.descend(actor_down, state.actor, config.actor_learning_rate),
        critic=networks.descend(critic_down, state.critic, config.critic_learning_rate),
        step=state.step + 1,
        key=key,
    )
    return state, metrics


def objective(
    config: Config,
    state: State,
    actor_params: Any,
    critic_params: Any,
    expert: Batch,
    own: Batch | None,
    key: PRNGKey,
) -> tuple[jax.Array, Metrics]:
    """J with both penalties: the policy ascends it, nu descends."""
    expert_key, own_key, initial_key, penalty_key = jax.random.split(key, 4)
    players = log_ratio.Players(config, state.actor, state.critic, actor_params, critic_params)
    residuals = players.residuals(expert, expert_key)
    first = expert.initial_observations if config.initial == "first" else expert.observations
    linear = (1.0 - config.discount) * jnp.mean(players.nu_of_policy(first, initial_key))
    weights = jnp.full_like(residuals, 1.0 / len(residuals))
    every = residuals
    if own is not None:
        own_residuals = players.residuals(own, own_key)
        own_weights = jnp.full_like(own_residuals, config.replay_share / len(own_residuals))
        every = jnp.concatenate([residuals, own_residuals])
        weights = jnp.concatenate([(1.0 - config.replay_share) * weights, own_weights])
        linear = (1.0 - config.replay_share) * linear + config.replay_share * jnp.mean(
            own_residuals
        )
    value = matching.log_mean_exp(every, weights) - linear
    slopes = players.slope_penalty(expert, own, penalty_key)
    features = ops.orthogonality_penalty(actor_params)
    metrics = {
        "divergence": -value,
        "nu_spread": jnp.std(residuals),
        "effective_share": matching.effective_share(every, weights),
        "slope_penalty": slopes,
        "action_error": players.action_error(expert),
    }
    total = value + config.gradient_penalty_weight * slopes - config.orthogonal_weight * features
    return total, metrics


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """The policy's mean (tanh of it), else with noise; discrete actions: its mode, or a sample."""
    observation = log_ratio.observed(config, observation)
    policy = log_ratio.policy_at(config, state.actor, state.actor.params, observation)
    if config.num_actions:
        action = policy.mode() if deterministic else policy.sample(seed=key)
        return action.astype(jnp.int32), policy_state
    action = policy.mode()
    if not deterministic:
        noise = config.exploration_noise * jax.random.normal(key, action.shape, action.dtype)
        action = jnp.clip(action + noise, -1.0, 1.0)
    return action, policy_state


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences if few rows carry the mean of the exponentials, or nu has collapsed.

    Args:
      config: one lane's, with numbers.
      metrics: that lane's, means over an interval.
    """
    found = []
    share = metrics.get("effective_share", 1.0)
    if share < FEW_ROWS:
        found.append(
            f"value_dice: values run away: {100 * share:.2g} % of a batch carry the mean of the "
            "exponentials, so that J follows single rows; raise gradient_penalty_weight or the "
            "batch size, or lower critic_learning_rate"
        )
    spread, error = metrics.get("nu_spread", 1.0), metrics.get("action_error", 0.0)
    if spread < FLAT and error > APART:
        found.append(
            f"value_dice: nu has collapsed: its residuals differ by {spread:.2g} nats, while the "
            f"policy's actions miss the demonstrated ones by {error:.2g}; lower "
            "gradient_penalty_weight or raise critic_learning_rate"
        )
    return found


def _sources(config: Config, batch: Any) -> tuple[Batch, Batch | None]:
    """The demonstrated rows, and the own ones if it learns from own rows, too."""
    spec: Any = batch_spec(config)
    if not config.own_rows:
        check_batch(batch, spec, "value_dice")
        return batch, None
    for name in ("expert", "own"):
        check_batch(batch[name], spec[name], "value_dice")
    return batch["expert"], batch["own"]
