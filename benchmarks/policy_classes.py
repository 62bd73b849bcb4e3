"""Training and acting speed of every policy class, on the sizes of a robot hand.

    python benchmarks/policy_classes.py

Updates run in `ddm.fit`, whose compiled loop draws its batches from a dataset. Acting is timed
twice: `plan`, one call of `act` at the start of an episode, where every policy has to compute; and
`action`, the mean over an episode's first steps, where policies that plan several steps only read
the next action from their plan. The number of matrix products that one planning
call executes, loops counted, is read from the traced program.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import products
import timing
from absl import app, flags

from ddm import data, runner
from ddm.imitation import (
    act,
    autoregressive,
    bc,
    cvae,
    diffusion,
    flow_matching,
    history_bc,
    implicit_bc,
)
from ddm.types import initial_policy_state

_BATCH = flags.DEFINE_integer("batch_size", 256, "Rows of one gradient step.")
_ONLY = flags.DEFINE_list("only", [], "Names of policy classes; empty: all.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed runs of updates; the median counts.")
_SECONDS = flags.DEFINE_float("seconds", 1.0, "Length of one run of updates.")
_CALLS = flags.DEFINE_integer(
    "calls", 50, "Timed calls of act, fewer of slow ones; the median counts."
)
_BUDGET = flags.DEFINE_float("budget", 10.0, "Seconds after which no further call is timed.")
_STEPS = flags.DEFINE_integer("steps", 16, "Steps of an episode that `action` averages over.")
_CSV = flags.DEFINE_string("csv", "", "File for the table, beside the screen.")

OBSERVATION_SIZE, ACTION_SIZE = 39, 28  # of the door task of gymnasium-robotics
ROWS = (1, 1024)  # episodes that act at once

CLASSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "mse": (bc, {"head": "mse"}),
    "gaussian": (bc, {"head": "gaussian"}),
    "tanh_gaussian": (bc, {"head": "tanh_gaussian"}),
    "mixture": (bc, {"head": "mixture"}),
    "cvae": (cvae, {}),
    "autoregressive lstm": (autoregressive, {"decoder": "lstm"}),
    "autoregressive transformer": (autoregressive, {"decoder": "transformer"}),
    "diffusion mlp": (diffusion, {}),
    "flow matching": (flow_matching, {}),
    "act": (act, {}),
    "history stack": (history_bc, {"history": "stack"}),
    "history recurrent": (history_bc, {"history": "recurrent"}),
    "history transformer": (history_bc, {"history": "transformer"}),
    # The slow ones last: minutes each on a CPU.
    "implicit": (implicit_bc, {}),
    "autoregressive uncached": (autoregressive, {"decoder": "transformer", "cache": False}),
    "diffusion transformer": (diffusion, {"denoiser": "transformer"}),
    "diffusion unet": (diffusion, {"denoiser": "unet"}),
}


def main(_):
    """One row a class."""
    dataset = timing.random_dataset(OBSERVATION_SIZE, ACTION_SIZE)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, batch {_BATCH.value}")
    rows = []
    for name in _ONLY.value or CLASSES:
        row = measure(name, dataset)
        rows.append(row)
        print(", ".join(f"{key} {_text(value)}" for key, value in row.items()), flush=True)
        if _CSV.value:  # what is done is kept
            runner.write_csv(_CSV.value, rows)


def measure(name: str, dataset: data.Dataset) -> dict[str, Any]:
    """Updates per second, and the milliseconds and products of acting."""
    algorithm, overrides = CLASSES[name]
    config = algorithm.Config().replace(**overrides)
    run, compile_seconds, steps = timing.compile_updates(
        algorithm, config, dataset, _BATCH.value, _SECONDS.value
    )
    seconds = float(np.median([run() for _ in range(_REPEATS.value)]))
    spec = algorithm.batch_spec(config)
    state = algorithm.init(
        config, jax.random.key(0), data.sample(dataset, jax.random.key(1), 1, spec)
    )
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.policy.params))
    row = {
        "policy_class": name,
        "updates_per_second": steps / seconds,
        "compile_seconds": compile_seconds,
        "parameters": parameters,
        "products": count_products(algorithm, config, state),
    }
    for rows in ROWS:
        plan, action = latencies(algorithm, config, state, rows)
        row |= {f"plan_ms_{rows}": 1e3 * plan, f"action_ms_{rows}": 1e3 * action}
    return row


def latencies(algorithm: Any, config: Any, state: Any, rows: int) -> tuple[float, float]:
    """Seconds of the first call of an episode, and of a call on average; `rows` at once."""
    observations = jax.random.normal(jax.random.key(2), (rows, OBSERVATION_SIZE))

    @jax.jit
    def step(state: Any, key: jax.Array, policy_states: Any) -> Any:
        keys = jax.random.split(key, rows)
        return jax.vmap(functools.partial(algorithm.act, config, state))(
            observations, keys, policy_states
        )

    first = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (rows, *jnp.shape(leaf))),
        initial_policy_state(algorithm, config, state),
    )
    keys = jax.random.split(jax.random.key(3), _STEPS.value)

    def episode() -> Any:
        policy_states, action = first, None
        for key in keys:
            action, policy_states = step(state, key, policy_states)
        return action

    plan = timing.median_seconds(lambda: step(state, keys[0], first), _CALLS.value, _BUDGET.value)
    episodes = max(3, _CALLS.value // _STEPS.value)
    whole = timing.median_seconds(episode, episodes, _BUDGET.value)
    return plan, whole / _STEPS.value


def count_products(algorithm: Any, config: Any, state: Any) -> int:
    """Matrix products and convolutions that one planning call of `act` executes."""
    policy_state = initial_policy_state(algorithm, config, state)
    counted = products.count(
        functools.partial(algorithm.act, config),
        state,
        jnp.zeros(OBSERVATION_SIZE),
        jax.random.key(0),
        policy_state,
    )
    return counted.total()


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    app.run(main)
