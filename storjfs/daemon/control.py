"""The control socket: how commands talk to a running mount.

A Unix stream socket, mode 0600, in the runtime directory. One request per connection, as a line of JSON with
a member `do`; then lines with `progress` until the last one with `result` or `error`. The peer's user id is
checked as well: the directory could be a shared one. Format: docs/reference/control-socket.md.
"""

import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from storjfs.store import damage_in

from .exit_codes import exit_code_of

log = logging.getLogger(__name__)

MAX_REQUEST = 64 * 1024
# Connections beyond these are closed at once, and silent ones after a while: descriptors are for the data.
MOST_CONNECTIONS = 64
REQUEST_PATIENCE = 10.0

LONG = frozenset({"fsck", "scrub", "gc", "still"})
"""Requests that end at once with whoever asked; the next one goes on with what they have done."""

Tell = Callable[[Mapping[str, Any]], Awaitable[None]]
Action = Callable[[Mapping[str, Any], Tell], Awaitable[Any]]


class ControlServer:
    """Answers requests with the given actions, by name."""

    def __init__(self, path: Path, actions: Mapping[str, Action]) -> None:
        self._path = path
        self._actions = actions
        self._connections = 0
        self._answering = 0
        self._idle = trio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Return when no request is being answered."""
        while self._answering:
            await self._idle.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled; the socket file is gone afterwards.

        A file left by a crash is replaced: the caller owns the volume's lock, so nobody else listens.
        """
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            self._path.unlink(missing_ok=True)
            mask = os.umask(0o177)
            try:
                await listener.bind(str(self._path))
            finally:
                os.umask(mask)
            listener.listen(16)
            try:
                task_status.started()
                await trio.serve_listeners(self._serve, [trio.SocketListener(listener)])
            finally:
                # On a disk that turned read-only it stays, as after a crash.
                with contextlib.suppress(OSError):
                    self._path.unlink(missing_ok=True)

    async def _serve(self, stream: trio.SocketStream) -> None:
        """One connection: one request. A client that goes away ends its own request only."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with stream:
                if self._connections >= MOST_CONNECTIONS or not _trusted(stream):
                    return
                self._connections += 1
                try:
                    await self._converse(stream)
                finally:
                    self._connections -= 1

    async def _converse(self, stream: trio.SocketStream) -> None:
        request = None
        with trio.move_on_after(REQUEST_PATIENCE):
            request = await _read_request(stream)
        if request is None:
            return
        if not self._answering:
            self._idle = trio.Event()
        self._answering += 1
        try:
            await self._answer(stream, request)
        finally:
            self._answering -= 1
            if not self._answering:
                self._idle.set()

    async def _answer(self, stream: trio.SocketStream, request: Mapping[str, Any]) -> None:
        async def tell(progress: Mapping[str, Any]) -> None:
            await _send(stream, {"progress": progress})

        action = self._actions.get(str(request.get("do")))
        if action is None:
            await _send(
                stream,
                {"error": {"message": f"unknown request {request.get('do')!r}", "hint": "", "exit_code": 2}},
            )
            return
        try:
            if request["do"] in LONG:
                result = await _while_wanted(stream, action, request, tell)
            else:
                result = await action(request, tell)
        except Exception as error:
            if _is_gone(error):
                return
            if not hasattr(error, "hint"):
                log.exception("control request %s failed", request.get("do"))
            await _send(stream, {"error": describe(error)})
        else:
            await _send(stream, {"result": result})


async def _while_wanted(
    stream: trio.SocketStream, action: Action, request: Mapping[str, Any], tell: Tell
) -> Any:
    """The action's result; it is cancelled, and BrokenResourceError raised, once the client goes away."""
    outcome: list[Any] = []
    failure: list[Exception] = []
    async with trio.open_nursery() as nursery:

        async def work() -> None:
            try:
                outcome.append(await action(request, tell))
            except Exception as error:
                failure.append(error)
            nursery.cancel_scope.cancel()

        nursery.start_soon(work)
        with contextlib.suppress(trio.BrokenResourceError):
            while await stream.receive_some(4096):
                pass  # nothing more is expected
        nursery.cancel_scope.cancel()
    if failure:
        raise failure[0]
    if not outcome:
        raise trio.BrokenResourceError("the client went away")
    return outcome[0]


def describe(error: BaseException) -> dict[str, Any]:
    """An error as it travels to a command: message, hint, exit code."""
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        return describe(error.exceptions[0])
    error = damage_in(error) or error
    said = str(error) or type(error).__name__
    if not hasattr(error, "hint"):
        said = f"unexpected: {type(error).__name__}: {said}"
    return {"message": said, "hint": getattr(error, "hint", ""), "exit_code": exit_code_of(error)}


def _is_gone(error: BaseException) -> bool:
    """Whether the client went away meanwhile, be it inside a nursery."""
    if isinstance(error, BaseExceptionGroup):
        return any(_is_gone(part) for part in error.exceptions)
    return isinstance(error, trio.BrokenResourceError | trio.ClosedResourceError)


def _trusted(stream: trio.SocketStream) -> bool:
    """Whether the peer is our user or root."""
    raw = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", raw)
    return uid in (0, os.geteuid())


async def _read_request(stream: trio.SocketStream) -> Mapping[str, Any] | None:
    received = bytearray()
    while b"\n" not in received:
        part = await stream.receive_some(4096)
        if not part or len(received) > MAX_REQUEST:
            return None
        received += part
    try:
        request = json.loads(bytes(received).split(b"\n", 1)[0])
    except (ValueError, RecursionError):
        return None
    return request if isinstance(request, dict) else None


async def _send(stream: trio.SocketStream, message: Mapping[str, Any]) -> None:
    await stream.send_all(json.dumps(message, separators=(",", ":")).encode() + b"\n")
