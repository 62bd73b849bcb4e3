"""Tiny algorithms with known answers."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ddm import evaluation


class Drift:
    """Moves east at the speed in its state, with a random sidestep when it samples."""

    @staticmethod
    def act(config, state, observation, key, policy_state=(), *, deterministic=False):
        noise = 0.0 if deterministic else config["noise"] * jax.random.normal(key)
        return jnp.stack([state["speed"], noise]), policy_state


class Hesitate:
    """Has a memory: waits as many steps as its state says, then moves east."""

    @staticmethod
    def initial_policy_state(config, state):
        return jnp.zeros((), jnp.int32)

    @staticmethod
    def act(config, state, observation, key, policy_state=(), *, deterministic=False):
        speed = jnp.where(policy_state >= state["wait"], 1.0, 0.0)
        return jnp.stack([speed, 0.0]), policy_state + 1


class Echo:
    """Answers with the sum of the observation times a gain, as a vector of one."""

    @staticmethod
    def act(config, state, observation, key, policy_state=(), *, deterministic=False):
        return observation.sum()[None] * state["gain"], policy_state


class Constant:
    """The same action always."""

    @staticmethod
    def act(config, state, observation, key, policy_state=(), *, deterministic=False):
        return state["action"], policy_state


def drift(*speeds, noise=0.0):
    """A policy with one lane a speed."""
    config = {"noise": jnp.full(len(speeds), noise)}
    return evaluation.Policy(Drift, config, {"speed": jnp.asarray(speeds, jnp.float32)})


def hesitate(*waits):
    """A policy with one lane a wait."""
    return evaluation.Policy(Hesitate, {}, {"wait": jnp.asarray(waits)})


def echo(*gains, normalization=None):
    """A policy with one lane a gain."""
    return evaluation.Policy(Echo, {}, {"gain": jnp.asarray(gains, jnp.float32)}, normalization)


def constant(action, normalization=None):
    """A policy of one lane."""
    return evaluation.Policy(Constant, {}, {"action": jnp.asarray(action)[None]}, normalization)
