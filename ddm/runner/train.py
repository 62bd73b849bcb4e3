"""The training loop: all lanes side by side, from a dataset to trained policies and a report."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ddm import data, evaluation, training
from ddm.errors import DivergenceError, EvaluationError
from ddm.runner import records, report, sweep
from ddm.runner.device import DeviceLanes
from ddm.runner.failures import Failures
from ddm.runner.files import sealed, write_errors_named, write_json
from ddm.runner.host import host_collection
from ddm.runner.lanes import Layout
from ddm.runner.locks import FolderLock
from ddm.runner.metrics import MetricsWriter, read_metrics, require_tensorboard
from ddm.runner.options import Options
from ddm.runner.processes import check_same_run, gather_values, largest, together
from ddm.runner.program import init_lanes
from ddm.runner.progress import Progress
from ddm.runner.schedule import make_schedule
from ddm.runner.signals import StopSignals
from ddm.runner.snapshots import Snapshots, check_length
from ddm.runner.sources import check_room, example, share
from ddm.runner.stages import StagePlan
from ddm.runner.start import complete, start_from, with_part
from ddm.types import Algorithm, diagnose, num_minibatches

FAILED_LANES = 3  # exit code of a run in which some lanes diverged, and the others ended well


@dataclasses.dataclass(frozen=True)
class Result:
    """The results of a run."""

    policy: evaluation.Policy  # config and state with one leading axis: this process's lanes
    summary: dict[str, Any]  # as in summary.json
    run_dir: Path

    @property
    def exit_code(self) -> int:
        """The exit code of the process: 0, or 3 if a lane diverged."""
        return FAILED_LANES if self.summary["failed"] else 0


@together()
def train(
    algorithm: Algorithm,
    config: Any,
    sources: Any,
    environment: Any,
    options: Options,
    *,
    start: evaluation.Policy | None = None,
    holdout: data.Dataset | None = None,
    expert: Any = None,
) -> Result:
    """Trains one policy for every seed and sweep point, evaluates and saves them.

    Policies that cannot be evaluated are found before the first update. A checkpoint is written
    before each evaluation. A lane that diverges stays at its last finite state, and the others
    continue.

    Args:
      algorithm: the algorithm module.
      config: its configuration; `options.sweep` replaces numeric fields of it.
      sources: a normalised dataset; a dict of them for an algorithm with several sources; None for
        one that learns only from its own experience.
      environment: as for `evaluation.make_evaluator`; None to train without a score. With
        `options.online`, own experience is collected there.
      options: of the run.
      start: a policy of the same algorithm to continue from (fine-tuning), with as many lanes or
        one; its optimiser continues too. None: the policy of `options.start_from`, or a fresh one.
      holdout: a dataset in the same units that is not used for learning; the algorithm's metrics on
        it are reported as "holdout/...". None: the share `options.holdout` of the episodes.
      expert: labels the states that a method collects, if it asks for labels: a function of JAX
        from an observation to an action, a trained policy, or one of `ddm.evaluation.experts`.

    Raises:
      InputError: an option does not fit, or a file of the run cannot be read or written.
      DivergenceError: a metric of every lane became NaN or infinite.
      EvaluationError: a simulator failed, and `options.on_evaluation_error` is "stop".
      ProcessError: another process that shares the lanes failed, or is gone.
      SystemExit: the process was told to stop; a checkpoint is written before.
    """
    with FolderLock() as lock:
        given = sources, start, holdout
        run = _Run(algorithm, config, given, environment, options, lock, expert)
        with write_errors_named(run.run_dir), StopSignals() as signals, run:
            if run.begins_with_evaluation:
                run.evaluate()
            if run.may_wait and not options.resume:
                run.save()  # a person's labels are asked for before the first update
            while run.step < run.schedule.num_updates:
                run.advance()
                if run.schedule.evaluates_at(run.step):
                    run.diagnose()
                    run.save()  # before the simulators run, because they may fail
                    run.evaluate_if_due()
                stop = largest(signals.received)
                if stop or run.schedule.saves_at(run.step):
                    run.save()
                if stop:
                    run.progress.note(f"stopped after gradient step {run.step}; --resume goes on")
                    sys.exit(128 + stop)
            return run.finish()


class _Run:
    """The moving parts of a run. Every process has one; only process 0 writes files."""

    def __init__(self, algorithm, config, given, environment, options, lock, expert=None):
        self._algorithm, self._options = algorithm, options
        if options.tensorboard:
            require_tensorboard()
        defaults = records.config_defaults(algorithm, options)
        config, notices = records.resolve_schedules(algorithm, config, options)
        sources, start, holdout = complete(algorithm, given, options)
        config, said = with_part(algorithm, config, start)
        notices.extend(said)
        self._holdout = holdout
        shared = share(algorithm, config, sources, environment, options, expert)
        self._units = shared.units
        config = training.prepare(algorithm, config, self._units)
        self._plan = StagePlan(algorithm, config)
        self.schedule, fitted = make_schedule(options, self._plan.minibatches, self._plan.ends)
        notices.extend([*self._units.info.notes, *fitted])
        notices.extend(training.notes(algorithm, config, self._units))
        configs, self._lanes = sweep.expand(config, options.sweep, options.seeds, options.seed)
        self._means: dict[str, np.ndarray] = {}  # of all lanes, over the last interval
        self._record = records.describe_run(algorithm, config, shared, environment, options, start)
        placement = Layout.create(len(self._lanes), options.devices)
        check_same_run(self._record, placement.placement)
        # Errors of the algorithm or the environment are raised here, before a folder is made.
        self._plan.check(shared, options.batch_size, holdout)
        check_room(shared, placement.held, algorithm, config)
        arrays = init_lanes(algorithm, configs, self._lanes, shared, options.batch_size)
        arrays = start_from(start, algorithm, arrays, self._units)
        self._device = DeviceLanes(algorithm, configs, arrays, shared, options)
        self.policy = self._device.policy
        self._evaluator = self._device.evaluator(environment)
        self._host = host_collection(
            self._device, environment, shared, [lane.seed for lane in self._lanes], options
        )
        self._writes = placement.process_index == 0
        self._record["numerics"] = self._device.numerics()
        self.run_dir, changes = records.prepare_run_dir(
            self._record, options, write=self._writes, lock=lock, defaults=defaults
        )
        notices.extend(changes)
        self._snapshots = Snapshots(
            self.run_dir, self._record.get("run"), options.keep, self._units.normalization,
            example(shared, algorithm.batch_spec(config)), writes=self._writes,
        )  # fmt: skip
        self.step, memory = 0, {}
        if options.resume:
            self.step, arrays, memory, found = self._snapshots.restore(arrays)
            check_length(self.step, self.schedule.num_updates, self.run_dir)
            self._device.place(arrays)
            notices.extend(found)
        if self._host is not None:
            self._host.go_on(self.step, memory.get("collected"))
        self._remember(memory)
        self._open_outputs(notices, environment, memory)

    def _remember(self, memory):
        """The sentences so far: those of a checkpoint, or none."""
        self._failures = Failures(self._lanes, memory.get("failures"))
        # step -> the simulator's error
        self._failed_evaluations: dict[str, str] = memory.get("failed_evaluations") or {}
        # lane -> sentences
        self._warnings: dict[str, list[str]] = memory.get("warnings") or {}
        self._clock = report.Clock(memory.get("speed"))

    @property
    def may_wait(self) -> bool:
        """Whether the run stops until a person has labelled the states of a round."""
        return self._host is not None and self._host.waits

    @property
    def begins_with_evaluation(self) -> bool:
        """Whether the present step must be evaluated: untrained lanes, or after a stop.

        A checkpoint is written before the evaluation of its step, so a run that continues from it
        makes that evaluation again.
        """
        if self._evaluator is None or not self._plan.before(self.step).evaluated:
            return False
        return self.schedule.evaluates_at(self.step) if self.step else self._options.eval_at_start

    def _open_outputs(self, notices, environment, memory):
        options = self._options
        self._metrics = None
        if self._writes:
            path = self.run_dir / records.METRICS
            with write_errors_named(self.run_dir):
                self._metrics = MetricsWriter(
                    path,
                    self._lanes,
                    resume_step=self.step or None,
                    recorded=memory.get("metrics"),
                    evaluated_again=self.begins_with_evaluation,
                    tensorboard=options.tensorboard,
                )
            if options.resume:
                records.write_record(self.run_dir, self._record)
        style = options.progress if self._writes else "none"
        self.progress = Progress(self.schedule.num_updates, self.step, style)
        count = f"{len(self._lanes)} lane{'s' if len(self._lanes) > 1 else ''}"
        unscored = [] if environment is not None else ["no environment: this run has no score"]
        for text in (f"{self._record['algorithm']}: {count}, {self.run_dir}", *notices, *unscored):
            self.progress.note(text)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.progress.close()
        for opened in (self._evaluator, self._host):
            if opened is not None:
                opened.close()
        if self._metrics is not None:
            self._metrics.close()
        self._snapshots.close()

    def advance(self):
        """Runs one interval of updates, checks its metrics and writes them."""
        last = self.schedule.next_step(self.step)
        stage = self._plan.at(self.step)
        minibatches = num_minibatches(stage.batch_spec)
        updates = (last - self.step) // minibatches
        number = self._plan.index(self.step)
        with self._clock.interval(last - self.step):
            lanes = self._host if self._host is not None and stage.collects else self._device
            means, not_finite = lanes.advance(updates, self._failures.alive, number)
        self._report_failures(
            self._failures.add_updates(not_finite, updates, self.step, minibatches)
        )
        self.step = last
        self.progress.update(self.step)
        self._means = means
        self._write(training.named(stage, means))
        if last in self._plan.ends:
            self._device.finish_stage(number)
            if stage.name:
                self.progress.note(f"stage {stage.name} has ended at gradient step {last}")

    def _report_failures(self, new):
        """Reports which lanes diverged; stops, before anything is saved, if no lane is left."""
        if new and len(self._failures) == len(self._lanes):
            others = ", as the other lanes before" if len(self._lanes) > len(new) else ""
            raise DivergenceError(
                f"{self._failures.sentence(new[0])}{others}; {self._snapshots.kept()}"
            )
        for lane in new:
            self.progress.note(f"{self._failures.sentence(lane)}: the lane stops, the others go on")

    def diagnose(self):
        """Reports the problems that the algorithm finds in a lane's last metrics."""
        if self._holdout is not None:
            number = self._plan.index(max(self.step - 1, 0))
            held_out = self._device.held_out(self._holdout, number)
            self._write(training.named(self._plan.stages[number], held_out))
        self._warnings = {}
        for i, lane in enumerate(self._lanes):
            if i in self._failures:
                continue
            metrics = {name: float(values[i]) for name, values in self._means.items()}
            if found := diagnose(self._algorithm, self._device.config_of(i), metrics):
                self._warnings[str(lane)] = found
        for lane, sentences in self._warnings.items():
            for sentence in sentences:
                self.progress.note(f"warning at gradient step {self.step}, {lane}: {sentence}")

    def evaluate_if_due(self):
        """Evaluates, unless the last stage has no policy to evaluate."""
        if self._plan.before(self.step).evaluated:
            self.evaluate()

    def evaluate(self):
        """Evaluates the policies of all lanes; without an environment, does nothing."""
        if self._evaluator is None:
            return
        result, error = None, None
        try:
            result = self._evaluator(self.policy(), self._options.eval_seed + self.step)
        except EvaluationError as raised:
            error = raised
        # It failed in one process: then no process has all scores.
        said = gather_values(str(error or ""))
        failed = [f"process {i}: {text}" for i, text in enumerate(said) if text]
        if result is None or failed:
            self._report_failed_evaluation(error or EvaluationError(failed[0]))
            return
        metrics = report.score_metrics(result, self._units.info.reference_scores)
        metrics = self._device.layout.gather_host(metrics)
        new = self._failures.add_scores(report.RETURN, metrics[report.RETURN], self.step)
        if new:
            self._report_failures(new)
        self._write(metrics)
        shown = {name: values.astype(float) for name, values in metrics.items()}
        for values in shown.values():
            values[list(self._failures)] = np.nan
        self.progress.score(self.step, report.describe_scores_now(shown, self._lanes))

    def _report_failed_evaluation(self, error):
        """Stops, after the checkpoint, or continues, as the user chose."""
        if self._options.on_evaluation_error == "stop":
            kept = f"; the checkpoint of step {self.step} is written, --resume goes on from it"
            raise EvaluationError(f"{error}{kept if self.step else ''}") from error
        self._failed_evaluations[str(self.step)] = str(error)
        self.progress.note(f"the evaluation at gradient step {self.step} failed: {error}")

    def save(self):
        """Writes a checkpoint of all lanes, unless there is one of this step."""
        if self._snapshots.is_saved(self.step):
            return
        memory = {
            "failures": self._failures.record(),
            "failed_evaluations": self._failed_evaluations,
            "warnings": self._warnings,
            "speed": self._clock.figures(len(self._lanes)),
            "metrics": None if self._metrics is None else self._metrics.sync(),
        }
        if self._host is not None:
            self._host.restart(self.step)  # as in a run that resumes here
            memory["collected"] = self._host.returns()
        self._snapshots.save(self.step, self._device.arrays(), memory)

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
            "metrics": None if self._metrics is None else self._metrics.sync(),
        }
        summary = sealed(measured)
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
