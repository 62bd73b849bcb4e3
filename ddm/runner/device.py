"""All lanes on the devices: their states, the program of their updates, and their policies."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ddm import evaluation
from ddm.runner import records
from ddm.runner.lanes import Layout, lane_mode, map_lanes
from ddm.runner.options import Options
from ddm.runner.program import insert_rows, make_finish, make_holdout, make_interval
from ddm.runner.sources import Shared
from ddm.types import Algorithm, PyTree


class DeviceLanes:
    """The lanes of a run, as the devices of this process hold them.

    Args:
      algorithm: the algorithm module.
      configs: with one leading axis of all lanes, of all processes.
      arrays: (learner, sampling keys) of the lanes, from `init_lanes`.
      shared: the sources that they learn from.
      options: of the run.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        configs: Any,
        arrays: PyTree,
        shared: Shared,
        options: Options,
    ):
        self._algorithm, self._units = algorithm, shared.units
        self._configs, self._options = configs, options
        self.layout = Layout.create(arrays[1].shape[0], options.devices)
        self._config = self.layout.place(configs)
        self._shared = self.layout.replicate(shared)
        self.place(arrays)

    def place(self, arrays: PyTree) -> None:
        """Puts (learner, sampling keys) of all lanes on the devices."""
        self._learner, self._sampling_keys = self.layout.place(arrays)

    def advance(self, updates: int, alive: np.ndarray, stage: int = 0) -> tuple[PyTree, PyTree]:
        """Updates every lane that is alive, (L,) bool, with the stage of that index.

        Returns:
          For each metric the means (L,) over the updates, and the index (L,) of the first update
          in which it is not finite.
        """
        interval = make_interval(
            self._algorithm,
            self._options.batch_size,
            updates,
            stage,
            freeze=self.layout.num_lanes > 1,
        )
        (self._learner, _), metrics = self._run(
            interval, (self._learner, self.layout.place(alive)), self._shared
        )
        return self.layout.gather(metrics)

    def insert(self, rows: PyTree, asked: Any = None, memory: PyTree = None) -> None:
        """Puts transitions (L, R, ...) of an environment into the buffers of the lanes.

        Args:
          rows: the transitions.
          asked: (L, R) bool, which of them are kept; None: all.
          memory: of the rule that labelled them, leaves (L, ...); None: it stays as it is.
        """
        carried = self._learner, self.layout.place((rows, asked, memory))
        (self._learner, _), _ = self._run(insert_rows, carried, self._shared)

    def finish_stage(self, stage: int) -> None:
        """The one action of the stage of that index at its end."""
        finish = make_finish(self._algorithm, stage)
        self._learner, _ = self._run(finish, self._learner, self._shared)

    def held_out(self, holdout: Any, stage: int) -> PyTree:
        """The metrics (L,) of held-out data; no lane changes."""
        measure = make_holdout(self._algorithm, self._options.batch_size, stage)
        state, metrics = self._run(measure, self._learner.state, self.layout.replicate(holdout))
        self._learner = self._learner._replace(state=state)  # a program reuses its arguments
        return self.layout.gather(metrics)

    def _run(self, function: Any, carried: Any, shared: Any) -> tuple[Any, Any]:
        program = map_lanes(function, self._options.lanes, self.layout.devices)
        return program(self._config, carried, self._sampling_keys, shared)

    def arrays(self) -> PyTree:
        """(learner, sampling keys) of all lanes of all processes, as numpy arrays."""
        return self.layout.gather((self._learner, self._sampling_keys))

    def policy(self) -> evaluation.Policy:
        """The policies of this process's lanes."""
        info: Any = self._units.info
        return evaluation.Policy(
            algorithm=self._algorithm,
            config=self.layout.local(self._config),
            state=self.layout.local(self._learner.state),
            normalization=self._units.normalization,
            action_space=records.policy_space(info.action_space, self._configs),
            observation_shape=info.observation_space.shape,
        )

    def memory(self) -> PyTree:
        """What this process's lanes remember of who acts and what is labelled."""
        return self.layout.local(self._learner.experience.memory)

    def numerics(self) -> dict[str, str]:
        """Facts that can change the last bit of a result, besides the run's own settings."""
        mode = lane_mode(self._options.lanes)
        return {
            "platform": jax.default_backend(),
            "device": jax.devices()[0].device_kind,
            "lanes": f"{mode} of {self.layout.per_device}" if mode == "vmap" else mode,
            "jax": jax.__version__,
        }

    def config_of(self, lane: int) -> Any:
        """The configuration of one lane, with numbers."""
        return jax.tree.map(lambda leaf: leaf[lane].item(), self._configs)

    def evaluator(self, environment: Any) -> Any:
        """The evaluator of these policies; None without an environment.

        Raises:
          InputError: they do not fit the environment.
        """
        if environment is None:
            return None
        made = evaluation.make_evaluator(
            environment,
            num_lanes=self.layout.num_local,
            num_episodes=self._options.eval_episodes,
            deterministic=self._options.deterministic_eval,
            max_environments=self._options.eval_environments,
        )
        made.check(self.policy())
        return made
