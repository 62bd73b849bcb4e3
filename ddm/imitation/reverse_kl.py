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
  optimum its logit is h. It is GAIL (Ho & Ermon 2016) without dynamics: a conditional GAN, which
  does not correct covariate shift. It is stabilised by annealed noise on all actions (Arjovsky &
  Bottou 2017), a gradient penalty at demonstrated actions (R1, Mescheder et al. 2018) and bounded
  logits.

Gradients (``estimator``): ``pathwise`` through a reparameterised action (for a mixture: through
every component, weighted exactly), ``score`` with a leave-one-out baseline, or ``exact`` sums over
discrete actions. For log pi_theta in h (``entropy``): ``sticking_the_landing`` holds its parameters
fixed, so that the variance vanishes at a perfect fit (Roeder et al. 2017); ``sampled`` does not;
``closed_form`` uses the entropy of a Gaussian instead of a sample.

A wide Gaussian half way between two modes is also a local minimum, far above the others (for modes
at +-1 of width 0.1: 16.3 nats at a width of 0.81, and 0.69 at a mode). So policies start narrow
(``initial_std``) and around a random action (``initial_mean_spread``). They find the nearest mode,
not the best one, and neighbouring states may choose different modes: use several seeds as restarts.
Policies of this module and of ``bc`` with the same head have the same parameters, so that one can
start the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from ddm import networks, ops
from ddm.errors import InputError
from ddm.networks.mlp import Network
from ddm.types import (
    Batch,
    BatchSpec,
    Configuration,
    Metrics,
    PRNGKey,
    PyTree,
    check_action_range,
    check_batch,
    check_example,
    check_one_hot,
    leaf,
    static,
)

# (observations (B, *O), actions (N, B, A) or (N, B)) -> log-densities (N, B).
ExpertLogProb = Callable[[jax.Array, jax.Array], jax.Array]


class Config(Configuration):
    """Hyper-parameters; an update is a policy step, after discriminator ones if h is learned."""

    learning_rate: float = leaf(3e-4, "[0, inf)")  # Adam's step size of the policy
    # gradient steps over which a cosine takes the step size to 0; 0: constant
    decay_steps: int = leaf(0, "[0, inf)")
    # decoupled weight decay (AdamW) of the policy, per unit of step size
    weight_decay: float = leaf(0.0, "[0, inf)")
    # floor of the policy's log standard deviation: 0.01
    log_std_min: float = leaf(-4.6, at_most="log_std_max")
    # ceiling of the policy's log standard deviation
    log_std_max: float = leaf(2.0, "(-inf, inf)")
    # Largest |action| of the initial means of gaussian and tanh_gaussian: one random action, the
    # same at all observations, to which the network's own start is added; 0: none is added.
    initial_mean_spread: float = leaf(0.8, "[0, 1)")
    # standard deviation of a Gaussian at the start; narrow, see above
    initial_std: float = leaf(0.2, "(0, inf)")
    # Known ratio: log pi_E is replaced by log(pi_E + exp(floor)), smoothly; nats.
    expert_log_prob_floor: float = leaf(-1e4, "(-inf, inf)")
    # Known ratio: log pi_E is divided by a temperature that falls linearly from here to 1 ...
    initial_temperature: float = leaf(10.0, "(0, inf)")
    anneal_steps: int = leaf(0, "[0, inf)")  # ... over so many gradient steps; 0: it is 1
    discriminator_learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size
    # R1: this / 2 * |d logit / d action|^2 at demonstrated actions. Much smaller than for images:
    # logits of narrow modes are steep, and flat ones leave the policy between the modes.
    gradient_penalty_weight: float = leaf(0.001, "[0, inf)")
    # Noise on all actions that are compared: standard deviation at the start, at the end, and
    # gradient steps from one to the other. It widens modes and fills the gap between them.
    instance_noise: float = leaf(0.05, "[0, inf)")
    final_instance_noise: float = leaf(0.025, "[0, inf)")
    instance_noise_steps: int = leaf(10_000, "[0, inf)")
    logit_bound: float = leaf(10.0, "(0, inf)")  # logits are bound * tanh(output / bound)
    ratio_clip: float = leaf(20.0, "(0, inf)")  # largest density ratio u of fkl and chi2
    ratio: str = static("learned")  # learned, or known: needs expert_log_prob
    # gaussian, tanh_gaussian or mixture; for discrete actions categorical or tabular
    head: str = static("gaussian")
    # pathwise or score, for discrete actions exact or score; auto: the first of these
    estimator: str = static("auto")
    divergence: str = static("rkl")  # rkl, fkl, js or chi2
    entropy: str = static("sticking_the_landing")  # or, for a known ratio, sampled or closed_form
    # log pi_E: a hashable function from observations (B, *O) and actions (N, B, A), or discrete (N,
    # B), to (N, B); the pathwise estimator needs it differentiable in actions.
    expert_log_prob: ExpertLogProb | None = static(None)
    num_samples: int = static(16, "[2, inf)")  # actions drawn at each observation in a policy step
    discriminator_steps: int = static(5, "[1, inf)")  # discriminator steps before each policy step
    num_components: int = static(5, "[1, inf)")  # Gaussians of the mixture head
    num_actions: int = static(0, "[0, inf)")  # size of a discrete action space
    # of the policy and of the discriminator
    hidden_sizes: tuple[int, ...] = static((128, 128), "[1, inf)")
    encoder: str = static("none")  # none: observations are vectors; conv: images


class State(struct.PyTreeNode):
    """Everything that training changes."""

    policy: networks.Trainable
    discriminator: networks.Trainable | tuple[()]  # empty if the ratio is known
    step: jax.Array  # () int32, gradient steps done: those of the policy or of the discriminator
    key: PRNGKey


class Draws(NamedTuple):
    """Actions at B observations whose weighted sum estimates an expectation, with gradients."""

    actions: jax.Array  # (N, B, A), or (N, B) indices
    weights: jax.Array  # (N, B), they sum to one at each observation
    centred: bool = False  # subtract the mean of the other rewards: the score function's baseline


Estimator = Callable[[Any, PRNGKey, int], Draws]  # (distribution, key, number) -> draws


class Head(NamedTuple):
    """How a policy class is built and used."""

    network: Callable[[Config, int], nn.Module]
    # Estimator -> how actions are drawn for it; the first one is the default.
    estimators: dict[str, Estimator]
    # Number of action dimensions from the width of the network's output.
    action_size: Callable[[Config, int], int]
    noiseless: Callable[[Any, PRNGKey], jax.Array] = lambda policy, key: policy.mode()
    discrete: bool = False
    num_gaussians: Callable[[Config], int] = lambda config: 1  # of a continuous head


class Ratio(NamedTuple):
    """Where log pi_E - log pi_theta comes from."""

    make: Callable[[Config, PRNGKey, Batch], Any]  # the initial discriminator
    # (config, state, batch, key) -> discriminator after its steps, metrics
    fit: Callable[[Config, State, Batch, PRNGKey], tuple[Any, Metrics]]
    # (config, state, policy parameters, observations, actions, key) -> (N, B)
    evaluate: Callable[..., jax.Array]


def batch_spec(config: Config) -> BatchSpec:
    """Observations and the actions taken there; a mini-batch for each discriminator step."""
    steps = config.discriminator_steps if config.ratio == "learned" else 1
    return BatchSpec(
        fields=("observations", "actions"),
        minibatches=steps,
        one_hot_observations=config.head == "tabular",
        num_actions=config.num_actions,
    )


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh policy, and a discriminator if the ratio is learned.

    Raises:
      InputError: an unknown option, options that do not fit together, a head for the other kind
        of actions, or no `expert_log_prob` where the ratio is known.
    """
    _check_options(config)
    check_example(batch, batch_spec(config), "reverse_kl")
    networks.check_encoder(config.encoder, batch.observations.shape[1:], "reverse_kl")
    _check_actions(config, batch)
    head = HEADS[config.head]
    action_size = config.num_actions if head.discrete else batch.actions.shape[-1]
    key, policy_key, mean_key, discriminator_key = jax.random.split(key, 4)
    bounds = () if head.discrete else _log_std_bounds(config)
    params = _network(config, action_size).init(policy_key, batch.observations[:1], *bounds)
    if not head.discrete:
        params = _spread(config, params, action_size, mean_key)
    return State(
        policy=networks.trainable(params, _optimizer(config, 0)),
        discriminator=RATIOS[config.ratio].make(config, discriminator_key, batch),
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
    discriminator, discriminator_metrics = RATIOS[config.ratio].fit(config, state, batch, fit_key)
    state = state.replace(discriminator=discriminator)
    observations = batch.observations[-(len(batch.observations) // spec.minibatches) :]
    policy, metrics = networks.minimize(
        lambda params: policy_loss(config, state, params, observations, policy_key),
        state.policy,
        _optimizer(config, state.step),
    )
    state = state.replace(policy=policy, step=state.step + spec.minibatches, key=key)
    return state, {**metrics, **discriminator_metrics}


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
    policy = _policy(config, state.policy.params, observation)
    noiseless = HEADS[config.head].noiseless
    action = noiseless(policy, key) if deterministic else policy.sample(seed=key)
    return action, policy_state


def log_prob(
    config: Config, state: State, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    """Log-density (B,) of actions."""
    return _policy(config, state.policy.params, observations).log_prob(actions)


def log_ratio(
    config: Config, state: State, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    """The ratio h (B,), the known or learned log pi_E - log pi_theta, at given actions."""
    without_noise = config.replace(instance_noise=0.0, final_instance_noise=0.0)
    evaluate = RATIOS[config.ratio].evaluate
    params = state.policy.params
    return evaluate(without_noise, state, params, observations, actions[None], state.key)[0]


def policy_loss(
    config: Config, state: State, params: Any, observations: jax.Array, key: PRNGKey
) -> tuple[jax.Array, Metrics]:
    """The policy's loss at observations (B, *O) for `params`: an estimate of - E r(h).

    Its gradient is an unbiased estimate of the divergence's; with the score estimator its own value
    is that estimate minus the baseline (the metric ``loss`` has no baseline).
    """
    draw_key, ratio_key = jax.random.split(key)
    policy = _policy(config, params, observations)
    draws = _estimator(config)(policy, draw_key, config.num_samples)
    ratios = RATIOS[config.ratio].evaluate(
        config, state, params, observations, draws.actions, ratio_key
    )
    rewards = DIVERGENCES[config.divergence](ratios, config.ratio_clip)
    fixed = jax.lax.stop_gradient(draws.weights)
    mean = lambda values: jnp.mean(jnp.sum(fixed * values, axis=0))  # noqa: E731
    metrics = {"loss": -mean(rewards), "log_ratio": mean(ratios)}
    if draws.centred:
        others = jnp.sum(rewards, axis=0) - rewards
        rewards = rewards - others / (rewards.shape[0] - 1)
    return -jnp.mean(jnp.sum(draws.weights * rewards, axis=0)), metrics


def _estimator(config: Config) -> Estimator:
    estimators = HEADS[config.head].estimators
    return (
        next(iter(estimators.values()))
        if config.estimator == "auto"
        else estimators[config.estimator]
    )


def _policy(config: Config, params: Any, observations: jax.Array) -> Any:
    """The distribution pi(. | s) at observations (..., *O)."""
    head = HEADS[config.head]
    if head.discrete:
        return _network(config, config.num_actions).apply(params, observations)
    action_size = head.action_size(config, networks.output_size(params))
    network = _network(config, action_size)
    return network.apply(params, observations, *_log_std_bounds(config))


def _network(config: Config, action_size: int) -> Any:
    policy = HEADS[config.head].network(config, action_size)
    return policy if config.encoder == "none" else networks.Encoded(config.encoder, policy)


def _optimizer(config: Config, step: jax.Array | int) -> optax.GradientTransformation:
    rate = ops.cosine_decay(config.learning_rate, step, config.decay_steps)
    return optax.adamw(rate, weight_decay=config.weight_decay)


def _log_std_bounds(config: Config) -> tuple[jax.Array | float, jax.Array | float]:
    return config.log_std_min, config.log_std_max


def _spread(config: Config, params: Any, action_size: int, key: PRNGKey) -> Any:
    """Moves the output's bias to the initial width and, for a single Gaussian, to a random mean."""
    num_gaussians = HEADS[config.head].num_gaussians(config)
    drawn = jax.random.uniform(key, (action_size,), jnp.float32, -1.0, 1.0)

    def move(path: Any, leaf: jax.Array) -> jax.Array:
        if not (networks.is_output(path) and path[-1].key == "bias"):
            return leaf
        if num_gaussians == 1:  # a mixture's means are spread by the network itself
            leaf = leaf.at[:action_size].add(jnp.arctanh(config.initial_mean_spread * drawn))
        return leaf.at[-num_gaussians * action_size :].add(jnp.log(config.initial_std))

    return jax.tree_util.tree_map_with_path(move, params)


# The ratio h = log pi_E - log pi_theta. Known: from the demonstrator's density.


def _known_ratio(
    config: Config,
    state: State,
    params: Any,
    observations: jax.Array,
    actions: jax.Array,
    key: PRNGKey,
) -> jax.Array:
    del key
    assert config.expert_log_prob is not None
    own = ENTROPIES[config.entropy](config, params, observations, actions)
    expert = config.expert_log_prob(observations, actions)
    expert = jnp.logaddexp(expert, config.expert_log_prob_floor)
    done = ops.share_done(state.step, config.anneal_steps)
    return expert / (config.initial_temperature + done * (1.0 - config.initial_temperature)) - own


def _without_parameters(
    config: Config, params: Any, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    return _policy(config, jax.lax.stop_gradient(params), observations).log_prob(actions)


def _with_parameters(
    config: Config, params: Any, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    return _policy(config, params, observations).log_prob(actions)


def _minus_entropy(
    config: Config, params: Any, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    entropy = _policy(config, params, observations).entropy()
    return -jnp.broadcast_to(entropy, actions.shape[: entropy.ndim + 1])


# Learned: the logit of a discriminator.


class Discriminator(Network):
    """Logits (N, B) of actions (N, B, A) at observations (B, *O): above 0 for demonstrated ones."""

    hidden_sizes: tuple[int, ...]
    encoder: str

    @nn.compact
    def __call__(
        self, observations: jax.Array, actions: jax.Array, bound: jax.Array | float
    ) -> jax.Array:
        """Smooth in actions, because the policy learns from the gradient in them."""
        encoded = networks.ObservationEncoder(self.encoder, name="encoder")(observations)
        encoded = jnp.broadcast_to(encoded, (len(actions), *encoded.shape))
        inputs = jnp.concatenate([encoded, actions], axis=-1)
        logits = networks.MLP(self.hidden_sizes, 1, nn.silu, name="mlp")(inputs)[..., 0]
        return bound * jnp.tanh(logits / bound)


def _discriminator(config: Config) -> Discriminator:
    return Discriminator(config.hidden_sizes, config.encoder)


def _make_discriminator(config: Config, key: PRNGKey, batch: Batch) -> networks.Trainable:
    actions = _as_vectors(config, batch.actions[None, :1])
    params = _discriminator(config).init(key, batch.observations[:1], actions, 1.0)
    return networks.trainable(params, optax.adam(config.discriminator_learning_rate))


def _fit_discriminator(
    config: Config, state: State, batch: Batch, key: PRNGKey
) -> tuple[networks.Trainable, Metrics]:
    """One step on each mini-batch: its actions against own actions at the same observations."""
    fake_key, noise_key = jax.random.split(key)
    own = _policy(config, state.policy.params, batch.observations).sample(seed=fake_key)
    pairs = jnp.stack([_as_vectors(config, batch.actions), _as_vectors(config, own)])
    pairs = _with_noise(config, state.step, pairs, noise_key)
    steps = config.discriminator_steps
    rows = (
        batch.observations.reshape(steps, -1, *batch.observations.shape[1:]),
        jnp.moveaxis(pairs.reshape(2, steps, -1, pairs.shape[-1]), 1, 0),
    )

    def descend(model: Any, minibatch: tuple[jax.Array, jax.Array]) -> tuple[Any, Metrics]:
        return networks.minimize(
            lambda params: _discriminator_loss(config, params, *minibatch),
            model,
            optax.adam(config.discriminator_learning_rate),
        )

    discriminator, metrics = jax.lax.scan(descend, state.discriminator, rows)
    return discriminator, jax.tree.map(lambda series: series[-1], metrics)


def _discriminator_loss(
    config: Config, params: Any, observations: jax.Array, pairs: jax.Array
) -> tuple[jax.Array, Metrics]:
    """Logistic loss of demonstrated and own actions (2, B, A), and R1 at the demonstrated ones."""

    def logits_at(actions: jax.Array) -> jax.Array:
        return _discriminator(config).apply(params, observations, actions, config.logit_bound)

    demonstrated, own = logits_at(pairs)
    loss = jnp.mean(jax.nn.softplus(-demonstrated)) + jnp.mean(jax.nn.softplus(own))
    slopes = jax.grad(lambda actions: jnp.sum(logits_at(actions)))(pairs[:1])
    penalty = 0.5 * config.gradient_penalty_weight * jnp.mean(jnp.sum(jnp.square(slopes), axis=-1))
    accuracy = 0.5 * (jnp.mean(demonstrated > 0.0) + jnp.mean(own < 0.0))
    return loss + penalty, {"discriminator_loss": loss, "discriminator_accuracy": accuracy}


def _learned_ratio(
    config: Config,
    state: State,
    params: Any,
    observations: jax.Array,
    actions: jax.Array,
    key: PRNGKey,
) -> jax.Array:
    del params  # h is held fixed
    noisy = _with_noise(config, state.step, _as_vectors(config, actions), key)
    assert isinstance(state.discriminator, networks.Trainable)
    return _discriminator(config).apply(
        state.discriminator.params, observations, noisy, config.logit_bound
    )


def _with_noise(config: Config, step: jax.Array, actions: jax.Array, key: PRNGKey) -> jax.Array:
    done = ops.share_done(step, config.instance_noise_steps)
    scale = config.instance_noise + done * (config.final_instance_noise - config.instance_noise)
    return actions + scale * jax.random.normal(key, actions.shape, actions.dtype)


def _as_vectors(config: Config, actions: jax.Array) -> jax.Array:
    """Actions as the discriminator reads them: indices become one-hot rows."""
    if jnp.issubdtype(actions.dtype, jnp.integer):
        return jax.nn.one_hot(actions, config.num_actions, dtype=jnp.float32)
    return actions


# How actions are drawn, so that the weighted sum of their rewards has the right gradient.


def _reparameterized(policy: Any, key: PRNGKey, number: int) -> Draws:
    actions = policy.sample(seed=key, sample_shape=(number,))
    return Draws(actions, jnp.full(actions.shape[:2], 1.0 / number, actions.dtype))


def _every_component(mixture: networks.GaussianMixture, key: PRNGKey, number: int) -> Draws:
    """`number` actions of each component, with the component's weight; only noise is drawn."""
    actions = mixture._components.sample(seed=key, sample_shape=(number,))  # (M, B, K, A)
    actions = jnp.moveaxis(actions, 2, 1)  # (M, K, B, A)
    weights = jnp.broadcast_to(
        jax.nn.softmax(mixture.logits, axis=-1).T / number, actions.shape[:-1]
    )
    return Draws(actions.reshape(-1, *actions.shape[2:]), weights.reshape(-1, weights.shape[-1]))


def _every_action(policy: Any, key: PRNGKey, number: int) -> Draws:
    """Each discrete action, with its probability."""
    del key, number
    probabilities = jax.nn.softmax(policy.logits, axis=-1).T
    actions = jnp.arange(len(probabilities), dtype=jnp.int32)[:, None]
    return Draws(jnp.broadcast_to(actions, probabilities.shape), probabilities)


def _scored(policy: Any, key: PRNGKey, number: int) -> Draws:
    """Fixed actions whose weights have the score as their gradient."""
    actions = jax.vmap(lambda key: policy.sample(seed=key))(jax.random.split(key, number))
    actions = jax.lax.stop_gradient(actions)
    log_probs = policy.log_prob(actions)
    weights = jnp.exp(log_probs - jax.lax.stop_gradient(log_probs)) / number
    return Draws(actions, weights, centred=True)


# The tables.


def _gaussian_network(config: Config, action_size: int) -> nn.Module:
    return networks.GaussianPolicy(config.hidden_sizes, action_size, state_dependent_std=True)


def _tanh_gaussian_network(config: Config, action_size: int) -> nn.Module:
    return networks.TanhGaussianPolicy(config.hidden_sizes, action_size)


def _mixture_network(config: Config, action_size: int) -> nn.Module:
    return networks.MixturePolicy(config.hidden_sizes, action_size, config.num_components)


def _categorical_network(config: Config, num_actions: int) -> nn.Module:
    return networks.CategoricalPolicy(config.hidden_sizes, num_actions)


def _tabular_network(config: Config, num_actions: int) -> nn.Module:
    del config
    return networks.TabularPolicy(num_actions)


def _half(config: Config, width: int) -> int:
    del config
    return width // 2


_PATHWISE = {"pathwise": _reparameterized, "score": _scored}
_DISCRETE = {"exact": _every_action, "score": _scored}

HEADS: dict[str, Head] = {
    "gaussian": Head(_gaussian_network, _PATHWISE, _half),
    "tanh_gaussian": Head(_tanh_gaussian_network, _PATHWISE, _half),
    "mixture": Head(
        _mixture_network,
        {"pathwise": _every_component, "score": _scored},
        lambda config, width: (width // config.num_components - 1) // 2,
        noiseless=lambda mixture, key: mixture.sample_means(seed=key),
        num_gaussians=lambda config: config.num_components,
    ),
    "categorical": Head(
        _categorical_network, _DISCRETE, lambda config, width: width, discrete=True
    ),
    "tabular": Head(_tabular_network, _DISCRETE, lambda config, width: width, discrete=True),
}

RATIOS: dict[str, Ratio] = {
    "learned": Ratio(_make_discriminator, _fit_discriminator, _learned_ratio),
    "known": Ratio(
        lambda config, key, batch: (), lambda config, state, batch, key: ((), {}), _known_ratio
    ),
}

# The term for log pi_theta in a known ratio.
ENTROPIES: dict[str, Callable[[Config, Any, jax.Array, jax.Array], jax.Array]] = {
    "sticking_the_landing": _without_parameters,
    "sampled": _with_parameters,
    "closed_form": _minus_entropy,
}

# The reward r(h), by divergence, up to constants.
DIVERGENCES: dict[str, Callable[[jax.Array, jax.Array | float], jax.Array]] = {
    "rkl": lambda ratios, clip: ratios,
    "fkl": lambda ratios, clip: jnp.exp(jnp.minimum(ratios, jnp.log(clip))),
    "js": lambda ratios, clip: jax.nn.softplus(ratios),
    "chi2": lambda ratios, clip: jnp.exp(2.0 * jnp.minimum(ratios, jnp.log(clip))),
}


def _check_options(config: Config) -> None:
    tables: dict[str, Any] = {
        "ratio": RATIOS,
        "head": HEADS,
        "divergence": DIVERGENCES,
        "entropy": ENTROPIES,
    }
    for name, table in tables.items():
        _check_choice(name, getattr(config, name), table)
    estimators = ("auto", *HEADS[config.head].estimators)
    _check_choice("estimator", config.estimator, estimators, f" with head={config.head}")
    if config.ratio == "known" and config.expert_log_prob is None:
        raise InputError("reverse_kl: ratio=known needs expert_log_prob, a function")
    pathwise = _estimator(config) in (_reparameterized, _every_component)
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


def _check_choice(name: str, value: str, table: Any, where: str = "") -> None:
    if value not in table:
        raise InputError(
            f"reverse_kl: {name}={value} is unknown{where}; choose one of {', '.join(table)}"
        )


def _check_actions(config: Config, batch: Batch) -> None:
    discrete = jnp.issubdtype(batch.actions.dtype, jnp.integer)
    if discrete != HEADS[config.head].discrete:
        kind = "discrete" if discrete else "continuous"
        raise InputError(
            f"reverse_kl: head={config.head} does not fit {kind} actions of dtype "
            f"{batch.actions.dtype}"
        )
    if discrete and config.num_actions < 1:
        raise InputError(
            f"reverse_kl: head={config.head} needs num_actions, the number of discrete actions"
        )
    if discrete:
        check_action_range(batch.actions, config.num_actions, "reverse_kl")
    if config.head == "tabular":
        check_one_hot(batch.observations, "reverse_kl: head=tabular")
