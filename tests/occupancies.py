"""Batches that hold the occupancy of a policy in a tabular world, and soft-optimal policies.

A batch has no weights. So each transition stands in it as often as its share of the rows, to the
nearest whole number: expectations over the batch are exact up to half a row.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ddm.envs import tabular
from ddm.types import Batch


class Table(nn.Module):
    """One value for each state and action, all 0 at first: (B, S) one-hot to (1, B, K)."""

    num_actions: int

    @nn.compact
    def __call__(self, observations):
        zeros = nn.initializers.zeros
        return nn.Dense(self.num_actions, use_bias=False, kernel_init=zeros)(observations)[None]


def table(config, num_actions):
    """A `critic_network`."""
    return Table(num_actions)


def soft_optimal(mdp, temperature=1.0, sweeps=3000):
    """Soft values Q (S, A) by value iteration in numpy, and their policy (S, A)."""
    transitions, rewards = np.asarray(mdp.transitions), np.asarray(mdp.expected_rewards())
    live = ~np.asarray(mdp.terminal)
    values = np.zeros(len(transitions))
    for _ in range(sweeps):
        action_values = rewards + float(mdp.discount) * transitions @ (values * live)
        top = action_values.max(axis=1)
        scaled = np.exp((action_values - top[:, None]) / temperature)
        values = top + temperature * np.log(scaled.sum(axis=1))
    return action_values, scaled / scaled.sum(axis=1, keepdims=True)


def rows_of(mdp, policy, num_rows, pairs=None):
    """Demonstrations: about `num_rows` transitions as frequent as under the policy.

    Args:
      mdp: dense.
      policy: (S, A).
      num_rows: how fine the shares are.
      pairs: (S, A) shares of the pairs; None: the policy's discounted occupancy.
    """
    if pairs is None:
        pairs = np.asarray(tabular.occupancy(mdp, jnp.asarray(policy)))
    shares = (pairs / pairs.sum())[:, :, None] * np.asarray(mdp.transitions)
    counts = np.rint(num_rows * shares).astype(int)
    index = np.repeat(np.argwhere(counts > 0), counts[counts > 0], axis=0)
    states, actions, next_states = index.T
    one_hot = np.eye(mdp.num_states, dtype=np.float32)
    return Batch(
        observations=jnp.asarray(one_hot[states]),
        actions=jnp.asarray(actions, jnp.int32),
        next_observations=jnp.asarray(one_hot[next_states]),
        terminations=jnp.asarray(np.asarray(mdp.terminal)[next_states]),
    ), pairs
