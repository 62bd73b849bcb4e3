"""Pure maths on arrays: no networks, no state."""

from ddm.ops import (
    averaging,
    convergence,
    denoising,
    diffusion,
    divergences,
    flows,
    improvement,
    kernels,
    langevin,
    latent,
    matching,
    occupancy_matching,
    plans,
    tables,
    weights,
)
from ddm.ops.control import cond_if_any
from ddm.ops.least_squares import gauss_newton
from ddm.ops.penalties import logsumexp_gap, orthogonality_penalty, soft_maximum
from ddm.ops.pessimism import halted, is_unknown, penalized_rewards
from ddm.ops.updates import cosine_decay, linear_decay, polyak, share_done
from ddm.ops.value_learning import (
    expectile_loss,
    lambda_returns,
    largest_reward,
    mix_ensemble,
    of_actions,
    squared_td_error,
    td_target,
    values_beyond_rewards,
)

__all__ = [
    "averaging",
    "cond_if_any",
    "convergence",
    "cosine_decay",
    "denoising",
    "diffusion",
    "divergences",
    "expectile_loss",
    "flows",
    "gauss_newton",
    "halted",
    "improvement",
    "is_unknown",
    "kernels",
    "lambda_returns",
    "langevin",
    "largest_reward",
    "latent",
    "linear_decay",
    "logsumexp_gap",
    "matching",
    "mix_ensemble",
    "occupancy_matching",
    "of_actions",
    "orthogonality_penalty",
    "penalized_rewards",
    "plans",
    "polyak",
    "share_done",
    "soft_maximum",
    "squared_td_error",
    "tables",
    "td_target",
    "values_beyond_rewards",
    "weights",
]
