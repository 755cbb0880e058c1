"""A TCP proxy in front of a farmer: the line that it stands behind, which can become slow or dead."""

import contextlib
import os
import socket
import threading
import time
from enum import Enum
from typing import Final

_GULP: Final = 256 << 10
_SIP: Final = 4 << 10


class Line(Enum):
    """What the line is like."""

    SOUND = "sound"
    SLOW = "slow"
    """`rate` bytes per second each way, all connections together."""
    DEAD = "dead"
    """Connections are accepted, and nothing passes."""


class Proxy:
    """Listens on a free port of the loopback and hands on to `target`; the kernel copies (splice)."""

    def __init__(self, target: tuple[str, int], rate: float) -> None:
        self._target = target
        self._rate = rate
        self._line = Line.SOUND
        self._changed = threading.Condition()
        self._free_at = [0.0, 0.0]
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def become(self, line: Line) -> None:
        """From now on, also for connections that are there."""
        with self._changed:
            self._line = line
            self._free_at = [0.0, 0.0]
            self._changed.notify_all()

    def close(self) -> None:
        """Cut everything."""
        self._listener.close()
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self.become(Line.SOUND)

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(here,), daemon=True).start()

    def _connect(self, here: socket.socket) -> None:
        try:
            there = socket.create_connection(self._target)
        except OSError:
            here.close()
            return
        ends = (here, there)
        self._open.update(ends)
        ways = [
            threading.Thread(target=self._carry, args=(here, there, 0), daemon=True),
            threading.Thread(target=self._carry, args=(there, here, 1), daemon=True),
        ]
        for one in ways:
            one.start()
        for one in ways:
            one.join()
        self._open.difference_update(ends)
        for end in ends:
            end.close()

    def _carry(self, source: socket.socket, sink: socket.socket, way: int) -> None:
        out, into = os.pipe()
        try:
            while count := os.splice(source.fileno(), into, _SIP if self._line is Line.SLOW else _GULP):
                self._wait(count, way)
                while count:
                    count -= os.splice(out, sink.fileno(), count)
        except OSError:
            pass
        finally:
            os.close(out)
            os.close(into)
            for one in (source, sink):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _wait(self, count: int, way: int) -> None:
        """Until so many bytes may pass."""
        with self._changed:
            self._changed.wait_for(lambda: self._line is not Line.DEAD)
            if self._line is not Line.SLOW:
                return
            now = time.monotonic()
            self._free_at[way] = max(self._free_at[way], now) + count / self._rate
            until = self._free_at[way]
            while self._line is Line.SLOW and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            self._changed.wait_for(lambda: self._line is not Line.DEAD)
