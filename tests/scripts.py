"""Runs scripts as a user would, each in a process of its own, but imports libraries only once.

Half of what a short script computes is the import of jax and the libraries about it. A server,
which is this file run as a program, imports them and then forks for each script. Nothing of `ddm`
is imported before, so that a script has only the modules of it that it asks for.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

LIBRARIES = (
    "absl.app", "chex", "distrax", "flax.linen", "gymnasium", "h5py", "jax.numpy",
    "matplotlib.pyplot", "optax", "orbax.checkpoint",
)  # fmt: skip
STREAMS = ("stdin", "stdout", "stderr")


def run(
    script: str | pathlib.Path,
    *arguments: object,
    cwd: pathlib.Path,
    text: str = "",
    traced: bool = False,
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run([sys.executable, script, *arguments])`.

    Args:
      script: path of the script.
      *arguments: its command line.
      cwd: the folder that it runs in.
      text: what it reads from its standard input.
      traced: `runner.train` only traces one update, and prints the algorithm's name.
    """
    if not hasattr(os, "fork") and not traced:
        return subprocess.run(
            [sys.executable, str(script), *map(str, arguments)],
            cwd=cwd, input=text, capture_output=True, text=True, check=False,
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        files = {name: os.path.join(folder, name) for name in STREAMS}
        pathlib.Path(files["stdin"]).write_text(text, encoding="utf-8")
        job = {
            "arguments": [str(script), *map(str, arguments)], "cwd": str(cwd), "traced": traced,
            **files,
        }  # fmt: skip
        server = _server()
        print(json.dumps(job), file=server.stdin, flush=True)
        answer = server.stdout.readline()
        if not answer:
            raise RuntimeError("the server of scripts ended")
        stdout, stderr = (
            pathlib.Path(files[name]).read_text(encoding="utf-8") for name in ("stdout", "stderr")
        )
    return subprocess.CompletedProcess(job["arguments"], int(answer), stdout, stderr)


@contextlib.contextmanager
def imported(path: str | pathlib.Path) -> Iterator[Any]:
    """Imports a script with its own folder on the path, and forgets it at the end.

    Flags belong to the whole process, and two scripts may define the same one: at the end the
    flags, and the modules of the script's folder, are those from before.

    Yields:
      The module; `importlib.import_module` finds others of its folder.
    """
    from absl import flags

    folder = pathlib.Path(path).resolve().parent
    flags_before, modules_before = set(flags.FLAGS), set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module(pathlib.Path(path).stem)
    finally:
        sys.path.remove(str(folder))
        for name in set(flags.FLAGS) - flags_before:
            delattr(flags.FLAGS, name)
        for name in set(sys.modules) - modules_before:
            if folder in pathlib.Path(getattr(sys.modules[name], "__file__", None) or "/").parents:
                del sys.modules[name]


@functools.cache
def _server() -> Any:
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.communicate)  # the end of its input ends it
    return server


def _become(job: dict[str, Any]) -> None:
    """In the child: its folder, streams, arguments and path are those of the script."""
    os.chdir(job["cwd"])
    modes = (os.O_RDONLY, *2 * (os.O_WRONLY | os.O_CREAT,))
    for number, (name, mode) in enumerate(zip(STREAMS, modes, strict=True)):
        os.dup2(os.open(job[name], mode, 0o600), number)
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115  (the other one may have read ahead)
    sys.argv = job["arguments"]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))


def _trace_only() -> None:
    """In the child: from the command line to the shapes of an update, and no compilation."""
    import jax

    from ddm import data, runner, training

    def train(
        algorithm: Any, config: Any, sources: Any, environment: Any, options: Any, **_: Any
    ) -> None:
        del environment
        config = training.prepare(algorithm, config, sources)
        spec, key = algorithm.batch_spec(config), jax.random.key(0)
        batch = jax.eval_shape(
            lambda source, key: data.sample(source, key, options.batch_size, spec), sources, key
        )
        state = jax.eval_shape(algorithm.init, config, key, batch)
        jax.eval_shape(algorithm.update, config, state, batch)
        print(f"traced {algorithm.__name__}")

    runner.train = train


def _serve() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(job)
            if job["traced"]:
                _trace_only()
            runpy.run_path(job["arguments"][0], run_name="__main__")
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve()
