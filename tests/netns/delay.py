"""The delay of one line, without netem: hands every frame of each interface to the other one, later.

Run as `python delay.py INTERFACE INTERFACE SECONDS` in the namespace of both; says "ready" once it does so.
"""

import contextlib
import selectors
import socket
import sys
import time
from collections import deque

# Of <linux/if_packet.h>.
SOL_PACKET = 263
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
ETH_P_ALL = 3

LARGEST = 10 + 18 + (64 << 10)
"""Header of the kernel's offloads, of Ethernet, and a packet before it is cut into segments."""
BUFFER = 8 << 20
WAITING = 16 << 20
"""Bytes that are under way in one direction at most; what comes beyond is lost, as in a router."""


class Way:
    """One direction: what came, and when it is due."""

    def __init__(self, source: socket.socket, target: socket.socket, delay: float) -> None:
        self._source = source
        self._target = target
        self._delay = delay
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._size = 0

    def take(self) -> None:
        """All that is there."""
        with contextlib.suppress(BlockingIOError):
            while True:
                frame = self._source.recv(LARGEST)
                if self._size + len(frame) <= WAITING:
                    self._waiting.append((time.monotonic() + self._delay, frame))
                    self._size += len(frame)

    def give(self) -> float | None:
        """All that is due; seconds until more is, or None without more."""
        while self._waiting:
            due, frame = self._waiting[0]
            if (left := due - time.monotonic()) > 0:
                return left
            # A line that is down, or whose queue is full, loses it.
            with contextlib.suppress(OSError):
                self._target.send(frame)
            self._waiting.popleft()
            self._size -= len(frame)
        return None


def tap(interface: str) -> socket.socket:
    """Every frame that arrives there, with what the network card would still have had to do to it."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    made.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    made.setsockopt(socket.SOL_SOCKET, 33, BUFFER)  # SO_RCVBUFFORCE
    made.setsockopt(socket.SOL_SOCKET, 32, BUFFER)  # SO_SNDBUFFORCE
    made.bind((interface, ETH_P_ALL))
    made.setblocking(False)
    return made


def main() -> None:
    one, other, delay = tap(sys.argv[1]), tap(sys.argv[2]), float(sys.argv[3])
    ways = [Way(one, other, delay), Way(other, one, delay)]
    selector = selectors.DefaultSelector()
    selector.register(one, selectors.EVENT_READ, ways[0])
    selector.register(other, selectors.EVENT_READ, ways[1])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        waits = [left for way in ways if (left := way.give()) is not None]
        for key, _ in selector.select(min(waits, default=None)):
            key.data.take()


if __name__ == "__main__":
    main()
