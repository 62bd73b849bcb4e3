"""All lanes on the devices: their states, the program of their updates, and their policies."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ddm import data, evaluation
from ddm.runner import records
from ddm.runner.lanes import Layout, lane_mode, map_lanes
from ddm.runner.options import Options
from ddm.runner.program import make_interval
from ddm.types import Algorithm, BatchSpec, PyTree


class DeviceLanes:
    """The lanes of a run, as the devices of this process hold them.

    Args:
      algorithm: the algorithm module.
      configs: with one leading axis of all lanes, of all processes.
      arrays: (state, sampling keys) of the lanes, from `init_lanes`.
      dataset: as the algorithm shall see it.
      spec: of the algorithm's batch.
      options: of the run.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        configs: Any,
        arrays: PyTree,
        dataset: data.Dataset,
        spec: BatchSpec,
        options: Options,
    ):
        self._algorithm, self._dataset, self._spec = algorithm, dataset, spec
        self._configs, self._options = configs, options
        self.layout = Layout.create(arrays[1].shape[0], options.devices)
        self._config = self.layout.place(configs)
        self._shared_dataset = self.layout.replicate(dataset)
        self.place(arrays)

    def place(self, arrays: PyTree) -> None:
        """Lays (state, sampling keys) of all lanes out on the devices."""
        self._state, self._sampling_keys = self.layout.place(arrays)

    def advance(self, updates: int, alive: np.ndarray) -> tuple[PyTree, PyTree]:
        """Updates every lane that is alive, (L,) bool.

        Returns:
          For each metric the means (L,) over the updates, and the index (L,) of the first update
          in which it is not finite.
        """
        interval = make_interval(
            self._algorithm,
            self._spec,
            self._options.batch_size,
            updates,
            freeze=self.layout.num_lanes > 1,
        )
        program = map_lanes(interval, self._options.lanes, self.layout.devices)
        carried = self._state, self.layout.place(alive)
        (self._state, _), metrics = program(
            self._config, carried, self._sampling_keys, self._shared_dataset
        )
        return self.layout.gather(metrics)

    def arrays(self) -> PyTree:
        """(state, sampling keys) of all lanes of all processes, as numpy arrays."""
        return self.layout.gather((self._state, self._sampling_keys))

    def policy(self) -> evaluation.Policy:
        """The policies of this process's lanes."""
        info: Any = self._dataset.info
        return evaluation.Policy(
            algorithm=self._algorithm,
            config=self.layout.local(self._config),
            state=self.layout.local(self._state),
            normalization=self._dataset.normalization,
            action_space=records.policy_space(info.action_space, self._configs),
            observation_shape=info.observation_space.shape,
        )

    def numerics(self) -> dict[str, str]:
        """What the last bit of a result depends on, beside the run's own settings."""
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
        """What evaluates these policies; None without an environment.

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
