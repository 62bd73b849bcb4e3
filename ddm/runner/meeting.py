"""How the processes of a run find each other: at the address of process 0, within a time limit."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import socket
import sys
import time
from typing import Any

from ddm.errors import InputError, ProcessError
from ddm.runner.connections import ERROR, HEARD, HELLO, START, Group, Line, gone, shorten

_STRANGER = 5.0  # seconds for a new connection to show that it is a process of this run
_SPEAK_AFTER = 3.0  # seconds of waiting before the user is told
_LATECOMERS = 5.0  # seconds for others to connect and learn why the run does not start
_PAUSE = 0.2  # seconds between two attempts to connect


def meet(address: str, count: int, index: int, timeout: float) -> Group:
    """Waits until all processes of a run are connected.

    Process 0 listens only at the address; the others connect to it.

    Args:
      address: "host:port" of process 0.
      count: of processes.
      index: of this one.
      timeout: seconds to wait for the others.

    Raises:
      InputError: the address is invalid, is not of this machine (process 0), its port is in use,
        nothing answers there in time, or the processes do not fit together.
      ProcessError: another process ended meanwhile.
    """
    host, port = parse_address(address)
    if index:
        return Group(index, count, {0: _call(host, port, count, index, timeout)})
    with _listen(host, port) as server:
        lines = _receive_all(server, address, count, timeout)
    for line in lines.values():
        with contextlib.suppress(OSError):  # the group notices
            line.send(START)
    return Group(0, count, lines)


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of "host:port"; an IPv6 address is in brackets, "[::1]:1234".

    Raises:
      InputError: it is of another form, or the port is not a number from 1 to 65535.
    """
    found = re.fullmatch(r"(?:\[([^\[\]\s]+)\]|([^:\[\]\s]+)):(.*)", text)
    if not found:
        raise InputError(
            f"--coordinator_address={text}, expected host:port of process 0, such as "
            "10.0.0.1:1234 or [::1]:1234"
        )
    port = found[3]
    if not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise InputError(
            f"--coordinator_address={text}: the port is '{port}', expected a number from 1 to 65535"
        )
    if found[1]:
        try:
            ipaddress.IPv6Address(found[1])
        except ValueError as error:
            raise InputError(f"--coordinator_address={text}: {error}") from error
    return found[1] or found[2], int(port)


def _resolve(host: str, port: int) -> tuple[Any, Any]:
    """Family and address of a host's first address."""
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, ValueError) as error:  # ValueError: a name that is too long
        raise InputError(
            f"--coordinator_address names the host '{host}', which is unknown here: {error}"
        ) from error
    return family, place


def _listen(host: str, port: int) -> socket.socket:
    """The socket of process 0."""
    family, place = _resolve(host, port)
    server = socket.socket(family)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind(place)
        server.listen()
    except OSError as error:
        server.close()
        raise InputError(
            f"--coordinator_address: process 0 cannot listen on port {port} of {place[0]} "
            f"({error.strerror}); expected an address of the machine of process 0, and a free port"
        ) from error
    if _is_loopback(place[0]) and host != "localhost" and host != place[0]:
        _say(
            f"{host} is {place[0]} on this machine, where only processes of this machine reach it; "
            "for others, give its address in their network"
        )
    return server


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _receive_all(
    server: socket.socket, address: str, count: int, timeout: float
) -> dict[int, Line]:
    """The connections to processes 1, 2, ..."""
    lines: dict[int, Line] = {}
    waiting, problem = _Waiting(timeout), ""
    try:
        while missing := [i for i in range(1, count) if i not in lines]:
            names = _name(missing)
            waiting.say_once(f"process 0 waits at {address} for {names}")
            if waiting.is_over:
                raise InputError(
                    problem
                    or f"{names} did not connect to {address} within {timeout:g} s; start all "
                    "processes at about the same time, or wait longer with --connect_timeout"
                )
            server.settimeout(_PAUSE)
            with contextlib.suppress(TimeoutError):
                connection, _ = server.accept()
                found = _admit(connection, lines, count)
                if found and not problem:  # processes that connect a little later are told too
                    problem, waiting = found, _Waiting(_LATECOMERS)
        if problem:
            raise InputError(problem)
    except BaseException as error:
        for line in lines.values():
            with contextlib.suppress(OSError):
                line.send(ERROR, shorten(f"process 0 stopped: {error or 'interrupted'}"))
            line.end_sending()
            line.close()
        raise
    return lines


def _admit(connection: socket.socket, lines: dict[int, Line], count: int) -> str:
    """Adds a new connection if it is a process of this run; others are closed.

    Returns:
      A sentence if it was started for another number of processes, or under an index that is taken.
    """
    line = Line(connection)
    try:
        line.limit(_STRANGER)
        kind, content = line.receive()
        greeting = json.loads(content) if kind == HELLO else {}
        index, its_count = int(greeting["process_id"]), int(greeting["num_processes"])
    except (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError):
        line.close()
        return ""
    problem = ""
    if its_count != count:
        problem = f"process {index} has num_processes={its_count}, process 0 has {count}"
    elif not 0 < index < count or (index in lines and lines[index].is_open()):
        problem = f"process_id={index} is taken, expected each number below {count} once"
    with contextlib.suppress(OSError):
        line.limit(None)
        line.send(*((ERROR, shorten(problem)) if problem else (HEARD, b"")))
    if problem:
        line.end_sending()
        line.close()
    else:
        lines[index] = line
    return problem


def _call(host: str, port: int, count: int, index: int, timeout: float) -> Line:
    """The connection to process 0."""
    _resolve(host, port)
    address = f"{host}:{port}"
    greeting = json.dumps({"process_id": index, "num_processes": count}).encode()
    waiting, reason = _Waiting(timeout), "nobody answers"
    while not waiting.is_over:
        waiting.say_once(f"process {index} waits for process 0 at {address}: {reason}")
        line = None
        try:
            connection = socket.create_connection((host, port), timeout=max(0.1, waiting.left))
            line = Line(connection)
            line.send(HELLO, greeting)
            kind, content = line.receive()
        except (OSError, EOFError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "it hangs up"
            if line is not None:
                line.close()
            time.sleep(_PAUSE)
            continue
        return _await_start(line, kind, content, index, waiting)
    raise InputError(
        f"--coordinator_address={address}: process 0 was not found there within {timeout:g} s "
        f"({reason}); start it, or wait longer with --connect_timeout"
    )


def _await_start(line: Line, kind: bytes, content: bytes, index: int, waiting: _Waiting) -> Line:
    """After process 0 answered, waits until it has found all; process 0 decides when to give up."""
    try:
        while kind == HEARD:
            line.limit(_SPEAK_AFTER if not waiting.has_spoken else None)
            try:
                kind, content = line.receive()
            except TimeoutError:
                waiting.say_once(f"process {index} waits, with process 0, for the others")
    except (OSError, EOFError) as error:
        raise ProcessError(gone(0)) from error
    if kind == ERROR:
        raise ProcessError(content.decode(errors="replace"))
    if kind != START:
        raise ProcessError("process 0 says what no version of this program says at the start")
    line.limit(None)
    return line


class _Waiting:
    """A time limit, and one sentence when waiting becomes long."""

    def __init__(self, timeout: float):
        self._start = time.monotonic()
        self._timeout = timeout
        self.has_spoken = False

    @property
    def left(self) -> float:
        """Seconds."""
        return self._start + self._timeout - time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self.left <= 0

    def say_once(self, text: str) -> None:
        """Tells the user what it waits for, but not at the first moment."""
        if not self.has_spoken and time.monotonic() - self._start >= _SPEAK_AFTER:
            self.has_spoken = True
            _say(text)


def _name(missing: list[int]) -> str:
    return f"process{'es' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
