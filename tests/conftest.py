"""What every test shares: the CPU, and short compilation, which is most of a test's time."""

from __future__ import annotations

import os
import pathlib

_CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "jax"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A third of the compile time; the networks of tests are too small to miss what is left out.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
