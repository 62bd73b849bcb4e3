"""ICU-Sepsis: treatment of sepsis as a finite MDP built from hospital records.

The benchmark of Choudhary, Gupta & Thomas (2024, "ICU-Sepsis: A Benchmark MDP Built from Real
Medical Data", arXiv 2406.05646), estimated from MIMIC-III with the method of Komorowski et al.
(2018). Its arrays are not part of this library. It is a benchmark of algorithms and says nothing
about how to treat patients.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import zipfile

import jax
import jax.numpy as jnp
import numpy as np

from ddm.envs.tabular.mdp import TabularMDP, check_probabilities, make_mdp
from ddm.errors import InputError, MissingDependencyError

# The last three states: death, survival, and the state that follows both.
_NUM_TERMINAL = 3
_ASSET = ("envs", "assets", "dynamics.npz")


def icu_sepsis(path: str | os.PathLike[str] | None = None) -> tuple[TabularMDP, jax.Array]:
    """The benchmark's MDP and the clinicians' policy.

    716 states: clusters of patients, then death (713), survival (714) and an absorbing state (715)
    that is only entered after the end; these three are terminal. 25 actions: 5 levels of fluids
    times 5 of vasopressors. Entering survival earns 1, everything else 0, and the discount is 1, so
    an expected return is a probability of survival. The benchmark cuts episodes after 500 steps;
    this changes none of the digits below.

    Actions that clinicians took too rarely in a state ("inadmissible") have, as in the benchmark's
    default, the mean transitions of the state's other actions; nothing marks or forbids them.

    Exact returns with the arrays of version 2.0.1: clinicians 0.7818, uniformly random 0.7801,
    optimal 0.8751, with 9.24, 9.46 and 10.99 steps per episode. The benchmark states, from
    simulation, 0.78, 0.78 and 0.88, and 9.22, 9.45 and 10.99.

    Args:
      path: an `.npz` file with the benchmark's arrays `tx_mat` (S, A, S), `d_0` (S,),
        `expert_policy` (S, A), and `r_mat` (S, A, S) or `r_mat_last` (S,), the reward of entering
        a state; the last three states are terminal. None for the file in the package `icu-sepsis`,
        whose code is not imported.

    Returns:
      The MDP and the clinicians' policy (S, A); rows of terminal states are uniform.

    Raises:
      InputError: no such file, or an array that is missing, misshapen or not a probability, by
        name.
      MissingDependencyError: no path, and the package is not installed.
    """
    path = _installed() if path is None else pathlib.Path(path)
    arrays = _read(path)
    transitions, policy = arrays["tx_mat"], arrays["expert_policy"]
    if transitions.ndim != 3 or not _NUM_TERMINAL < len(transitions) == transitions.shape[2]:
        raise InputError(
            f"{path}: tx_mat has shape {transitions.shape}, expected (states, actions, states) "
            f"with more than {_NUM_TERMINAL} states"
        )
    num_states, num_actions, _ = transitions.shape
    terminal = np.arange(num_states) >= num_states - _NUM_TERMINAL
    expected = {"d_0": (num_states,), "expert_policy": (num_states, num_actions)}
    for key, shape in expected.items():
        if arrays[key].shape != shape:
            raise InputError(f"{path}: {key} has shape {arrays[key].shape}, expected {shape}")
    rewards = _rewards(path, arrays, terminal)
    policy = np.where(terminal[:, None], 1.0 / num_actions, policy)
    # Checked here so that errors use the file's names; make_mdp would use its own.
    for key, rows in (("tx_mat", transitions), ("d_0", arrays["d_0"]), ("expert_policy", policy)):
        check_probabilities(f"{path}: {key}", rows)
    mdp = make_mdp(transitions, rewards, arrays["d_0"], 1.0, terminal)
    return mdp, jnp.asarray(policy, float)


def _installed() -> pathlib.Path:
    """The file of arrays inside the package, found without importing the package."""
    spec = importlib.util.find_spec("icu_sepsis")
    for folder in (spec and spec.submodule_search_locations) or ():
        file = pathlib.Path(folder, *_ASSET)
        if file.is_file():
            return file
    raise MissingDependencyError(
        "ICU-Sepsis needs the arrays of the package icu-sepsis: give the path of an .npz file that "
        "holds them, or `pip install --no-deps icu-sepsis`"
    )


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    wanted = ("tx_mat", "d_0", "expert_policy")
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = [*wanted, "r_mat_last" if "r_mat_last" in file.files else "r_mat"]
            for key in keys:
                if key not in file.files:
                    raise InputError(f"{path} holds no {key}; it has {', '.join(file.files)}")
            arrays = {key: file[key] for key in keys}
    except InputError:
        raise
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a readable .npz file of arrays: {error}") from error
    for key, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise InputError(f"{path}: {key} is of type {array.dtype}, expected numbers")
    return arrays


def _rewards(path: pathlib.Path, arrays: dict[str, np.ndarray], terminal: np.ndarray) -> np.ndarray:
    """(1, 1, S) reward of entering a state; the whole array where it depends on more."""
    num_states, num_actions, _ = arrays["tx_mat"].shape
    if "r_mat_last" in arrays:
        name, shape = "r_mat_last", (num_states,)
    else:
        name, shape = "r_mat", (num_states, num_actions, num_states)
    rewards = arrays[name]
    if rewards.shape != shape:
        raise InputError(f"{path}: {name} has shape {rewards.shape}, expected {shape}")
    if not np.all(np.isfinite(rewards)):
        raise InputError(f"{path}: {name} holds NaN or infinite values, expected numbers")
    entering = rewards if rewards.ndim == 1 else rewards[0, 0]
    if rewards.ndim == 1 or np.array_equal(
        rewards[~terminal], np.broadcast_to(entering, shape)[~terminal]
    ):
        return entering[None, None, :]
    return rewards
