"""Environments from their ids or whole specifications, pure ones and gymnasium's."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import importlib.util
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ddm import envs
from ddm.envs import Environment
from ddm.envs.registry import NAMESPACE
from ddm.errors import DdmError, InputError, MissingDependencyError
from ddm.evaluation import specifications

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

EnvironmentFactory = Callable[[], "gymnasium.Env"]

_FACE = "ddm.envs.gym:"  # pure environments as gymnasium's; they end their episodes themselves


@dataclasses.dataclass(frozen=True, eq=False)
class GymnasiumFactory:
    """Makes one gymnasium environment at each call, without gymnasium's per-step checks."""

    specification: EnvSpec

    @property
    def name(self) -> str:
        """The id in gymnasium's form."""
        return self.specification.id

    @property
    def has_step_limit(self) -> bool:
        """Whether every episode ends, as far as gymnasium knows."""
        entry_point, wrappers = (
            getattr(self.specification, field) for field in ("entry_point", "additional_wrappers")
        )
        return (
            self.specification.max_episode_steps is not None
            or any(wrapper.name == "TimeLimit" for wrapper in wrappers)
            or str(entry_point).startswith(_FACE)
        )

    def with_step_limit(self, steps: int) -> GymnasiumFactory:
        """The same environment, whose episodes are truncated after so many steps."""
        return GymnasiumFactory(
            dataclasses.replace(self.specification, max_episode_steps=int(steps))
        )

    def __call__(self) -> gymnasium.Env:
        """One environment.

        Raises:
          MissingDependencyError: its simulator is not installed.
          InputError: it cannot be made with its arguments.
        """
        import gymnasium

        spec = self.specification
        try:
            with quiet():
                return gymnasium.make(spec, disable_env_checker=True)
        except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
            raise MissingDependencyError(
                f"environment '{spec.id}' lacks a package: {_sentence(error)} "
                "(MuJoCo and robotics: pip install 'ddm[sim]')"
            ) from error
        except DdmError:
            raise
        except Exception as error:  # a simulator may raise anything
            arguments = f" with {spec.kwargs}" if spec.kwargs else ""
            raise InputError(
                f"environment '{spec.id}' cannot be made{arguments}: {_sentence(error)}"
            ) from error


def make_environment(
    spec: str,
    max_episode_steps: int | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    report: Callable[[str], Any] = warnings.warn,
) -> Environment | EnvironmentFactory:
    """The environment with this id or specification.

    Args:
      spec: one of
        - an id of `ddm.envs`, with or without "ddm/";
        - an id of gymnasium's registry; gymnasium-robotics is looked up there too if it is
          installed;
        - "module:id", where importing the module registers the id, as `gymnasium.make` takes it;
        - gymnasium's whole specification as JSON (`DatasetInfo.environment_spec`): keyword
          arguments, wrappers and step limit. Only wrappers of gymnasium are imported, nothing else
          that it names: its id must be registered.
      max_episode_steps: steps after which an episode of a gymnasium environment is truncated;
        None for its own limit.
      kwargs: keyword arguments of a gymnasium environment, added to its own.
      report: is called with a sentence where the environment differs from its specification.

    Returns:
      A pure environment, or a function that makes a gymnasium environment.

    Raises:
      InputError: the id is unknown, a step limit or keyword arguments are given for a pure
        environment, or a specification has parts that are not run from a file.
      MissingDependencyError: gymnasium is not installed.
    """
    fields = specifications.parse(spec) if specifications.is_specification(spec) else None
    name = spec if fields is None else fields["id"]
    if fields is None and (name.startswith(NAMESPACE) or name in envs.ids()):
        return _make_pure(name, max_episode_steps, kwargs)
    if importlib.util.find_spec("gymnasium") is None:
        raise MissingDependencyError(
            f"environment '{name}' needs gymnasium: pip install 'ddm[sim]'"
        )
    specification = _registered(name, fields)
    if fields is not None:
        registered = specification
        specification, notes = specifications.trusted(fields, registered)
        for note in notes:
            report(note)
        unchanged = max_episode_steps is None and not kwargs and specification == registered
        if unchanged and str(specification.entry_point).startswith(_FACE):
            return envs.make(name)  # the same, and faster
    factory = GymnasiumFactory(
        dataclasses.replace(specification, kwargs={**specification.kwargs, **(kwargs or {})})
    )
    return factory if max_episode_steps is None else factory.with_step_limit(max_episode_steps)


def _make_pure(
    name: str, max_episode_steps: int | None, kwargs: Mapping[str, Any] | None
) -> Environment:
    environment = envs.make(name)  # an unknown id raises with the list of ids
    if max_episode_steps is not None:
        raise InputError(
            f"max_episode_steps is for gymnasium's environments; '{name}' has its own limit"
        )
    if kwargs:
        raise InputError(
            f"keyword arguments are for gymnasium's environments; '{name}' takes none: it has "
            f"{', '.join(kwargs)}"
        )
    return environment


def _registered(spec: str, fields: Mapping[str, Any] | None) -> EnvSpec:
    """Gymnasium's entry for an id, after importing what registers it.

    Raises:
      InputError: neither gymnasium, gymnasium-robotics, ddm nor the module has registered it.
    """
    import gymnasium

    module, _, name = spec.rpartition(":")
    if module and fields is None:
        _import_module(module, spec)
    if name.startswith(NAMESPACE):
        envs.register()
    reason = _reason_unknown(name)
    if reason is not None:
        has_robotics = _register_robotics()
        reason = _reason_unknown(name)
        if reason is not None:
            raise InputError(
                f"unknown environment '{spec}': {reason}{_hint(name, fields, has_robotics)}"
            )
    return gymnasium.spec(name)


def _import_module(module: str, spec: str) -> None:
    try:
        with quiet():
            importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"environment '{spec}': module {module} cannot be imported: {_sentence(error)}"
        ) from error


def _hint(name: str, fields: Mapping[str, Any] | None, has_robotics: bool) -> str:
    """A hint: similar ids, or a package to install."""
    import gymnasium

    if fields is not None and ":" in str(fields.get("entry_point")):
        package = fields["entry_point"].split(":")[0].split(".")[0]
        if package not in ("gymnasium", "gymnasium_robotics", "ddm"):
            return (
                f"; the data have it from package {package}, which is not imported because a file "
                f"names it: --environment={package}:{name}"
            )
    others = (each for each in gymnasium.registry if not each.startswith(NAMESPACE))
    known = dict.fromkeys([*envs.ids(), *others])  # each once, also if several registries have it
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    if not has_robotics:
        hint += "; AntMaze, Adroit and FrankaKitchen come with: pip install 'ddm[sim]'"
    return hint


def _reason_unknown(name: str) -> str | None:
    """Why gymnasium does not know the id; None if it does."""
    import gymnasium

    try:
        gymnasium.spec(name)
    except (gymnasium.error.Error, ImportError) as error:
        return _sentence(error)
    return None


def _sentence(error: Exception) -> str:
    text = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    return " ".join(text.split()).rstrip(".") or type(error).__name__


def _register_robotics() -> bool:
    """Adds gymnasium-robotics' ids to gymnasium's; False if it is not installed."""
    try:
        with quiet():
            import gymnasium
            import gymnasium_robotics  # pyright: ignore[reportMissingImports]

            gymnasium.register_envs(gymnasium_robotics)
    except ImportError:
        return False
    return True


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides the notices that simulators print when they are imported and made."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        with contextlib.redirect_stderr(io.StringIO()):
            yield
