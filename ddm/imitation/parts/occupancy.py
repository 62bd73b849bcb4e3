"""A discriminator of occupancies, whose logit is log rho_E / rho_pi, and the reward from it.

    min_h  E_E [softplus(-h(x))] + E_pi [softplus(h(x))]                      (logistic)
           - c H(D(x)) + lambda E (||grad h(x~)|| - slope)^2

x is a state with its action, a state, or a state with its successor. Both sides weigh the same,
whatever the number of their rows. x~ lies between a pair of the expert and an own one (Gulrajani et
al. 2017), c rewards a discriminator that is unsure (Ho & Ermon 2016). With the loss `wasserstein`,
h is a critic: max E_E h - E_pi h under the same penalty.

In :mod:`ddm.imitation.parts.adversary` states are the same on both sides and the penalty is that at
demonstrated actions; here a policy's own states count, which is what corrects them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddm import networks
from ddm.errors import InputError
from ddm.imitation.parts import absorbing
from ddm.networks import encoders, heads
from ddm.ops import occupancy_matching
from ddm.types import (
    Batch,
    BatchSpec,
    Configuration,
    Metrics,
    NetworkFn,
    PRNGKey,
    check_batch,
    check_example,
    choice,
    chosen,
    leaf,
    network,
    static,
)

EXPERT, OWN = "expert", "own"  # names of the sources
INPUTS = ("sa", "s", "ss")


class OccupancyConfig(Configuration):
    """The fields of a discriminator of occupancies; a method's Config adds its own."""

    discriminator_learning_rate: float = leaf(3e-4, "[0, inf)")  # Adam's step size
    # lambda, of the slopes between pairs of the expert and own ones; 0: none
    gradient_penalty_weight: float = leaf(10.0, "[0, inf)")
    gradient_penalty_slope: float = leaf(1.0, "[0, inf)")  # the slope that is not penalised
    discriminator_entropy_weight: float = leaf(1e-3, "[0, inf)")  # c; authors of GAIL 1e-3
    # absorbing rows for each termination of the log: 1 / n where it was thinned out to one row in
    # n but kept all terminations
    absorbing_copies: float = leaf(1.0, "[0, inf)")
    reward_bound: float = leaf(5.0, "(0, inf)")  # largest logit in a reward that is exponential
    # what the discriminator sees: states with actions, states, or states with their successors
    discriminator_input: str = choice(INPUTS, "sa")
    # from the logit, see ddm.ops.occupancy_matching; a function in place of a name
    reward: str = choice(occupancy_matching.REWARDS, "gail")
    # logistic, or that of a Wasserstein critic; a function in place of a name
    discriminator_loss: str = choice(occupancy_matching.LOSSES, "logistic")
    # what follows an end has a reward, too: see ddm.imitation.parts.absorbing
    absorbing: bool = static(True)
    spectral_norm: bool = static(False)  # of the discriminator's layers
    discriminator_hidden_sizes: tuple[int, ...] = static((100, 100), "[1, inf)")  # tanh layers
    # in place of the discriminator and its encoder; see `discriminator_network`
    discriminator_network: NetworkFn | None = network()


# What a discriminator reads: observations, actions or None, next observations or None.
Inputs = tuple[Any, ...]


def discriminator_network(config: Any, action_size: int) -> nn.Module:
    """Logits (B,).

    It is called with observations (B, *O), actions (B, A) or None, one-hot if discrete, and next
    observations (B, *O) or None. With absorbing states an observation has one feature more.
    """
    del action_size
    encoder = getattr(config, "encoder", "none")
    sizes = config.discriminator_hidden_sizes
    return networks.OccupancyDiscriminator(sizes, encoder, config.spectral_norm)


def expert_spec(config: Any, minibatches: int) -> BatchSpec:
    """What is needed of the demonstrations; never their rewards."""
    fields = ["observations"]
    fields += ["actions"] if config.discriminator_input == "sa" else []
    fields += ["next_observations"] if config.discriminator_input == "ss" else []
    if config.absorbing:
        fields = ["observations", "actions", "next_observations", "terminations"]
    return BatchSpec(
        fields=tuple(fields),
        minibatches=minibatches,
        num_actions=getattr(config, "num_actions", 0),
    )


def check_sources(batch: Any, specs: Mapping[str, BatchSpec], name: str, example: bool) -> None:
    """Refuses batches that are not those of both sources, or of different environments.

    Args:
      batch: what the algorithm got, a dict of batches.
      specs: what it declared.
      name: the algorithm, for the message.
      example: for `init`, where one row is enough.

    Raises:
      InputError: naming the source, and what it lacks.
    """
    if not isinstance(batch, Mapping) or set(specs) - set(batch):
        given = ", ".join(batch) if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
        raise InputError(f"{name}: expected batches of {' and '.join(specs)}; given: {given}")
    for source, spec in specs.items():
        (check_example if example else check_batch)(batch[source], spec, f"{name}: {source}")
    for field in ("observations", "actions"):
        expert, own = (getattr(batch[source], field) for source in (EXPERT, OWN))
        if expert is None:
            continue
        own_shape = own.shape[1 if specs[OWN].window is None else 2 :]
        if expert.shape[1:] != own_shape or expert.dtype != own.dtype:
            raise InputError(
                f"{name}: {field} of the expert have shape {expert.shape[1:]} and type "
                f"{expert.dtype}, own ones {own_shape} and {own.dtype}: the demonstrations are "
                "from another environment"
            )


def init(config: Any, key: PRNGKey, rows: Batch, action_size: int) -> networks.Trainable:
    """A fresh discriminator for rows (B, ...) of the environment.

    Raises:
      InputError: images with absorbing states.
    """
    if config.absorbing and rows.observations.ndim != 2:
        raise InputError(
            f"{type(config).__module__.rpartition('.')[2]}: observations have shape "
            f"{rows.observations.shape[1:]}, and an absorbing state is one of vectors; set "
            "absorbing to False"
        )
    judge = (config.discriminator_network or discriminator_network)(config, action_size)
    rows = jax.tree.map(lambda x: x[:1], rows)
    seen = look(config, with_indicator(rows) if config.absorbing else rows)
    return networks.trainable(judge, judge.init(key, *seen))


def with_indicator(rows: Batch) -> Batch:
    """Rows of the environment (B, ...) as they are seen where an end leads to an absorbing state.

    No row is in the absorbing state itself; `absorbing.extend` adds those.
    """
    ends = rows.terminations.astype(jnp.float32)
    return rows.replace(
        observations=absorbing.observe(rows.observations),
        next_observations=absorbing.observe(rows.next_observations, ends),
    )


def staying(rows: Batch) -> Batch:
    """One row (1, ...) from the absorbing state to itself, like those of :func:`with_indicator`."""
    nothing = jax.tree.map(lambda x: jnp.zeros_like(x[:1]), rows)
    state = nothing.observations.at[:, -1].set(1.0)
    return nothing.replace(observations=state, next_observations=state)


def look(config: Any, rows: Batch) -> Inputs:
    """What the discriminator reads; rows have the indicator where states are absorbing."""
    actions = following = None
    if config.discriminator_input == "sa":
        actions = heads.as_vectors(rows.actions, getattr(config, "num_actions", 0))
    if config.discriminator_input == "ss":
        following = _as_floats(rows.next_observations)
    return _as_floats(rows.observations), actions, following


def _as_floats(observations: jax.Array) -> jax.Array:
    """Pixels in the scale of the encoder, so that there is something between two images."""
    return encoders.scale_pixels(observations)


def fit(
    config: Any, model: networks.Trainable, expert: Batch, own: Batch, key: PRNGKey
) -> tuple[networks.Trainable, Metrics]:
    """One step on each of K mini-batches, whose leaves are (K, B, ...).

    Returns:
      The discriminator, and the metrics of :func:`compare`, means over the steps.
    """

    def step(model: Any, minibatch: tuple[Batch, Batch, PRNGKey]) -> tuple[Any, Metrics]:
        expert, own, key = minibatch
        expert_key, own_key, loss_key = jax.random.split(key, 3)
        if config.absorbing:
            expert = absorbing.extend(expert, expert_key, config.absorbing_copies)
            own = absorbing.extend(own, own_key)
        sides = look(config, expert), look(config, own)
        return networks.minimize(
            lambda params: loss(config, model, params, *sides, loss_key),
            model,
            config.discriminator_learning_rate,
        )

    keys = jax.random.split(key, len(expert.observations))
    model, metrics = jax.lax.scan(step, model, (expert, own, keys))
    return model, jax.tree.map(jnp.mean, metrics)


def loss(
    config: Any, model: networks.Trainable, params: Any, expert: Inputs, own: Inputs, key: PRNGKey
) -> tuple[jax.Array, Metrics]:
    """The discriminator's loss with its regularisers, and the metrics of :func:`compare`."""
    logits = [model.apply(params, *side) for side in (expert, own)]
    basic, metrics = compare(chosen(config, "discriminator_loss"), *logits)
    entropy = jnp.mean(occupancy_matching.bernoulli_entropy(jnp.concatenate(logits)))
    penalty = gradient_penalty(config, model, params, expert, own, key)
    return (
        basic
        - config.discriminator_entropy_weight * entropy
        + config.gradient_penalty_weight * penalty
    ), metrics


def compare(
    losses: occupancy_matching.LossesFn, expert: jax.Array, own: jax.Array
) -> tuple[jax.Array, Metrics]:
    """The loss of the expert's logits (B,) and own ones (C,), without regularisers.

    Metrics: ``discriminator_loss``; ``expert_accuracy`` and ``own_accuracy``, the shares of rows on
    their side of 0; ``estimated_divergence``: a lower bound of the Jensen-Shannon divergence, in
    nats, or the critic's estimate of the Wasserstein distance.
    """
    sides = losses(expert, own)
    loss = jnp.mean(sides[0]) + jnp.mean(sides[1])
    logistic = losses is not occupancy_matching.critic_loss
    return loss, {
        "discriminator_loss": loss,
        "expert_accuracy": jnp.mean((expert > 0.0).astype(jnp.float32)),
        "own_accuracy": jnp.mean((own < 0.0).astype(jnp.float32)),
        "estimated_divergence": occupancy_matching.jensen_shannon(loss) if logistic else -loss,
    }


def gradient_penalty(
    config: Any, model: networks.Trainable, params: Any, expert: Inputs, own: Inputs, key: PRNGKey
) -> jax.Array:
    """Mean of (slope - wanted slope)^2 at points between pairs of rows; scalar."""
    shares = jax.random.uniform(key, expert[0].shape[:1], jnp.float32)

    def between(one: jax.Array, other: jax.Array) -> jax.Array:
        share = shares.reshape(-1, *(1,) * (one.ndim - 1))
        return share * one + (1.0 - share) * other

    points = jax.tree.map(between, expert, own)
    slopes = jax.grad(lambda points: jnp.sum(model.apply(params, *points)))(points)
    squares = sum(jnp.sum(jnp.square(x.reshape(len(x), -1)), -1) for x in jax.tree.leaves(slopes))
    # The root has no gradient at 0.
    excess = jnp.sqrt(squares + 1e-12) - config.gradient_penalty_slope
    return jnp.mean(jnp.square(excess))


def rewards(config: Any, model: networks.Trainable, rows: Batch) -> jax.Array:
    """The reward (B,) of rows; they have the indicator where states are absorbing."""
    return reward_of(config, model(*look(config, rows)))


def reward_of(config: Any, logits: jax.Array) -> jax.Array:
    """The configured reward (...,) of logits, without gradient."""
    return jax.lax.stop_gradient(chosen(config, "reward")(logits, config.reward_bound))


def reward_metrics(rewards: jax.Array) -> Metrics:
    """``reward`` and ``reward_spread``, mean and standard deviation of the discriminator's."""
    return {"reward": jnp.mean(rewards), "reward_spread": jnp.std(rewards)}


def minibatches(rows: Batch, count: int) -> Batch:
    """Rows (K B, ...) as (K, B, ...)."""
    return jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), rows)


def collapsed(metrics: Mapping[str, float]) -> list[str]:
    """A sentence if the discriminator knows every row and its reward says nothing."""
    expert, own = metrics.get("expert_accuracy", 0.0), metrics.get("own_accuracy", 0.0)
    spread = metrics.get("reward_spread", float("inf"))
    if min(expert, own) < 0.99 or spread > _FLAT:
        return []
    return [
        f"the discriminator has collapsed: it tells all rows apart (expert_accuracy={expert:.3g}, "
        f"own_accuracy={own:.3g}) and its reward is flat (reward_spread={spread:.3g}), so that the "
        "policy has nothing to follow; raise gradient_penalty_weight, lower "
        "discriminator_learning_rate, or take reward=airl, which does not saturate"
    ]


_FLAT = 0.05  # nats
