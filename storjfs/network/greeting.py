"""The hello, by the side that dialled."""

import trio

from storjfs.network.failures import PeerUnreachable
from storjfs.network.frames import FrameStream
from storjfs.protocol.failures import ProtocolViolation
from storjfs.protocol.framing import MAX_HELLO, encode_request, open_answer
from storjfs.protocol.greeting import check_version
from storjfs.protocol.messages import Hello, HelloAnswer


async def greet(frames: FrameStream, hello: Hello, seconds: float, behind: bytes = b"") -> HelloAnswer:
    """Send `hello`, and `behind` with it; the answer to the hello.

    Raises PeerUnreachable where none comes within so many seconds, RequestFailed, ProtocolViolation.
    """
    try:
        with trio.move_on_after(seconds):
            await frames.send(encode_request(0, hello) + behind)
            frame = await frames.receive_frame(MAX_HELLO)
            if frame is None:
                raise PeerUnreachable("the other side closed the connection at once")
            if frame.id != 0:
                raise ProtocolViolation("an answer to another request than the hello")
            answer = open_answer(frame, hello)
            check_version(hello, answer)
            return answer
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise PeerUnreachable(f"the connection broke: {error}") from error
    raise PeerUnreachable("no answer to the hello")
