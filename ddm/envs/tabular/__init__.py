"""Finite MDPs: exact solvers, small worlds, and the same worlds as simulators."""

from ddm.envs.tabular.dialogue import (
    Speech,
    dialogue_prior,
    dialogue_state,
    dialogue_world,
    judge_speech,
    kl_optimum,
)
from ddm.envs.tabular.environment import TabularEnvironment, make_params
from ddm.envs.tabular.icu_sepsis import icu_sepsis
from ddm.envs.tabular.importance import ImportanceMoments, importance_moments
from ddm.envs.tabular.mdp import (
    MDP,
    SparseTabularMDP,
    TabularMDP,
    check_policy,
    make_mdp,
    make_sparse_mdp,
)
from ddm.envs.tabular.sepsis import sepsis_behavior, sepsis_features, sepsis_world
from ddm.envs.tabular.solvers import (
    Solution,
    backup,
    evaluate_policy,
    expected_return,
    expected_visits,
    occupancy,
    policy_iteration,
    reach_probability,
    reach_within,
    value_iteration,
)
from ddm.envs.tabular.walled_grid import walled_grid, walled_grid_support
from ddm.envs.tabular.worlds import (
    DISCOUNT_GRID,
    combination_lock,
    discount_grid,
    grid_cells,
    grid_world,
    line_behavior,
    line_world,
    random_mdp,
    tightrope,
)

__all__ = [
    "DISCOUNT_GRID",
    "MDP",
    "ImportanceMoments",
    "Solution",
    "SparseTabularMDP",
    "Speech",
    "TabularEnvironment",
    "TabularMDP",
    "backup",
    "check_policy",
    "combination_lock",
    "dialogue_prior",
    "dialogue_state",
    "dialogue_world",
    "discount_grid",
    "evaluate_policy",
    "expected_return",
    "expected_visits",
    "grid_cells",
    "grid_world",
    "icu_sepsis",
    "importance_moments",
    "judge_speech",
    "kl_optimum",
    "line_behavior",
    "line_world",
    "make_mdp",
    "make_params",
    "make_sparse_mdp",
    "occupancy",
    "policy_iteration",
    "random_mdp",
    "reach_probability",
    "reach_within",
    "sepsis_behavior",
    "sepsis_features",
    "sepsis_world",
    "tightrope",
    "value_iteration",
    "walled_grid",
    "walled_grid_support",
]
