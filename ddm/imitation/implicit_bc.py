"""Implicit behaviour cloning: an energy over observations and actions, and search for low energy.

    pi(a | s) ~ exp(f_theta(s, a)),      E = -f
    L = - log [ exp f(s, a) / ( exp f(s, a) + sum_j exp f(s, a_j) ) ]        (InfoNCE)

with counter-examples a_1 .. a_n from the action box, widened by `box_margin` on each side. Florence
et al. 2021. A small continuous f can represent actions that jump or have several values: its
maximum may jump, and it may have several maxima. For uniform counter-examples the best f is log
pi(a | s) up to a function of s.

- ``negatives``: ``uniform``; or ``langevin``, uniform ones moved uphill by a chain through which
  no gradient flows. Uniform ones tell little in more than about five action dimensions.
- ``gradient_penalty``: the mean over all n + 1 actions of
  max(0, max_i |df/da_i| - margin)^2. Langevin chains need it, because their step sizes are chosen
  for slopes of about 1. It bounds how sharp exp(f) can be; uniform counter-examples do not need it.
- ``inference``: ``dfo``, derivative-free optimisation: uniform candidates, then in each round a
  draw of the same number by softmax(f) and a shrinking perturbation; or ``langevin``, a chain whose
  steps shrink. The deterministic action is the best of the final candidates, the sampled one is a
  draw by softmax(f): both depend on the key, which makes the candidates. Draws are not exact
  samples of pi, because the search prefers high scores.

Differences from the authors' code (google-research/ibc):

- The box is that of the environment, [-1, 1], not the data's smallest and largest actions: the
  dataset is scaled already. The chosen action is clipped to it.
- The final draw uses the scores of the final candidates; theirs pairs the candidates of the last
  draw with the scores before it. Their three iterations draw three times and perturb twice, by 0.33
  and 0.165. Here these are two rounds, and the third draw is the final one.
- The network has one block of width 256 for both searches, as in their Langevin configuration of
  the particle task (`particle/mlp_ebm_langevin.gin`). Their best DFO network for states has as many
  weights, in 4 blocks of width 128 (`pushing_states/mlp_ebm_best.gin`). Their DFO network of the
  particle task has 2 layers of width 256 without a block around them.
- 1024 candidates are searched, not 16384: the search is most of an evaluation's time.
- The learning rate may follow a cosine, not an exponential decay (0.99 each 100 steps).
- Weights start uniform at the scale of their fan-in and biases at 0, not all normal of width 0.05:
  the scale of the first scores then does not depend on the width.
- The first layer is applied to observations and to actions separately, and the results are added:
  the same function, without a copy of the observation for each candidate.
- A chain of ``langevin`` is not followed by a second one with smaller steps (some of their
  configurations have it: `optimize_again`).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from ddm import networks, ops
from ddm.imitation.parts import search
from ddm.networks.mlp import Network, fan_in_uniform
from ddm.ops import plans
from ddm.types import (
    Batch,
    BatchSpec,
    Metrics,
    NetworkFn,
    PRNGKey,
    PyTree,
    check_batch,
    check_continuous,
    choice,
    leaf,
    network,
    static,
)


class Config(search.Config):
    """Hyper-parameters; defaults of the authors' DFO but for the sizes of network and search."""

    learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size
    # gradient steps over which a cosine takes the step size to 0; 0: constant
    decay_steps: int = leaf(0, "[0, inf)")
    # decoupled weight decay (AdamW), per unit of learning rate
    weight_decay: float = leaf(0.0, "[0, inf)")
    # frames that the policy sees, the current one included
    observation_steps: int = static(2, "[1, inf)")
    # of the residual network (authors: 128 for dfo; 256, or 2048 at their best, for langevin)
    width: int = static(256, "[1, inf)")
    # residual blocks of two relu layers (authors: 4 or 8 for dfo, 1 for langevin)
    num_blocks: int = static(1, "[0, inf)")
    encoder: str = choice(networks.ENCODERS, "none")  # none: observations are vectors; conv: images
    gradient_penalty: bool = static(False)  # bounds slopes of the score; use it with langevin
    gradient_penalty_weight: float = leaf(1.0, "[0, inf)")  # weight of the penalty in the loss
    # slope df/da_i that is free, per half action range
    gradient_margin: float = leaf(1.0, "[0, inf)")
    policy_network: NetworkFn | None = network()  # see `policy_network`


class State(struct.PyTreeNode):
    """Everything that training changes, and the form of observations and actions."""

    policy: networks.Trainable
    observation: jax.Array  # (*O,) zeros: the shape and type of one observation
    action: jax.Array  # (A,) zeros, likewise
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


class Score(Network):
    """f(s, a): frames (B, T, *O) and actions (B, M, A) to scores (B, M).

    A residual network with activation before each layer (He et al. 2016), without
    normalisation and dropout: both would make the score noisy.
    """

    width: int
    num_blocks: int
    encoder: str = "none"

    @nn.compact
    def __call__(self, observations: jax.Array, actions: jax.Array) -> jax.Array:
        """The scores."""

        def dense(name: str, bias: bool = True) -> nn.Dense:
            return nn.Dense(self.width, bias, kernel_init=fan_in_uniform, name=name)

        frames = networks.ObservationEncoder(self.encoder, name="encoder")(observations)
        condition = dense("observation")(frames.reshape(frames.shape[0], -1))
        hidden = condition[:, None] + dense("action", bias=False)(actions)
        for block in range(self.num_blocks):
            inner = dense(f"block_{block}_0")(nn.relu(hidden))
            hidden = hidden + dense(f"block_{block}_1")(nn.relu(inner))
        return nn.Dense(1, kernel_init=fan_in_uniform, name="output")(hidden)[..., 0]


def policy_network(config: Config, action_size: int) -> Score:
    """The score that a configuration describes.

    It maps frames (B, T, *O) and actions (B, M, A) to scores (B, M).
    """
    del action_size  # it is that of the actions
    return Score(config.width, config.num_blocks, config.encoder)


def batch_spec(config: Config) -> BatchSpec:
    """The frames up to the drawn step."""
    past = config.observation_steps - 1
    return BatchSpec(fields=("observations", "actions"), window=past + 1, history=past)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh score for observations and actions of the shapes in `batch`.

    Raises:
      InputError: discrete actions, or observations that need another encoder.
    """
    check_batch(batch, batch_spec(config), "implicit_bc")
    check_continuous(batch, "implicit_bc")
    if config.policy_network is None:
        networks.check_encoder(config.encoder, batch.observations.shape[2:], "implicit_bc")
    key, params_key = jax.random.split(key)
    score = (config.policy_network or policy_network)(config, batch.actions.shape[-1])
    params = score.init(params_key, batch.observations[:1], batch.actions[:1, -1:])
    return State(
        policy=networks.trainable(score, params, networks.adamw),
        observation=jnp.zeros_like(batch.observations[0, 0]),
        action=jnp.zeros_like(batch.actions[0, 0]),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One gradient step on InfoNCE and, if it is switched on, the gradient penalty.

    Metrics: ``loss``, their sum; ``info_nce``, which is log(n + 1) for a score that has learned
    nothing; ``gradient_penalty``; ``accuracy``, the share of logged actions that score above all
    their counter-examples.
    """
    check_batch(batch, batch_spec(config), "implicit_bc")
    check_continuous(batch, "implicit_bc")
    key, negatives_key = jax.random.split(state.key)
    logged = batch.actions[:, -1:]
    negatives = search.NEGATIVES[config.negatives](
        config,
        lambda actions: state.policy(batch.observations, actions),
        negatives_key,
        (logged.shape[0], config.num_negatives, logged.shape[-1]),
    )
    actions = jnp.concatenate([logged, negatives], axis=1)  # (B, 1 + n, A)

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        score = lambda actions: state.policy.apply(params, batch.observations, actions)  # noqa: E731
        scores = score(actions)
        info_nce = jnp.mean(jax.nn.logsumexp(scores, axis=1) - scores[:, 0])
        penalty = jnp.zeros((), jnp.float32)
        if config.gradient_penalty:
            steepest = jnp.max(jnp.abs(search.slopes(score, actions)), axis=-1)
            penalty = jnp.mean(jnp.square(nn.relu(steepest - config.gradient_margin)))
        loss = info_nce + config.gradient_penalty_weight * penalty
        return loss, {
            "loss": loss,
            "info_nce": info_nce,
            "gradient_penalty": penalty,
            "accuracy": jnp.mean(scores[:, 0] > jnp.max(scores[:, 1:], axis=1)),
        }

    rate = ops.cosine_decay(config.learning_rate, state.step, config.decay_steps)
    policy, metrics = networks.minimize(loss_fn, state.policy, rate, config.weight_decay)
    return state.replace(policy=policy, step=state.step + 1, key=key), metrics


def initial_policy_state(config: Config, state: State) -> PyTree:
    """No frames yet."""
    return plans.no_frames(config.observation_steps, state.observation)


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """The best candidate of the search, or one drawn by softmax of the scores."""
    frames = plans.push(policy_state or initial_policy_state(config, state), observation)
    start_key, search_key, draw_key = jax.random.split(key, 3)
    score = lambda actions: state.policy(frames.observations[None], actions)  # noqa: E731
    start = search.uniform(config, start_key, (1, config.num_samples, *state.action.shape))
    candidates = search.SEARCHES[config.inference](config, score, search_key, start)
    scores, candidates = score(candidates)[0], candidates[0]
    best = jnp.argmax(scores) if deterministic else jax.random.categorical(draw_key, scores)
    return jnp.clip(candidates[best], -1.0, 1.0), frames


def scores(config: Config, state: State, observations: jax.Array, actions: jax.Array) -> jax.Array:
    """Scores (B, M) of actions (B, M, A) after frames (B, T, *O): log pi(a | s) + c(s).

    Only differences within a row have a meaning.
    """
    del config
    return state.policy(observations, actions)
