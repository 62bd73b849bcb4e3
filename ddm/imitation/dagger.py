"""DAgger: imitation learned on the states that the learner itself visits (Ross et al. 2011).

Cloning learns where the expert goes. One error leads a clone elsewhere, where it has learned
nothing, so its cost can grow with the square of the horizon. DAgger adds the learner's own states,
with the expert's actions there:

    for each round i:
        act with  beta_i expert + (1 - beta_i) learner,  drawn at each step
        label the states with the expert's actions, and add them to the data
        train the learner on all data so far

It wraps a learner, any method of imitation that learns from labelled rows or windows: `over(bc)` is
an algorithm like any other, and its Config has the fields of both. The module itself is DAgger over
:mod:`bc`. One `update` is a round of `round_updates` steps of the learner. Before it, every copy of
the environment takes `round_steps` steps. The stored action is always the expert's intended one.

    dagger = ddm.imitation.dagger.over(cvae)
    config = dagger.Config(round_steps=200, round_updates=400)
    collector = ddm.Collector.create(environment, dagger.collect_spec(config), expert=expert)
    learner, metrics = ddm.fit_online(dagger, config, collector, key, num_steps=5 * 400)

Who acts and which labels are asked is said in :mod:`ddm.imitation.parts.gates`. Several members,
each a learner of its own, differ in their first weights and in the order of their mini-batches;
they act with their mean (discrete: by vote). Their variance is the doubt.

``noise`` makes it DART (Laskey et al. 2017) with ``beta_schedule=always``: the expert acts with
noise of the covariance of the learner's errors on held-out states, as in the authors' code, or
scaled to the size `noise_scale`. The label is the intended action.

Demonstrations stand beside the collected rows in fixed shares (`log_share`); `clone_steps` trains
on them before the first round. Without them the first round is the expert's own.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks, types
from ddm.errors import InputError
from ddm.evaluation.supervision import Ruling, Seen
from ddm.experience import CollectSpec
from ddm.imitation import bc
from ddm.imitation.parts import dart, gates, rules, safe
from ddm.imitation.parts.members import combined, without_held_out
from ddm.imitation.parts.rules import Rules
from ddm.types import (
    Batch,
    BatchSpec,
    Metrics,
    PRNGKey,
    PyTree,
    Stage,
    check_batch,
    chosen,
)

_ERROR_ROWS = 2_048  # rows of a round on which DART measures the learner's errors


class State(struct.PyTreeNode):
    """Everything that training changes."""

    members: Any  # the learner's states, leaves with a leading axis of members
    safety: networks.Trainable | None  # classifier of unsafe states; None without the gate
    covariance: jax.Array  # (A, A) of the expert's noise; (n, n) zeros for n discrete actions
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


class Plan(struct.PyTreeNode):
    """The policy state: of each member, and how far the members were apart."""

    members: PyTree
    doubt: jax.Array  # () variance of the members' last actions

    @property
    def memory(self) -> PyTree:
        """What the members act from, beside the observation."""
        return self.members


def over(learner: Any) -> Any:
    """DAgger over a learner: an algorithm, and always the same one for the same learner.

    Args:
      learner: an algorithm that imitates, as :mod:`ddm.imitation.bc`.

    Raises:
      InputError: the learner's Config has a field of the same name.
    """
    return _over(learner)


@functools.cache
def _over(learner: Any) -> DAgger:
    ours = {field.name for field in dataclasses.fields(Rules)}
    shared = ours & {field.name for field in dataclasses.fields(learner.Config)}
    if shared:
        raise InputError(f"dagger: the learner's Config has a field {sorted(shared)[0]}, too")
    return DAgger(learner)


def _config_class(learner: Any) -> type:
    """A Config with the fields of both; made once for each learner."""
    names = {"__module__": __name__, "__doc__": Rules.__doc__, "__reduce__": _reduce_config}
    meta: Any = type(learner.Config)
    return meta("Config", (learner.Config, Rules), {**names, "learner": learner})


def _reduce_config(config: Any) -> tuple[Any, ...]:
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return _unpickle_config, (over(type(config).learner), values)


def _unpickle_config(algorithm: DAgger, values: dict[str, Any]) -> Any:
    return algorithm.Config(**values)


class DAgger:
    """The algorithm `over(learner)`: an instance with the names of the contract."""

    State: ClassVar[type] = State

    def __init__(self, learner: Any):
        self.learner = learner
        self.name = learner.__name__.rpartition(".")[2]
        self.__name__ = __name__ if learner is bc else f"{__name__}_{self.name}"
        self.Config = _config_class(learner)

    def __reduce__(self) -> tuple[Any, ...]:
        return _over_named, (self.learner.__name__,)

    def batch_spec(self, config: Any) -> BatchSpec:
        """The learner's rows, for all its updates of a round."""
        spec = self._learner_spec(config)
        return dataclasses.replace(spec, minibatches=spec.minibatches * config.round_updates)

    def collect_spec(self, config: Any) -> CollectSpec:
        """Labelled steps; more copies by `dataclasses.replace`."""
        rules.check(config)
        ordered = self._learner_spec(config).window is not None
        if ordered and (config.gate != "none" or config.max_labels or rules.holds_out(config)):
            raise InputError(
                f"dagger: {self.name} learns from windows, in which every state needs a label: "
                "expected gate=none, max_labels=0 and no noise=dart"
            )
        copies = config.round_copies
        return CollectSpec(
            steps_per_update=config.round_steps,
            capacity=-(-config.max_rows // copies) * copies,
            copies=copies,
            labelled=True,
            ordered=ordered,
        )

    def stages(self, config: Any) -> tuple[Stage, ...]:
        """The rounds; before them, with `clone_steps`, updates on the demonstrations alone."""
        rounds = Stage("", self.update, self.batch_spec(config), collects=True)
        if not config.clone_steps:
            return (rounds,)
        spec = self._learner_spec(config)
        steps = config.clone_steps * spec.minibatches
        return Stage("clone", self.clone, {"log": spec}, steps, collects=False), rounds

    def init(self, config: Any, key: PRNGKey, batch: Batch) -> State:
        """Fresh members for the shapes in `batch`.

        Raises:
          InputError: a rule that does not fit, or what the learner refuses.
        """
        rules.check(config)
        key, members_key, safety_key = jax.random.split(key, 3)
        discrete = jnp.issubdtype(batch.actions.dtype, jnp.integer)
        size = config.num_actions if discrete else batch.actions.shape[-1]
        safety = None
        if config.gate == "safe":
            safety = safe.init(config, safety_key, batch.observations[:1], size)
        return State(
            members=self._fresh(config, members_key, batch),
            safety=safety,
            covariance=jnp.zeros((size, size), jnp.float32),
            step=jnp.zeros((), jnp.int32),
            key=key,
        )

    def update(self, config: Any, state: State, batch: Batch) -> tuple[State, Metrics]:
        """The training of one round.

        Metrics: the learner's, means over the members and the round; with ``safe`` also
        ``safety_loss`` and ``unsafe_share``, of the held-out states; with ``dart``
        ``noise_trace``, of the covariance of the next round's noise.
        """
        check_batch(batch, self.batch_spec(config), "dagger")
        key, fresh_key, error_key = jax.random.split(state.key, 3)
        state = state.replace(key=key)
        if config.retrain:
            state = state.replace(members=self._fresh(config, fresh_key, batch))
        state, metrics = self._learn(config, state, batch, config.round_updates)
        if config.noise == "dart":
            rows = jax.tree.map(lambda x: x[:_ERROR_ROWS], batch)
            modes = self._modes(config, state, rows.observations, error_key)
            covariance = dart.error_moments(config, modes, rows, state.covariance.shape[0])
            state = state.replace(covariance=covariance)
            metrics = {**metrics, "noise_trace": jnp.trace(covariance)}
        return state, metrics

    def clone(self, config: Any, state: State, batch: Any) -> tuple[State, Metrics]:
        """One update of the learner on the demonstrations, before the first round."""
        return self._learn(config, state, batch["log"], 1)

    def act(
        self,
        config: Any,
        state: State,
        observation: jax.Array,
        key: PRNGKey,
        policy_state: PyTree = (),
        *,
        deterministic: bool = False,
    ) -> tuple[jax.Array, PyTree]:
        """The mean (discrete: the vote) of the members' modes, or a sample of one of them."""
        if not isinstance(policy_state, Plan):
            policy_state = self.initial_policy_state(config, state)
        member_key, pick_key = jax.random.split(key)
        keys = jax.random.split(member_key, config.num_members)

        def one(member: Any, key: PRNGKey, before: PyTree) -> tuple[jax.Array, PyTree]:
            arguments = config, member, observation, key, before
            return self.learner.act(*arguments, deterministic=deterministic)

        actions, members = jax.vmap(one)(state.members, keys, policy_state.members)
        action, doubt = combined(actions)
        if not deterministic:
            action = actions[jax.random.randint(pick_key, (), 0, config.num_members)]
        return action, Plan(members, doubt)

    def initial_policy_state(self, config: Any, state: State) -> Plan:
        """Of each member, and no doubt."""
        one = lambda member: types.initial_policy_state(self.learner, config, member)  # noqa: E731
        return Plan(jax.vmap(one)(state.members), jnp.zeros((), jnp.float32))

    def begin_supervision(self, config: Any, state: State) -> gates.Memory:
        """Before the first step; see :mod:`ddm.evaluation.supervision`."""
        del config, state
        return gates.Memory.empty()

    def supervise(
        self, config: Any, state: State, memory: gates.Memory, seen: Seen, key: PRNGKey
    ) -> tuple[Ruling, gates.Memory]:
        """Who acts in each copy, and which labels are asked; the expert's steps always are."""
        beta_key, noise_key = jax.random.split(key)
        untrained = state.step == 0
        beta = chosen(config, "beta_schedule")(config, self._round(config, state), untrained)
        doubt = seen.policy_states.doubt
        unsafe = jnp.zeros_like(seen.valid)
        if state.safety is not None:
            unsafe = state.safety(seen.observations)[..., 0] > 0.0
        discrepancy = bc.errors(seen.proposals, seen.labels)
        signals = gates.Signals(doubt, discrepancy, unsafe, seen.takes_over, memory.threshold)
        led, asked = chosen(config, "gate")(config, signals)
        led |= jax.random.bernoulli(beta_key, beta, led.shape)
        # Where nothing is known yet, everything is asked; so the buffer is never empty.
        asked |= led | untrained | (memory.labels == 0)
        asked = gates.within_budget(config, asked & seen.valid, memory.labels)
        led &= asked
        actions = seen.labels
        if config.noise != "none":
            actions = dart.noisy(actions, *dart.scales(config, state.covariance), noise_key)
        threshold = gates.next_threshold(config, memory.threshold, doubt)
        memory = gates.updated(
            memory,
            led,
            asked,
            invalid=memory.invalid + jnp.sum(~seen.valid, dtype=jnp.int32),
            threshold=jnp.where(untrained, memory.threshold, threshold),
            risk=gates.next_risk(memory.risk, doubt, led & ~untrained),
        )
        return Ruling(actions, led, asked), memory

    def diagnose(self, config: Any, metrics: Any) -> list[str]:
        """Sentences on labels that were left out or used up, and the learner's own."""
        own = getattr(self.learner, "diagnose", None)
        found = [] if own is None else list(own(config, metrics))
        if invalid := metrics.get("collect/invalid_labels", 0.0):
            found.append(
                f"{invalid:.0f} labels of the expert were not finite or outside the box of actions "
                "and were left out: see what the expert does there"
            )
        if config.max_labels and metrics.get("collect/labels", 0.0) >= config.max_labels:
            found.append(f"all {config.max_labels} labels of max_labels are used up")
        return found

    def prepare(self, config: Any, dataset: Any) -> Any:
        """What the learner takes from the data."""
        own = getattr(self.learner, "prepare", None)
        return config if own is None else own(config, dataset)

    def _learner_spec(self, config: Any) -> BatchSpec:
        """What one update of the learner needs.

        Raises:
          InputError: it needs more than labelled rows or windows of them.
        """
        spec = self.learner.batch_spec(config)
        reason = None
        if not isinstance(spec, BatchSpec):
            reason = "it learns from several sources"
        elif spec.whole_dataset:
            reason = "it sweeps over a whole log"
        if reason or not hasattr(self.learner, "act"):
            raise InputError(
                f"dagger: {self.name} cannot learn from single labelled states: "
                f"{reason or 'it has no policy'}"
            )
        return spec

    def _fresh(self, config: Any, key: PRNGKey, batch: Batch) -> Any:
        """Fresh states of all members."""
        example = jax.tree.map(lambda x: x[: self._learner_spec(config).minibatches], batch)
        keys = jax.random.split(key, config.num_members)
        return jax.vmap(self.learner.init, (None, 0, None))(config, keys, example)

    def _learn(
        self, config: Any, state: State, batch: Batch, updates: int
    ) -> tuple[State, Metrics]:
        """So many updates of every member, and of the classifier if there is one."""
        parts = jax.tree.map(lambda x: x.reshape(updates, -1, *x.shape[1:]), batch)
        members_parts = parts
        if rules.holds_out(config):
            keep = lambda part: without_held_out(part, config.held_out_share)  # noqa: E731
            members_parts = jax.vmap(keep)(parts)
        offsets = jnp.arange(config.num_members) * updates // config.num_members

        def step(state: State, i: jax.Array) -> tuple[State, Metrics]:
            own = jax.tree.map(lambda x: x[(i + offsets) % updates], members_parts)
            train = jax.vmap(self.learner.update, (None, 0, 0))
            members, metrics = train(config, state.members, own)
            state = state.replace(members=members)
            metrics = {name: jnp.mean(values) for name, values in metrics.items()}
            if state.safety is not None:
                part = jax.tree.map(lambda x: x[i], parts)
                key, mode_key = jax.random.split(state.key)
                modes = self._modes(config, state, part.observations, mode_key)
                safety, more = safe.learn(config, state.safety, part, modes)
                state, metrics = state.replace(safety=safety, key=key), {**metrics, **more}
            return state, metrics

        state, metrics = jax.lax.scan(step, state, jnp.arange(updates))
        steps = updates * self._learner_spec(config).minibatches
        means = {name: jnp.mean(values) for name, values in metrics.items()}
        return state.replace(step=state.step + steps), means

    def _modes(self, config: Any, state: State, observations: jax.Array, key: PRNGKey) -> jax.Array:
        """Actions without noise at observations (B, *O), each the first of an episode."""
        keys = jax.random.split(key, observations.shape[0])
        act = functools.partial(self.act, config, state, deterministic=True)
        return jax.vmap(lambda observation, key: act(observation, key)[0])(observations, keys)

    def _round(self, config: Any, state: State) -> jax.Array:
        """() number of the round, from 0, as a float."""
        minibatches = self._learner_spec(config).minibatches
        done = state.step - config.clone_steps * minibatches
        return jnp.maximum(done // (config.round_updates * minibatches), 0).astype(jnp.float32)


def _over_named(name: str) -> DAgger:
    return over(importlib.import_module(name))


_over_bc = over(bc)
Config = _over_bc.Config
act, batch_spec, collect_spec, diagnose = (
    _over_bc.act, _over_bc.batch_spec, _over_bc.collect_spec, _over_bc.diagnose
)  # fmt: skip
init, update, stages, prepare = _over_bc.init, _over_bc.update, _over_bc.stages, _over_bc.prepare
initial_policy_state = _over_bc.initial_policy_state
begin_supervision, supervise = _over_bc.begin_supervision, _over_bc.supervise
