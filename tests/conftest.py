"""What every test shares: the CPU, and short compilation, which is most of a test's time."""

from __future__ import annotations

import contextlib
import gc
import os
import pathlib
from collections.abc import Iterator

import pytest

_MOST_MEMORY = 2.5 * 2**30  # of one of the processes that test, in bytes
_CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "jax"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The networks of tests are too small to miss what is left out: a third of the compile time, and
# with the older emitters, which load no dialects of MLIR for each kernel, less than half of that.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


@pytest.fixture
def float64() -> Iterator[None]:
    """Double precision inside the test, for answers that are known to many digits."""
    with _enable_x64():
        yield


@pytest.fixture
def strict() -> Iterator[None]:
    """The strictest flags a user's program may have set, inside the test."""
    with strict_flags():
        yield


@contextlib.contextmanager
def strict_flags() -> Iterator[None]:
    """64-bit types are the default, and neither types nor ranks are promoted without a word."""
    import jax

    with _enable_x64(), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def _enable_x64() -> contextlib.AbstractContextManager[None]:
    import jax

    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # before jax 0.8

    return enable_x64(True)


# They compile transformers, or train what figures need, for minutes.
_SLOW = {
    "tests/experiments": ("alvinn", "kl_objectives", "mode_averaging"),
    "tests/networks": ("autoregressive", "denoisers", "history", "latent", "transformer"),
}  # fmt: skip
_SLOW_FILES = {
    pathlib.Path(__file__).parent.parent / folder / f"test_{name}.py"
    for folder, names in _SLOW.items()
    for name in names
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of a file run in one process, which trains and compiles for all of them once."""
    for item in items:
        if item.path in _SLOW_FILES:
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
    # Those of a group follow each other, also in a single process.
    first = {}
    for place, item in enumerate(items):
        first.setdefault(_group(item), place)
    items.sort(key=lambda item: first[_group(item)])


def pytest_collection_finish() -> None:
    """What was imported stays: collections of garbage need not look at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Forgets compiled functions between files or algorithms, before they fill the memory."""
    if (nextitem is None or _group(nextitem) != _group(item)) and _memory() > _MOST_MEMORY:
        import jax

        jax.clear_caches()


def _memory() -> float:
    """Bytes of this process; infinite where the system does not tell."""
    try:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return float("inf")
    return pages * os.sysconf("SC_PAGE_SIZE")


def _group(item: pytest.Item) -> tuple[object, ...]:
    mark = item.get_closest_marker("xdist_group")
    return mark.args if mark else ()
