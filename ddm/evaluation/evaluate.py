"""Returns of a policy in an environment, all lanes and episodes at once.

A pure environment is evaluated in one jitted call. A gymnasium environment is stepped on the
host, with one batched, jitted call of all lanes' policies per step. In both cases an episode's seed
depends only on the evaluation's seed and the episode's index: all lanes, and all evaluations with
one seed, have the same episodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ddm.envs import Environment
from ddm.errors import InputError
from ddm.evaluation import policy as policy_lib
from ddm.evaluation.environments import make_environment
from ddm.evaluation.hosted import GymnasiumEvaluator
from ddm.evaluation.policy import Policy
from ddm.evaluation.pure import PureEvaluator
from ddm.evaluation.results import EvaluationResult

if TYPE_CHECKING:
    import gymnasium

EnvironmentLike = Environment | str | Callable[[], "gymnasium.Env"]


def evaluate(
    policy: Policy,
    environment: EnvironmentLike,
    *,
    seed: int,
    num_episodes: int,
    deterministic: bool = True,
    lanes: bool = True,
    params: Any = None,
    max_environments: int = 0,
) -> EvaluationResult:
    """Runs every lane's policy for `num_episodes` episodes.

    Args:
      policy: the policy; with `lanes`, its config and state have a leading axis L.
      environment: a pure environment, an id (see `make_environment`), or a function that makes
        a gymnasium environment. For repeated evaluations in gymnasium environments,
        `make_evaluator` keeps them open.
      seed: seed of the evaluation.
      num_episodes: episodes of each lane.
      deterministic: act by the policy's mode instead of its samples.
      lanes: whether the policy has the leading axis; without, the results have L = 1.
      params: parameters of a pure environment; None for its default ones.
      max_environments: how many simulators of gymnasium are open at a time, but at least one for
        each lane; 0 for as many as fit half of the free memory, at most 64. The result does not
        depend on it.

    Raises:
      InputError: an unknown environment, or one whose spaces do not fit the policy.
      EvaluationError: a simulator fails.
      MissingDependencyError: the environment needs a package that is not installed.
    """
    policy = policy if lanes else policy_lib.with_lane_axis(policy)
    with make_evaluator(
        environment,
        num_lanes=policy_lib.num_lanes(policy),
        num_episodes=num_episodes,
        deterministic=deterministic,
        params=params,
        max_environments=max_environments,
    ) as evaluator:
        return evaluator(policy, seed)


def resolve_environment(environment: EnvironmentLike) -> Any:
    """A pure environment, or a function that makes gymnasium environments.

    Raises:
      InputError: it is neither of these, nor the id of an environment.
    """
    if isinstance(environment, str):
        environment = make_environment(environment)
    if isinstance(environment, Environment) or callable(environment):
        return environment
    raise InputError(
        f"the environment is a {type(environment).__name__}, expected an id, a pure "
        "environment or a function that makes a gymnasium environment, as in "
        "lambda: gymnasium.make(...)"
    )


def make_evaluator(
    environment: EnvironmentLike,
    *,
    num_lanes: int,
    num_episodes: int,
    deterministic: bool = True,
    params: Any = None,
    max_environments: int = 0,
) -> PureEvaluator | GymnasiumEvaluator:
    """A function (policy with lanes, seed) -> EvaluationResult, for repeated evaluations.

    Its environments stay open until its `close`; it is also a context manager. Missing packages or
    environments raise here, not at the first call; `evaluator.check(policy)` tests whether the
    policy can be evaluated. The arguments are those of `evaluate`.
    """
    if num_episodes < 1:
        raise InputError(f"num_episodes is {num_episodes}; an evaluation needs at least one")
    if max_environments < 0:
        raise InputError(f"max_environments is {max_environments}, expected at least 0")
    found = resolve_environment(environment)
    if isinstance(found, Environment):
        return PureEvaluator(found, num_episodes, deterministic, params)
    if params is not None:
        raise InputError("params are for pure environments, not for gymnasium's")
    return GymnasiumEvaluator(found, num_lanes, num_episodes, deterministic, max_environments)
