"""Another library in a process of its own, for benchmarks beside it: one JSON object per line."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from absl import app

FOLDER = Path(__file__).parent


class Peer:
    """A worker script that answers requests, run by the Python in which its library is."""

    def __init__(self, python: str, script: str, *arguments: str, flag: str, library: str):
        """Starts the process; it ends with this one, or by `close`.

        Args:
          python: path of the interpreter.
          script: name of a file beside this one.
          *arguments: of the script.
          flag: the name of the flag that gave `python`, for messages.
          library: what must be installed there, for messages.

        Raises:
          UsageError: no Python is given, or there is none at its path.
        """
        if not python:
            raise app.UsageError(f"--{flag} is missing: name a Python in which {library} is")
        self._failed = f"--{flag}={python} stopped at {{}}; is {library} installed?"
        try:
            self._process = subprocess.Popen(
                [python, str(FOLDER / script), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=tempfile.gettempdir(),  # for what a library writes without being asked
                env={**os.environ, "PYTHONPATH": str(FOLDER.parent)},
                text=True,
            )
        except OSError as error:
            raise app.UsageError(f"--{flag}={python}: {error.strerror}") from error
        self._asked = ""

    def send(self, **request: Any) -> None:
        """Sends a request; the worker computes while the caller goes on."""
        assert self._process.stdin is not None
        self._asked = request["do"]
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except BrokenPipeError as error:
            raise app.UsageError(self._failed.format(self._asked)) from error

    def receive(self) -> Any:
        """The answer to the last request."""
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise app.UsageError(self._failed.format(self._asked))
        return json.loads(answer)

    def ask(self, **request: Any) -> Any:
        """The answer to one request."""
        self.send(**request)
        return self.receive()

    def close(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.wait()
