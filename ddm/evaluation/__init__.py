"""Scores of policies: rollouts, exact returns in finite MDPs, and aggregate statistics."""

from ddm.evaluation.environments import make_environment
from ddm.evaluation.evaluate import evaluate, make_evaluator
from ddm.evaluation.exact import exact_return, policy_table
from ddm.evaluation.policy import Policy
from ddm.evaluation.results import EvaluationResult, episode_seeds
from ddm.evaluation.statistics import (
    bootstrap_interval,
    interquartile_mean,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    wilson_interval,
)
from ddm.evaluation.values import monte_carlo_values

__all__ = [
    "EvaluationResult",
    "Policy",
    "bootstrap_interval",
    "episode_seeds",
    "evaluate",
    "exact_return",
    "interquartile_mean",
    "make_environment",
    "make_evaluator",
    "mean",
    "median",
    "monte_carlo_values",
    "optimality_gap",
    "performance_profile",
    "policy_table",
    "probability_of_improvement",
    "wilson_interval",
]
