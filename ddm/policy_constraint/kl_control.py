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

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from ddm import networks, ops
from ddm.errors import InputError
from ddm.types import (
    TRANSITION_FIELDS,
    Batch,
    BatchSpec,
    Configuration,
    Metrics,
    PRNGKey,
    PyTree,
    check_actions,
    check_batch,
    check_example,
    check_vectors,
    find_choice,
    leaf,
    static,
)

LogPrior = Callable[[jax.Array], jax.Array]  # observations (..., O) -> log p (..., K)


class Config(Configuration):
    """Hyper-parameters; numbers without a remark are those of the authors' code."""

    learning_rate: float = leaf(1e-4, "[0, inf)")  # Adam's step size
    # Adam's step size of a learned prior; not the authors'
    prior_learning_rate: float = leaf(1e-3, "[0, inf)")
    # c, in units of the reward: price of a nat of divergence
    kl_weight: float = leaf(0.5, "[0, inf)")
    discount: float = leaf(0.99, "[0, 1]")  # gamma
    target_rate: float = leaf(0.005, "(0, 1]")  # tau of the moving average of the target network
    # each entry of the gradient is clipped to this size
    max_gradient: float = leaf(1.0, "(0, inf)")
    # first updates, in which only a learned prior is fitted to the log
    prior_steps: int = leaf(10_000, "[0, inf)")
    form: str = static("psi")  # psi or q: what is backed up, see above
    # Of form q, max, double or logsumexp: value of the next state. Or a function of target and
    # online Q (B, K) and the logarithmic mean exponential V (B,) of the target.
    backup: str | Callable[[jax.Array, Any, jax.Array], jax.Array] = static("max")
    # Of form q: the divergence at the logged action (sample), or its mean (integral).
    kl_calc: str = static("sample")
    # learned: a network like the policy's; or a function, observations (..., O) to log p (..., K).
    prior: str | LogPrior = static("learned")
    # M dropout masks of the lower bound; authors' best 5; 1: none
    target_samples: int = static(1, "[1, inf)")
    # mlp; gru, on tokens; or a function of this configuration to a flax module: observations and
    # `deterministic` to (..., K), whose last layer is named "output".
    network: str | Callable[[Any], nn.Module] = static("mlp")
    # observations are token numbers below this; 0: they are vectors
    num_tokens: int = static(0, "[0, inf)")
    embedding_size: int = static(32, "[1, inf)")  # of a token
    dropout_rate: float = static(0.0, "[0, 1)")  # in the policy's and the prior's network
    # relu layers; the first is the GRU's width
    hidden_sizes: tuple[int, ...] = static((256, 256), "[1, inf)")
    num_actions: int = static(0, "[0, inf)")  # size of the discrete action space; required


class State(struct.PyTreeNode):
    """Everything that training changes."""

    critic: networks.Trainable  # D
    critic_target_params: Any
    prior: networks.Trainable | None  # its output is log p up to a constant; None for a function
    step: jax.Array  # () int32, updates done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Transitions."""
    return BatchSpec(fields=TRANSITION_FIELDS, num_actions=config.num_actions)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`; D is 0, so the policy equals the prior.

    Raises:
      InputError: continuous actions, no `num_actions`, or choices that do not exist or fit.
    """
    check_example(batch, batch_spec(config), "kl_control")
    _check_config(config, batch)
    key, critic_key, prior_key = jax.random.split(key, 3)
    observations = batch.observations[:1]
    network = score_network(config)
    params = _without_output(network.init(critic_key, observations))
    prior = None
    if not callable(config.prior):
        prior = networks.trainable(network.init(prior_key, observations), _prior_optimizer(config))
    return State(
        critic=networks.trainable(params, _optimizer(config)),
        critic_target_params=jax.tree.map(jnp.copy, params),
        prior=prior,
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step: of the prior, while it is fitted, then of D and its target.

    Metrics: ``prior_log_prob``, mean log p of the logged actions; ``reward_max``, the largest size
    of a reward in the batch; and, 0 while the prior is
    fitted, ``critic_loss``, ``q_value``, mean D of the logged actions, and ``kl``, mean
    KL(pi || p) at the logged states in nats.
    """
    check_batch(batch, batch_spec(config), "kl_control")
    key, prior_key, learn_key = jax.random.split(state.key, 3)
    fitting = jnp.zeros((), bool)
    if state.prior is not None:
        fitting = state.step < config.prior_steps
        fitted = ops.cond_if_any(fitting, _fit_prior, _keep_all, config, state, batch, prior_key)
        state = state.replace(**fitted)
    learned, metrics = ops.cond_if_any(
        ~fitting, _learn, _keep_critic, config, state, batch, learn_key
    )
    metrics = {**metrics, "reward_max": ops.largest_reward(batch.rewards)}
    return state.replace(**learned, step=state.step + 1, key=key), metrics


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
    shapes = [jax.tree.map(jnp.shape, each) for each in (params, state.prior.params)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"kl_control: parameters of the prior have shapes {shapes[0]}, expected {shapes[1]}"
        )
    prior = networks.trainable(params, _prior_optimizer(config))
    critic = networks.trainable(_without_output(params), _optimizer(config))
    return state.replace(
        prior=prior, critic=critic, critic_target_params=jax.tree.map(jnp.copy, critic.params)
    )


def log_prior(config: Config, state: State, observations: jax.Array) -> jax.Array:
    """Log p (..., K) at observations (..., O), normalised."""
    if callable(config.prior):
        logits = config.prior(observations)
    else:
        assert state.prior is not None
        logits = _scores(config, state.prior.params, observations)
    return jax.lax.stop_gradient(jax.nn.log_softmax(logits))


def log_policy(config: Config, state: State, observations: jax.Array) -> jax.Array:
    """Log pi (..., K) at observations (..., O); at c = 0 of the greedy policy."""
    gains = _scores(config, state.critic.params, observations)
    return _log_policy(config, log_prior(config, state, observations), gains)


def log_prob(
    config: Config, state: State, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    """Log-probability (B,) of actions."""
    return _of(actions, log_policy(config, state, observations))


def state_values(config: Config, state: State, observations: jax.Array) -> jax.Array:
    """The learner's estimate of the objective (...,): reward minus c times the divergence."""
    gains = _scores(config, state.critic.params, observations)
    return _next_values(config, log_prior(config, state, observations), gains, gains)


def score_network(config: Config) -> networks.Network:
    """The network of D and of a learned prior."""
    return find_choice(config.network, NETWORKS, "network", "kl_control")(config)


# Pieces.


def critic_targets(config: Config, state: State, batch: Batch, key: PRNGKey) -> jax.Array:
    """Targets (B,) of D at the logged actions."""
    log_priors = log_prior(config, state, batch.next_observations)
    online = _scores(config, state.critic.params, batch.next_observations)

    def backed_up(key: PRNGKey | None) -> jax.Array:
        gains = _scores(config, state.critic_target_params, batch.next_observations, key)
        return _next_values(config, log_priors, gains, online)

    if config.target_samples > 1:
        keys = jax.random.split(key, config.target_samples)
        next_values = jnp.min(jax.vmap(backed_up)(keys), axis=0)
    else:
        next_values = backed_up(None)
    rewards = batch.rewards + _penalty(config, state, batch)
    return ops.td_target(rewards, config.discount, batch.terminations, next_values)


def _next_values(
    config: Config, log_priors: jax.Array, gains: jax.Array, online_gains: jax.Array
) -> jax.Array:
    """Values (...,) of states, of the target's D (..., K) and the online network's."""
    soft = _soft_value(config.kl_weight, log_priors, gains)
    if config.form == "psi":
        return soft
    offset = _times_weight(config, log_priors)
    backup = find_choice(config.backup, BACKUPS, "backup", "kl_control")
    return backup(offset + gains, offset + online_gains, soft)


def _penalty(config: Config, state: State, batch: Batch) -> jax.Array | float:
    """What form q adds to the reward of a logged action, and to turn Q into D."""
    if config.form == "psi":
        return 0.0
    log_priors = log_prior(config, state, batch.observations)
    gains = _scores(config, state.critic.params, batch.observations)
    if config.kl_calc == "sample":  # c (log p - log pi) less c log p
        soft = _soft_value(config.kl_weight, log_priors, gains)
        # c log pi = c log p + D - V holds also near c = 0, where log pi has no bound.
        scaled = _times_weight(config, _of(batch.actions, log_priors))
        penalty = soft - scaled - _of(batch.actions, gains)
    else:
        divergence = _divergence(config, log_priors, gains)
        penalty = -config.kl_weight * (divergence + _of(batch.actions, log_priors))
    return jnp.where(config.kl_weight > 0.0, penalty, 0.0)


def _learn(
    config: Config, state: State, batch: Batch, key: PRNGKey
) -> tuple[dict[str, Any], Metrics]:
    """One step of D towards its targets, and of the moving average."""
    target_key, dropout_key = jax.random.split(key)
    targets = critic_targets(config, state, batch, target_key)
    log_priors = log_prior(config, state, batch.observations)

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        gains = _scores(config, params, batch.observations, dropout_key)
        values = _of(batch.actions, gains)
        loss = jnp.mean(optax.huber_loss(values, targets))
        divergence = jnp.mean(_divergence(config, log_priors, gains))
        return loss, {"critic_loss": loss, "q_value": jnp.mean(values), "kl": divergence}

    critic, metrics = networks.minimize(loss_fn, state.critic, _optimizer(config))
    target = ops.polyak(state.critic_target_params, critic.params, config.target_rate)
    likelihood = jnp.mean(_of(batch.actions, log_priors))
    learned = {"critic": critic, "critic_target_params": target}
    return learned, {**metrics, "prior_log_prob": likelihood}


def _keep_critic(
    config: Config, state: State, batch: Batch, key: PRNGKey
) -> tuple[dict[str, Any], Metrics]:
    del key
    log_priors = log_prior(config, state, batch.observations)
    kept = {"critic": state.critic, "critic_target_params": state.critic_target_params}
    zeros = dict.fromkeys(("critic_loss", "q_value", "kl"), jnp.zeros((), jnp.float32))
    return kept, {**zeros, "prior_log_prob": jnp.mean(_of(batch.actions, log_priors))}


def _fit_prior(config: Config, state: State, batch: Batch, key: PRNGKey) -> dict[str, Any]:
    """One step of the prior's likelihood; D gets the same parameters, with an output of 0."""
    assert state.prior is not None

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        scores = _scores(config, params, batch.observations, key)
        return -jnp.mean(_of(batch.actions, jax.nn.log_softmax(scores))), {}

    prior, _ = networks.minimize(loss_fn, state.prior, _prior_optimizer(config))
    params = _without_output(prior.params)
    return {
        "prior": prior,
        "critic": state.critic.replace(params=params),
        "critic_target_params": jax.tree.map(jnp.copy, params),
    }


def _keep_all(config: Config, state: State, batch: Batch, key: PRNGKey) -> dict[str, Any]:
    del config, batch, key
    return {
        "prior": state.prior,
        "critic": state.critic,
        "critic_target_params": state.critic_target_params,
    }


def _scores(
    config: Config, params: Any, observations: jax.Array, dropout_key: PRNGKey | None = None
) -> jax.Array:
    """Outputs (..., K) of the network; dropout needs a key."""
    dropout: dict[str, Any] = {}
    if dropout_key is not None and config.dropout_rate > 0.0:
        dropout = {"deterministic": False, "rngs": {"dropout": dropout_key}}
    return score_network(config).apply(params, observations, **dropout)


def _log_policy(config: Config, log_priors: jax.Array, gains: jax.Array) -> jax.Array:
    best = jnp.max(gains, axis=-1, keepdims=True)
    if config.form == "psi":  # the limit stays on the prior's support
        best = jnp.max(jnp.where(log_priors > -jnp.inf, gains, -jnp.inf), axis=-1, keepdims=True)
    greedy = jnp.where(gains == best, 0.0, -jnp.inf)
    soft = log_priors + gains / _nonzero(config.kl_weight)
    return jax.nn.log_softmax(jnp.where(config.kl_weight > 0.0, soft, greedy))


def _soft_value(weight: jax.Array | float, log_priors: jax.Array, gains: jax.Array) -> jax.Array:
    """C log sum_a p exp(D / c) (...,), and max D on the prior's support at c = 0."""
    exponents = log_priors + gains / _nonzero(weight)
    # The second term is 0 except for rounding: it makes the value exactly 0 without rewards.
    normalisers = jax.nn.logsumexp(exponents, axis=-1) - jax.nn.logsumexp(log_priors, axis=-1)
    greatest = jnp.max(jnp.where(log_priors > -jnp.inf, gains, -jnp.inf), axis=-1)
    return jnp.where(weight > 0.0, weight * normalisers, greatest)


def _divergence(config: Config, log_priors: jax.Array, gains: jax.Array) -> jax.Array:
    """KL(pi || p) (...,) in nats; an impossible action of the prior counts 0."""
    log_policies = _log_policy(config, log_priors, gains)
    inside = (log_policies > -jnp.inf) & (log_priors > -jnp.inf)
    gaps = jnp.where(inside, log_policies, 0.0) - jnp.where(inside, log_priors, 0.0)
    return jnp.sum(jnp.exp(log_policies) * gaps, axis=-1)


def _times_weight(config: Config, log_priors: jax.Array) -> jax.Array:
    """C log p, also where log p is minus infinity and c is 0."""
    scaled = _nonzero(config.kl_weight) * log_priors
    return jnp.where(config.kl_weight > 0.0, scaled, 0.0)


def _nonzero(weight: jax.Array | float) -> jax.Array:
    return jnp.where(weight > 0.0, weight, 1.0)


def _of(actions: jax.Array, scores: jax.Array) -> jax.Array:
    """(B,) entries of (B, K)."""
    return jnp.take_along_axis(scores, actions[..., None], axis=-1)[..., 0]


def _without_output(params: Any) -> Any:
    """Copies of the parameters, with those of the layer "output" 0."""

    def copied(path: Any, leaf: jax.Array) -> jax.Array:
        return jnp.zeros_like(leaf) if networks.is_output(path) else jnp.copy(leaf)

    if not any(networks.is_output(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)):
        raise InputError('kl_control: the network has no layer named "output"')
    return jax.tree_util.tree_map_with_path(copied, params)


def _optimizer(config: Config) -> optax.GradientTransformation:
    return optax.chain(optax.clip(config.max_gradient), optax.adam(config.learning_rate))


def _prior_optimizer(config: Config) -> optax.GradientTransformation:
    return optax.adam(config.prior_learning_rate)


def _check_config(config: Config, batch: Batch) -> None:
    if config.num_actions < 1:
        found = "real vectors" if batch.actions.ndim > 1 else f"{batch.actions.dtype}"
        raise InputError(
            f"kl_control: batch.actions are {found} and num_actions is {config.num_actions}; "
            "expected discrete actions and their number"
        )
    check_actions(batch, config.num_actions, "kl_control")
    if not callable(config.network):
        check_vectors(batch, "kl_control")
    find_choice(config.form, dict.fromkeys(FORMS), "form", "kl_control")
    find_choice(config.kl_calc, dict.fromkeys(KL_CALCS), "kl_calc", "kl_control")
    find_choice(config.backup, BACKUPS, "backup", "kl_control")
    find_choice(config.prior, {"learned": None}, "prior", "kl_control")
    if config.target_samples > 1 and config.dropout_rate <= 0.0:
        raise InputError(
            f"kl_control: target_samples is {config.target_samples}, which are dropout masks, "
            "and dropout_rate is 0; expected a rate above 0"
        )


def _mlp_network(config: Config) -> networks.Network:
    return networks.ActionScores(
        config.hidden_sizes,
        config.num_actions,
        config.num_tokens,
        config.embedding_size,
        config.dropout_rate,
    )


def _gru_network(config: Config) -> networks.Network:
    if config.num_tokens < 1 or not config.hidden_sizes:
        raise InputError(
            f"kl_control: network=gru reads tokens; num_tokens is {config.num_tokens}, expected "
            "their number, and hidden_sizes start with the GRU's width"
        )
    return networks.RecurrentActionScores(
        config.hidden_sizes,
        config.num_actions,
        config.num_tokens,
        config.embedding_size,
        config.dropout_rate,
    )


NETWORKS = {"mlp": _mlp_network, "gru": _gru_network}
FORMS = ("psi", "q")
KL_CALCS = ("sample", "integral")
BACKUPS: dict[str, Callable[[jax.Array, jax.Array, jax.Array], jax.Array]] = {
    "max": lambda values, online, soft: jnp.max(values, axis=-1),
    "double": lambda values, online, soft: _of(jnp.argmax(online, axis=-1), values),
    "logsumexp": lambda values, online, soft: soft,
}
