"""CCIL on dynamics that are known, where labels and their errors have closed forms."""

from __future__ import annotations

import contract
import jax
import jax.numpy as jnp

from ddm.imitation import ccil


def push(observation, action):
    """Two directions of four are pushed by an action of two numbers."""
    return observation + 0.1 * jnp.concatenate([action, jnp.sin(observation[:2])])


KNOWN = {"dynamics": push, "generator": "disturb_state", "rejection": "error"}
SLACK = {
    "lipschitz": "sampling_slack",
    "generator": "disturb_implicit",
    "rejection": "none",
    "num_labels": 2,
}
UNITS = {
    "observation_mean": (0.5,) * 4,
    "observation_std": (2.0,) * 4,
    "action_center": (0.5,) * 2,
    "action_scale": (2.0,) * 2,
}

CONTRACT = contract.Contract(
    small={
        "model_hidden_sizes": (8, 8),
        "steps_per_epoch": 2,
        "model_batch_size": 4,
        "max_epochs": 2,
    },
    variants=[
        KNOWN,
        SLACK,
        {"lipschitz": "spectral", "rejection": "distance"},
        {"lipschitz": "jacobian", "generator": "disturb", "head": "mse"},
        {"lipschitz": "slack", "generator": "backtrack_implicit"},
    ],
    other={
        "head": "tanh_gaussian",
        "features": lambda observations: 2.0 * contract.pair_features(observations),
        "model_weight_decay": 100.0,
        "slope_limit": 0.01,
        "slope_weight": 10.0,
        "perturbation": 0.5,
        "tolerance": 100.0,
        "max_distance": 100.0,
        "keep_share": 0.3,
        "max_error": 100.0,
        "max_action_distance": 0.01,
        "generator": "random",
        "rejection": "none",
        "lipschitz": "none",
        "num_labels": 3,
        "num_perturbations": 2,
        "max_iterations": 2,
        "max_epochs": 3,
        "steps_per_epoch": 3,
        "model_batch_size": 3,
        "model_hidden_sizes": (8,),
        "dynamics": push,
        **{name: (0.25,) * len(values) for name, values in UNITS.items()},
    },
    context={
        "features": {"head": "linear_gaussian", "features": lambda observations: observations},
        "slope_weight": {"slope_limit": 0.01},
        "slack_weight": {**SLACK, "slope_weight": 1.0},
        "perturbation": {"slope_limit": 0.01, "slope_weight": 10.0},
        "action_noise": SLACK,
        "max_action_distance": SLACK,
        "max_iterations": SLACK,
        "observation_noise": {**KNOWN, "tolerance": 100.0, "max_error": 100.0},
        "tolerance": {**KNOWN, "max_error": 100.0},
        "max_error": {**KNOWN, "tolerance": 100.0},
        "max_distance": {"lipschitz": "spectral", "rejection": "distance"},
        **dict.fromkeys(UNITS, {**KNOWN, **UNITS}),
    },
)
