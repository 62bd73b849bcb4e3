"""SPIBB-DQN: safe policy improvement beyond tables (Laroche et al. 2019, section 4.2).

    B(s) = {a: N(s, a) < N_wedge}
    y    = r + gamma (1 - termination) [ sum over a in B(s') of beta(a | s') Qbar(s', a)
                       + (1 - sum over a in B(s') of beta(a | s')) max over a not in B(s') of Qbar ]
    L_Q  = h(Q(s, a) - y),   h Huber's loss

Where data is scarce the policy does what the baseline beta did. The rest of its probability goes to
the best other action. At N_wedge = 0 it is DQN, at infinity the baseline. On one-hot observations,
with a counted baseline and a wide `huber_width`, its fixed point is that of the tabular `spibb`.

Pseudo-counts N come from one of

- ``grid``: rounded observations, `cell_size` apart, are hashed into a table of 2^`hash_bits` rows.
- ``one_hot``: one row for each feature of the observation; the largest feature gives the row:
exact.
- a function from observations (B, O) to counts (B, K). :func:`neighbor_counts` makes the authors'
  function, which reads every logged state in each call.

The tables are counted from the batches during training: N(s, a) is `dataset_size` times the share
of this pair in the rows so far. It is exact if every batch is the whole log, and otherwise settles
after a few passes; counting stops after 2^24 rows, because float32 counts exactly only up to there.
A limit between whole numbers, such as 4.5, is less sensitive to the noise that is left.

The baseline is ``cloned`` by likelihood while Q is learned (the authors clone first, or are given
it), ``counted``, N(s, .) over its sum, or a function from observations to probabilities (B, K).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks
from ddm.errors import InputError
from ddm.ops import improvement, tables, updates
from ddm.policy_constraint import discrete
from ddm.types import (
    TRANSITION_FIELDS,
    Batch,
    BatchSpec,
    Metrics,
    PRNGKey,
    PyTree,
    check_batch,
    check_example,
    find_choice,
    leaf,
    static,
)

TableFn = Callable[[jax.Array], jax.Array]  # (B, K) of observations (B, O): counts, or a policy
ROWS_COUNTED = 2.0**24  # beyond it, adding 1 to a float32 does nothing


class Config(discrete.Config):
    """Hyper-parameters; the discount, step sizes and target are those of discrete BCQ."""

    # N_wedge: pairs with fewer rows follow the baseline; authors: 5 to 100
    min_count: float = leaf(5.0, "[0, inf]")
    # side of a grid's cells, in the unit of the observations
    cell_size: float = leaf(0.5, "(0, inf)")
    count: str | TableFn = static("grid")  # grid or one_hot; or a function
    behavior: str | TableFn = static("cloned")  # cloned or counted; or a function
    # transitions in the log, by which the counted shares are multiplied
    dataset_size: int = static(0, "[0, inf)")
    hash_bits: int = static(16, "[1, 30]")  # the grid's table has 2 to this power rows
    bounded: bool = static(False)  # Pi_<=b: uncertain actions may also be taken less often
    double_q: bool = static(False)  # Q chooses the action that Qbar values


class Counts(struct.PyTreeNode):
    """Counts of the rows so far, by cell and action."""

    table: jax.Array  # (N, K) float32
    rows: jax.Array  # () float32


class State(struct.PyTreeNode):
    """Everything that training changes."""

    counts: Counts | None  # None where a function counts
    behavior: discrete.Clone | None  # None unless cloned
    critic: networks.Trainable
    critic_target_params: Any
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Transitions."""
    return BatchSpec(
        fields=TRANSITION_FIELDS,
        one_hot_observations=config.count == "one_hot",
        num_actions=config.num_actions,
    )


def prepare(config: Config, dataset: Any) -> Config:
    """The number of logged transitions, where it is not set."""
    if config.dataset_size:
        return config
    return config.replace(dataset_size=dataset.num_transitions)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`, and an empty table.

    Raises:
      InputError: continuous actions; no `num_actions`; a table without `dataset_size`; an unknown
        count or baseline.
    """
    check_example(batch, batch_spec(config), "spibb_dqn")
    discrete.check(config, batch, "spibb_dqn")
    find_choice(config.behavior, dict.fromkeys(("cloned", "counted")), "behavior", "spibb_dqn")
    key, behavior_key, critic_key = jax.random.split(key, 3)
    critic = discrete.init_critic(config, critic_key, batch)
    cloned = config.behavior == "cloned"
    return State(
        counts=_empty_counts(config, batch),
        behavior=discrete.init_behavior(config, behavior_key, batch) if cloned else None,
        critic=critic,
        critic_target_params=jax.tree.map(jnp.copy, critic.params),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step of counts, clone, critic and target.

    Metrics: ``critic_loss``; ``q_value``, mean Q(s, a); ``reward_max``, of the batch;
    ``uncertain``, the share of logged rows whose pair follows the baseline; with a cloned baseline
    ``behavior_loss``, in nats, and ``behavior_progress``, what about the last 900 updates took off
    it.
    """
    check_batch(batch, batch_spec(config), "spibb_dqn")
    state = state.replace(counts=_count(config, state.counts, batch))
    metrics: Metrics = {}
    if state.behavior is not None:
        behavior, metrics = discrete.behavior_step(config, state.behavior, batch)
        state = state.replace(behavior=behavior)

    next_values = discrete.values_at(config, state.critic_target_params, batch.next_observations)
    chooses = (
        discrete.values_at(config, state.critic.params, batch.next_observations)
        if config.double_q
        else next_values
    )
    policy = improved_policy(config, state, batch.next_observations, chooses)
    critic, critic_metrics = discrete.critic_step(
        config, state.critic, batch, jnp.sum(policy * next_values, axis=-1)
    )
    counts = counts_at(config, state, batch.observations)
    counts = jnp.take_along_axis(counts, batch.actions[:, None], axis=1)
    step = state.step + 1
    state = state.replace(
        critic=critic,
        critic_target_params=updates.follow(
            state.critic_target_params,
            critic.params,
            step,
            config.target_rate,
            config.target_period,
        ),
        step=step,
    )
    uncertain = _uncertain(config, counts).astype(jnp.float32)
    return state, {**metrics, **critic_metrics, "uncertain": jnp.mean(uncertain)}


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """The likeliest action of the improved policy, or a sample from it."""
    observations = observation[None]
    values = discrete.values_at(config, state.critic.params, observations)
    [policy] = improved_policy(config, state, observations, values)
    if deterministic:
        return jnp.argmax(policy).astype(jnp.int32), policy_state
    return jax.random.categorical(key, jnp.log(policy)).astype(jnp.int32), policy_state


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences if the clone has not converged, or values exceed what rewards allow."""
    return discrete.diagnose(config, metrics)


def improved_policy(
    config: Config, state: State, observations: jax.Array, values: jax.Array
) -> jax.Array:
    """Probabilities (B, K): the baseline on uncertain pairs, greedy by `values` on others."""
    uncertain = _uncertain(config, counts_at(config, state, observations))
    improve = improvement.spibb_bounded if config.bounded else improvement.spibb
    return improve(values, behavior_at(config, state, observations), uncertain).policy


def counts_at(config: Config, state: State, observations: jax.Array) -> jax.Array:
    """Pseudo-counts (B, K) of all actions at observations (B, O)."""
    if state.counts is None:
        return _count_function(config)(observations)
    rows = state.counts.table[_cells(config, observations)]
    return config.dataset_size * rows / jnp.maximum(state.counts.rows, 1.0)


def behavior_at(config: Config, state: State, observations: jax.Array) -> jax.Array:
    """The baseline's probabilities (B, K) at observations (B, O)."""
    if callable(config.behavior):
        return config.behavior(observations)
    if state.behavior is None:
        return tables.empirical_policy(counts_at(config, state, observations))
    return jnp.exp(discrete.log_behavior_at(config, state.behavior, observations))


def neighbor_counts(
    observations: jax.Array, actions: jax.Array, num_actions: int, radius: float
) -> TableFn:
    """The authors' pseudo-counts: N(s, a) = sum over rows with a of max(0, 1 - |s - s_i| / radius).

    Args:
      observations: (N, O) of the whole log.
      actions: (N,) integers.
      num_actions: K.
      radius: distance at which a logged state no longer counts.

    Returns:
      A function for `Config.count`. Each call costs a matrix product of (B, O) and (O, N).
    """
    logged = jnp.asarray(observations, jnp.float32)
    taken = jax.nn.one_hot(actions, num_actions, dtype=jnp.float32)
    squares = jnp.sum(jnp.square(logged), axis=-1)

    def count(observations: jax.Array) -> jax.Array:
        own = jnp.sum(jnp.square(observations), axis=-1, keepdims=True)
        distances = jnp.sqrt(jnp.maximum(own + squares - 2.0 * observations @ logged.T, 0.0))
        return jnp.maximum(1.0 - distances / radius, 0.0) @ taken

    return count


def _uncertain(config: Config, counts: jax.Array) -> jax.Array:
    # A count equal to the limit may be rounded to below it, because it is computed from a share.
    return counts < config.min_count * (1.0 - 1e-5)


# The tables: which row an observation belongs to.


def _grid_cells(config: Config, observations: jax.Array) -> jax.Array:
    """Rows (B,) by multiply-shift hashing of the rounded observations."""
    limit = 2.0**30
    rounded = jnp.clip(jnp.round(observations / config.cell_size), -limit, limit)
    # Multipliers are odd, random, and the same in every run.
    multipliers = jax.random.bits(jax.random.key(0), observations.shape[-1:], jnp.uint32) | 1
    whole = rounded.astype(jnp.int32).astype(jnp.uint32)
    sums = jnp.sum(whole * jnp.broadcast_to(multipliers, whole.shape), axis=-1, dtype=jnp.uint32)
    mixed = (sums ^ (sums >> 16)) * jnp.uint32(0x9E3779B1)  # 2^32 over the golden ratio, odd
    return (mixed >> (32 - config.hash_bits)).astype(jnp.int32)


def _one_hot_cells(config: Config, observations: jax.Array) -> jax.Array:
    del config
    return tables.state_ids(observations)


CELLS = {"grid": _grid_cells, "one_hot": _one_hot_cells}


def _cells(config: Config, observations: jax.Array) -> jax.Array:
    return find_choice(config.count, CELLS, "count", "spibb_dqn")(config, observations)


def _count_function(config: Config) -> TableFn:
    return find_choice(config.count, {}, "count", "spibb_dqn")


def _empty_counts(config: Config, batch: Batch) -> Counts | None:
    if callable(config.count):
        return None
    find_choice(config.count, CELLS, "count", "spibb_dqn")
    if config.dataset_size < 1:
        raise InputError(
            f"spibb_dqn: count={config.count} needs dataset_size, the number of logged transitions"
        )
    rows = 2**config.hash_bits if config.count == "grid" else batch.observations.shape[-1]
    return Counts(
        table=jnp.zeros((rows, config.num_actions), jnp.float32),
        rows=jnp.zeros((), jnp.float32),
    )


def _count(config: Config, counts: Counts | None, batch: Batch) -> Counts | None:
    if counts is None:
        return None
    cells = _cells(config, batch.observations)
    weight = jnp.where(counts.rows < ROWS_COUNTED, 1.0, 0.0)
    return Counts(
        table=counts.table.at[cells, batch.actions].add(weight),
        rows=counts.rows + weight * len(cells),
    )
