"""What the tests of model-based methods share."""

from __future__ import annotations

# A model that trains in no time: two epochs of two steps.
SMALL_MODEL = {
    "model_hidden_sizes": (8, 8),
    "model_weight_decay": (1e-3, 2e-3, 3e-3),
    "num_members": 3,
    "num_elites": 2,
    "steps_per_epoch": 2,
    "model_batch_size": 4,
    "max_epochs": 2,
    "termination": "learned",
}
# Rounds of two imagined episodes of two steps each.
SMALL_ROUNDS = {
    "rollout_length": 2,
    "num_rollouts": 2,
    "rollout_frequency": 2,
    "retained_rounds": 2,
    "real_share": 0.5,
}
# Values at which a field matters, where half of its default would not show it.
OTHER = {
    "model_weight_decay": (0.1,),
    "model_hidden_sizes": (8,),
    "num_members": 4,
    "num_elites": 1,
    "steps_per_epoch": 3,
    "model_batch_size": 3,
    "max_epochs": 3,
    "patience": 1,
    "holdout_share": 0.5,
    "max_holdout": 1,
    "termination": "never",
    "observation_mean": (0.5, 0.5, 0.5, 0.5),
    "observation_std": (2.0, 2.0, 2.0, 2.0),
    "reward_unit": 2.0,
    "rollout_length": 3,
    "num_rollouts": 3,
    "rollout_frequency": 3,
    "retained_rounds": 3,
    "real_share": 0.75,
    "uncertainty": "std_of_means",
    "temperature_min": 1.0,
    "temperature_max": 1.0,
    "backup_entropy": 0.5,
}
# The rule of a task reads observations in the environment's units.
_RULE = {"termination": "inverted_pendulum", "observation_std": (1.0, 1.0, 1.0, 1.0)}
CONTEXT = {
    "patience": {"model_learning_rate": 0.0},
    "temperature_min": {"target_entropy": -50.0},
    "temperature_max": {"target_entropy": 50.0},
    "model_hidden_sizes": {"model_weight_decay": (1e-3,)},
    "observation_mean": _RULE,
    "observation_std": _RULE,
}
