"""Treatment of sepsis as a finite MDP: four vital signs, three treatments, one hidden condition.

The simulator of Oberst & Sontag (2019, "Counterfactual Off-Policy Evaluation with Gumbel-Max
Structural Causal Models"), as arrays. It is a benchmark of algorithms and says nothing about how
to treat patients.

A patient is diabetic or not, and has a heart rate and a blood pressure (low, normal, high),
oxygen (low, normal) and glucose (five levels, the middle one normal); antibiotics, vasopressors
and ventilation are on or off. The state counts these in that order, the last one fastest: 1,440
states. One of 8 actions, 4 * antibiotics + 2 * ventilation + vasopressors, sets the treatments of
the next step. Three abnormal signs are death, -1; none, with all treatments off, is discharge, +1.
An episode is cut after `NUM_STEPS` steps.

Learners do not see diabetes, but the doctors of the logged patients may have seen it. Then the logs
are confounded, and even cloning them loses return.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from ddm.envs.tabular.mdp import MDP, SparseTabularMDP, make_sparse_mdp
from ddm.envs.tabular.solvers import value_iteration
from ddm.errors import InputError

NUM_STEPS = 20
NUM_OBSERVATIONS = 720  # states without diabetes
# diabetic, heart rate, blood pressure, oxygen, glucose; antibiotics, vasopressors, ventilation on
LEVELS = (2, 3, 3, 2, 5, 2, 2, 2)
_NORMAL = (1, 1, 1, 2)  # of heart rate, blood pressure, oxygen, glucose
VARIANTS = ("faithful", "fixed")

_DIABETIC = 0.2  # share of the patients
_FIRST_SIGNS = ((0.25, 0.5, 0.25), (0.25, 0.5, 0.25), (0.2, 0.8))
_FIRST_GLUCOSE = ((0.05, 0.15, 0.6, 0.15, 0.05), (0.01, 0.05, 0.15, 0.6, 0.19))


def sepsis_world(variant: str = "faithful") -> SparseTabularMDP:
    """The MDP; its discount, 0.99, is for planning, and returns are reported undiscounted.

    Expected returns of 20 steps: optimal 0.430 (`fixed`: 0.561), 5 % random actions 0.317 (0.464),
    random -0.759 (-0.716), no treatment -0.809 (-0.759).

    Args:
      variant: `faithful` to the public code, in which a rise of glucose takes a patient without
        diabetes to the second lowest level, from any level; `fixed`: it goes one level up.

    Raises:
      InputError: an unknown variant.
    """
    if variant not in VARIANTS:
        raise InputError(f"variant={variant} is unknown; choose one of {', '.join(VARIANTS)}")
    levels = _levels()
    num_states, num_actions = len(levels), 8
    switches = list(itertools.product(range(2), repeat=3))
    tables = {
        (diabetic, before, action): _transition(diabetic, before, action, variant)
        for diabetic, before, action in itertools.product(range(2), switches, range(num_actions))
    }
    signs = np.arange(num_states) // 8 % 90  # which of the 90 combinations
    chances = np.zeros((num_states, num_actions, 90))
    next_states = np.zeros(chances.shape, int)
    for state, (diabetic, *before) in enumerate(levels[:, [0, 5, 6, 7]].tolist()):
        for action in range(num_actions):
            table, after = tables[diabetic, tuple(before), action]
            chances[state, action] = table[signs[state]]
            next_states[state, action] = diabetic * NUM_OBSERVATIONS + np.arange(90) * 8 + after
    next_states, chances = _only_possible(next_states, chances)
    dead, discharged = _outcomes()
    return make_sparse_mdp(
        next_states,
        chances,
        (discharged.astype(float) - dead)[next_states],
        initial=_first_states(),
        discount=0.99,
        terminal=dead | discharged,
    )


def sepsis_behavior(mdp: MDP, epsilon: float = 0.05) -> jax.Array:
    """(S, 8) the optimal policy given the whole state, diabetes included, with some random actions.

    Args:
      mdp: a :func:`sepsis_world`.
      epsilon: probability of an action other than the optimal one, each of them equally likely.
    """
    best = value_iteration(mdp).policy
    return (1.0 - epsilon) * best + epsilon * (1.0 - best) / (mdp.num_actions - 1)


def sepsis_features(*, diabetes: bool = False) -> jax.Array:
    """(S, 16) the observation of each state: each sign one-hot, then three treatments.

    Args:
      diabetes: add a last column for diabetes; (S, 17).
    """
    levels = _levels()
    columns = [np.eye(size)[levels[:, i]] for i, size in enumerate(LEVELS[1:5], start=1)]
    columns.append(levels[:, 5:])
    if diabetes:
        columns.append(levels[:, :1])
    return jnp.asarray(np.concatenate(columns, axis=-1), jnp.float32)


def _levels() -> np.ndarray:
    """(S, 8) the levels of the signs and treatments in each state."""
    return np.stack(np.unravel_index(np.arange(np.prod(LEVELS)), LEVELS), axis=-1)


def _outcomes() -> tuple[np.ndarray, np.ndarray]:
    """(S,) bool: death, and discharge."""
    levels = _levels()
    abnormal = np.sum(levels[:, 1:5] != _NORMAL, axis=-1)
    return abnormal >= 3, (abnormal == 0) & ~np.any(levels[:, 5:], axis=-1)


def _first_states() -> np.ndarray:
    """(S,) probabilities: treatments are off, and no patient starts dead or healthy."""
    chances = np.zeros(LEVELS)
    for diabetic, share in enumerate((1.0 - _DIABETIC, _DIABETIC)):
        signs = _product(*_FIRST_SIGNS, _FIRST_GLUCOSE[diabetic])
        chances[diabetic, ..., 0, 0, 0] = share * signs.reshape(LEVELS[1:5])
    dead, discharged = _outcomes()
    chances = np.where(dead | discharged, 0.0, chances.ravel())
    return chances / chances.sum()


def _transition(
    diabetic: int, before: tuple[int, ...], action: int, variant: str
) -> tuple[np.ndarray, int]:
    """(90, 90) transitions of the signs, and the code of the treatments after the action.

    Treatments act in the order antibiotics, ventilation, vasopressors; then signs on which no given
    or withdrawn treatment acts fluctuate.
    """
    antibiotics, ventilation, vasopressors = action >> 2 & 1, action >> 1 & 1, action & 1
    had_antibiotics, had_vasopressors, had_ventilation = before
    by_antibiotics = _by_antibiotics(antibiotics, had_antibiotics)
    by_vasopressors = _by_vasopressors(diabetic, vasopressors, had_vasopressors)
    heart, pressure, oxygen = (_fluctuation(size, 0.1) for size in LEVELS[1:4])
    glucose = _glucose_fluctuation(diabetic, variant)
    if antibiotics or had_antibiotics:
        heart = by_antibiotics
    if antibiotics or had_antibiotics or vasopressors or had_vasopressors:
        pressure = by_antibiotics @ by_vasopressors
    if ventilation or had_ventilation:
        oxygen = _moves(2, {(0, 1): 0.7} if ventilation else {(1, 0): 0.1})
    if vasopressors:
        glucose = _moves(5, {(i, i + 1): 0.5 for i in range(4)} if diabetic else {})
    after = 4 * antibiotics + 2 * vasopressors + ventilation
    return _product(heart, pressure, oxygen, glucose), after


def _by_antibiotics(given: int, had: int) -> np.ndarray:
    """For the heart rate and also for the blood pressure."""
    if given:
        return _moves(3, {(2, 1): 0.5})
    return _moves(3, {(1, 2): 0.1} if had else {})


def _by_vasopressors(diabetic: int, given: int, had: int) -> np.ndarray:
    """Of the blood pressure."""
    if given and diabetic:
        return _moves(3, {(1, 2): 0.9, (0, 1): 0.5, (0, 2): 0.4})
    if given:
        return _moves(3, {(0, 1): 0.7, (1, 2): 0.7})
    chance = 0.05 if diabetic else 0.1
    return _moves(3, {(1, 0): chance, (2, 1): chance} if had else {})


def _glucose_fluctuation(diabetic: int, variant: str) -> np.ndarray:
    if diabetic:
        return _fluctuation(5, 0.3)
    if variant == "fixed":
        return _fluctuation(5, 0.1)
    down = {(i, i - 1): 0.1 for i in range(1, 5)}
    up = {(i, 1): 0.1 for i in (0, 2, 3, 4)}
    return _moves(5, {**down, **up, (2, 1): 0.2})


def _fluctuation(size: int, chance: float) -> np.ndarray:
    """One level up or down, each with this chance; at the ends, only back."""
    up = {(i, i + 1): chance for i in range(size - 1)}
    down = {(i + 1, i): chance for i in range(size - 1)}
    return _moves(size, up | down)


def _moves(size: int, chances: dict[tuple[int, int], float]) -> np.ndarray:
    """(size, size) transitions with these chances of (from, to); the rest stays."""
    table = np.zeros((size, size))
    for pair, chance in chances.items():
        table[pair] = chance
    return table + np.diag(1.0 - table.sum(axis=-1))


def _product(*factors: object) -> np.ndarray:
    """Of independent signs: transitions (90, 90), or probabilities (90,)."""
    product = np.ones(())
    for factor in factors:
        product = np.kron(product, np.asarray(factor))
    return product


def _only_possible(next_states: np.ndarray, chances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same without impossible successors, as many as every row has."""
    order = np.argsort(-chances, axis=-1, kind="stable")
    order = order[..., : int(np.max(np.sum(chances > 0.0, axis=-1)))]
    pick = lambda values: np.take_along_axis(values, order, axis=-1)  # noqa: E731
    return pick(next_states), pick(chances)
