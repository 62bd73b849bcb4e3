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


def make_environment(
    spec: str, max_episode_steps: int | None = None
) -> Environment | EnvironmentFactory:
    """The environment with this id.

    Args:
      spec: an id of `ddm.envs`, with or without "ddm/", or an id of gymnasium's registry;
        gymnasium-robotics is looked up there too if it is installed.
      max_episode_steps: steps after which an episode of a gymnasium environment is truncated;
        None for its own limit.

    Returns:
      A pure environment, or a function that makes a gymnasium environment.

    Raises:
      InputError: nobody knows the id, or a step limit is given for a pure environment.
      MissingDependencyError: gymnasium is not installed.
    """
    if spec.startswith("ddm/") or spec in envs.ids():
        environment = envs.make(spec)  # an unknown id raises with the list of ids
        if max_episode_steps is not None:
            raise InputError(
                f"max_episode_steps is for gymnasium's environments; '{spec}' has its own limit"
            )
        return environment
    if importlib.util.find_spec("gymnasium") is None:
        raise MissingDependencyError(
            f"environment '{spec}' needs gymnasium: pip install 'ddm[sim]'"
        )
    _check_known(spec)
    return functools.partial(_make_gymnasium, spec, max_episode_steps)


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


def _make_gymnasium(spec: str, max_episode_steps: int | None) -> gymnasium.Env:
    """One environment, without gymnasium's per-step checks.

    Raises:
      MissingDependencyError: its simulator is not installed.
    """
    import gymnasium

    try:
        with quiet():
            return gymnasium.make(
                spec, max_episode_steps=max_episode_steps, disable_env_checker=True
            )
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
