"""Every algorithm on narrow and on noisy logs of an 8-dimensional point mass.

    python experiments/tables/point_mass.py --seeds=3

A point in [-1, 1]^8 moves by a tenth of its action and pays its distance to (0.5, ..., 0.5), for
50 steps. The "expert" log is almost optimal and narrow, the "medium" log slow and noisy. Beside
the return stand the critic's estimate of the policy's value at logged states and the discounted
return that the policy really earns from them: off-policy algorithms without a constraint believe
in values that are not there.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import ddm
from ddm import data, runner
from ddm.imitation import bc
from ddm.lower_bound import cql
from ddm.off_policy import sac, td3
from ddm.policy_constraint import (
    algae_dice,
    awac,
    awr,
    bcq,
    bear,
    brac,
    crr,
    iql,
    one_step,
    rebrac,
    td3_bc,
)
from ddm.types import Box

_SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds of each algorithm.", lower_bound=1)
_UPDATES = flags.DEFINE_integer("num_updates", 6_000, "Gradient steps.", lower_bound=2)
_TRANSITIONS = flags.DEFINE_integer("transitions", 10_000, "Size of each log.", lower_bound=50)
_ONLY = flags.DEFINE_list("only", [], "Names of algorithms; empty: all.")
_CSV = flags.DEFINE_string("csv", "", "File for the table, beside the screen.")

SIZE, STEPS, DISCOUNT, GOAL = 8, 50, 0.99, 0.5
ROWS = 128  # of a batch
ACTOR_CRITIC = {"hidden_sizes": (64, 64), "critic_learning_rate": 9e-4}
BRAC = {
    **ACTOR_CRITIC,
    "actor_learning_rate": 1e-3,
    "behavior_learning_rate": 1e-3,
    "warmup_steps": 1_000,
    "num_eval_samples": 0,  # the mode: on narrow data the best of ten by Q_1 is much worse
}
REGRESSION = {
    "hidden_sizes": (64, 64),
    "actor_learning_rate": 1e-3,
    "value_learning_rate": 9e-4,
}
CONTESTANTS: dict[str, tuple[Any, Any]] = {
    "BC": (bc, bc.Config(hidden_sizes=(64, 64))),
    "TD3": (td3, td3.Config(**ACTOR_CRITIC, actor_learning_rate=1e-3)),
    "TD3+BC": (td3_bc, td3_bc.Config(**ACTOR_CRITIC, actor_learning_rate=1e-3)),
    "SAC": (sac, sac.Config(**ACTOR_CRITIC, actor_learning_rate=1e-3)),
    "IQL": (
        iql,
        iql.Config(hidden_sizes=(64, 64), actor_learning_rate=1e-3, value_learning_rate=1e-3),
    ),
    "CQL": (cql, cql.Config(**ACTOR_CRITIC, actor_learning_rate=3e-4, num_samples=4)),
    "BCQ": (bcq, bcq.Config(**ACTOR_CRITIC, vae_hidden_sizes=(128, 128))),
    "BEAR": (
        bear,
        bear.Config(
            **ACTOR_CRITIC,
            actor_learning_rate=1e-3,
            vae_learning_rate=1e-3,
            vae_hidden_sizes=(128, 128),
            warmup_steps=2_000,
        ),
    ),
    "BRAC-p": (brac, brac.Config(**BRAC, value_penalty=False)),
    "BRAC-v": (brac, brac.Config(**BRAC)),
    "AlgaeDICE": (
        algae_dice,
        algae_dice.Config(**ACTOR_CRITIC, actor_learning_rate=3e-4, alpha=0.3, backup_entropy=0.0),
    ),
    "AWR": (awr, awr.Config(**REGRESSION)),
    "AWAC": (awac, awac.Config(**REGRESSION)),
    "CRR": (crr, crr.Config(**REGRESSION)),
    "one-step": (one_step, one_step.Config(**REGRESSION, inverse_temperature=3.0)),
    "ReBRAC": (  # a weight of 0.05 on 8 dimensions is TD3+BC's alpha of 2.5
        rebrac,
        rebrac.Config(
            **ACTOR_CRITIC, actor_learning_rate=1e-3, actor_bc_weight=0.05, critic_bc_weight=0.05
        ),
    ),
}


def main(_):
    """Logs, training, one row an algorithm and log."""
    rows = []
    print(f"{'log':8}{'algorithm':10}{'return':>16}{'estimate':>10}{'truth':>8}")
    for log_name in ("expert", "medium"):
        dataset = collect(log_name, jax.random.key(0))
        for name in _ONLY.value or CONTESTANTS:
            algorithm, config = CONTESTANTS[name]
            row = {"log": log_name, "algorithm": name, **measure(algorithm, config, dataset)}
            rows.append(row)
            spread = f"{row['return']:.1f} +- {row['return_std']:.1f}"
            estimate = "-" if row["estimate"] is None else f"{row['estimate']:.1f}"
            print(f"{log_name:8}{name:10}{spread:>16}{estimate:>10}{row['truth']:8.1f}", flush=True)
    if _CSV.value:
        runner.write_csv(_CSV.value, rows)


def collect(log_name: str, key: jax.Array) -> data.Dataset:
    """Whole episodes of the expert or of the medium behaviour policy."""
    gain, noise = {"expert": (1.0, 0.02), "medium": (0.3, 0.3)}[log_name]

    def behaviour(state: jax.Array, key: jax.Array) -> jax.Array:
        aim = gain * jnp.clip(2.0 * (GOAL - state), -1.0, 1.0)
        return jnp.clip(aim + noise * jax.random.normal(key, state.shape), -1.0, 1.0)

    num_episodes = _TRANSITIONS.value // STEPS
    start_key, walk_key = jax.random.split(key)
    starts = jax.random.uniform(start_key, (num_episodes, SIZE), minval=-1.0, maxval=1.0)
    states, actions, rewards = jax.vmap(walk, (None, 0, 0, None))(
        behaviour, starts, jax.random.split(walk_key, num_episodes), STEPS
    )
    episodes = [
        {"observations": s, "actions": a, "rewards": r, "terminations": np.zeros(STEPS, bool)}
        for s, a, r in zip(*map(np.asarray, (states, actions, rewards)), strict=True)
    ]
    box = Box(shape=(SIZE,), low=(-1.0,) * SIZE, high=(1.0,) * SIZE)
    return data.from_episodes(episodes, action_space=box, name=f"point mass, {log_name}")


def walk(policy: Any, start: jax.Array, key: jax.Array, steps: int) -> tuple[jax.Array, ...]:
    """States (steps + 1, 8), actions (steps, 8) and rewards (steps,) of one walk."""

    def step(state: jax.Array, key: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        action = policy(state, key)
        later = jnp.clip(state + 0.1 * action, -1.0, 1.0)
        return later, (later, action, -jnp.linalg.norm(later - GOAL))

    _, (later, actions, rewards) = jax.lax.scan(step, start, jax.random.split(key, steps))
    return jnp.concatenate([start[None], later]), actions, rewards


def measure(algorithm: Any, config: Any, dataset: data.Dataset) -> dict[str, float | None]:
    """Trains all seeds; return, estimated and true value, averaged over seeds."""
    minibatches = algorithm.batch_spec(config).minibatches
    num_steps = _UPDATES.value // minibatches * minibatches

    def one_seed(seed: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        fit_key, start_key, state_key = jax.random.split(jax.random.key(seed), 3)
        state, _ = ddm.fit(algorithm, config, dataset, fit_key, num_steps, batch_size=ROWS)

        def policy(observation: jax.Array, key: jax.Array) -> jax.Array:
            return algorithm.act(config, state, observation, key, deterministic=True)[0]

        def rewards(starts: jax.Array, steps: int) -> jax.Array:
            return jax.vmap(lambda start: walk(policy, start, start_key, steps)[2])(starts)

        starts = jax.random.uniform(start_key, (200, SIZE), minval=-1.0, maxval=1.0)
        rows = jax.random.randint(state_key, (256,), 0, len(dataset.observations))
        logged = dataset.observations[rows]
        truth = rewards(logged, 700) @ DISCOUNT ** jnp.arange(700)
        estimate = jnp.full((), jnp.nan)
        if hasattr(state, "critic"):
            actions = jax.vmap(policy, (0, None))(logged, state_key)
            estimate = state.critic(logged, actions)[0].mean()
        return rewards(starts, STEPS).sum(axis=1).mean(), estimate, truth.mean()

    returns, estimates, truths = jax.jit(lambda seeds: jax.lax.map(one_seed, seeds))(
        jnp.arange(_SEEDS.value)
    )
    estimate = float(estimates.mean())
    return {
        "return": float(returns.mean()),
        "return_std": float(returns.std()),
        "estimate": None if np.isnan(estimate) else estimate,
        "truth": float(truths.mean()),
        "seeds": _SEEDS.value,
        "updates": _UPDATES.value,
        "transitions": dataset.num_transitions,
    }


if __name__ == "__main__":
    runner.launch(main)
