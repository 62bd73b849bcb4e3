"""The frame around an experiment's `main`: flags, errors and exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags, logging

from ddm.errors import DdmError, InputError, MissingDependencyError
from ddm.runner.help import help_text
from ddm.runner.options import Options
from ddm.runner.processes import join_processes, others_told


def launch(main: Callable[[Sequence[str]], Any]) -> None:
    """Parses the flags and runs `main`; does not return.

    An error that the user can fix is printed as one sentence, with exit code 1. The code is 3 if
    some lanes of a run diverged and the others ended well.
    """

    def guarded(arguments: Sequence[str]) -> int:
        # By default absl prints the notes of every library.
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        try:
            if len(arguments) > 1:
                raise app.UsageError(f"'{arguments[1]}' is not a flag; flags start with --")
            values = flags.FLAGS
            if "num_processes" in values:
                join_processes(
                    values.coordinator_address,
                    values.num_processes,
                    values.process_id,
                    values.connect_timeout,
                )
            with others_told():
                return getattr(main(arguments), "exit_code", 0)
        except DdmError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)

    if {"--help", "-help", "-h"} & set(sys.argv[1:]):
        print(help_text())
        sys.exit(0)
    app.run(guarded)


def load_dataset(options: Options) -> Any:
    """The dataset of the options, with their transforms.

    A run that starts from another one gets its observations in the units of that run.

    Returns:
      The dataset; None if `--online` learns only from own experience.

    Raises:
      InputError: it cannot be read, or a transform does not fit it.
    """
    from ddm import data
    from ddm.runner.policies import load_normalization

    if not options.dataset:
        return None
    low, high = options.action_low, options.action_high
    if bool(low) != bool(high):
        given, missing = ("action_low", "action_high") if low else ("action_high", "action_low")
        raise InputError(f"--{given} needs --{missing}: a box of actions has both bounds")
    dataset = data.load(
        options.dataset,
        clip_actions=options.clip_actions,
        action_space=(low, high) if low else None,
        max_episode_steps=options.max_episode_steps or None,
    )
    return data.normalize(
        dataset,
        observations=options.normalize_observations,
        rewards=options.reward_transform,
        reward_scale=options.reward_scale,
        like=load_normalization(options.start_from) if options.start_from else None,
    )


def find_environment(options: Options, dataset: Any) -> Any:
    """The environment that gives the score; None when there is none.

    `--environment` decides; without it, the environment that the dataset specifies or names. If
    neither says it, the choice is printed.

    Raises:
      InputError: an unknown environment, or one that cannot be made from its specification.
      MissingDependencyError: the environment needs a package that is not installed.
    """
    from ddm import evaluation
    from ddm.evaluation.environments import GymnasiumFactory

    info: Any = None if dataset is None else dataset.info
    logged = None if info is None else info.environment_spec
    spec = options.environment or logged or (None if info is None else info.environment_id)
    if not spec or spec == "none":
        return None
    if info is not None and not options.environment and not logged:
        _require_imported(spec, info.name)
    limit = options.max_episode_steps or None
    try:
        environment = evaluation.make_environment(
            spec, limit, _environment_kwargs(options), report=say
        )
    except MissingDependencyError as error:
        raise MissingDependencyError(
            f"{error}; or train without a score: --environment=none"
        ) from error
    if options.environment:
        _compare_with_log(environment, logged)
    if not isinstance(environment, GymnasiumFactory) or environment.has_step_limit:
        return environment
    if dataset is None:
        raise InputError(
            f"environment '{environment.name}' has no step limit: set one with --max_episode_steps"
        )
    longest = int(dataset.episode_lengths.max())
    say(
        f"environment '{environment.name}' has no step limit: an evaluation episode ends after "
        f"{longest} steps, as the longest one of the data; --max_episode_steps sets another limit"
    )
    return environment.with_step_limit(longest)


def say(text: str) -> None:
    """Prints a sentence for the user."""
    print(text, file=sys.stderr)


def _environment_kwargs(options: Options) -> dict[str, Any]:
    text = options.environment_kwargs
    try:
        kwargs = json.loads(text or "{}")
    except ValueError as error:
        raise InputError(f"--environment_kwargs={text} is not JSON: {error}") from error
    if not isinstance(kwargs, dict):
        raise InputError(f"--environment_kwargs={text}, expected a JSON object of arguments")
    return kwargs


def _compare_with_log(environment: Any, logged: str | None) -> None:
    """Reports if the user names the log's environment with other arguments or limits."""
    from ddm.evaluation import specifications

    specification = getattr(environment, "specification", None)
    if specification is None or not logged:
        return
    same_id = specifications.parse(logged)["id"] == specification.id
    if same_id and not specifications.agrees(logged, specification):
        say(
            f"--environment decides: {specifications.summary(specification.to_json())}; the data "
            f"are from {specifications.summary(logged)}"
        )


def _require_imported(spec: str, name: str) -> None:
    """Refuses to import a module because a file names it.

    Raises:
      InputError: the module of "module:Env-v0" is not imported yet.
    """
    module = spec.rpartition(":")[0]
    if module and module not in sys.modules:
        raise InputError(
            f"{name} names environment '{spec}'; its module is imported only if you say so: "
            f"--environment={spec}"
        )
