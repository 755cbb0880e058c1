"""Asking a router for a port by NAT-PMP: what it answers, and what it does not."""

import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from storjfs.network import natpmp
from storjfs.network.natpmp import RouterRefused, default_gateway, map_port, outside_address

HERE = "127.0.0.1"


@asynccontextmanager
async def router(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[bytes], list[bytes]]
) -> AsyncIterator[list[bytes]]:
    """A router that answers each request with these datagrams; what it was asked."""
    asked: list[bytes] = []
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as socket:
        await socket.bind((HERE, 0))
        monkeypatch.setattr(natpmp, "PORT", socket.getsockname()[1])

        async def serve() -> None:
            while True:
                request, where = await socket.recvfrom(64)
                asked.append(request)
                for one in answer(request):
                    await socket.sendto(one, where)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield asked
            nursery.cancel_scope.cancel()


def yes(request: bytes) -> list[bytes]:
    inside, outside, seconds = struct.unpack(">HHI", request[4:12])
    return [struct.pack(">BBHIHHI", 0, 130, 0, 1, inside, outside + 1, seconds)]


async def test_the_port_and_how_long_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    async with router(monkeypatch, yes) as asked:
        assert await map_port(HERE, 7420, 7420, 3600) == (7421, 3600)
    assert asked == [bytes.fromhex("0002 0000 1cfc 1cfc 00000e10")]


async def test_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = bytes.fromhex("0080 0000 00000001 c6336407")
    async with router(monkeypatch, lambda request: [answer]):
        assert await outside_address(HERE) == "198.51.100.7"


async def test_what_is_no_answer_is_not_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async with router(
        monkeypatch, lambda request: [b"", b"\0", b"\0\x81\0\0", b"\x02\x82\0\0", *yes(request)]
    ):
        assert await map_port(HERE, 1, 1, 1) == (2, 1)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("0082 0002 00000001", "settings do not allow"),
        ("0082 0063 00000001", "error 99"),
        ("0082 0000 00000001", "half an answer"),
    ],
)
async def test_it_says_why_not(monkeypatch: pytest.MonkeyPatch, answer: str, said: str) -> None:
    async with router(monkeypatch, lambda request: [bytes.fromhex(answer)]):
        with pytest.raises(RouterRefused, match=said):
            await map_port(HERE, 1, 1, 1)


async def test_it_is_asked_again_where_a_datagram_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(natpmp, "FIRST_WAIT", 0.01)
    async with router(monkeypatch, lambda request: []) as asked:
        assert await map_port(HERE, 1, 1, 1) is None
        assert len(asked) == natpmp.ATTEMPTS


def test_the_router_is_where_everything_else_goes(tmp_path: Path) -> None:
    routes = tmp_path / "route"
    routes.write_text(
        "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
        "eth0 0001A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n"
        "eth0 00000000 0101A8C0 0003 0 0 0 00000000 0 0 0\n"
    )
    assert default_gateway(routes) == "192.168.1.1"
    routes.write_text("Iface\n")
    assert default_gateway(routes) == default_gateway(tmp_path / "none") == ""
