"""Value iteration on a large sparse MDP, beside an independent solver.

    pip install quantecon
    python benchmarks/value_iteration.py --csv=benchmarks/results/value_iteration.csv

The MDP is random: 10,000 states, 4 actions, 5 successors of each pair, discount 0.95, float64.
Both solvers start from values of zero and stop once no value changes by more than the tolerance:
`ddm.envs.tabular.value_iteration`, and `DiscreteDP` of QuantEcon.py (scipy's sparse products in a
Python loop, numba for the maximum) with the same stopping rule, whose `epsilon` is set to what
gives it: epsilon * (1 - discount) / (2 * discount) = tolerance. They run in turns in one process;
compilation, of either, is a first call apart. The values must agree to 1e-6, or nothing is written.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags

from ddm import runner
from ddm.envs import tabular
from ddm.errors import InputError, MissingDependencyError

_STATES = flags.DEFINE_integer("states", 10_000, "Number of states.", lower_bound=1)
_ACTIONS = flags.DEFINE_integer("actions", 4, "Number of actions.", lower_bound=1)
_SUCCESSORS = flags.DEFINE_integer("successors", 5, "Successors of a pair.", lower_bound=1)
_TOLERANCE = flags.DEFINE_float("tolerance", 1e-8, "Largest last change of a value.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements; the median counts.", lower_bound=1)
_NOTE = flags.DEFINE_string("note", "", "Said in the table, for example that the machine is busy.")
_CSV = flags.DEFINE_string("csv", "", "File for the table, beside the screen.")

DISCOUNT, AGREEMENT = 0.95, 1e-6


def main(_):
    """One MDP, two solvers, one row."""
    jax.config.update("jax_enable_x64", True)
    sizes = (_STATES.value, _ACTIONS.value, _SUCCESSORS.value)
    mdp = tabular.random_mdp(jax.random.key(0), *sizes, discount=DISCOUNT)
    row = compare(mdp, _TOLERANCE.value, _REPEATS.value)
    row = dict(zip(("states", "actions", "successors"), sizes, strict=True)) | row
    row |= {"load_average": os.getloadavg()[0], "cores": os.cpu_count(), "note": _NOTE.value}
    for name, value in row.items():
        print(f"{name:27}{value:.6g}" if isinstance(value, float) else f"{name:27}{value}")
    if _CSV.value:
        runner.write_csv(_CSV.value, [row])


def compare(mdp: tabular.SparseTabularMDP, tolerance: float, repeats: int) -> dict[str, Any]:
    """Times both solvers in turns.

    Raises:
      MissingDependencyError: QuantEcon.py is not installed.
      InputError: the two do not agree to 1e-6.
    """
    theirs = quantecon_solver(mdp, tolerance)

    def ours() -> tuple[np.ndarray, int]:
        solution = jax.block_until_ready(tabular.value_iteration(mdp, tolerance=tolerance))
        return np.asarray(solution.values), int(solution.iterations)

    (values, iterations), first = timed(ours)
    (other_values, other_iterations), other_first = timed(theirs)
    difference = float(np.abs(values - other_values).max())
    if not difference <= AGREEMENT:
        raise InputError(f"the values differ by {difference:.3g}, expected at most {AGREEMENT:g}")
    seconds, other_seconds = [], []
    for _ in range(repeats):
        seconds.append(timed(ours)[1])
        other_seconds.append(timed(theirs)[1])
    median, other_median = float(np.median(seconds)), float(np.median(other_seconds))
    ratios = np.array(other_seconds) / np.array(seconds)
    return {
        "tolerance": tolerance,
        "largest_difference": difference,
        "ddm_iterations": iterations,
        "quantecon_iterations": other_iterations,
        "ddm_seconds": median,
        "quantecon_seconds": other_median,
        "times_faster": float(np.median(ratios)),
        "times_faster_lowest": float(ratios.min()),
        "times_faster_highest": float(ratios.max()),
        "ddm_compile_seconds": first - median,
        "quantecon_compile_seconds": other_first - other_median,
        "repeats": repeats,
        **versions(),
    }


def quantecon_solver(
    mdp: tabular.SparseTabularMDP, tolerance: float
) -> Callable[[], tuple[np.ndarray, int]]:
    """A function that solves the MDP with `DiscreteDP` and returns values (S,) and iterations."""
    try:
        from quantecon.markov import DiscreteDP
    except ImportError as error:
        raise MissingDependencyError(
            "this benchmark compares with QuantEcon.py: pip install quantecon"
        ) from error
    from scipy import sparse

    num_states, num_actions, width = mdp.next_states.shape
    pairs = num_states * num_actions
    rows = np.repeat(np.arange(pairs), width)
    transitions = sparse.csr_matrix(
        (np.asarray(mdp.probabilities).ravel(), (rows, np.asarray(mdp.next_states).ravel())),
        shape=(pairs, num_states),
    )
    problem = DiscreteDP(
        np.asarray(mdp.expected_rewards()).ravel(),
        transitions,
        float(mdp.discount),
        np.repeat(np.arange(num_states), num_actions),
        np.tile(np.arange(num_actions), num_states),
    )
    epsilon = 2.0 * float(mdp.discount) * tolerance / (1.0 - float(mdp.discount))

    def solve() -> tuple[np.ndarray, int]:
        result = problem.solve(
            "value_iteration", v_init=np.zeros(num_states), epsilon=epsilon, max_iter=100_000
        )
        return result.v, int(result.num_iter)

    return solve


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """A result and its seconds."""
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def versions() -> dict[str, str]:
    """Of what was compared."""
    from importlib import metadata

    names = ("jax", "quantecon", "numba", "scipy", "numpy")
    return {"device": jax.devices()[0].device_kind} | {
        name: metadata.version(name) for name in names
    }


if __name__ == "__main__":
    runner.launch(main)
