"""`--help` of an experiment, with the algorithm's flags and the run's in separate groups."""

from __future__ import annotations

import dataclasses
import sys
import textwrap

from absl import flags

from ddm.runner.options import Options

_WIDTH = 96


def help_text(flag_values: flags.FlagValues = flags.FLAGS) -> str:
    """The script's docstring and its flags in three groups: algorithm, script, run.

    absl's own `--help` sorts all flags of a script by name.
    """
    own = {flag.name: flag for flag in flag_values.get_key_flags_for_module(sys.argv[0])}
    algorithm = [flag for flag in own.values() if str(flag.help).startswith("[")]
    run = [own[field.name] for field in dataclasses.fields(Options) if field.name in own]
    script = [flag for flag in own.values() if flag not in algorithm and flag not in run]
    name = str(algorithm[0].help)[1:].partition("]")[0] if algorithm else ""
    parts = [str(sys.modules["__main__"].__doc__ or "").strip()]
    for title, group in (
        (f"The algorithm, {name}", algorithm),
        ("This script", script),
        ("The run", run),
    ):
        if group:
            parts.append("\n".join([f"{title}:", *map(_describe, group)]))
    return "\n\n".join(parts) + "\n\n--helpfull lists the flags of all libraries, too.\n"


def _describe(flag: flags.Flag) -> str:
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    default = str(flag.default_as_str or "").strip("'")
    default = f" (default: {default})" if default not in ("", "[]") else ""
    text = str(flag.help)
    text = text.partition("] ")[2] if text.startswith("[") else text
    lines = textwrap.wrap(
        f"{name}: {text}{default}", _WIDTH, initial_indent="  ", subsequent_indent="      "
    )
    return "\n".join(lines)
