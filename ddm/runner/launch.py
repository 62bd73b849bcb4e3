"""The frame around an experiment's `main`: flags, errors and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags, logging

from ddm.errors import DdmError, InputError, MissingDependencyError
from ddm.runner.lanes import join_processes
from ddm.runner.options import Options


def launch(main: Callable[[Sequence[str]], Any]) -> None:
    """Parses the flags and runs `main`; does not return.

    An error that the user can mend is printed as one sentence, and the exit code is 1.
    """

    def guarded(arguments: Sequence[str]) -> None:
        # absl prints the notes of every library, unless it is told otherwise.
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        try:
            if len(arguments) > 1:
                raise app.UsageError(f"'{arguments[1]}' is not a flag; flags start with --")
            values = flags.FLAGS
            if "num_processes" in values:
                join_processes(values.coordinator_address, values.num_processes, values.process_id)
            main(arguments)
        except DdmError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)

    app.run(guarded)


def load_dataset(options: Options) -> Any:
    """The dataset that the options name, with the transforms that they name.

    Raises:
      InputError: it cannot be read, or a transform does not fit it.
    """
    from ddm import data

    bounds = (options.action_low, options.action_high)
    if any(bounds) and not all(bounds):
        raise InputError("one of --action_low and --action_high is given, expected both")
    dataset = data.load(
        options.dataset,
        clip_actions=options.clip_actions,
        action_space=bounds if all(bounds) else None,
        max_episode_steps=options.max_episode_steps or None,
    )
    return data.normalize(
        dataset,
        observations=options.normalize_observations,
        rewards=options.reward_transform,
        reward_scale=options.reward_scale,
    )


def find_environment(options: Options, dataset: Any) -> Any:
    """The environment that gives the score; None when there is none.

    `--environment` decides; without it, the environment that the dataset names.

    Raises:
      InputError: an unknown environment.
      MissingDependencyError: the environment needs a package that is not installed.
    """
    from ddm import evaluation

    spec = options.environment or dataset.info.environment_id
    if not spec or spec == "none":
        return None
    try:
        return evaluation.make_environment(spec, options.max_episode_steps or None)
    except MissingDependencyError as error:
        raise MissingDependencyError(
            f"{error}; or train without a score: --environment=none"
        ) from error
