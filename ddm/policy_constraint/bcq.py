"""BCQ: batch-constrained deep Q-learning (Fujimoto et al. 2019, arXiv 1812.02900, algorithm 1).

    L_VAE = mean (f(s, z) - a)^2 + w mean KL(q(z | s, a) || N(0, I))
    a_m   = clip(f(s, z_m) + phi tanh(xi(s, f(s, z_m))), -1, 1),   z_m ~ clip(N(0, I), -c, c)
    y     = r + gamma (1 - termination) max_m [lambda min_i + (1 - lambda) max_i] Qbar_i(s', a_m)
    L_Q   = sum_i (Q_i(s, a) - y)^2
    L_xi  = - Q_1(s, a_1)
    act   = argmax_m Q_1(s, a_m)

A variational autoencoder proposes actions like those of the data, a network moves each by at most
phi, and the one with the best value is taken: of 10 in the target, by the target networks, or of
100 to act. At phi = 0 values choose among the model's own actions (as in EMaQ, Ghasemipour et al.
2021); with, in addition, only one proposal it is cloning.

The order is that of the authors' code (sfujim/BCQ): model, critics with the new model, then xi with
the new model and critics, then the targets of critics and xi. The proposals at s and s' come from
one pass through the decoder. Without noise, `act` draws its proposals from a fixed key. From the
authors' code: biases start at 0, not uniform like the kernels, and the latent's width has a lower
ceiling (`log_var_max`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from ddm import networks, ops
from ddm.ops import convergence
from ddm.policy_constraint.parts import generative
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
)


class Config(generative.Config):
    """Hyper-parameters; defaults are those of the authors' code, whose batches have 100 rows."""

    actor_learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size of the perturbation
    # phi: largest change of a proposed action; 0: none
    perturbation: float = leaf(0.05, "[0, inf)")
    actor_network: NetworkFn | None = network()  # in place of :func:`actor_network`


class State(struct.PyTreeNode):
    """Everything that training changes."""

    vae: networks.Trainable
    vae_tracker: convergence.Convergence
    actor: networks.Tracked  # xi, the perturbation
    critic: networks.Tracked
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Transitions."""
    del config
    return BatchSpec(fields=TRANSITION_FIELDS)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: integer actions, or images.
    """
    check_continuous_example(config, batch, batch_spec(config), "bcq")
    key, vae_key, actor_key, critic_key = jax.random.split(key, 4)
    observations, actions = batch.observations[:1], batch.actions[:1]
    actor = (config.actor_network or actor_network)(config, actions.shape[-1])
    return State(
        vae=generative.init_vae(config, vae_key, batch),
        vae_tracker=convergence.start(),
        actor=networks.tracked(actor, actor.init(actor_key, observations, actions)),
        critic=generative.init_critic(config, critic_key, batch),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step of model, critics, perturbation and targets.

    Metrics: ``vae_loss``; ``vae_progress``, the share of it that about the last 900 updates took
    off; ``critic_loss``; ``q_value``, mean Q(s, a) over members; ``reward_max``, the largest size
    of a reward in the batch; ``actor_loss``.
    """
    check_batch(batch, batch_spec(config), "bcq")
    key, vae_key, proposal_key = jax.random.split(state.key, 3)
    vae, tracker, vae_metrics = generative.vae_step(
        config, state.vae, state.vae_tracker, batch, vae_key
    )
    proposals, next_proposals = _proposals(config, vae, batch, proposal_key)

    next_moves = state.actor.target(batch.next_observations, next_proposals)
    next_actions = perturb(config, next_proposals, next_moves)
    next_values = state.critic.target(batch.next_observations, next_actions)
    targets = ops.td_target(
        batch.rewards,
        config.discount,
        batch.terminations,
        generative.best_value(config, next_values),
    )

    def critic_loss(params: Any) -> tuple[jax.Array, Metrics]:
        values = state.critic.apply(params, batch.observations, batch.actions)
        loss = ops.squared_td_error(values, targets)
        return loss, {"critic_loss": loss, "q_value": jnp.mean(values)}

    critic, critic_metrics = networks.minimize(
        critic_loss, state.critic, config.critic_learning_rate
    )

    def actor_loss(params: Any) -> tuple[jax.Array, Metrics]:
        moves = state.actor.apply(params, batch.observations, proposals)
        actions = perturb(config, proposals, moves)
        loss = -jnp.mean(networks.first_member(critic, batch.observations, actions))
        return loss, {"actor_loss": loss}

    actor, actor_metrics = networks.minimize(actor_loss, state.actor, config.actor_learning_rate)
    state = state.replace(
        vae=vae,
        vae_tracker=tracker,
        actor=networks.follow(actor, config.target_rate),
        critic=networks.follow(critic, config.target_rate),
        step=state.step + 1,
        key=key,
    )
    reward_max = ops.largest_reward(batch.rewards)
    return state, {**vae_metrics, **critic_metrics, **actor_metrics, "reward_max": reward_max}


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """The best by Q_1 of `num_eval_samples` perturbed proposals, drawn anew or always the same."""
    key = generative.candidate_key(key, deterministic)
    observations = observation[None]
    features = generative.repeated_features(state.vae, observations, config.num_eval_samples)
    proposals = jnp.tanh(generative.propose(config, state.vae, features, key))
    [actions] = perturb(config, proposals, state.actor(observations, proposals))
    return generative.choose(state.critic, observation, actions), policy_state


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences if the behaviour model has not converged, or values exceed what rewards allow."""
    return generative.diagnose(metrics) + ops.values_beyond_rewards(config.discount, metrics)


def perturb(config: Config, actions: jax.Array, moves: jax.Array) -> jax.Array:
    """Actions moved by at most phi, and kept in their box."""
    return jnp.clip(actions + config.perturbation * moves, -1.0, 1.0)


class Perturbation(networks.Network):
    """Tanh xi(s, a): (B, O) and (B, [M,] A) to moves of the shape of the actions."""

    hidden_sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, observations: jax.Array, actions: jax.Array) -> jax.Array:  # noqa: D102
        inputs = networks.concatenate_inputs(observations, actions)
        mlp = networks.MLP(self.hidden_sizes, actions.shape[-1], name="mlp")
        return jnp.tanh(mlp(inputs))


def actor_network(config: Config, action_size: int) -> networks.Network:
    """Tanh xi(s, a).

    Called with observations (B, *O) and actions (B, [M,] A); returns moves in (-1, 1) of the shape
    of the actions.
    """
    del action_size
    return Perturbation(config.hidden_sizes)


def _proposals(
    config: Config, vae: networks.Trainable, batch: Batch, key: PRNGKey
) -> tuple[jax.Array, jax.Array]:
    """Proposals (B, A) at s and (B, M, A) at s', from one pass through the decoder."""
    here = generative.repeated_features(vae, batch.observations, 1)
    there = generative.repeated_features(vae, batch.next_observations, config.num_target_samples)
    features = jnp.concatenate([here, there], axis=1)
    actions = jnp.tanh(generative.propose(config, vae, features, key))
    return actions[:, 0], actions[:, 1:]
