"""Connections between the processes of a run: each process has one to process 0.

Lanes do not communicate, so only results that the runner gathers are sent, as bytes. A process that
fails tells the others why. If a process is killed, its connections close and the others notice at
once. If a machine or a network fails, the operating system notices within half a minute.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator

from ddm.errors import ProcessError

PATIENCE = 20.0  # seconds until a computing process is ended because another one failed
_FAREWELL = 5.0  # seconds that a process waits at its end for others to read its last message
_FRAME = struct.Struct("!4scQ")  # mark of this protocol, kind, number of bytes that follow
_MARK = b"ddm1"
HELLO, HEARD, START, DATA, ERROR, BYE = b"h", b"k", b"s", b"d", b"e", b"b"  # kinds of frames
_SHORT = 2**16  # largest bytes of a frame without data


class Line:
    """One connection to another process. Several threads may send, one receives."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._sending = threading.Lock()
        _notice_silence(connection)

    def send(self, kind: bytes, content: bytes = b"") -> None:
        """Sends one frame.

        Raises:
          OSError: the other end is gone.
        """
        with self._sending:
            self._connection.sendall(_FRAME.pack(_MARK, kind, len(content)))
            self._connection.sendall(content)

    def receive(self) -> tuple[bytes, bytes]:
        """Kind and content of the next frame.

        Raises:
          OSError: the other end is gone, or sends something that is not of this protocol.
        """
        mark, kind, size = _FRAME.unpack(self._read(_FRAME.size))
        if mark != _MARK or (kind != DATA and size > _SHORT):
            raise ConnectionAbortedError("another program")
        return kind, self._read(size)

    def _read(self, size: int) -> bytes:
        found = bytearray()  # grows with the received bytes, whatever size was announced
        while len(found) < size:
            part = self._connection.recv(min(size - len(found), 2**20))
            if not part:
                raise EOFError
            found += part
        return bytes(found)

    def limit(self, seconds: float | None) -> None:
        """Sets how long `receive` waits; None: without limit."""
        self._connection.settimeout(seconds)

    def is_open(self) -> bool:
        """Whether the other end is still there, at a time when it should not send anything."""
        try:
            self._connection.settimeout(0.0)
            return bool(self._connection.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self._connection.settimeout(None)

    def end_sending(self) -> None:
        """Ends the sending: the other end reads what was sent, and then the end."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


def _notice_silence(connection: socket.socket) -> None:
    """Asks the operating system to end a connection whose other machine is silent for 30 s."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    wanted = {
        "TCP_KEEPIDLE": 10, "TCP_KEEPALIVE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4,
        "TCP_USER_TIMEOUT": 30_000,
    }  # fmt: skip
    for name, value in wanted.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Group:
    """The processes of a run, seen from one of them.

    Args:
      index: of this process.
      count: of all processes.
      lines: the connections: of process 0 to each other one, of the others to process 0.
      patience: seconds until this process is ended after another one failed, if its main thread is
        inside a long computation and has not noticed.
    """

    def __init__(
        self,
        index: int = 0,
        count: int = 1,
        lines: dict[int, Line] | None = None,
        patience: float = PATIENCE,
    ):
        self.index, self.count = index, count
        self.busy = True  # until the run is over: after that the others may end at any time
        self._lines = lines or {}
        self._patience = patience
        self._arrived: dict[int, queue.SimpleQueue[bytes | str]] = {
            peer: queue.SimpleQueue() for peer in self._lines
        }  # contents in their order, or a sentence after the last one
        self._failure = ""
        self._failing = threading.Lock()
        self._failed = threading.Event()
        self._noticed = threading.Event()  # the main thread is ending
        self._writing = threading.Lock()
        self._watchers = [
            threading.Thread(target=self._watch, args=(peer,), daemon=True) for peer in self._lines
        ]
        for thread in self._watchers:
            thread.start()

    def gather(self, content: bytes) -> list[bytes]:
        """The values of all processes, in their order; all processes call this together.

        Raises:
          ProcessError: another process failed, is gone, or has ended its part.
        """
        if self.count == 1:
            return [content]
        if self.index:
            self._send(0, content)
            return _unpack(self._take(0))
        contents = [content, *(self._take(peer) for peer in range(1, self.count))]
        packed = _pack(contents)
        for peer in self._lines:
            self._send(peer, packed)
        return contents

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """A context for writing files: in it, another process's failure does not end this one."""
        with self._writing:
            yield

    def leave(self, error: str = "") -> None:
        """Closes the connections properly.

        Args:
          error: why this process cannot continue, for the others; empty: its part is done.
        """
        self._noticed.set()
        sentence = self._failure or (error and f"process {self.index} stopped: {error}")
        last = (ERROR, shorten(sentence)) if sentence else (BYE, b"")
        for line in self._lines.values():
            with contextlib.suppress(OSError):
                line.send(*last)
            line.end_sending()
        # A connection that is closed too early loses its last message.
        until = time.monotonic() + _FAREWELL
        for thread in self._watchers:
            thread.join(max(0.0, until - time.monotonic()))
        for line in self._lines.values():
            line.close()
        self._lines = {}

    def _send(self, peer: int, content: bytes) -> None:
        try:
            if peer not in self._lines:
                raise EOFError
            self._lines[peer].send(DATA, content)
        except (OSError, EOFError) as error:
            self._failed.wait(_FAREWELL)  # its reason may not have arrived yet
            raise self._error(gone(peer)) from error

    def _take(self, peer: int) -> bytes:
        if peer not in self._lines:
            raise self._error(gone(peer))
        found = self._arrived[peer].get()
        if isinstance(found, str):
            raise self._error(found)
        return found

    def _error(self, sentence: str) -> ProcessError:
        self._noticed.set()
        return ProcessError(self._failure or sentence)

    def _watch(self, peer: int) -> None:
        """Reads what one process sends, in a thread of its own."""
        line = self._lines[peer]
        try:
            while True:
                kind, content = line.receive()
                if kind == DATA:
                    self._arrived[peer].put(content)
                elif kind == ERROR:
                    self._fail(peer, content.decode(errors="replace"))
                    break
                elif kind == BYE:
                    self._arrived[peer].put(
                        f"process {peer} has ended its part of the run, and process {self.index} "
                        "has not"
                    )
                    break
        except (OSError, EOFError):
            self._fail(peer, gone(peer))
        if self._failure:
            line.end_sending()

    def _fail(self, origin: int, sentence: str) -> None:
        """Remembers the first failure, and passes it on."""
        with self._failing:
            if self._failure:
                return
            self._failure = sentence
        for arrived in self._arrived.values():
            arrived.put(sentence)
        self._failed.set()
        for peer, line in list(self._lines.items()):
            if peer != origin:
                with contextlib.suppress(OSError):
                    line.send(ERROR, shorten(sentence))
        threading.Thread(target=self._end_soon, daemon=True).start()

    def _end_soon(self) -> None:
        """Ends a process whose main thread still computes, without any use."""
        if self._noticed.wait(self._patience):
            return
        with self._writing:
            if self.busy and not self._noticed.is_set():
                print(f"\nerror: {self._failure}", file=sys.stderr, flush=True)
                os._exit(1)


def gone(peer: int) -> str:
    """The sentence about a process that ended without a message."""
    return (
        f"process {peer} is gone: it was killed, or its machine or the network failed; start all "
        "processes again (--resume goes on from the last checkpoint)"
    )


def shorten(sentence: str) -> bytes:
    """The bytes of a sentence, cut to the limit of a frame without data."""
    return sentence.encode(errors="replace")[:_SHORT]


def _pack(contents: list[bytes]) -> bytes:
    sizes = struct.pack(f"!{len(contents) + 1}Q", len(contents), *map(len, contents))
    return b"".join([sizes, *contents])


def _unpack(packed: bytes) -> list[bytes]:
    (count,) = struct.unpack_from("!Q", packed)
    sizes = struct.unpack_from(f"!{count}Q", packed, 8)
    found, start = [], 8 * (count + 1)
    for size in sizes:
        found.append(packed[start : start + size])
        start += size
    return found
