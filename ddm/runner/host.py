"""Own experience from gymnasium environments; the host steps them between two device calls."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ddm.evaluation.collecting import HostStream
from ddm.evaluation.experts import HostExpert
from ddm.experience import Collector
from ddm.runner.device import DeviceLanes
from ddm.runner.options import Options
from ddm.runner.sources import Shared, collected_in
from ddm.types import Batch, PyTree


def host_collection(
    device: DeviceLanes, environment: Any, shared: Shared, seeds: list[int], options: Options
) -> HostCollection | None:
    """The collector in gymnasium environments; None if nothing is collected there.

    Raises:
      InputError: the policies do not fit the environment.
    """
    if shared.collector is None or shared.collects_inside:
        return None
    factory = collected_in(environment, shared.collector.expert)
    return HostCollection(device, factory, shared.collector, seeds, options.collect_every)


class HostCollection:
    """Steps the simulators of this process's lanes, and gives the transitions to the devices.

    Args:
      device: the lanes.
      environment: makes one gymnasium environment at each call.
      collector: how much is collected.
      seeds: of all lanes.
      every: updates between two visits of the simulators; the acting policy is up to that old. A
        method that learns from its present policy alone visits before each update.
    """

    def __init__(
        self,
        device: DeviceLanes,
        environment: Any,
        collector: Collector,
        seeds: list[int],
        every: int,
    ):
        self._device, self._spec = device, collector.spec
        self._expert = collector.expert
        self._every = 1 if self._spec.on_policy or self._spec.labelled else every
        self._seeds = seeds
        local = device.layout.indices[: device.layout.num_local]
        self._local = local
        self._stream = HostStream(environment, [seeds[i] for i in local], self._spec.copies)

    @property
    def waits(self) -> bool:
        """Whether a run may have to stop until a person has labelled states."""
        return isinstance(self._expert, HostExpert) and self._expert.afterwards

    def go_on(self, step: int, returns: Any = None) -> None:
        """The random transitions before the first update, or new episodes after a checkpoint.

        Args:
          step: gradient steps so far.
          returns: the result of `returns` at the checkpoint.
        """
        if returns is not None:
            self._stream.last_returns = np.asarray(returns, np.float64)[self._local]
        if step:
            self.restart(step)
            return
        left = -(-self._spec.random_steps // self._spec.copies)
        most = max(self._spec.capacity // self._spec.copies, 1)
        while left > 0:
            steps = min(left, most, 1_000)
            self._insert(self._stream.collect(None, steps))
            left -= steps

    def restart(self, step: int) -> None:
        """Begins new episodes everywhere, as a run that resumes at this gradient step does."""
        self._stream.restart(step)

    def advance(self, updates: int, alive: np.ndarray, stage: int) -> tuple[PyTree, PyTree]:
        """As `DeviceLanes.advance`, with visits of the simulators before and in between."""
        means: dict[str, Any] = {}
        firsts: dict[str, Any] = {}
        done = 0
        while done < updates:
            now = min(self._every, updates - done)
            steps = now * self._spec.steps_per_update
            self._visit(steps)
            found, wrong = self._device.advance(now, alive, stage)
            for name, values in found.items():
                means[name] = means.get(name, 0.0) + values.astype(np.float64) * (now / updates)
            for name, values in wrong.items():
                later = np.where(values < now, done + values, updates)
                firsts[name] = np.minimum(firsts.get(name, updates), later)
            done += now
        shown = {"collect/return": self._stream.last_returns.mean(axis=1)}
        if self._spec.labelled:
            remembered = self._device.memory().metrics()
            shown |= {f"collect/{name}": np.asarray(x) for name, x in remembered.items()}
        return {**means, **self._device.layout.gather_host(shown)}, firsts

    def returns(self) -> list[list[float]]:
        """Returns of the last episode of each copy of all lanes, for a checkpoint."""
        return self._device.layout.gather_host(self._stream.last_returns).tolist()

    def close(self) -> None:
        """Closes the simulators."""
        self._stream.close()

    def _visit(self, steps: int) -> None:
        """The next steps of every simulator, into the buffers."""
        policy = self._device.policy()
        if not self._spec.labelled:
            self._insert(self._stream.collect(policy, steps))
            return
        assert self._expert is not None  # always so where labels are asked for
        memory = self._device.memory()
        found = self._stream.collect_labelled(policy, steps, self._expert, memory)
        rows, asked, memory = jax.tree.map(np.asarray, found)
        self._insert(rows, None if self._spec.ordered else asked, memory)

    def _insert(self, rows: Batch, asked: Any = None, memory: PyTree = None) -> None:
        """Rows (local lanes, R, ...) into the buffers; other processes' lanes are not touched."""
        capacity, placed = self._spec.capacity, self._of_all_lanes
        for begin in range(0, rows.rewards.shape[1], capacity):
            part, kept = jax.tree.map(
                lambda x, begin=begin: placed(x[:, begin : begin + capacity]), (rows, asked)
            )
            self._device.insert(part, kept, jax.tree.map(placed, memory))

    def _of_all_lanes(self, values: np.ndarray) -> np.ndarray:
        """The values at their lanes' places among all; zeros at those of other processes."""
        placed = np.zeros((len(self._seeds), *values.shape[1:]), values.dtype)
        placed[self._local] = values
        return placed
