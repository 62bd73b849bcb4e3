"""A policy's own experience: collected between updates, kept in a buffer, sampled like a log."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ddm import data, envs
from ddm.envs import stream as streams
from ddm.errors import InputError
from ddm.evaluation import Policy, experts, supervision
from ddm.evaluation.matching import check_spaces
from ddm.types import Algorithm, Batch, BatchSpec, Box, Metrics, PRNGKey, Space, Spec

_ASKED_BEFORE = 16  # first observations for which an expert is asked before a run begins

OWN = "own"  # name of the policy's own rows among the sources of an algorithm


@dataclasses.dataclass(frozen=True)
class CollectSpec:
    """How a policy collects while it learns; what a module's `collect_spec(config)` declares.

    With `on_policy`, an update sees the steps of the present policy alone: no random ones, and the
    whole buffer is filled anew before each update. `capacity` and `random_steps` follow from that,
    whatever is given.

    With `labelled`, an expert says for each state what it would do there. Only rows whose label was
    asked for are kept, and their action is the expert's, never the one that was executed. There are
    no random steps. See :mod:`ddm.evaluation.supervision`.
    """

    steps_per_update: int = 1  # steps of every copy before each update
    capacity: int = 1_000_000  # transitions that are kept
    random_steps: int = 5_000  # transitions by uniformly random actions before the first update
    copies: int = 1  # of the environment
    on_policy: bool = False  # nothing is kept from one update to the next
    labelled: bool = False  # an expert's actions are kept, not the policy's
    ordered: bool = False  # labelled rows are kept in the order of time, so all are asked for

    def __post_init__(self):
        if self.on_policy:
            object.__setattr__(self, "capacity", self.steps_per_update * self.copies)
        if self.on_policy or self.labelled:
            object.__setattr__(self, "random_steps", 0)
        names = ("steps_per_update", "copies", "capacity", "random_steps")
        for name in names[:3] if self.on_policy or self.labelled else names:
            value = getattr(self, name)
            if value < 1:
                raise InputError(f"CollectSpec: {name} is {value}, expected at least 1")
        if self.capacity < self.copies:
            raise InputError(
                f"CollectSpec: capacity is {self.capacity}, expected at least the {self.copies} "
                "rows that the copies give at once"
            )


class Experience(struct.PyTreeNode):
    """The experience so far, and the states of the environments."""

    stream: envs.Stream | None  # None: the environments are stepped on the host
    buffer: data.Buffer
    key: PRNGKey  # folded with the gradient step
    memory: Any = ()  # of the rule that says who acts and what is labelled; see `supervision`


class Collector(struct.PyTreeNode):
    """An environment and how experience is collected in it.

    A pure environment advances inside the compiled program. A gymnasium environment cannot
    (`environment` is None): the runner steps it on the host, and its transitions go into the same
    buffer.
    """

    params: Any
    environment: Any = struct.field(pytree_node=False)  # an envs.Environment, or None
    spec: CollectSpec = struct.field(pytree_node=False)
    observation_space: Box = struct.field(pytree_node=False)
    action_space: Space = struct.field(pytree_node=False)
    expert: experts.Expert | None = None  # labels states, where the spec says so

    @classmethod
    def create(
        cls,
        environment: envs.Environment,
        spec: CollectSpec | None = None,
        params: Any = None,
        expert: Any = None,
    ) -> Collector:
        """A collector in an environment, with its default parameters or the given ones.

        Args:
          environment: a pure one.
          spec: how much is collected, and whether it is labelled.
          params: of the environment.
          expert: a function of JAX from one observation to an action, a trained policy, or an
            :class:`ddm.evaluation.experts.FunctionExpert`; needed if the spec is labelled.

        Raises:
          InputError: no expert where one is needed, or one whose actions the environment does not
            take.
        """
        params = environment.default_params if params is None else params
        spaces = environment.observation_space(params), environment.action_space(params)
        spec = CollectSpec() if spec is None else spec
        if not spec.labelled:
            return cls(params, environment, spec, *spaces)
        expert = needed_expert(expert)
        if not experts.is_pure(expert):
            raise InputError(
                f"{environment.name} runs inside a compiled program, and the expert outside: give "
                "a function of JAX or a trained policy, or the environment's gymnasium face"
            )
        with jax.ensure_compile_time_eval():
            keys = jax.random.split(jax.random.key(0), _ASKED_BEFORE)
            examples = jax.vmap(environment.reset, (0, None))(keys, params)[0]
            experts.check_expert(expert, environment.name, *spaces, np.asarray(examples))
        return cls(params, environment, spec, *spaces, expert)

    def empty_buffer(
        self, log: data.Dataset | None = None, capacity: int | None = None
    ) -> data.Buffer:
        """A buffer for the environment's transitions, in the units of the log if one is given."""
        in_time = self.spec.on_policy or self.spec.ordered
        copies = self.spec.copies if in_time and capacity is None else 0
        capacity = self.spec.capacity if capacity is None else capacity
        if log is not None:
            return data.Buffer.like(log, capacity, copies=copies)
        spaces = self.observation_space, self.action_space
        return data.Buffer.empty(capacity, *spaces, copies=copies)

    def example(self, buffer: data.Buffer, spec: Spec | None = None) -> Batch:
        """Shapes and types of one row, or of what the spec asks for, for an algorithm's `init`."""
        if isinstance(spec, BatchSpec):
            return buffer.example(spec)
        return jax.tree.map(lambda x: x[:1], buffer.rows)


def needed_expert(expert: Any) -> experts.Expert:
    """The expert of a method that asks one.

    Raises:
      InputError: there is none.
    """
    if expert is None:
        raise InputError(
            "the method asks an expert, and there is none: give --expert, or expert=... to "
            "runner.train and ddm.Collector.create"
        )
    return experts.as_expert(expert)


def begin(
    collector: Collector,
    algorithm: Algorithm,
    config: Any,
    state: Any,
    key: PRNGKey,
    log: data.Dataset | None = None,
) -> Experience:
    """The experience before the first update: transitions by random actions, if there are any.

    Args:
      collector: environment and numbers.
      algorithm: of the policy.
      config: of the policy.
      state: of the policy; gives the shapes of its memory, if it has any.
      key: of this and all later collection.
      log: a dataset; the experience gets its units.

    Raises:
      InputError: the policy's observations or actions are not the environment's.
    """
    buffer = collector.empty_buffer(log)
    memory: Any = ()
    if collector.spec.labelled:
        memory = algorithm.begin_supervision(config, state)  # pyright: ignore[reportAttributeAccessIssue]
    if collector.environment is None:
        return Experience(None, buffer, key, memory)
    policy = policy_of(algorithm, config, state, buffer)
    environment, params, spec = collector.environment, collector.params, collector.spec
    check_spaces(policy, environment.name, collector.observation_space, collector.action_space)
    key, start_key, random_key = jax.random.split(key, 3)
    policy_state = policy.initial_state()
    stream = streams.start(environment, params, start_key, spec.copies, policy_state)
    if not spec.random_steps:
        return Experience(stream, buffer, key, memory)

    def act_randomly(observation, key, policy_state):
        del observation
        return streams.random_action(collector.action_space, key), policy_state

    def step(carry, step_key):
        stream, buffer = carry
        stream, rows = streams.advance(
            environment, params, act_randomly, stream, step_key, policy_state
        )
        return (stream, buffer.insert(to_units(rows, buffer.normalization))), None

    steps = -(-spec.random_steps // spec.copies)
    carry, _ = jax.lax.scan(step, (stream, buffer), jax.random.split(random_key, steps))
    return Experience(*carry, key)


def collect(
    collector: Collector, algorithm: Algorithm, config: Any, state: Any, experience: Experience
) -> tuple[Experience, Metrics]:
    """The policy's next transitions, sampled from it: `steps_per_update` steps of every copy.

    Metrics: ``collect/return``, mean over the copies of the undiscounted return of the last
    episode that ended (0 before one has); ``collect/episodes``, how many have ended; of labelled
    steps also those of the algorithm's rule.
    """
    assert experience.stream is not None  # always so if the collector has an environment
    policy = policy_of(algorithm, config, state, experience.buffer)
    key = jax.random.fold_in(experience.key, state.step)
    keys = jax.random.split(key, collector.spec.steps_per_update)
    if collector.spec.labelled:
        experience = _collect_labelled(collector, policy, experience, keys)
        found = experience.memory.metrics()
    else:
        experience = _collect_own(collector, policy, experience, keys)
        found = {}
    stream: Any = experience.stream
    metrics = {
        "collect/return": jnp.mean(stream.last_returns),
        "collect/episodes": stream.episodes.astype(jnp.float32),
    }
    return experience, metrics | {f"collect/{name}": value for name, value in found.items()}


def _collect_own(
    collector: Collector, policy: Policy, experience: Experience, keys: PRNGKey
) -> Experience:
    """Steps of the policy, one for each key."""
    environment, params = collector.environment, collector.params
    policy_state = policy.initial_state()

    def act(observation, key, policy_state):
        return policy(observation, key, policy_state, deterministic=False)

    def step(carry, step_key):
        stream, buffer = carry
        stream, rows = streams.advance(environment, params, act, stream, step_key, policy_state)
        return (stream, buffer.insert(to_units(rows, buffer.normalization))), None

    (stream, buffer), _ = jax.lax.scan(step, (experience.stream, experience.buffer), keys)
    return experience.replace(stream=stream, buffer=buffer)


def _collect_labelled(
    collector: Collector, policy: Policy, experience: Experience, keys: PRNGKey
) -> Experience:
    """Steps by the learner's mode or the expert, whoever leads; labels of those that are asked."""
    environment, params, expert = collector.environment, collector.params, collector.expert
    assert isinstance(expert, (experts.FunctionExpert, experts.PolicyExpert))
    takes_over = expert.takes_over or (lambda observation, proposal: jnp.zeros((), bool))
    policy_state = policy.initial_state()

    def step(carry, step_key):
        stream, buffer, memory = carry
        act_key, rule_key, *step_keys = jax.random.split(step_key, 4)
        seen = stream.observations
        proposals, policy_states = jax.vmap(policy)(
            seen, jax.random.split(act_key, seen.shape[0]), stream.policy_states
        )
        labels = jax.vmap(expert)(seen)
        wishes = jax.vmap(takes_over)(seen, proposals)
        actions, labels, ruling, memory = supervision.rule(
            policy, memory, seen, proposals, labels, wishes, policy_states, rule_key
        )
        stream, rows = streams.move(
            environment, params, stream, actions, policy_states, tuple(step_keys), policy_state
        )
        rows = to_units(rows.replace(actions=labels), buffer.normalization)
        asked = None if collector.spec.ordered else ruling.asked
        return (stream, buffer.insert(rows, asked), memory), None

    begun = experience.stream, experience.buffer, experience.memory
    (stream, buffer, memory), _ = jax.lax.scan(step, begun, keys)
    return experience.replace(stream=stream, buffer=buffer, memory=memory)


def policy_of(algorithm: Algorithm, config: Any, state: Any, buffer: data.Buffer) -> Policy:
    """The policy in the units of the environment."""
    return Policy(
        algorithm,
        config,
        state,
        buffer.normalization,
        buffer.info.action_space,
        buffer.info.observation_space.shape,  # pyright: ignore[reportAttributeAccessIssue]
    )


def to_units(rows: Batch, normalization: data.Normalization) -> Batch:
    """Transitions of an environment in the units that an algorithm sees."""
    actions = normalization.normalize_actions(rows.actions)
    if normalization.action_scale is not None:
        actions = jnp.clip(actions, -1.0, 1.0)  # mapping there and back may change the last bit
    return rows.replace(
        observations=normalization.normalize_observations(rows.observations),
        actions=actions,
        rewards=rows.rewards * normalization.reward_scale + normalization.reward_shift,
        next_observations=normalization.normalize_observations(rows.next_observations),
    )
