"""Planning in the model that a log's counts give, with and without pessimism, for few states.

    P(s' | s, a), r(s, a) <- shares and means of the logged rows; elsewhere a generalization's guess
    Q(s, a) <- r~(s, a) + gamma (1 - d~(s, a)) sum over s' of P(s' | s, a) max_a' Q(s', a')

The exact, tabular form of what deep model-based methods approximate. `pessimism` says what r~ and
d~, the probability that the step ends the episode, are:

    none     those of the model: MBPO (Janner et al. 2019) on a log
    penalty  r~ = r - lambda u: MOPO (Yu et al. 2020)
    halt     a pair of fewer than n rows earns the halt reward and ends: MOReL (Kidambi et al. 2020)

A network predicts pairs that it has never seen. A count cannot, so that `generalization` plays this
part: it is what a planner without pessimism exploits. One update counts the whole log and does one
sweep of value iteration, with the exact fixed point of the model as its limit. There are no
rollouts.

Observations are one-hot rows of S features, those of a Discrete(S) space; others are refused. The
model is an array (S, A, S).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ddm import ops
from ddm.errors import InputError
from ddm.ops import tables
from ddm.types import (
    TRANSITION_FIELDS,
    Batch,
    BatchSpec,
    Configuration,
    Metrics,
    PRNGKey,
    PyTree,
    check_batch,
    choice,
    chosen,
    leaf,
    static,
)

# Accelerators round the factors of a matrix product to ten bits or fewer, which would round values.
_EXACT = jax.lax.Precision.HIGHEST


class Config(Configuration):
    """Hyper-parameters of planning in a tabular model; the defaults are ours."""

    discount: float = leaf(0.99, "[0, 1]")  # gamma
    # lambda: reward that one unit of uncertainty costs (penalty)
    penalty_weight: float = leaf(1.0, "[0, inf)")
    # -kappa: the whole return of an unknown pair (halt); at most the smallest possible return
    halt_reward: float = leaf(-1.0, "(-inf, inf)")
    min_count: float = leaf(1.0, "[0, inf]")  # n: pairs with fewer rows are unknown
    pessimism: str = choice(lambda: PESSIMISM, "penalty")  # about the model
    uncertainty: str = choice(lambda: UNCERTAINTIES, "unvisited")  # u of a count (penalty)
    # of unseen pairs; a function from a Model to a Model, such as NearestOnGrid(10, 10)
    generalization: str = choice(lambda: GENERALIZATIONS, "stay")
    num_actions: int = static(0, "[0, inf)")  # size of the discrete action space; required


class State(struct.PyTreeNode):
    """Everything that training changes."""

    action_values: jax.Array  # (S, A)
    step: jax.Array  # () int32, sweeps done
    key: PRNGKey


class Model(struct.PyTreeNode):
    """A finite MDP, as a log shows it."""

    counts: jax.Array  # (S, A) logged rows of each pair
    rewards: jax.Array  # (S, A)
    terminations: jax.Array  # (S, A) probability that the step ends the episode
    transitions: jax.Array  # (S, A, S) probabilities of the next state where it goes on


def batch_spec(config: Config) -> BatchSpec:
    """All transitions, and where episodes start."""
    return BatchSpec(
        fields=(*TRANSITION_FIELDS, "initial_observations"),
        whole_dataset=True,
        one_hot_observations=True,
        num_actions=config.num_actions,
    )


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A table of zeros over the states that the observations have columns for.

    Raises:
      InputError: continuous actions, no `num_actions`, or observations that are not one-hot rows.
    """
    check_batch(batch, batch_spec(config), "tabular_model")
    tables.check_table_batch("tabular_model", batch.observations, batch.actions, config.num_actions)
    return State(
        action_values=jnp.zeros((batch.observations.shape[1], config.num_actions), jnp.float32),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One sweep of value iteration in the pessimistic model of the log.

    Metrics: ``residual``, the largest change of an action value; ``start_value``, the return that
    the planner believes in, mean over the initial observations; ``q_value``, mean Q(s, a) of the
    logged pairs; ``unknown``, the share of the logged rows in whose state the greedy action has
    fewer than `min_count` rows.
    """
    check_batch(batch, batch_spec(config), "tabular_model")
    num_states, num_actions = state.action_values.shape
    tables.check_table_batch(
        "tabular_model", batch.observations, batch.actions, num_actions, num_states
    )
    model = learn_model(config, batch)
    rewards, terminations = chosen(config, "pessimism")(config, model)
    values = jnp.max(state.action_values, axis=-1)
    next_values = jnp.matmul(model.transitions, values, precision=_EXACT)
    action_values = rewards + config.discount * (1.0 - terminations) * next_values
    states, starts = map(tables.state_ids, (batch.observations, batch.initial_observations))
    greedy = jnp.argmax(action_values, axis=-1)[states]
    metrics = {
        "residual": jnp.max(jnp.abs(action_values - state.action_values)),
        "start_value": jnp.mean(jnp.max(action_values, axis=-1)[starts]),
        "q_value": jnp.mean(action_values[states, batch.actions]),
        "unknown": jnp.mean(model.counts[states, greedy] < config.min_count),
    }
    return state.replace(action_values=action_values, step=state.step + 1), metrics


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """The first of the best actions; nothing is random."""
    del config, key, deterministic
    return tables.greedy(state.action_values, observation), policy_state


def learn_model(config: Config, batch: Batch) -> Model:
    """The model of maximum likelihood, with the generalization's guess for pairs without a row."""
    states, next_states = map(tables.state_ids, (batch.observations, batch.next_observations))
    num_states = batch.observations.shape[1]
    unseen = jnp.zeros((num_states, config.num_actions), jnp.float32)
    goes_on = 1.0 - batch.terminations.astype(jnp.float32)
    pairs = states, batch.actions
    onward = jnp.zeros((*unseen.shape, num_states), jnp.float32)
    onward = onward.at[(*pairs, next_states)].add(goes_on)
    totals = jnp.sum(onward, axis=-1, keepdims=True)
    model = Model(
        counts=tables.pair_counts(*pairs, *unseen.shape),
        rewards=tables.pair_means(*pairs, batch.rewards, unseen),
        terminations=tables.pair_means(*pairs, 1.0 - goes_on, unseen),
        transitions=onward / jnp.maximum(totals, 1.0),
    )
    return chosen(config, "generalization")(model)


# What the model says of pairs without a row: functions from a Model to a Model.


def stay(model: Model) -> Model:
    """Nothing happens: the agent stays where it is and earns 0."""
    unseen = model.counts == 0.0
    staying = jnp.eye(len(unseen), dtype=jnp.float32)[:, None]
    return model.replace(
        rewards=jnp.where(unseen, 0.0, model.rewards),
        terminations=jnp.where(unseen, 0.0, model.terminations),
        transitions=jnp.where(unseen[..., None], staying, model.transitions),
    )


@dataclasses.dataclass(frozen=True)
class NearestOnGrid:
    """An unseen pair behaves as the same action does in the nearest cell where it was seen.

    It moves by the same number of rows and columns, not beyond the border, and earns and ends
    alike. State `num_columns * row + column` is a cell. Distances are steps between cells, without
    regard to walls; of cells that are equally near the first counts. An action without any row
    stays.
    """

    num_rows: int
    num_columns: int

    def __call__(self, model: Model) -> Model:
        """The model with its unseen pairs filled in.

        Raises:
          InputError: the model has another number of states than the grid has cells.
        """
        num_states, num_actions = model.counts.shape
        if num_states != self.num_rows * self.num_columns:
            raise InputError(
                f"tabular_model: generalization is for {self.num_rows} x {self.num_columns} cells, "
                f"the observations have {num_states} columns, expected one for each cell"
            )
        rows, columns = np.divmod(np.arange(num_states), self.num_columns)
        distances = sum(np.abs(place[:, None] - place) for place in (rows, columns))
        seen = model.counts > 0.0
        # (S, S, A): from a cell to each other one, infinitely far where the action was not seen.
        far = jnp.where(seen[None], jnp.asarray(distances, jnp.float32)[..., None], jnp.inf)
        nearest, actions = jnp.argmin(far, axis=1), jnp.arange(num_actions)[None]  # (S, A), (1, A)
        targets = self._shift(jnp.asarray(rows), self.num_rows, nearest) * self.num_columns
        targets = targets + self._shift(jnp.asarray(columns), self.num_columns, nearest)
        moved = jnp.zeros_like(model.transitions)
        moved = moved.at[jnp.arange(num_states)[:, None, None], actions[..., None], targets]
        guess = Model(
            counts=model.counts,
            rewards=model.rewards[nearest, actions],
            terminations=model.terminations[nearest, actions],
            transitions=moved.add(model.transitions[nearest, actions]),
        )
        # A pair that was seen is its own example.
        return _where(jnp.any(seen, axis=0, keepdims=True), guess, stay(model))

    @staticmethod
    def _shift(coordinate: jax.Array, length: int, nearest: jax.Array) -> jax.Array:
        """(S, A, S) rows or columns that a cell gets to where its nearest one gets to each cell."""
        moves = coordinate[None, None] - coordinate[nearest][..., None]
        return jnp.clip(coordinate[:, None, None] + moves, 0, length - 1)


def _where(pairs: jax.Array, model: Model, other: Model) -> Model:
    """One model at the given pairs, (S, A) or (1, A) bool, the other one elsewhere."""

    def select(one: jax.Array, two: jax.Array) -> jax.Array:
        return jnp.where(pairs.reshape(pairs.shape + (1,) * (one.ndim - 2)), one, two)

    return jax.tree.map(select, model, other)


GENERALIZATIONS = {"stay": stay}

# The uncertainty of a pair, from its count: 1 where it was never seen.


def unvisited(counts: jax.Array) -> jax.Array:
    """1 for a pair without a row, 0 for every other."""
    return (counts == 0.0).astype(jnp.float32)


def inverse_root(counts: jax.Array) -> jax.Array:
    """1 / sqrt(1 + n): up to a constant, the error of a distribution that is known by n rows."""
    return jax.lax.rsqrt(1.0 + counts)


UNCERTAINTIES = {"unvisited": unvisited, "inverse_root": inverse_root}

# What the planner makes of the model: its rewards and terminations, both (S, A).


def _believe(config: Config, model: Model) -> tuple[jax.Array, jax.Array]:
    del config
    return model.rewards, model.terminations


def _penalize(config: Config, model: Model) -> tuple[jax.Array, jax.Array]:
    uncertainties = chosen(config, "uncertainty")(model.counts)
    rewards = ops.penalized_rewards(model.rewards, uncertainties, config.penalty_weight)
    return rewards, model.terminations


def _halt(config: Config, model: Model) -> tuple[jax.Array, jax.Array]:
    unknown = model.counts < config.min_count
    return ops.halted(model.rewards, model.terminations, unknown, config.halt_reward)


PESSIMISM = {"none": _believe, "penalty": _penalize, "halt": _halt}
