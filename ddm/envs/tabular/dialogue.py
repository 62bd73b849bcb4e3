"""Utterances of eight tokens as a finite MDP: the smallest model of a dialogue system.

A speaker says up to `NUM_STEPS` of 16 tokens, one per step. Tokens 0 to 3 are positive words and
earn 1 each; token 15 ends the utterance. The state is (step, last token). A fixed prior p(token |
last token) plays the part of a language model. It mostly says something dull and avoids
repetitions, so reward and likelihood are in conflict. With a penalty on the KL divergence from p
the best policy is exact, by `ddm.ops.improvement.kl_penalty`: see :func:`kl_optimum`. It is the
tabular model of the dialogue systems of Jaques et al. (2019).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ddm.envs.tabular.mdp import MDP, SparseTabularMDP, check_policy, make_sparse_mdp
from ddm.envs.tabular.solvers import expected_visits, value_iteration
from ddm.errors import InputError
from ddm.ops import improvement

NUM_TOKENS, NUM_POSITIVE, END = 16, 4, 15
NUM_STEPS = 8
_BEGIN = NUM_TOKENS  # the "last token" of an utterance that has not begun
_LAST = NUM_TOKENS + 1  # values of the last token


class Speech(struct.PyTreeNode):
    """What a policy does in an utterance, on average."""

    reward: jax.Array  # () positive words
    kl: jax.Array  # () nats to the prior, summed over the utterance; infinite off its support
    length: jax.Array  # () tokens
    entropy: jax.Array  # () nats per token
    prior_log_prob: jax.Array  # () log p of a token


def dialogue_world() -> SparseTabularMDP:
    """The MDP: state `step * 17 + last token`, and one terminal state; the discount is 1.

    An utterance ends with token 15 or with its eighth token.
    """
    num_states = NUM_STEPS * _LAST + 1
    step = np.arange(num_states) // _LAST
    tokens = np.arange(NUM_TOKENS)
    later = (step[:, None] + 1) * _LAST + tokens
    over = (tokens == END) | (step[:, None] >= NUM_STEPS - 1)
    next_states = np.where(over, num_states - 1, later)
    rewards = np.broadcast_to(tokens < NUM_POSITIVE, next_states.shape).astype(float)
    return make_sparse_mdp(
        next_states[..., None],
        np.ones((*next_states.shape, 1)),
        rewards,
        initial=_BEGIN,
        discount=1.0,
        terminal=np.arange(num_states) == num_states - 1,
    )


def dialogue_prior() -> jax.Array:
    """(S, 16) probabilities of the prior in each state of :func:`dialogue_world`."""
    table = _token_prior()
    states = np.arange(NUM_STEPS * _LAST + 1)
    return jnp.asarray(table[states % _LAST], float)


def dialogue_state(step: int, last_token: int | None) -> int:
    """The state after this many tokens; `last` is None if nothing was said.

    Raises:
      InputError: no utterance is in that state.
    """
    last = _BEGIN if last_token is None else last_token
    if not 0 <= step < NUM_STEPS or not 0 <= last < _LAST:
        raise InputError(f"step {step} with last token {last_token} is no state of an utterance")
    return step * _LAST + last


def kl_optimum(weight: float) -> jax.Array:
    """(S, 16) the policy with the largest reward - `weight` * KL to the prior; exact."""
    mdp, prior = dialogue_world(), dialogue_prior()
    if weight == 0.0:
        return value_iteration(mdp).policy
    improve = jax.tree_util.Partial(improvement.kl_penalty, behavior=prior, weight=weight)
    return value_iteration(mdp, improve).policy


def judge_speech(mdp: MDP, policy: jax.Array, prior: jax.Array) -> Speech:
    """Exact means of a policy (S, A) in a world like :func:`dialogue_world`.

    Args:
      mdp: the world.
      policy: (S, A).
      prior: (S, A) from which divergences are measured.
    """
    policy = check_policy(mdp, policy)
    visits = expected_visits(mdp, policy, discount=1.0, horizon=NUM_STEPS)  # (S, A)
    states, length = jnp.sum(visits, axis=-1), jnp.sum(visits)
    divergence = improvement.kl_divergence(policy, prior)
    entropy = -improvement.kl_divergence(policy, jnp.ones_like(policy))
    log_prior = jnp.log(jnp.where(visits > 0.0, prior, 1.0))
    return Speech(
        reward=jnp.sum(visits * mdp.expected_rewards()),
        kl=jnp.sum(jnp.where(states > 0.0, states * divergence, 0.0)),
        length=length,
        entropy=jnp.sum(states * entropy) / length,
        prior_log_prob=jnp.sum(visits * log_prior) / length,
    )


def _token_prior() -> np.ndarray:
    """(17, 16) p(token | last token), constants: positive words are rare, repetitions rarer."""
    logits = 1.2 * np.random.default_rng(0).standard_normal((_LAST, NUM_TOKENS))
    logits[:, :NUM_POSITIVE] -= 1.0
    logits[:, END] -= 0.5
    logits[_BEGIN, END] -= 5.0
    tokens = np.arange(NUM_TOKENS)
    logits[tokens, tokens] -= 3.0
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)
