"""The training loop: all lanes side by side, from a dataset to trained policies and a report."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddm import data, evaluation
from ddm.errors import DivergenceError
from ddm.runner import checkpoints, records, report, sweep
from ddm.runner.files import full_disk_named, write_json
from ddm.runner.lanes import Layout, broadcast, largest, map_lanes, unwrap_keys, wrap_keys
from ddm.runner.metrics import MetricsWriter, read_metrics
from ddm.runner.options import Options
from ddm.runner.program import example_batch, init_lanes, make_interval
from ddm.runner.progress import Progress
from ddm.runner.schedule import make_schedule
from ddm.runner.signals import StopSignals
from ddm.types import Algorithm, diagnose


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run leaves behind."""

    policy: evaluation.Policy  # config and state with one leading axis, this process's lanes
    summary: dict[str, Any]  # as in summary.json
    run_dir: Path


def train(
    algorithm: Algorithm,
    config: Any,
    dataset: data.Dataset,
    environment: Any,
    options: Options,
) -> Result:
    """Trains one policy for every seed and sweep point, evaluates and saves them.

    Args:
      algorithm: the algorithm module.
      config: its configuration; `options.sweep` replaces numeric fields of it.
      dataset: as the algorithm shall see it, normalised.
      environment: what `evaluation.make_evaluator` takes; None to train without a score.
      options: of the run.

    Raises:
      InputError: an option does not fit, or a file of the run cannot be read or written.
      DivergenceError: a metric became NaN or infinite.
      SystemExit: the process was told to stop; a checkpoint is written before.
    """
    run = _Run(algorithm, config, dataset, environment, options)
    with full_disk_named(run.run_dir), StopSignals() as signals, run:
        while run.step < run.schedule.num_updates:
            run.advance()
            if run.schedule.evaluates_at(run.step):
                run.diagnose()
                run.evaluate()
            stop = largest(signals.received)
            if stop or run.schedule.saves_at(run.step):
                run.save()
            if stop:
                run.progress.note(f"stopped after gradient step {run.step}; go on with --resume")
                sys.exit(128 + stop)
        return run.finish()


class _Run:
    """The moving parts of a run. Every process has one; only process 0 writes files."""

    def __init__(self, algorithm, config, dataset, environment, options):
        self._algorithm, self._dataset, self._options = algorithm, dataset, options
        self._spec = algorithm.batch_spec(config)
        self.schedule, notices = make_schedule(options, self._spec.minibatches)
        self._configs, self._lanes = sweep.expand(
            config, options.sweep, options.seeds, options.seed
        )
        self._means: dict[str, np.ndarray] = {}  # of all lanes, over the last interval
        self._warnings: dict[str, list[str]] = {}  # lane -> sentences
        self._layout = Layout.create(len(self._lanes), options.devices)
        self._evaluator = self._make_evaluator(environment)
        # What the algorithm refuses, it refuses here, before there is a folder.
        data.check_episodes(dataset, self._spec)
        arrays = init_lanes(algorithm, self._configs, self._lanes, dataset, options.batch_size)
        self._writes = jax.process_index() == 0
        self._record = records.describe_run(algorithm, config, dataset, environment, options)
        self.run_dir = records.prepare_run_dir(self._record, options, write=self._writes)
        self._store = checkpoints.Store(self.run_dir, options.keep)
        self.step = 0
        if options.resume:
            self.step, arrays = self._restored(arrays, notices)
        self._place_arrays(arrays)
        self._open_outputs(notices, environment)

    def _make_evaluator(self, environment):
        if environment is None:
            return None
        return evaluation.make_evaluator(
            environment,
            num_lanes=self._layout.num_local,
            num_episodes=self._options.eval_episodes,
            deterministic=self._options.deterministic_eval,
        )

    def _place_arrays(self, arrays):
        """Lays configurations, states, keys and the dataset out on the devices."""
        self._state, self._sampling_keys = self._layout.place(arrays)
        self._config = self._layout.place(self._configs)
        self._shared_dataset = self._layout.replicate(self._dataset)
        updates = self.schedule.log_every // self._spec.minibatches
        interval = make_interval(self._algorithm, self._spec, self._options.batch_size, updates)
        self._interval = map_lanes(interval, self._options.lanes, self._layout.devices)

    def _open_outputs(self, notices, environment):
        options = self._options
        self._metrics = None
        if self._writes:
            path = self.run_dir / records.METRICS
            with full_disk_named(path):
                self._metrics = MetricsWriter(
                    path,
                    self._lanes,
                    resume_step=self.step if options.resume else None,
                    tensorboard=options.tensorboard,
                )
        style = options.progress if self._writes else "none"
        self.progress = Progress(self.schedule.num_updates, self.step, style)
        self._clock = report.Clock()
        count = f"{len(self._lanes)} lane{'s' if len(self._lanes) > 1 else ''}"
        self.progress.note(f"{self._record['algorithm']}: {count}, {self.run_dir}")
        for notice in notices:
            self.progress.note(notice)
        if environment is None:
            self.progress.note("no environment: this run has no score")

    def _restored(self, fresh, notices):
        """The newest checkpoint's step and arrays; the fresh ones if there is no checkpoint."""
        like = unwrap_keys(fresh)
        found = None
        if self._writes:
            found = self._store.restore_newest(self._saved_tree(like))
        step = largest(found[0] if found else -1)
        if step < 0:
            notices.append(f"{self.run_dir} has no checkpoint: starting from the beginning")
            return 0, fresh
        notices.extend([*(found[2] if found else ()), f"going on after gradient step {step}"])
        arrays = (found[1]["state"], found[1]["sampling_keys"]) if found else like
        return step, wrap_keys(broadcast(arrays), fresh)

    def _saved_tree(self, arrays):
        state, sampling_keys = arrays
        normalization = jax.tree.map(np.asarray, self._dataset.normalization)
        return {"state": state, "sampling_keys": sampling_keys, "normalization": normalization}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.progress.close()
        if self._evaluator is not None:
            self._evaluator.close()
        if self._metrics is not None:
            self._metrics.close()
        self._store.close()

    def advance(self):
        """Runs one interval of updates, checks its metrics and writes them."""
        with self._clock.interval(self.schedule.log_every):
            self._state, metrics = self._interval(
                self._config, self._state, self._sampling_keys, self._shared_dataset
            )
            means, not_finite = self._layout.gather(metrics)
        self._check_finite(not_finite)
        self.step += self.schedule.log_every
        self.progress.update(self.step)
        self._means = means
        self._write(means)

    def _check_finite(self, not_finite):
        """Stops, before anything is saved, at the first update that gave NaN or infinity."""
        minibatches = self._spec.minibatches
        updates = self.schedule.log_every // minibatches
        update, i, name = min(
            (int(values[i]), i, name)
            for name, values in not_finite.items()
            for i in range(len(self._lanes))
        )
        if update < updates:
            saved = self._store.steps() if self._writes else []
            kept = (
                f"the last checkpoint is of step {saved[0]}"
                if saved
                else "there is no checkpoint yet"
            )
            raise DivergenceError(
                f"{name} of {self._lanes[i]} is not finite at gradient step "
                f"{self.step + (update + 1) * minibatches}; {kept}"
            )

    def diagnose(self):
        """Reports what the algorithm says is amiss with a lane, by its last metrics."""
        self._warnings = {}
        for i, lane in enumerate(self._lanes):
            config = jax.tree.map(lambda leaf, i=i: leaf[i].item(), self._configs)
            metrics = {name: float(values[i]) for name, values in self._means.items()}
            if found := diagnose(self._algorithm, config, metrics):
                self._warnings[str(lane)] = found
        for lane, sentences in self._warnings.items():
            for sentence in sentences:
                self.progress.note(f"warning at gradient step {self.step}, {lane}: {sentence}")

    def evaluate(self):
        """Evaluates the policies of all lanes; without an environment, does nothing."""
        if self._evaluator is None:
            return
        result = self._evaluator(self.policy(), self._options.eval_seed + self.step)
        metrics = report.score_metrics(result, self._dataset.info.reference_scores)
        metrics = self._layout.gather_host(metrics)
        self._write(metrics)
        name = report.score_name(metrics) or report.RETURN
        self.progress.score(self.step, f"{name.partition('/')[2]} {np.mean(metrics[name]):.1f}")

    def policy(self):
        """The policies of this process's lanes."""
        return evaluation.Policy(
            algorithm=self._algorithm,
            config=self._layout.local(self._config),
            state=self._layout.local(self._state),
            normalization=self._dataset.normalization,
        )

    def save(self):
        """Writes a checkpoint of all lanes."""
        arrays = self._layout.gather((self._state, self._sampling_keys))
        if self._writes:
            example = example_batch(self._dataset, self._spec)
            header = checkpoints.header(example, self._dataset.normalization)
            self._store.save(self.step, self._saved_tree(arrays), header)

    def finish(self):
        """Writes the summary and the plots."""
        history = read_metrics(self.run_dir / records.METRICS, self._lanes) if self._writes else {}
        score = report.summarize_scores(history, self._lanes)
        summary = {
            **self._record,
            "gradient_steps": self.step,
            "score": score,
            "warnings": self._warnings,
            **self._clock.figures(len(self._lanes)),
            **report.device_record(),
        }
        if self._writes:
            write_json(self.run_dir / records.SUMMARY, summary)
            if self._options.plots:
                title = f"{self._record['algorithm']}, {self._record['dataset']['name']}"
                report.plot_curves(self.run_dir / records.PLOT, history, self._lanes, title)
            for line in report.describe_score(score):
                self.progress.note(line)
        return Result(self.policy(), summary, self.run_dir)

    def _write(self, metrics):
        if self._metrics is not None:
            self._metrics.write(self.step, metrics)
