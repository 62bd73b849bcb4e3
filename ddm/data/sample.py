"""Batches drawn from a dataset on the device: pure functions that run inside a scan."""

from __future__ import annotations

import dataclasses

import jax
import jax.core
import jax.numpy as jnp

from ddm.data.dataset import Dataset
from ddm.errors import InputError
from ddm.types import Batch, BatchSpec, PRNGKey, check_action_range, check_one_hot

_KNOWN_FIELDS = tuple(field.name for field in dataclasses.fields(Batch))


def sample_log(dataset: Dataset, key: PRNGKey, batch_size: int, spec: BatchSpec) -> Batch:
    """Draws transitions, or windows of consecutive ones, uniformly and with replacement.

    Windows start at a uniformly drawn transition, or `spec.history` steps before it. Beyond the
    ends of its episode a window repeats the first or the last valid step, and `mask` is False.

    Where `next_actions` is declared, the last transition of a truncated episode is not drawn, and a
    window ends before it: its next action exists but is not known. After a terminal transition no
    action follows; its `next_actions` row repeats its own action, which has no effect because the
    bootstrap stops.

    Where `initial_observations` is declared, each row also gets the first observation of an
    episode, drawn uniformly over episodes whatever their length and whatever else is in the row.

    A spec with `whole_dataset` gets every transition once, in order, and `key` and `batch_size`
    are not used. Its initial observations are those of all episodes in turn, again and again.

    Args:
      dataset: an argument of the jitted caller, not closed over.
      key: used once.
      batch_size: B, rows per gradient step.
      spec: the fields that are gathered; `minibatches` * B rows are drawn.

    Returns:
      A batch with the declared fields, (minibatches * B, ...) or (minibatches * B, T, ...).

    Raises:
      InputError: the spec names an unknown field, nothing can be drawn, or (outside of jit) an
        episode, an observation or an action is not what the spec needs.
    """
    check_spec(dataset, spec)
    if not isinstance(dataset.episode_starts, jax.core.Tracer):
        check_episodes(dataset, spec)
    if spec.whole_dataset:
        return _take_all(dataset, spec)
    rows = batch_size * spec.minibatches
    if spec.window is None:
        return _sample_transitions(dataset, key, rows, spec)
    return _sample_windows(dataset, key, rows, spec)


def check_episodes(dataset: Dataset, spec: BatchSpec) -> None:
    """Refuses a dataset whose values are not what the spec needs.

    A traced function cannot read values, so call this before a jitted `sample`.

    Raises:
      InputError: naming an episode that is too short, an observation that is not one-hot, or an
        action that the policy does not have.
    """
    if spec.one_hot_observations:
        check_one_hot(dataset.observations, dataset.info.name)
    if spec.num_actions and jnp.issubdtype(dataset.actions.dtype, jnp.integer):
        check_action_range(dataset.actions, spec.num_actions, dataset.info.name)
    lengths = dataset.episode_lengths
    shortest = int(lengths.argmin())
    if lengths[shortest] < spec.min_episode_steps:
        raise InputError(
            f"{dataset.info.name}: episode {shortest} has {lengths[shortest]} steps, expected at "
            f"least {spec.min_episode_steps}, the length of an action chunk"
        )


def check_spec(dataset: Dataset, spec: BatchSpec) -> None:
    """Refuses, while tracing, a spec that this dataset cannot satisfy."""
    unknown = [field for field in spec.fields if field not in _KNOWN_FIELDS]
    if unknown:
        raise InputError(f"unknown batch field {unknown[0]!r}; known: {', '.join(_KNOWN_FIELDS)}")
    valued = [field for field in spec.fields if field in ("rewards", "returns_to_go")]
    if valued and not dataset.info.has_rewards:
        raise InputError(
            f"{dataset.info.name} has no rewards, and batch field {valued[0]!r} needs them: only "
            "methods that imitate can learn from it"
        )
    if spec.window is None and "mask" in spec.fields:
        raise InputError("batch field 'mask' belongs to windows: declare a window in the spec")
    if spec.whole_dataset and spec.window is not None:
        raise InputError(
            f"{dataset.info.name} is a log, and the method learns from its present policy's own "
            "steps alone: train it with ddm.fit_online or --online, without a log"
        )
    if spec.whole_dataset and "next_actions" in spec.fields:
        raise InputError("a spec of the whole dataset has no next_actions")
    if spec.window is not None and "initial_observations" in spec.fields:
        raise InputError(
            "batch field 'initial_observations' belongs to single transitions: declare no window"
        )
    if spec.window is not None and spec.window < 1:
        raise InputError(f"a window has {spec.window} steps, expected at least 1")
    if not 0 <= spec.history < (spec.window or 1):
        raise InputError(
            f"a window of {spec.window} steps has {spec.history} steps of history, expected fewer"
        )
    if "next_actions" in spec.fields and dataset.next_action_ids.shape[0] == 0:
        raise InputError(
            f"{dataset.info.name}: no transition has a known next action, because every episode "
            "is one truncated step"
        )


def draw_transitions(
    dataset: Dataset, key: PRNGKey, rows: int, known_next_action: bool = False
) -> jax.Array:
    """(rows,) int32 transitions, uniform; if asked, only those with a known next action."""
    if known_next_action and dataset.next_action_ids.shape[0] < dataset.num_transitions:
        return _take(
            dataset.next_action_ids, _draw_below(dataset.next_action_ids.shape[0], key, rows)
        )
    return _draw_below(dataset.num_transitions, key, rows)


def draw_initial_observations(dataset: Dataset, key: PRNGKey, rows: int) -> jax.Array:
    """(rows, *O) first observations of episodes, uniform over episodes."""
    return _first_observations(dataset, _draw_below(dataset.num_episodes, key, rows))


def _first_observations(dataset: Dataset, episodes: jax.Array) -> jax.Array:
    """(B, *O) of the given episodes (B,)."""
    return _take(dataset.observations, _take(dataset.episode_starts, episodes) + episodes)


def gather(
    dataset: Dataset,
    transitions: jax.Array,
    episodes: jax.Array,
    fields: tuple[str, ...],
    *,
    ends: jax.Array | None = None,
    mask: jax.Array | None = None,
    initial_observations: jax.Array | None = None,
) -> Batch:
    """The declared fields of the given transitions, and no others.

    Args:
      dataset: N transitions.
      transitions: (...,) int32.
      episodes: the episodes they lie in; broadcasts against `transitions`.
      fields: names of batch fields.
      ends: one past the last transition of each episode; needed for `next_actions`.
      mask: part of the batch if declared.
      initial_observations: part of the batch if declared.
    """
    observation_rows = transitions + episodes
    next_transitions = transitions if ends is None else jnp.minimum(transitions + 1, ends - 1)
    gathers = {
        "observations": lambda: _take(dataset.observations, observation_rows),
        "actions": lambda: _take(dataset.actions, transitions),
        "rewards": lambda: _take(dataset.rewards, transitions),
        "next_observations": lambda: _take(dataset.observations, observation_rows + 1),
        "terminations": lambda: _take(dataset.terminations, transitions),
        "truncations": lambda: _take(dataset.truncations, transitions),
        "next_actions": lambda: _take(dataset.actions, next_transitions),
        "returns_to_go": lambda: _take(dataset.returns_to_go, transitions),
        "initial_observations": lambda: initial_observations,
        "mask": lambda: mask,
    }
    return Batch(**{field: gathers[field]() for field in fields})


def _take_all(dataset: Dataset, spec: BatchSpec) -> Batch:
    """Every transition once, in order."""
    transitions = jnp.arange(dataset.num_transitions, dtype=jnp.int32)
    initial_observations = None
    if "initial_observations" in spec.fields:
        initial_observations = _first_observations(dataset, transitions % dataset.num_episodes)
    return gather(
        dataset,
        transitions,
        dataset.episode_ids,
        spec.fields,
        initial_observations=initial_observations,
    )


def _sample_transitions(dataset: Dataset, key: PRNGKey, rows: int, spec: BatchSpec) -> Batch:
    """Single transitions, with what they need of their episodes."""
    ends = initial_observations = None
    if "initial_observations" in spec.fields:
        key, episode_key = jax.random.split(key)
        initial_observations = draw_initial_observations(dataset, episode_key, rows)
    transitions = draw_transitions(dataset, key, rows, "next_actions" in spec.fields)
    episodes = _take(dataset.episode_ids, transitions)
    if "next_actions" in spec.fields:
        ends = _take(dataset.episode_starts, episodes + 1)
    return gather(
        dataset,
        transitions,
        episodes,
        spec.fields,
        ends=ends,
        initial_observations=initial_observations,
    )


def _sample_windows(dataset: Dataset, key: PRNGKey, rows: int, spec: BatchSpec) -> Batch:
    """Windows of `spec.window` steps, cut at the ends of their episodes."""
    assert spec.window is not None
    transitions = draw_transitions(dataset, key, rows, "next_actions" in spec.fields)
    episodes = _take(dataset.episode_ids, transitions)
    ends = _take(dataset.episode_starts, episodes + 1)
    offsets = jnp.arange(-spec.history, spec.window - spec.history, dtype=jnp.int32)
    steps = transitions[:, None] + offsets[None]
    starts, limits = _take(dataset.episode_starts, episodes)[:, None], (ends - 1)[:, None]
    if "next_actions" in spec.fields:
        limits = limits - (~_take(dataset.terminations, limits)).astype(jnp.int32)
    return gather(
        dataset,
        jnp.clip(steps, starts, limits),
        episodes[:, None],
        spec.fields,
        ends=ends[:, None],
        mask=(starts <= steps) & (steps <= limits),
    )


def _draw_below(count: int, key: PRNGKey, rows: int) -> jax.Array:
    """(rows,) int32 below `count`, uniform."""
    # 32 random bits modulo N: relative probabilities differ by N / 2**32 (0.05 % at two million).
    # This needs half the random bits of `jax.random.randint`.
    bits = jax.random.bits(key, (rows,), jnp.uint32)
    return (bits % jnp.uint32(count)).astype(jnp.int32)


def _take(array: jax.Array, rows: jax.Array) -> jax.Array:
    # Every index follows from the dataset's own bounds, so no clamping is needed.
    return array.at[rows].get(mode="promise_in_bounds")
