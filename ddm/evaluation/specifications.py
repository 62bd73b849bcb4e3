"""Gymnasium's whole specification of an environment, as Minari's data sets record it.

A specification is JSON from a file. It is treated as data, not as a program: nothing that it names
is imported. The entry point is the one registered under the id, and wrappers are gymnasium's own.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ddm.errors import InputError

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec, WrapperSpec

_WRAPPERS = "gymnasium.wrappers."  # the package whose wrappers a file may name

# They watch an environment and do not change it; some of them write files or open windows.
_WATCHERS = frozenset(
    {
        "DataCollector", "HumanRendering", "OrderEnforcing", "PassiveEnvChecker",
        "RecordEpisodeStatistics", "RecordVideo", "RenderCollection",
    }
)  # fmt: skip
_NEED_IMAGES = frozenset({"AddRenderObservation"})


def is_specification(spec: str) -> bool:
    """Whether a text is a specification in JSON, and not an id."""
    return spec.lstrip().startswith("{")


def parse(text: str) -> dict[str, Any]:
    """The fields of a specification.

    Raises:
      InputError: it is not JSON, or names no environment.
    """
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise InputError(f"the specification of the environment is not JSON: {error}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("id"), str):
        raise InputError("the specification of the environment has no field id, expected its name")
    return fields


def summary(text: str) -> str:
    """An environment in few words: "FrozenLake-v1 (is_slippery=False), 100 steps"."""
    fields = parse(text)
    kwargs = ", ".join(f"{name}={value!r}" for name, value in (fields.get("kwargs") or {}).items())
    wrappers = [w["name"] for w in fields.get("additional_wrappers") or () if not _watches(w)]
    limit = fields.get("max_episode_steps")
    return (
        fields["id"]
        + (f" ({kwargs})" if kwargs else "")
        + (f" in {', '.join(wrappers)}" if wrappers else "")
        + (f", {limit} steps" if limit else ", no step limit")
    )


def agrees(text: str, specification: EnvSpec) -> bool:
    """Whether an environment has the arguments, wrappers and limit of a specification in JSON."""
    fields = parse(text)
    arguments = [dict(kwargs or {}) for kwargs in (fields.get("kwargs"), specification.kwargs)]
    for kwargs in arguments:
        kwargs.pop("render_mode", None)
    wrappers = [w["name"] for w in fields.get("additional_wrappers") or () if not _watches(w)]
    return (
        arguments[0] == arguments[1]
        and fields.get("max_episode_steps") == specification.max_episode_steps
        and wrappers == [wrapper.name for wrapper in specification.additional_wrappers]
    )


def trusted(fields: Mapping[str, Any], registered: EnvSpec) -> tuple[EnvSpec, list[str]]:
    """The environment that a file specifies, made only from what is registered here.

    Args:
      fields: of the specification, see `parse`.
      registered: gymnasium's entry for the same id.

    Returns:
      The specification, with the registered entry point; and a sentence for each difference that
      the user should know.

    Raises:
      InputError: the environment has a wrapper that is not gymnasium's or cannot be made.
    """
    name = fields["id"]
    notes = []
    entry_point = fields.get("entry_point")
    if isinstance(entry_point, str) and entry_point != registered.entry_point:
        notes.append(
            f"environment '{name}' was {entry_point} where the data were collected and is "
            f"{registered.entry_point} here: scores may differ"
        )
    wrappers = [w for w in fields.get("additional_wrappers") or () if not _watches(w)]
    kwargs = dict(fields.get("kwargs") or {})
    if not any(wrapper["name"] in _NEED_IMAGES for wrapper in wrappers):
        kwargs.pop("render_mode", None)
    specification = dataclasses.replace(
        registered,
        kwargs=kwargs,
        max_episode_steps=fields.get("max_episode_steps"),
        additional_wrappers=tuple(_wrapper(wrapper, name) for wrapper in wrappers),
    )
    return specification, notes


def _watches(wrapper: Mapping[str, Any]) -> bool:
    return wrapper.get("name") in _WATCHERS


def _wrapper(fields: Mapping[str, Any], environment: str) -> WrapperSpec:
    """A wrapper of gymnasium's, by its class.

    Raises:
      InputError: it is not gymnasium's, or was recorded without its arguments.
    """
    import gymnasium
    from gymnasium.envs.registration import WrapperSpec

    entry_point = str(fields.get("entry_point"))
    remedy = "name an environment that has it with --environment=module:Name-v0"
    module, _, attribute = entry_point.partition(":")
    if not module.startswith(_WRAPPERS):
        raise InputError(
            f"environment '{environment}' of the data has the wrapper {entry_point}, which is not "
            f"gymnasium's and is not run because a file names it: {remedy}"
        )
    try:
        wrapper = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        wrapper = None
    if not (isinstance(wrapper, type) and issubclass(wrapper, gymnasium.Wrapper)):
        raise InputError(
            f"environment '{environment}' of the data has the wrapper {entry_point}, which this "
            f"version of gymnasium lacks: {remedy}"
        )
    if fields.get("kwargs") is None:
        raise InputError(
            f"environment '{environment}' of the data has the wrapper {entry_point}, whose "
            f"arguments were not recorded: {remedy}"
        )
    return WrapperSpec(fields["name"], entry_point, dict(fields["kwargs"]))
