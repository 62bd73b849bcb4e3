"""Environments from their ids, pure ones and gymnasium's."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib.util
import io
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ddm import envs
from ddm.envs import Environment
from ddm.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    import gymnasium

EnvironmentFactory = Callable[[], "gymnasium.Env"]


def make_environment(spec: str) -> Environment | EnvironmentFactory:
    """The environment with this id.

    Args:
      spec: an id of `ddm.envs`, with or without "ddm/", or an id of gymnasium's registry;
        gymnasium-robotics is looked up there too if it is installed.

    Returns:
      A pure environment, or a function that makes a gymnasium environment.

    Raises:
      InputError: nobody knows the id.
      MissingDependencyError: gymnasium is not installed.
    """
    if spec.removeprefix("ddm/") in envs.ids():
        return envs.make(spec)
    if spec.startswith("ddm/"):
        return envs.make(spec)  # raises with the list of ids
    if importlib.util.find_spec("gymnasium") is None:
        raise MissingDependencyError(
            f"environment '{spec}' needs gymnasium: pip install 'ddm[sim]'"
        )
    _check_known(spec)
    return functools.partial(_make_gymnasium, spec)


def _check_known(spec: str) -> None:
    """Refuses an id that neither gymnasium nor gymnasium-robotics has registered."""
    import gymnasium

    reason = _reason_unknown(spec)
    if reason is None:
        return
    has_robotics = _register_robotics()
    reason = _reason_unknown(spec)
    if reason is None:
        return
    close = difflib.get_close_matches(spec, [*envs.ids(), *gymnasium.registry], n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    if not has_robotics:
        hint += "; AntMaze, Adroit and FrankaKitchen come with: pip install 'ddm[sim]'"
    raise InputError(f"unknown environment '{spec}': {reason.rstrip('.')}{hint}")


def _reason_unknown(spec: str) -> str | None:
    """Why gymnasium does not know the id; None if it does."""
    import gymnasium

    try:
        gymnasium.spec(spec)
    except (gymnasium.error.Error, ImportError) as error:
        return " ".join(str(error).split())
    return None


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


def _make_gymnasium(spec: str) -> gymnasium.Env:
    """One environment, without gymnasium's per-step checks.

    Raises:
      MissingDependencyError: its simulator is not installed.
    """
    import gymnasium

    try:
        with quiet():
            return gymnasium.make(spec, disable_env_checker=True)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        reason = " ".join(str(error.args[0] if error.args else error).split()).rstrip(".")
        raise MissingDependencyError(
            f"environment '{spec}' lacks a package: {reason} "
            "(MuJoCo and robotics: pip install 'ddm[sim]')"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides the notices that simulators print when they are imported and made."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        with contextlib.redirect_stderr(io.StringIO()):
            yield
