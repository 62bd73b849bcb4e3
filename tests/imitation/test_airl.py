"""AIRL."""

from __future__ import annotations

import contract

CONTRACT = contract.Contract(
    small={
        "window": 4, "num_epochs": 2, "num_minibatches": 2, "discriminator_steps": 2,
        "reward_hidden_sizes": (8,),
    },
    variants=[
        {"head": "categorical", "num_actions": contract.NUM_ACTIONS, "state_only": False},
    ],
    other={
        "head": "gaussian",
        "features": lambda observations: 2.0 * contract.pair_features(observations),
        "clip_ratio": 1e-4,
        "value_clip": 1e-4,
        "entropy_weight": 0.5,
        "max_gradient_norm": 1e-4,
        "target_kl": 1e-9,
        "window": 5,
        "num_epochs": 3,
        "num_minibatches": 3,
        "discriminator_steps": 3,
        "reward_hidden_sizes": (6,),
        "log_prob_bound": 0.01,
    },
    context={
        "features": {
            "head": "linear_softmax",
            "num_actions": contract.NUM_ACTIONS,
            "features": contract.pair_features,
        }
    },
)  # fmt: skip
