"""ICU-Sepsis: the file's layout on a small copy, and the published numbers on the real one."""

from __future__ import annotations

import os
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from ddm.envs import tabular
from ddm.errors import InputError, MissingDependencyError

REAL = os.environ.get("DDM_ICU_SEPSIS", "")

# Two patients' states, death (2), survival (3) and the end (4); two actions.
DEATH, SURVIVAL, END = 2, 3, 4
TRANSITIONS = np.zeros((5, 2, 5))
TRANSITIONS[0, 0, [1, DEATH]] = 0.5, 0.5
TRANSITIONS[0, 1, [0, SURVIVAL]] = 0.5, 0.5
TRANSITIONS[1, 0, [SURVIVAL, DEATH]] = 0.8, 0.2
TRANSITIONS[1, 1, DEATH] = 1.0
TRANSITIONS[[DEATH, SURVIVAL, END], :, END] = 1.0
POLICY = np.array([[0.5, 0.5], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])


def _arrays():
    return {
        "tx_mat": TRANSITIONS.astype(np.float32),
        "r_mat_last": np.eye(5, dtype=np.float32)[SURVIVAL],
        "d_0": np.array([0.6, 0.4, 0.0, 0.0, 0.0]),
        "expert_policy": POLICY,
        "sofa_scores": np.zeros(5),
    }


def _write(folder, arrays):
    path = folder / "copy.npz"
    np.savez(path, **arrays)
    return path


def test_returns_are_probabilities_of_survival(tmp_path):
    mdp, policy = tabular.icu_sepsis(_write(tmp_path, _arrays()))
    np.testing.assert_array_equal(mdp.terminal, [False, False, True, True, True])
    assert mdp.discount == 1.0
    np.testing.assert_allclose(policy.sum(axis=1), 1.0)
    # From 1: .8. From 0: v = .25 * .8 + .25 v + .25.
    v1, v0 = 0.8, 0.45 / 0.75
    values, _ = tabular.evaluate_policy(mdp, policy)
    np.testing.assert_allclose(values, [v0, v1, 0.0, 0.0, 0.0], atol=1e-6)
    found = tabular.expected_return(mdp, policy)
    assert float(found) == pytest.approx(0.6 * v0 + 0.4 * v1, abs=1e-6)
    # The other action in 0 survives for sure, sooner or later.
    solution = tabular.value_iteration(mdp)
    np.testing.assert_allclose(solution.values[:2], [1.0, 0.8], atol=1e-6)


def test_full_reward_arrays_are_read_too(tmp_path):
    arrays = _arrays()
    entering = arrays.pop("r_mat_last")
    arrays["r_mat"] = np.broadcast_to(entering, (5, 2, 5)).copy()
    arrays["r_mat"][END] = 0.0  # as in the package; it is terminal
    mdp, policy = tabular.icu_sepsis(_write(tmp_path, arrays))
    assert mdp.rewards.shape == (1, 1, 5)
    expected = tabular.expected_return(mdp, policy)
    assert float(expected) == pytest.approx(0.68, abs=1e-6)
    arrays["r_mat"][1, 0, SURVIVAL] = 0.5  # now the reward depends on where one comes from
    mdp, policy = tabular.icu_sepsis(_write(tmp_path, arrays))
    values, _ = tabular.evaluate_policy(mdp, policy)
    np.testing.assert_allclose(values[:2], [(0.25 * 0.4 + 0.25) / 0.75, 0.4], atol=1e-6)


def _with(key, edit):
    arrays = _arrays()
    arrays[key] = edit(arrays[key].copy())
    return arrays


def _half(array):
    array[1] *= 0.5
    return array


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (_with("tx_mat", _half), r"copy.npz: tx_mat\[1, 0\] sums to 0.5, expected 1"),
        (_with("expert_policy", _half), r"expert_policy\[1\] sums to 0.5"),
        (_with("d_0", lambda x: 2.0 * x), "d_0 sums to 2, expected 1"),
        (_with("d_0", lambda x: x[1:]), r"d_0 has shape \(4,\), expected \(5,\)"),
        (_with("tx_mat", lambda x: x[:, :, 1:]), r"tx_mat has shape \(5, 2, 4\)"),
        (_with("r_mat_last", lambda x: x[1:]), r"r_mat_last has shape \(4,\), expected \(5,\)"),
        (_with("r_mat_last", lambda x: x * np.nan), "r_mat_last holds NaN"),
        (_with("d_0", lambda x: x.astype(str)), "d_0 is of type <U32, expected numbers"),
        ({"tx_mat": TRANSITIONS}, "holds no d_0; it has tx_mat"),
    ],
)
def test_wrong_arrays_are_refused_by_name(arrays, message, tmp_path):
    with pytest.raises(InputError, match=message):
        tabular.icu_sepsis(_write(tmp_path, arrays))


def test_files_that_are_no_arrays_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.npz is not a readable"):
        tabular.icu_sepsis(tmp_path / "nowhere.npz")
    (tmp_path / "text.npz").write_text("states, actions")
    with pytest.raises(InputError, match=r"text\.npz is not a readable"):
        tabular.icu_sepsis(tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"one\.npy is not a readable"):
        tabular.icu_sepsis(tmp_path / "one.npy")
    np.savez(tmp_path / "pickled.npz", **_arrays() | {"d_0": np.array([object()])})
    with pytest.raises(InputError, match=r"pickled\.npz is not a readable"):
        tabular.icu_sepsis(tmp_path / "pickled.npz")


def test_without_a_path_the_installed_package_is_read_but_not_imported(tmp_path, monkeypatch):
    assets = tmp_path / "icu_sepsis" / "envs" / "assets"
    assets.mkdir(parents=True)
    (tmp_path / "icu_sepsis" / "__init__.py").write_text("raise RuntimeError('imported')")
    np.savez(assets / "dynamics.npz", **_arrays())
    monkeypatch.syspath_prepend(tmp_path)
    mdp, _ = tabular.icu_sepsis()
    assert mdp.num_states == 5


def test_without_path_and_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "icu_sepsis", raising=False)
    with pytest.raises(MissingDependencyError, match="pip install --no-deps icu-sepsis"):
        tabular.icu_sepsis()


@pytest.mark.skipif(not REAL, reason="DDM_ICU_SEPSIS names no copy of the benchmark's arrays")
def test_published_returns_of_the_real_arrays():
    mdp, clinicians = tabular.icu_sepsis(REAL)
    assert (mdp.num_states, mdp.num_actions) == (716, 25)
    uniform = jnp.full((716, 25), 1 / 25)
    optimal = tabular.value_iteration(mdp, tolerance=1e-6)
    # Published for version 2.0.1: 0.78, 0.78, 0.88 after 9.22, 9.45, 10.99 steps, simulated.
    for policy, survival, length in (
        (clinicians, 0.7818, 9.238),
        (uniform, 0.7801, 9.462),
        (optimal.policy, 0.8751, 10.992),
    ):
        assert float(tabular.expected_return(mdp, policy)) == pytest.approx(survival, abs=1e-4)
        steps = tabular.expected_visits(mdp, policy).sum()
        assert float(steps) == pytest.approx(length, abs=2e-3)
