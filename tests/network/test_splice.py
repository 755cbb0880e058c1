"""Two connections joined by the kernel: all passes in order, ends too; idle and lost ones end."""

import errno
import fcntl
import os
import socket as plain
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from storjfs.network import splice as splicing
from storjfs.network.splice import Idle, splice

PATIENCE = 20.0


async def pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Two ends of a TCP connection."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        one = await trio.open_tcp_stream(*listener.socket.getsockname()[:2])
        return one, await listener.accept()


@asynccontextmanager
async def joined(
    idle: float = 60.0, linger: float = 60.0, step: int = 1 << 20
) -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream, list[int], list[Exception]]]:
    """The outer ends of two joined connections, the bytes that passed, and how it ended."""
    a, one = await pair()
    b, other = await pair()
    passed, ended = [0, 0], list[Exception]()

    async def count(which: int, size: int) -> None:
        assert size <= step
        passed[which] += size

    async def run() -> None:
        try:
            await splice(
                one,
                other,
                idle=idle,
                linger=linger,
                from_one=lambda size: count(0, size),
                from_other=lambda size: count(1, size),
                step=lambda: step,
            )
        except Idle as error:
            ended.append(error)
        finally:
            one.socket.close()
            other.socket.close()

    async with a, b, trio.open_nursery() as nursery:
        nursery.start_soon(run)
        with trio.fail_after(PATIENCE):
            yield a, b, passed, ended
        nursery.cancel_scope.cancel()


async def receive_all(stream: trio.SocketStream) -> bytes:
    return b"".join([data async for data in stream])


@pytest.mark.parametrize("step", [1000, 64 << 10, 1 << 20])
async def test_all_passes_both_ways_at_once_and_in_order(step: int) -> None:
    there, back = os.urandom(5 << 20), os.urandom(3 << 20)
    found: dict[str, bytes] = {}
    async with joined(step=step) as (a, b, passed, _), trio.open_nursery() as nursery:

        async def send(stream: trio.SocketStream, data: bytes) -> None:
            await stream.send_all(data)
            await stream.send_eof()

        async def receive(name: str, stream: trio.SocketStream) -> None:
            found[name] = await receive_all(stream)

        nursery.start_soon(send, a, there)
        nursery.start_soon(send, b, back)
        nursery.start_soon(receive, "b", b)
        nursery.start_soon(receive, "a", a)
    assert found == {"b": there, "a": back}
    assert passed == [len(there), len(back)]


async def test_who_has_ended_is_still_answered() -> None:
    async with joined() as (a, b, _, _):
        await a.send_all(b"question")
        await a.send_eof()
        assert await receive_all(b) == b"question"
        await b.send_all(b"answer")
        await b.send_eof()
        assert await receive_all(a) == b"answer"


async def test_one_that_is_lost_takes_the_other_with_it() -> None:
    async with joined() as (a, b, _, ended):
        a.setsockopt(plain.SOL_SOCKET, plain.SO_LINGER, struct.pack("ii", 1, 0))
        await a.aclose()
        assert await receive_all(b) == b""
        assert not ended


async def test_where_there_are_no_files_left_both_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(flags: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with joined() as (a, b, _, ended):
        monkeypatch.setattr(os, "pipe2", none_left)
        assert await receive_all(a) == await receive_all(b) == b""
        assert not ended


async def test_so_many_pipes_are_large_and_none_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a relay would use up what the kernel lets a user have of them."""
    monkeypatch.setattr(splicing, "LARGE", 3)
    async with joined() as (a, b, _, _), joined() as (c, d, _, _):
        for one, other in ((a, b), (c, d)):
            await one.send_all(b"there")
            assert await other.receive_some() == b"there"
        sizes = [fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) for pipe in splicing._large]
        assert sizes == [splicing.PIPE] * 3
    assert not splicing._large


async def test_nothing_for_too_long_ends_both() -> None:
    async with joined(idle=0.1) as (a, b, _, ended):
        assert await receive_all(a) == await receive_all(b) == b""
        assert len(ended) == 1


async def test_half_a_connection_ends_sooner() -> None:
    async with joined(linger=0.1) as (a, b, _, ended):
        await a.send_eof()
        assert await receive_all(b) == b""
        assert await receive_all(a) == b""
        assert len(ended) == 1


async def test_who_does_not_read_holds_up_who_sends_and_nothing_else() -> None:
    """The kernel's buffers are all that fills."""
    async with joined() as (a, b, passed, _):
        with trio.move_on_after(0.5) as scope:
            while True:
                await a.send_all(bytes(1 << 20))
        assert scope.cancelled_caught
        assert passed[0] < 64 << 20
        await b.send_all(b"other way")
        assert await a.receive_some() == b"other way"
