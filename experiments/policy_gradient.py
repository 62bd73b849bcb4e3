"""REINFORCE: from its own steps in any environment, or in a small world beside its exact return.

    python experiments/policy_gradient.py --online --environment=PointMass-8-v0 --collect_copies=16
    python experiments/policy_gradient.py --environment=GridWorld-Discount-v0

With --online, an update follows `window` steps of each copy of the environment; metrics,
checkpoints, learning curves and a summary go to a folder under `runs`.

Without it, the environment is a finite MDP, the policy is a table, and a table is printed. It shows
what a policy class can reach before anything is logged data. The columns are the mean return of the
sampled episodes, and the exact return of the stochastic policy and of its mode, all with the
world's discount and step limit.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from ddm import envs, evaluation, runner
from ddm.envs import tabular
from ddm.errors import InputError
from ddm.on_policy import policy_gradient
from ddm.types import Batch

runner.define_flags(
    policy_gradient, environment="GridWorld-Discount-v0", num_updates=200, log_every=10,
    eval_every=50, checkpoint_every=100,
)  # fmt: skip
_ITERATIONS = flags.DEFINE_integer(
    "iterations", 200, "Gradient steps, without --online.", lower_bound=1
)
_STEPS = flags.DEFINE_integer(
    "steps", 2_000, "Environment steps of each one, without --online.", lower_bound=1
)
_LEARNING_RATE = 0.1  # of a table, unless the flag is given


def main(_):
    """Collect, improve, evaluate, by turns."""
    if not flags.FLAGS.online:
        return print_exact_returns()
    options, config = runner.parse_flags(policy_gradient)
    dataset = runner.load_dataset(options)
    environment = runner.find_environment(options, dataset)
    return runner.train(policy_gradient, config, dataset, environment, options)


def print_exact_returns() -> None:
    """The exact return in a finite MDP as the policy learns."""
    given = flags.FLAGS
    environment = envs.make(given.environment)
    if not isinstance(environment, envs.TabularEnvironment):
        raise InputError(
            f"--environment={given.environment} is no finite MDP with known arrays: learn there "
            "with --online"
        )
    params = environment.default_params
    mdp = params.mdp
    config = policy_gradient.Config(
        head="tabular",
        num_actions=mdp.num_actions,
        learning_rate=given.learning_rate if given["learning_rate"].present else _LEARNING_RATE,
        entropy_weight=given.entropy_weight,
        window=0,  # the returns are computed here
    )
    init_key, key = jax.random.split(jax.random.key(given.seed))
    update = jax.jit(policy_gradient.update)
    state = policy_gradient.init(config, init_key, _example(mdp))
    optimum = float(mdp.initial @ tabular.value_iteration(mdp).values)
    print(f"optimal return, without a step limit: {optimum:.4f}")
    print(f"{'step':>6}{'sampled':>10}{'exact':>10}{'mode':>10}{'entropy':>10}")
    for iteration in range(_ITERATIONS.value):
        policy = evaluation.Policy(policy_gradient, config, state)
        step_key = jax.random.fold_in(key, iteration)
        batch, sampled = collect(environment, params, policy, step_key, _STEPS.value)
        state, metrics = update(config, state, batch)
        if iteration % max(1, _ITERATIONS.value // 20) == 0 or iteration == _ITERATIONS.value - 1:
            exact, mode = (
                float(
                    evaluation.exact_return(
                        policy, mdp, deterministic=deterministic, horizon=environment.max_steps
                    )
                )
                for deterministic in (False, True)
            )
            entropy = float(metrics["entropy"])
            print(f"{iteration:6d}{sampled:10.4f}{exact:10.4f}{mode:10.4f}{entropy:10.4f}")


def collect(
    environment: envs.TabularEnvironment,
    params: Any,
    policy: evaluation.Policy,
    key: jax.Array,
    num_steps: int,
) -> tuple[Batch, float]:
    """`num_steps` rows of the policy's own episodes, and the mean return of those that ended."""
    behave = jax.tree_util.Partial(_sample, policy)
    episodes = envs.collect(environment, behave, key, num_steps=num_steps, params=params)
    discount = float(params.mdp.discount)
    returns = [_discounted(each["rewards"], discount) for each in episodes]
    # The last episode may be cut, which says nothing about its return.
    whole = returns[:-1] or returns
    batch = Batch(
        observations=jnp.asarray(np.concatenate([each["observations"][:-1] for each in episodes])),
        actions=jnp.asarray(np.concatenate([each["actions"] for each in episodes])),
        returns_to_go=jnp.asarray(np.concatenate(returns), jnp.float32),
    )
    return batch, float(np.mean([each[0] for each in whole]))


def _sample(policy: Any, observation: jax.Array, key: jax.Array, policy_state: Any) -> Any:
    return policy(observation, key, policy_state, deterministic=False)


def _discounted(rewards: np.ndarray, discount: float) -> np.ndarray:
    """(T,) discounted sum of the rewards from each step on."""
    returns = np.zeros(len(rewards) + 1)
    for step in reversed(range(len(rewards))):
        returns[step] = rewards[step] + discount * returns[step + 1]
    return returns[:-1]


def _example(mdp: tabular.MDP) -> Batch:
    return Batch(
        observations=jnp.eye(mdp.num_states),
        actions=jnp.zeros(mdp.num_states, jnp.int32),
        returns_to_go=jnp.zeros(mdp.num_states),
    )


if __name__ == "__main__":
    runner.launch(main)
