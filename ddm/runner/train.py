"""The training loop: all lanes side by side, from a dataset to trained policies and a report."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddm import data, evaluation
from ddm.errors import DivergenceError, EvaluationError
from ddm.runner import checkpoints, records, report, sweep
from ddm.runner.failures import Failures
from ddm.runner.files import full_disk_named, json_values, write_json
from ddm.runner.lanes import Layout, map_lanes, unwrap_keys, wrap_keys
from ddm.runner.metrics import MetricsWriter, read_metrics, require_tensorboard
from ddm.runner.options import Options
from ddm.runner.processes import (
    broadcast,
    broadcast_value,
    check_same_run,
    gather_values,
    largest,
    together,
    undisturbed,
)
from ddm.runner.program import example_batch, init_lanes, make_interval
from ddm.runner.progress import Progress
from ddm.runner.schedule import make_schedule
from ddm.runner.signals import StopSignals
from ddm.types import Algorithm, diagnose

FAILED_LANES = 3  # exit code of a run in which some lanes diverged, and the others ended well


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run leaves behind."""

    policy: evaluation.Policy  # config and state with one leading axis, this process's lanes
    summary: dict[str, Any]  # as in summary.json
    run_dir: Path

    @property
    def exit_code(self) -> int:
        """Of the process: 0, or 3 where a lane diverged."""
        return FAILED_LANES if self.summary["failed"] else 0


@together()
def train(
    algorithm: Algorithm,
    config: Any,
    dataset: data.Dataset,
    environment: Any,
    options: Options,
) -> Result:
    """Trains one policy for every seed and sweep point, evaluates and saves them.

    What cannot be evaluated is found before the first update, and a checkpoint is written before
    each evaluation. A lane that diverges stays at its last finite state, and the others go on.

    Args:
      algorithm: the algorithm module.
      config: its configuration; `options.sweep` replaces numeric fields of it.
      dataset: as the algorithm shall see it, normalised.
      environment: what `evaluation.make_evaluator` takes; None to train without a score.
      options: of the run.

    Raises:
      InputError: an option does not fit, or a file of the run cannot be read or written.
      DivergenceError: a metric of every lane became NaN or infinite.
      EvaluationError: a simulator failed, and `options.on_evaluation_error` is "stop".
      ProcessError: another process that shares the lanes failed, or is gone.
      SystemExit: the process was told to stop; a checkpoint is written before.
    """
    run = _Run(algorithm, config, dataset, environment, options)
    with full_disk_named(run.run_dir), StopSignals() as signals, run:
        if run.begins_with_evaluation:
            run.evaluate()
        while run.step < run.schedule.num_updates:
            run.advance()
            if run.schedule.evaluates_at(run.step):
                run.diagnose()
                run.save()  # before the simulators run: they fail more often than this does
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
        if options.tensorboard:
            require_tensorboard()
        config, notices = records.resolve_schedules(algorithm, config, options)
        self._spec = algorithm.batch_spec(config)
        self.schedule, fitted = make_schedule(options, self._spec.minibatches)
        notices.extend([*dataset.info.notes, *fitted])
        self._configs, self._lanes = sweep.expand(
            config, options.sweep, options.seeds, options.seed
        )
        self._means: dict[str, np.ndarray] = {}  # of all lanes, over the last interval
        self._warnings: dict[str, list[str]] = {}  # lane -> sentences
        self._failures = Failures(self._lanes)
        self._failed_evaluations: dict[str, str] = {}  # step -> what the simulator said
        self._layout = Layout.create(len(self._lanes), options.devices)
        self._record = records.describe_run(algorithm, config, dataset, environment, options)
        check_same_run(self._record, self._layout.placement)
        self._evaluator = self._make_evaluator(environment)
        # What the algorithm or the environment refuses is refused here, before there is a folder.
        data.check_episodes(dataset, self._spec)
        arrays = init_lanes(algorithm, self._configs, self._lanes, dataset, options.batch_size)
        self._make_program()
        self._place(arrays)
        if self._evaluator is not None:
            self._evaluator.check(self.policy())
        self._writes = self._layout.process_index == 0
        self.run_dir, changes = records.prepare_run_dir(self._record, options, write=self._writes)
        notices.extend(changes)
        self._store = checkpoints.Store(self.run_dir, options.keep)
        self.step, self._saved_step = 0, -1
        if options.resume:
            self.step, arrays = self._restored(arrays, notices)
            self._place(arrays)
        self._open_outputs(notices, environment)

    def _make_evaluator(self, environment):
        if environment is None:
            return None
        return evaluation.make_evaluator(
            environment,
            num_lanes=self._layout.num_local,
            num_episodes=self._options.eval_episodes,
            deterministic=self._options.deterministic_eval,
            max_environments=self._options.eval_environments,
        )

    def _make_program(self):
        """Compiles nothing yet; lays configurations and the dataset out on the devices."""
        self._config = self._layout.place(self._configs)
        self._shared_dataset = self._layout.replicate(self._dataset)
        self._updates = self.schedule.log_every // self._spec.minibatches
        interval = make_interval(
            self._algorithm,
            self._spec,
            self._options.batch_size,
            self._updates,
            freeze=len(self._lanes) > 1,
        )
        self._interval = map_lanes(interval, self._options.lanes, self._layout.devices)

    def _place(self, arrays):
        """Lays states and sampling keys out on the devices."""
        self._state, self._sampling_keys = self._layout.place(arrays)

    @property
    def begins_with_evaluation(self) -> bool:
        """Whether an evaluation of the present step is due: of untrained lanes, or after a stop.

        A checkpoint is older than the evaluation of its step, so a run that goes on from it makes
        that evaluation again.
        """
        if self._evaluator is None:
            return False
        return (
            self._options.eval_at_start if not self.step else self.schedule.evaluates_at(self.step)
        )

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
                    evaluated_again=self.begins_with_evaluation,
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
        self._recall_failures(self._store.header(step) if found else {})
        arrays = (found[1]["state"], found[1]["sampling_keys"]) if found else like
        return step, wrap_keys(broadcast(arrays), fresh)

    def _recall_failures(self, header):
        """What had failed when the checkpoint was written, on every process."""
        names = ("failures", "failed_evaluations")
        found = broadcast_value({name: header.get(name, {}) for name in names})
        self._failures = Failures(self._lanes, found["failures"])
        self._failed_evaluations = found["failed_evaluations"]

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
            carried = self._state, self._layout.place(self._failures.alive)
            (self._state, _), metrics = self._interval(
                self._config, carried, self._sampling_keys, self._shared_dataset
            )
            means, not_finite = self._layout.gather(metrics)
        minibatches = self._spec.minibatches
        self._report_failures(
            self._failures.add_updates(not_finite, self._updates, self.step, minibatches)
        )
        self.step += self.schedule.log_every
        self.progress.update(self.step)
        self._means = means
        self._write(means)

    def _report_failures(self, new):
        """Says which lanes diverged; stops, before anything is saved, if no lane is left."""
        if new and len(self._failures) == len(self._lanes):
            saved = broadcast_value(self._store.steps() if self._writes else [])
            kept = (
                f"the last checkpoint is of step {saved[0]}"
                if saved
                else "there is no checkpoint yet"
            )
            others = ", as the other lanes before" if len(self._lanes) > len(new) else ""
            raise DivergenceError(f"{self._failures.sentence(new[0])}{others}; {kept}")
        for lane in new:
            self.progress.note(f"{self._failures.sentence(lane)}: the lane stops, the others go on")

    def diagnose(self):
        """Reports what the algorithm says is amiss with a lane, by its last metrics."""
        self._warnings = {}
        for i, lane in enumerate(self._lanes):
            if i in self._failures:
                continue
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
        result, error = None, None
        try:
            result = self._evaluator(self.policy(), self._options.eval_seed + self.step)
        except EvaluationError as raised:
            error = raised
        # Failed in one process: no other has all scores either.
        said = gather_values(str(error or ""))
        failed = [f"process {i}: {text}" for i, text in enumerate(said) if text]
        if result is None or failed:
            self._report_failed_evaluation(error or EvaluationError(failed[0]))
            return
        metrics = report.score_metrics(result, self._dataset.info.reference_scores)
        metrics = self._layout.gather_host(metrics)
        new = self._failures.add_scores(report.RETURN, metrics[report.RETURN], self.step)
        if new:
            self._report_failures(new)
        self._write(metrics)
        shown = {name: values.astype(float) for name, values in metrics.items()}
        for values in shown.values():
            values[list(self._failures)] = np.nan
        self.progress.score(self.step, report.describe_scores_now(shown, self._lanes))

    def _report_failed_evaluation(self, error):
        """Stops, with what was trained on the disk, or goes on, as the user chose."""
        if self._options.on_evaluation_error == "stop":
            kept = f"; the checkpoint of step {self.step} is written, --resume goes on from it"
            raise EvaluationError(f"{error}{kept if self.step else ''}") from error
        self._failed_evaluations[str(self.step)] = str(error)
        self.progress.note(f"the evaluation at gradient step {self.step} failed: {error}")

    def policy(self):
        """The policies of this process's lanes."""
        info = self._dataset.info
        return evaluation.Policy(
            algorithm=self._algorithm,
            config=self._layout.local(self._config),
            state=self._layout.local(self._state),
            normalization=self._dataset.normalization,
            action_space=records.policy_space(info.action_space, self._configs),
            observation_shape=info.observation_space.shape,
        )

    def save(self):
        """Writes a checkpoint of all lanes, unless there is one of this step."""
        if self._saved_step == self.step:
            return
        self._saved_step = self.step
        arrays = self._layout.gather((self._state, self._sampling_keys))
        if self._writes:
            example = example_batch(self._dataset, self._spec)
            header = checkpoints.header(example, self._dataset.normalization)
            header["failures"] = self._failures.record()
            header["failed_evaluations"] = self._failed_evaluations
            with undisturbed():
                self._store.save(self.step, self._saved_tree(arrays), header)

    def finish(self):
        """Writes the summary and the plots."""
        history = read_metrics(self.run_dir / records.METRICS, self._lanes) if self._writes else {}
        score = report.summarize_scores(history, self._lanes, self._failures)
        measured = {
            **self._record,
            "gradient_steps": self.step,
            "score": score,
            "warnings": self._warnings,
            "failed": self._failures.sentences(),
            "failed_evaluations": self._failed_evaluations,
            **self._clock.figures(len(self._lanes)),
            **report.device_record(),
        }
        summary = json_values(measured)
        if self._writes:
            write_json(self.run_dir / records.SUMMARY, summary)
            if self._options.plots:
                title = f"{self._record['algorithm']}, {self._record['dataset']['name']}"
                report.plot_curves(self.run_dir / records.PLOT, history, self._lanes, title)
            for line in [*report.describe_score(score), *self._failures.sentences().values()]:
                self.progress.note(line)
            if score is None:
                self.progress.note(f"trained {self.step} gradient steps; there is no score")
        return Result(self.policy(), summary, self.run_dir)

    def _write(self, metrics):
        if self._metrics is not None:
            self._metrics.write(self.step, metrics, without=self._failures)
