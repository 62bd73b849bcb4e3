"""Mode-seeking imitation: the reverse KL divergence, and others of its kind.

    min_theta E_{s ~ D} KL(pi_theta(. | s) || pi_E(. | s))
            = E_{s ~ D, a ~ pi_theta} [ log pi_theta(a | s) - log pi_E(a | s) ]

Behaviour cloning minimises the forward divergence, which covers every mode of the demonstrator;
this one commits a policy with one mode to one of them (Ghasemipour et al. 2019; Ke et al. 2020).
With h = log pi_E - log pi_theta and u = exp(h), every f-divergence E_pi[f(u)] descends when the
policy ascends r(h) = u f'(u) - f(u) with h held fixed, because the dependence of h on theta
contributes E_pi[grad log pi] = 0 or a similar term:

    rkl: h        fkl: u        js: log(1 + u)        chi2: u^2

The ``ratio`` h is either known or learned:

- ``known``: ``expert_log_prob`` gives log pi_E, the truth or a fitted model. A fitted model has
  false modes where there is little data, and this objective finds them.
- ``learned``: a discriminator compares demonstrated and own actions *at the same states*; at its
  optimum its logit is h, see :mod:`ddm.imitation.parts.adversary`. It is GAIL (Ho & Ermon 2016)
  without dynamics: a conditional GAN, which does not correct covariate shift.

The gradients (``estimator``), and how log pi_theta enters h (``entropy``), are those of
:mod:`ddm.networks.estimators`.

A wide Gaussian half way between two modes is also a local minimum, far above the others (for modes
at +-1 of width 0.1: 16.3 nats at a width of 0.81, and 0.69 at a mode). So policies start narrow
(``initial_std``) and around a random action (``initial_mean_spread``). They find the nearest mode,
not the best one, and neighbouring states may choose different modes: use several seeds as restarts.
Policies of this module and of ``bc`` with the same head have the same parameters, so that one can
start the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks, ops
from ddm.errors import InputError
from ddm.imitation.parts import adversary
from ddm.imitation.parts.adversary import discriminator_network as discriminator_network
from ddm.networks import heads
from ddm.networks.estimators import ENTROPIES, ESTIMATORS, PATHWISE, Estimator
from ddm.networks.heads import policy_network
from ddm.types import (
    Batch,
    BatchSpec,
    Metrics,
    PRNGKey,
    PyTree,
    check_batch,
    check_example,
    choice,
    leaf,
    static,
)

# (observations (B, *O), actions (N, B, A) or (N, B)) -> log-densities (N, B).
ExpertLogProb = Callable[[jax.Array, jax.Array], jax.Array]


class Config(heads.HeadConfig, adversary.DiscriminatorConfig):
    """Hyper-parameters; an update is a policy step, after discriminator ones if h is learned."""

    learning_rate: float = leaf(3e-4, "[0, inf)")  # Adam's step size of the policy
    # gradient steps over which a cosine takes the step size to 0; 0: constant
    decay_steps: int = leaf(0, "[0, inf)")
    # decoupled weight decay (AdamW) of the policy, per unit of step size
    weight_decay: float = leaf(0.0, "[0, inf)")
    # floor of the policy's log standard deviation: 0.01
    log_std_min: float = leaf(-4.6, at_most="log_std_max")
    # Largest |action| of a Gaussian's initial mean: one random action, the same at all states,
    # to which the network's own start is added; 0: none is added. Mixtures spread their means
    # themselves, and a `policy_network` of your own starts where it does.
    initial_mean_spread: float = leaf(0.8, "[0, 1)")
    # standard deviation of a Gaussian at the start; narrow, see above
    initial_std: float = leaf(0.2, "(0, inf)")
    # Known ratio: log pi_E is replaced by log(pi_E + exp(floor)), smoothly; nats.
    expert_log_prob_floor: float = leaf(-1e4, "(-inf, inf)")
    # Known ratio: log pi_E is divided by a temperature that falls linearly from here to 1 ...
    initial_temperature: float = leaf(10.0, "(0, inf)")
    anneal_steps: int = leaf(0, "[0, inf)")  # ... over so many gradient steps; 0: it is 1
    ratio_clip: float = leaf(20.0, "(0, inf)")  # largest density ratio u of fkl and chi2
    ratio: str = choice(("learned", "known"), "learned")  # known: needs expert_log_prob
    # policy class, see ddm.networks.heads
    head: str = choice(ESTIMATORS, "gaussian")
    # auto: pathwise, for discrete actions exact
    estimator: str = choice(("auto", "pathwise", "exact", "score"), "auto")
    divergence: str = choice(lambda: DIVERGENCES, "rkl")  # that descends, see above
    # log pi_theta in h; sampled and closed_form are for a known ratio
    entropy: str = choice(ENTROPIES, "sticking_the_landing")
    # log pi_E: a hashable function from observations (B, *O) and actions (N, B, A), or discrete (N,
    # B), to (N, B); the pathwise estimator needs it differentiable in actions.
    expert_log_prob: ExpertLogProb | None = static(None)
    num_samples: int = static(16, "[2, inf)")  # actions drawn at each observation in a policy step
    # of the policy and of the discriminator
    hidden_sizes: tuple[int, ...] = static((128, 128), "[1, inf)")


class State(struct.PyTreeNode):
    """Everything that training changes."""

    policy: networks.Trainable
    discriminator: Any  # a `networks.Trainable`; the empty tuple if the ratio is known
    step: jax.Array  # () int32, gradient steps done: those of the policy or of the discriminator
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Observations and the actions taken there; a mini-batch for each discriminator step."""
    return BatchSpec(
        fields=("observations", "actions"),
        minibatches=config.discriminator_steps if config.ratio == "learned" else 1,
        one_hot_observations=config.head == "tabular",
        num_actions=config.num_actions,
    )


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh policy, and a discriminator if the ratio is learned.

    Raises:
      InputError: options that do not fit together, a head for the other kind of actions, or no
        `expert_log_prob` where the ratio is known.
    """
    _check_options(config)
    check_example(batch, batch_spec(config), "reverse_kl")
    heads.check(config, batch, "reverse_kl")
    key, policy_key, mean_key, discriminator_key = jax.random.split(key, 4)
    action_size, first = heads.action_size(config, batch), batch.observations[:1]
    start: dict[str, Any] = {}
    if heads.find(config).bounded and config.policy_network is None:
        drawn = jax.random.uniform(mean_key, (action_size,), jnp.float32, -1.0, 1.0)
        mean = config.initial_mean_spread * drawn
        start = {"start": networks.Start(mean, jnp.log(config.initial_std))}
    policy = (config.policy_network or policy_network)(config, action_size)
    params = policy.init(policy_key, first, *heads.bounds(config), **start)
    discriminator = ()
    if config.ratio == "learned":
        discriminator = adversary.init(config, discriminator_key, batch, action_size)
    return State(
        policy=networks.trainable(policy, params, networks.adamw),
        discriminator=discriminator,
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """Discriminator steps, one per mini-batch, then a policy step at the last one's observations.

    Metrics: ``loss``, minus the mean of r(h), and ``log_ratio``, the mean of h under the policy:
    minus an estimate of the reverse KL divergence. With a learned ratio also
    ``discriminator_loss``, in nats, and ``discriminator_accuracy``: a half if the policy's
    actions cannot be told from the demonstrated ones.
    """
    spec = batch_spec(config)
    check_batch(batch, spec, "reverse_kl")
    key, fit_key, policy_key = jax.random.split(state.key, 3)
    found = {}
    if config.ratio == "learned":
        draw_key, noise_key = jax.random.split(fit_key)
        policy = _policy(config, state, state.policy.params, batch.observations)
        own = policy.sample(seed=draw_key)
        discriminator, found = adversary.fit(
            config, state.discriminator, state.step, batch, own, noise_key
        )
        state = state.replace(discriminator=discriminator)
    observations = batch.observations[-(len(batch.observations) // spec.minibatches) :]
    rate = ops.cosine_decay(config.learning_rate, state.step, config.decay_steps)
    policy, metrics = networks.minimize(
        lambda params: policy_loss(config, state, params, observations, policy_key),
        state.policy,
        rate,
        config.weight_decay,
    )
    state = state.replace(policy=policy, step=state.step + spec.minibatches, key=key)
    return state, {**metrics, **found}


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """A sample, or the mode; for ``mixture`` the mean of a component drawn by its weight."""
    policy = _policy(config, state, state.policy.params, observation)
    return heads.find(config).act(policy, key, deterministic), policy_state


def log_prob(
    config: Config, state: State, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    """Log-density (B,) of actions."""
    return _policy(config, state, state.policy.params, observations).log_prob(actions)


def log_ratio(
    config: Config, state: State, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    """The ratio h (B,), the known or learned log pi_E - log pi_theta, at given actions."""
    exact = config.replace(instance_noise=0.0, final_instance_noise=0.0)
    params = state.policy.params
    return _ratios(exact, state, params, observations, actions[None], state.key)[0]


def policy_loss(
    config: Config, state: State, params: Any, observations: jax.Array, key: PRNGKey
) -> tuple[jax.Array, Metrics]:
    """The policy's loss at observations (B, *O) for `params`: an estimate of - E r(h).

    Its gradient is an unbiased estimate of the divergence's; with the score estimator its own value
    is that estimate minus the baseline (the metric ``loss`` has no baseline).
    """
    draw_key, ratio_key = jax.random.split(key)
    policy = _policy(config, state, params, observations)
    draws = _estimator(config)(policy, draw_key, config.num_samples)
    ratios = _ratios(config, state, params, observations, draws.actions, ratio_key)
    rewards = DIVERGENCES[config.divergence](ratios, config.ratio_clip)
    metrics = {"loss": -draws.mean(rewards), "log_ratio": draws.mean(ratios)}
    return -draws.expectation(rewards), metrics


def _ratios(
    config: Config,
    state: State,
    params: Any,
    observations: jax.Array,
    actions: jax.Array,
    key: PRNGKey,
) -> jax.Array:
    """The ratio h = log pi_E - log pi_theta, (N, B), at actions (N, B, A) or (N, B)."""
    if config.ratio == "learned":  # h is held fixed
        return adversary.log_ratio(
            config, state.discriminator, state.step, observations, actions, key
        )
    assert config.expert_log_prob is not None
    policy_at = lambda params: _policy(config, state, params, observations)  # noqa: E731
    own = ENTROPIES[config.entropy](policy_at, params, actions)
    expert = config.expert_log_prob(observations, actions)
    expert = jnp.logaddexp(expert, config.expert_log_prob_floor)
    done = ops.share_done(state.step, config.anneal_steps)
    return expert / (config.initial_temperature + done * (1.0 - config.initial_temperature)) - own


def _policy(config: Config, state: State, params: Any, observations: jax.Array) -> Any:
    """The distribution pi(. | s) at observations (..., *O)."""
    return state.policy.apply(params, observations, *heads.bounds(config))


def _estimator(config: Config) -> Estimator:
    estimators = ESTIMATORS[config.head]
    first = next(iter(estimators))
    return estimators[first if config.estimator == "auto" else config.estimator]


# The reward r(h), by divergence, up to constants.
DIVERGENCES: dict[str, Callable[[jax.Array, jax.Array | float], jax.Array]] = {
    "rkl": lambda ratios, clip: ratios,
    "fkl": lambda ratios, clip: jnp.exp(jnp.minimum(ratios, jnp.log(clip))),
    "js": lambda ratios, clip: jax.nn.softplus(ratios),
    "chi2": lambda ratios, clip: jnp.exp(2.0 * jnp.minimum(ratios, jnp.log(clip))),
}


def _check_options(config: Config) -> None:
    names = ("auto", *ESTIMATORS[config.head])
    if config.estimator not in names:
        raise InputError(
            f"reverse_kl: estimator={config.estimator} is unknown with head={config.head}; choose "
            f"one of {', '.join(names)}"
        )
    if config.ratio == "known" and config.expert_log_prob is None:
        raise InputError("reverse_kl: ratio=known needs expert_log_prob, a function")
    pathwise = _estimator(config) in PATHWISE
    plain = config.ratio == "known" and config.divergence == "rkl" and pathwise
    if config.entropy != "sticking_the_landing" and not plain:
        raise InputError(
            f"reverse_kl: entropy={config.entropy} needs ratio=known, divergence=rkl and "
            "pathwise gradients"
        )
    if config.entropy == "closed_form" and config.head != "gaussian":
        raise InputError(
            f"reverse_kl: entropy=closed_form needs head=gaussian, found head={config.head}"
        )
