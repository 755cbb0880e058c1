"""NAT-PMP (RFC 6886): asks a router for a port with two datagrams. Routers that speak PCP answer it too."""

import struct
from pathlib import Path
from typing import Final

import trio

PORT: Final = 5351
FIRST_WAIT: Final = 0.25
"""Seconds until a request is repeated; doubled each time."""
ATTEMPTS: Final = 4
_TCP: Final = 2
_RESULTS: Final = {
    1: "it speaks another version",
    2: "its settings do not allow it",
    3: "its own line is down",
    4: "it has no ports left",
    5: "it does not know the request",
}


class RouterRefused(Exception):
    """The router answers and does not do it; the text says why."""


def default_gateway(routes: Path = Path("/proc/net/route")) -> str:
    """The IPv4 address of the router that leads elsewhere, empty without one."""
    try:
        lines = routes.read_text().splitlines()[1:]
    except OSError:
        return ""
    for line in lines:
        _, destination, gateway, flags, *_ = line.split()
        if destination == "00000000" and int(flags, 16) & 2:  # a gateway
            return ".".join(map(str, struct.pack("<I", int(gateway, 16))))
    return ""


async def outside_address(gateway: str) -> str | None:
    """The address that the router has outside; None where nothing answers. Raises RouterRefused, OSError."""
    answer = await _exchange(gateway, bytes(2), 12)
    return None if answer is None else ".".join(map(str, answer[8:12]))


async def map_port(gateway: str, inside: int, outside: int, seconds: int) -> tuple[int, int] | None:
    """Have TCP port `outside`, or another one, forwarded to port `inside` of this machine for so long.

    The port that it became and the seconds that it holds; None where nothing answers. With 0 for both
    `outside` and `seconds` the forwarding is ended. Raises RouterRefused, OSError.
    """
    request = struct.pack(">BBHHHI", 0, _TCP, 0, inside, outside, seconds)
    answer = await _exchange(gateway, request, 16)
    if answer is None:
        return None
    port, lifetime = struct.unpack(">HI", answer[10:16])
    return port, lifetime


async def _exchange(gateway: str, request: bytes, length: int) -> bytes | None:
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as socket:
        await socket.connect((gateway, PORT))  # so that nobody else's datagrams come
        wait = FIRST_WAIT
        for _ in range(ATTEMPTS):
            try:
                await socket.send(request)
                with trio.move_on_after(wait):
                    while True:
                        answer = await socket.recv(64)
                        if len(answer) >= 4 and answer[:2] == bytes((0, 128 + request[1])):
                            return _checked(answer, length)
            except ConnectionRefusedError:
                return None
            wait *= 2
    return None


def _checked(answer: bytes, length: int) -> bytes:
    result = int.from_bytes(answer[2:4], "big")
    if result:
        raise RouterRefused(_RESULTS.get(result, f"error {result}"))
    if len(answer) < length:
        raise RouterRefused("it sends half an answer")
    return answer
