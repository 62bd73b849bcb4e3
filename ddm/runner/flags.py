"""Command-line flags derived from `Options` and from an algorithm's `Config`.

A field's annotation gives the type of its flag, its default gives the default, and the comment
beside or above it gives the help text. So nothing is written twice.
"""

from __future__ import annotations

import dataclasses
import inspect
import io
import textwrap
import tokenize
import types
import typing
from typing import Any

from absl import flags

from ddm.configuration import describe_range
from ddm.errors import InputError
from ddm.runner.options import Options
from ddm.types import Algorithm

# absl lists a flag under the module that called DEFINE. This call makes absl skip this module: the
# flags then belong to the experiment, and its `--help` shows them.
flags.disclaim_key_flags()


def define_flags(
    algorithm: Algorithm, *, flag_values: flags.FlagValues = flags.FLAGS, **defaults: Any
) -> None:
    """Defines one flag for each field of `Options` and of `algorithm.Config`.

    Fields whose type has no flag (functions, nested values) keep their defaults.

    Args:
      algorithm: the algorithm module.
      flag_values: where to define the flags.
      **defaults: other defaults for some of the flags, by field name.

    Raises:
      InputError: a field of `Config` has the name of an option or of another flag, or a default is
        given for a field that does not exist.
    """
    name = algorithm_name(algorithm)
    options = {field.name: field for field in flag_fields(Options)}
    config = {field.name: field for field in flag_fields(algorithm.Config)}
    if clash := sorted(set(options) & set(config)):
        raise InputError(
            f"Config.{clash[0]} of {name} has the name of an option of the runner; rename it"
        )
    if unknown := sorted(set(defaults) - set(options) - set(config)):
        raise InputError(
            f"define_flags: {unknown[0]} is neither an option nor a field of {name}.Config"
        )
    for field in (*options.values(), *config.values()):
        text = field.help if field.name in options else f"[{name}] {field.help}"
        default = defaults.get(field.name, field.default)
        try:
            _define(dataclasses.replace(field, default=default, help=text), flag_values)
        except flags.DuplicateFlagError as error:
            raise InputError(f"the flag --{field.name} of {name} is already defined") from error


def parse_flags(
    algorithm: Algorithm, *, flag_values: flags.FlagValues = flags.FLAGS
) -> tuple[Options, Any]:
    """The options and the configuration from the (parsed) flags.

    Raises:
      InputError: no dataset is named, or a value is out of range.
    """
    options = Options(**_read(Options, flag_values))
    if not options.dataset and not options.online:
        raise InputError(
            "--dataset is missing: give a Minari id or folder, an .hdf5 file or an .npz file; or "
            "learn without a log with --online"
        )
    if options.online and options.environment in ("", "none") and not options.dataset:
        raise InputError("--online needs --environment, where experience is collected")
    return options, algorithm.Config(**_read(algorithm.Config, flag_values))


def algorithm_name(algorithm: Algorithm) -> str:
    """The last part of the module's name, for example "iql"; of an instance, its class's name."""
    name = getattr(algorithm, "__name__", None) or type(algorithm).__name__
    return name.rpartition(".")[2]


@dataclasses.dataclass(frozen=True)
class FlagField:
    """A dataclass field that can be given on the command line."""

    name: str
    kind: type  # bool, int, float or str
    many: bool  # a tuple of `kind`
    choices: tuple[str, ...]  # the only values allowed; empty: no such limit
    default: Any
    help: str


def flag_fields(cls: type) -> list[FlagField]:
    """The fields of a dataclass that have a flag, with their types, defaults and help texts."""
    comments = field_comments(cls)
    result = []
    for field in dataclasses.fields(cls):
        spec = _flag_type(_annotation(cls, field)) if field.init else None
        if spec is not None:
            text = comments.get(field.name, field.name.replace("_", " "))
            if allowed := describe_range(field):
                text = f"{text} ({allowed})"
            result.append(FlagField(field.name, *spec, _default(field), text))
    return result


def field_comments(cls: type) -> dict[str, str]:
    """Maps the name of each field of a dataclass to its comment in the source.

    The comment stands on the field's own line, or in the lines directly above it.
    """
    comments: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            comments |= _source_comments(base)
    return comments


def _source_comments(cls: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):  # no source, for example for a class made in a console
        return {}
    names = set(vars(cls).get("__annotations__", {}))
    comments: dict[str, list[str]] = {}
    above: list[str] = []
    depth, line_start, field = 0, True, None
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            (above if field is None else comments[field]).append(token.string.lstrip("#").strip())
        elif token.type == tokenize.NL:
            # A blank line ends a block of comments; the end of a comment line does not.
            above = above if token.line.strip() else []
        elif token.type == tokenize.NEWLINE:
            line_start, field, above = True, None, []
        elif token.type in (tokenize.INDENT, tokenize.DEDENT):
            depth += 1 if token.type == tokenize.INDENT else -1
        elif line_start:
            line_start = False
            if depth == 1 and token.string in names:
                field, comments[token.string], above = token.string, above, []
    return {name: " ".join(lines) for name, lines in comments.items() if lines}


def _annotation(cls: type, field: dataclasses.Field) -> Any:
    if not isinstance(field.type, str):
        return field.type
    owner = next(
        base for base in cls.__mro__ if field.name in vars(base).get("__annotations__", {})
    )
    try:
        return eval(field.type, dict(vars(inspect.getmodule(owner))))
    except NameError:  # imported only for type checkers, so it is not a type of a flag
        return None


def _flag_type(annotation: Any) -> tuple[type, bool, tuple[str, ...]] | None:
    """`FlagField`'s kind, many and choices; None for a type that has no flag."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        # `float | None`, or `float | jax.Array` of a leaf that may be traced.
        kinds = [kind for kind in map(_flag_type, arguments) if kind is not None]
        number = (float, False, ())
        return number if number in kinds else next(iter(kinds), None)
    if origin is typing.Literal and all(isinstance(choice, str) for choice in arguments):
        return str, False, arguments
    if origin is tuple and arguments and arguments[0] in (int, float, str):
        alike = all(argument in (arguments[0], Ellipsis) for argument in arguments)
        return (arguments[0], True, ()) if alike else None
    return (annotation, False, ()) if annotation in (bool, int, float, str) else None


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _define(field: FlagField, flag_values: flags.FlagValues) -> None:
    arguments = (field.name, field.default, field.help)
    if field.many and field.kind is str:
        flags.DEFINE_multi_string(*arguments, flag_values=flag_values)
    elif field.many:
        parser = _NumbersParser(field.kind)
        flags.DEFINE(parser, *arguments, flag_values, _NumbersSerializer())
    elif field.choices:
        flags.DEFINE_enum(
            field.name, field.default, field.choices, field.help, flag_values=flag_values
        )
    else:
        define: Any = {
            bool: flags.DEFINE_boolean,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            str: flags.DEFINE_string,
        }[field.kind]
        define(*arguments, flag_values=flag_values)


class _NumbersParser(flags.ArgumentParser):
    """Parses "256,256" into a tuple of numbers."""

    def __init__(self, kind: type):
        super().__init__()
        self._kind = kind

    def parse(self, argument: Any) -> tuple:
        """The numbers; an iterable of numbers is not changed."""
        if not isinstance(argument, str):
            return tuple(argument)
        try:
            return tuple(self._kind(item) for item in argument.split(",") if item.strip())
        except ValueError:
            raise ValueError(
                f"'{argument}' is not a comma-separated list of {self._kind.__name__}"
            ) from None

    def flag_type(self) -> str:
        """The type that `--help` prints."""
        return f"comma-separated list of {self._kind.__name__}"


class _NumbersSerializer(flags.ArgumentSerializer):
    """Writes a tuple of numbers as "256,256"."""

    def serialize(self, value: tuple) -> str:
        """The text that parses into the same value."""
        return ",".join(map(str, value))


def _read(cls: type, flag_values: flags.FlagValues) -> dict[str, Any]:
    values = {field.name: flag_values[field.name].value for field in flag_fields(cls)}
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
