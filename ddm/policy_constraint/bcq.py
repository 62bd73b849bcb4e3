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
import optax
from flax import struct

from ddm import networks, ops
from ddm.ops import convergence
from ddm.policy_constraint import generative
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
)


class Config(generative.Config):
    """Hyper-parameters; defaults are those of the authors' code, whose batches have 100 rows."""

    actor_learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size of the perturbation
    # phi: largest change of a proposed action; 0: none
    perturbation: float = leaf(0.05, "[0, inf)")


class State(struct.PyTreeNode):
    """Everything that training changes."""

    vae: networks.Trainable
    vae_tracker: convergence.Convergence
    actor: networks.Trainable  # xi, the perturbation
    actor_target_params: Any
    critic: networks.Trainable
    critic_target_params: Any
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
    check_example(batch, batch_spec(config), "bcq")
    key, vae_key, actor_key, critic_key = jax.random.split(key, 4)
    vae = generative.init_vae(config, vae_key, batch, "bcq")
    critic = generative.init_critic(config, critic_key, batch)
    inputs = networks.concatenate_inputs(batch.observations[:1], batch.actions[:1])
    actor_params = _actor_network(config, batch.actions.shape[-1]).init(actor_key, inputs)
    return State(
        vae=vae,
        vae_tracker=convergence.start(),
        actor=networks.trainable(actor_params, optax.adam(config.actor_learning_rate)),
        actor_target_params=jax.tree.map(jnp.copy, actor_params),
        critic=critic,
        critic_target_params=jax.tree.map(jnp.copy, critic.params),
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
    proposals, next_proposals = _proposals(config, vae.params, batch, proposal_key)

    next_actions = perturb(
        config, state.actor_target_params, batch.next_observations, next_proposals
    )
    next_values = generative.best_values(
        config, state.critic_target_params, batch.next_observations, next_actions
    )
    critic, critic_metrics = generative.critic_step(config, state.critic, batch, next_values)

    def actor_loss(params: Any) -> tuple[jax.Array, Metrics]:
        actions = perturb(config, params, batch.observations, proposals)
        values = generative.first_value(config, critic.params, batch.observations, actions)
        return -jnp.mean(values), {"actor_loss": -jnp.mean(values)}

    actor, actor_metrics = networks.minimize(
        actor_loss, state.actor, optax.adam(config.actor_learning_rate)
    )
    rate = config.target_rate
    state = state.replace(
        vae=vae,
        vae_tracker=tracker,
        actor=actor,
        actor_target_params=ops.polyak(state.actor_target_params, actor.params, rate),
        critic=critic,
        critic_target_params=ops.polyak(state.critic_target_params, critic.params, rate),
        step=state.step + 1,
        key=key,
    )
    return state, {**vae_metrics, **critic_metrics, **actor_metrics}


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
    shape = (config.num_eval_samples, *observation.shape)
    proposals = generative.propose(
        config, state.vae.params, jnp.broadcast_to(observation, shape), key
    )
    actions = perturb(config, state.actor.params, observation[None], proposals[None])[0]
    return generative.choose(config, state.critic.params, observation, actions), policy_state


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences if the behaviour model has not converged, or values exceed what rewards allow."""
    return generative.diagnose(metrics) + ops.values_beyond_rewards(config.discount, metrics)


def perturb(config: Config, params: Any, observations: jax.Array, actions: jax.Array) -> jax.Array:
    """Actions (B, [M,] A) moved by at most phi, and kept in their box."""
    inputs = networks.concatenate_inputs(observations, actions)
    moves = _actor_network(config, actions.shape[-1]).apply(params, inputs)
    return jnp.clip(actions + config.perturbation * moves, -1.0, 1.0)


def _actor_network(config: Config, action_size: int) -> networks.DeterministicPolicy:
    """The network of xi, which ends in the tanh."""
    return networks.DeterministicPolicy(config.hidden_sizes, action_size)


def _proposals(
    config: Config, params: Any, batch: Batch, key: PRNGKey
) -> tuple[jax.Array, jax.Array]:
    """Proposals (B, A) at s and (B, M, A) at s', from one pass through the decoder."""
    rows, size = batch.observations.shape
    next_observations = jnp.broadcast_to(
        batch.next_observations[:, None], (rows, config.num_target_samples, size)
    )
    observations = jnp.concatenate([batch.observations[:, None], next_observations], axis=1)
    actions = generative.propose(config, params, observations, key)
    return actions[:, 0], actions[:, 1:]
