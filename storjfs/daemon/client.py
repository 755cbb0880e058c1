"""The other end of the control socket, for commands: plain blocking sockets, nothing heavy imported."""

import contextlib
import json
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from .exit_codes import ExitCode, ReportedError

TICK: Final = 0.25
"""Seconds after which a wait begins anew: a Ctrl-C that comes right before it does not end it."""


class NotMounted(ReportedError):
    """No mount process answers for this volume."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, ExitCode.NOT_FOUND)


def request(
    path: Path,
    do: str,
    *,
    progress: Callable[[dict[str, Any]], None] | None = None,
    patience: float | None = None,
    **arguments: Any,
) -> Any:
    """Ask the mount process, or the farmer, listening at `path`; returns its result.

    Raises NotMounted where nobody listens, ReportedError with what went wrong over there, and TimeoutError
    after `patience` seconds without a word.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(patience)
            connection.connect(str(path))
            connection.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
            for message in _lines(connection, patience):
                if "progress" in message:
                    if progress is not None:
                        progress(message["progress"])
                elif "error" in message:
                    error = message["error"]
                    raise ReportedError(error["message"], error["hint"], error["exit_code"])
                else:
                    return message.get("result")
    except (FileNotFoundError, ConnectionRefusedError):
        raise NotMounted("the volume is not mounted") from None
    except (ConnectionResetError, BrokenPipeError):
        pass
    raise ReportedError("the mount process ended before it had answered", "its log says why")


@contextlib.contextmanager
def kept_still(path: Path, progress: Callable[[dict[str, Any]], None] | None = None) -> Iterator[None]:
    """Inside, the mount process listening at `path` moves nothing that it has sent to the farmers; before, it
    sends what it can. Where nobody listens nothing is moved anyway. Raises ReportedError with what went wrong
    over there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        with contextlib.suppress(
            FileNotFoundError, ConnectionRefusedError, ConnectionResetError, BrokenPipeError
        ):
            connection.connect(str(path))
            connection.sendall(json.dumps({"do": "still"}).encode() + b"\n")
            for message in _lines(connection, None):
                if "error" in message:
                    error = message["error"]
                    raise ReportedError(error["message"], error["hint"], error["exit_code"])
                if message["progress"].get("still"):
                    break
                if progress is not None:
                    progress(message["progress"])
        yield


def _lines(connection: socket.socket, patience: float | None) -> Iterator[dict[str, Any]]:
    rest = b""
    while part := _word(connection, patience):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield json.loads(line)


def _word(connection: socket.socket, patience: float | None) -> bytes:
    """What comes next, empty at the end. Raises TimeoutError after `patience` seconds."""
    until = None if patience is None else time.monotonic() + patience
    readable = select.poll()
    readable.register(connection, select.POLLIN)
    while not readable.poll(TICK * 1000):
        if until is not None and time.monotonic() >= until:
            raise TimeoutError("timed out")
    return connection.recv(1 << 20)
