"""The other end of the control socket, for commands: plain blocking sockets, nothing heavy imported."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .exit_codes import ExitCode, ReportedError


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
            for message in _lines(connection):
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


def _lines(connection: socket.socket) -> Iterator[dict[str, Any]]:
    with connection.makefile("rb") as lines:
        for line in lines:
            yield json.loads(line)
