"""What has taken a farmer's place and identity, and means no good.

Run as `python -m tests.e2e.hostile_farmer FOLDER PORT FIRST`: as the farmer in FOLDER it treats
each connection in another way, beginning with number FIRST. It prints the name of each way that it goes.
"""

import itertools
import os
import random
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio

from storjfs.errors import StorjfsError
from storjfs.farmer.identity import load_identity
from storjfs.network.frames import FrameStream
from storjfs.network.identity import Identity
from storjfs.network.tls import TlsStream
from storjfs.protocol.failures import ErrorCode
from storjfs.protocol.framing import Frame, encode_answer, encode_failure, encode_request, open_request
from storjfs.protocol.messages import Get, GetAnswer, GetOffer, HelloAnswer, Role

CLAIM = b"\xff" * 4
"""The length of a frame that nobody should believe."""
MUCH = bytes(1 << 20)

Way = Callable[[FrameStream], Awaitable[None]]

# --- before anything is known ---


async def garbage_under_tls(transport: trio.SocketStream) -> None:
    await transport.send_all(random.Random(1).randbytes(5000))


async def silence_under_tls(transport: trio.SocketStream) -> None:
    await trio.lowlevel.checkpoint()


# --- in place of an answer to the hello ---


async def no_hello(frames: FrameStream) -> None:
    await frames.receive_frame()


async def half_a_hello(frames: FrameStream) -> None:
    await frames.receive_frame()
    await frames.send(hello(0)[:9])


async def oversize_hello(frames: FrameStream) -> None:
    await frames.receive_frame()
    await frames.send(CLAIM + MUCH)


async def garbage_hello(frames: FrameStream) -> None:
    await frames.receive_frame()
    await frames.send(random.Random(2).randbytes(5000))


# --- after it, to each request ---


async def nothing(frames: FrameStream, frame: Frame) -> None:
    await trio.lowlevel.checkpoint()


async def garbage(frames: FrameStream, frame: Frame) -> None:
    await frames.send(random.Random(3).randbytes(5000))


async def oversize(frames: FrameStream, frame: Frame) -> None:
    await frames.send(CLAIM + MUCH)


async def half_an_answer(frames: FrameStream, frame: Frame) -> None:
    await frames.send(hello(frame.id)[:9])


async def replay(frames: FrameStream, frame: Frame) -> None:
    """What was the answer to something else."""
    await frames.send(hello(frame.id))


async def answer_to_nothing(frames: FrameStream, frame: Frame) -> None:
    await frames.send(hello(frame.id + 1000))


async def refusal(frames: FrameStream, frame: Frame) -> None:
    await frames.send(encode_failure(frame.id, ErrorCode.UNKNOWN_SHARD, "\x1b[2Jno\n" * 50))


async def a_flood(frames: FrameStream, frame: Frame) -> None:
    """Requests of its own, many, before any answer."""
    for start in range(0, 20_000, 1000):
        await frames.send(b"".join(encode_request(start + one, GetOffer()) for one in range(1000)))


async def wrong_bytes(frames: FrameStream, frame: Frame) -> None:
    request = open_request(frame)
    if isinstance(request, Get):
        await frames.send(encode_answer(frame.id, GetAnswer(request.length)) + os.urandom(request.length))


async def half_a_shard(frames: FrameStream, frame: Frame) -> None:
    request = open_request(frame)
    if isinstance(request, Get):
        await frames.send(encode_answer(frame.id, GetAnswer(request.length)) + bytes(request.length // 2))


UNDER_TLS = [garbage_under_tls, silence_under_tls]
HELLOS: list[Way] = [no_hello, half_a_hello, oversize_hello, garbage_hello]
ANSWERS = [
    *(nothing, garbage, oversize, half_an_answer, replay, answer_to_nothing, refusal, a_flood),
    *(wrong_bytes, half_a_shard),
]
NAMES = {
    "another_identity",
    *(one.__name__ for one in UNDER_TLS),
    *(one.__name__ for one in HELLOS),
    *(one.__name__ for one in ANSWERS),
}


def hello(number: int) -> bytes:
    """The answer to a hello."""
    return encode_answer(number, HelloAnswer(1, Role.FARMER))


async def after_the_hello(way: Callable[[FrameStream, Frame], Awaitable[None]], frames: FrameStream) -> None:
    """Greet as one should, and then treat each request in this way."""
    frame = await frames.receive_frame()
    if frame is not None:
        await frames.send(hello(frame.id))
    while (frame := await frames.receive_frame()) is not None:
        tell(way.__name__)
        await way(frames, frame)


async def speak(identity: Identity, way: Way, name: str, transport: trio.SocketStream) -> None:
    """TLS as `identity`, and then this way."""
    stream = TlsStream(transport, identity.server, server_side=True)
    await stream.do_handshake()
    if name:
        tell(name)
    await way(FrameStream(stream))


def tell(name: str) -> None:
    """It is about to be done."""
    sys.stdout.write(f"{name}\n")
    sys.stdout.flush()


async def main() -> None:
    true = load_identity(Path(sys.argv[1]))
    other = Identity(os.urandom(32))
    ways: list[Callable[[trio.SocketStream], Awaitable[None]]] = [
        partial(speak, true, partial(after_the_hello, way), "") for way in ANSWERS
    ]
    ways += [partial(speak, true, way, way.__name__) for way in HELLOS]
    ways += UNDER_TLS
    ways.append(partial(speak, other, no_hello, "another_identity"))
    first = int(sys.argv[3])
    turn = itertools.cycle(ways[first:] + ways[:first])

    async def treat(transport: trio.SocketStream) -> None:
        way = next(turn)
        try:
            if way in UNDER_TLS:
                tell(way.__name__)
            await way(transport)
            # Not closed: how long that is borne is for the other side to say.
            while await transport.receive_some():
                pass
        except (StorjfsError, trio.BrokenResourceError, trio.ClosedResourceError, ValueError):
            if isinstance(way, partial) and way.args[0] is other:
                tell("another_identity")

    await trio.serve_tcp(treat, int(sys.argv[2]), host="127.0.0.1")


if __name__ == "__main__":
    trio.run(main)
