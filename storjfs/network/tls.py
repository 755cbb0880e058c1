"""TLS over any trio stream by a MemoryBIO loop: about twice the rate of trio.SSLStream at half its CPU time.

Measured by scripts/bench/transport.py. It decrypts straight into the caller's buffer, and takes as many
records per wake-up as have arrived.
"""

import contextlib
import os
import ssl
from typing import Any, Final

import trio

from storjfs.network.guests import Guest
from storjfs.protocol.ids import NodeId
from storjfs.protocol.terms import Address

_RECEIVE: Final = 256 << 10
_RECEIVE_SOME: Final = 64 << 10
_SEND: Final = 256 << 10
_CLOSE_SECONDS: Final = 2.0
_UNASKED: Final = 16 << 10
"""Bytes that TLS itself wants to answer with: each request for new keys makes some."""

_scratch: Final = trio.lowlevel.RunVar[memoryview]("where ciphertext is received")
"""One for all streams of a loop: 256 KiB for each would be most of what an idle connection takes."""

NOBODY: Final = NodeId(b"")


class TlsStream(trio.abc.Stream):
    """One task may send while another receives. `peer` is the other side's node id, once it is known.

    After a cancelled send the stream is broken and can only be closed; a cancelled receive loses nothing.
    """

    def __init__(
        self, transport: trio.abc.Stream, context: ssl.SSLContext, *, server_side: bool, head: bytes = b""
    ) -> None:
        """`head`: what has been received from `transport` already."""
        self.peer = NOBODY
        self.address: Address | None = None
        """Where it was dialled."""
        self.through_relay = False
        """Whether the address below is that of a relay and not the other side's."""
        self.guest: Guest | None = None
        """What the peer may take, all its connections together; set by who lets it in."""
        self.transport = transport
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._incoming.write(head)
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._sending = self._receiving = self._closed = self._broken = False
        self._in_handshake = True

    @property
    def tls(self) -> ssl.SSLObject:
        """For `identity.peer_of`."""
        return self._tls

    async def do_handshake(self) -> None:
        """Raises trio.BrokenResourceError where the other side does not speak this TLS or closes."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLError as error:
                await self._flush()  # the alert says to the other side why
                raise trio.BrokenResourceError(f"TLS handshake: {error}") from error
            else:
                self._in_handshake = False
                return await self._flush()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As trio.abc.SendStream; `data` is not copied before encryption."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending")
        self._check()
        self._sending = True
        try:
            view = memoryview(data)
            for start in range(0, len(view), _SEND):
                self._tls.write(view[start : start + _SEND])
                await self._flush()
            if not view:
                await trio.lowlevel.checkpoint()
        except ssl.SSLError as error:
            self._broken = True
            raise trio.BrokenResourceError(f"TLS: {error}") from error
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """As trio.abc.SendStream."""
        await self.transport.wait_send_all_might_not_block()

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        """Decrypt what has come into `buffer` (not empty): at least one byte, 0 at the end of the stream."""
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving")
        self._check()
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            count = self._decrypt(memoryview(buffer))
            if count is not None:
                # Not one that can be cancelled: what was decrypted exists nowhere else.
                await trio.lowlevel.cancel_shielded_checkpoint()
            while count is None:
                await self._fill()
                count = self._decrypt(memoryview(buffer))
            return count
        except ssl.SSLError as error:
            self._broken = True
            raise trio.BrokenResourceError(f"TLS: {error}") from error
        finally:
            self._receiving = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As trio.abc.ReceiveStream."""
        if max_bytes is None:
            max_bytes = _RECEIVE_SOME
        elif max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        buffer = bytearray(max_bytes)
        count = await self.receive_into(buffer)
        return bytes(memoryview(buffer)[:count])

    def detach(self) -> tuple[trio.abc.Stream, bytes]:
        """End TLS without a word: the transport, and what has come on it behind the last record.

        Both sides must know where TLS ends, and nobody may have asked for more than came before: what follows
        would be taken for a record. Closing this stream still closes the transport.
        """
        self._check()
        self._broken = True
        return self.transport, self._incoming.read()

    async def aclose(self) -> None:
        """Tell the other side, then close; does not wait for it. When cancelled it closes all the same."""
        if self._closed:
            return await trio.lowlevel.checkpoint()
        self._closed = True
        try:
            if not self._broken and not self._sending:
                with trio.move_on_after(_CLOSE_SECONDS):
                    await self._say_goodbye()
        finally:
            await self.transport.aclose()

    async def _say_goodbye(self) -> None:
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()  # it wants the other side's goodbye, for which nobody waits
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._flush()

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the stream was closed here")
        if self._broken:
            raise trio.BrokenResourceError("the stream broke before")

    def _decrypt(self, view: memoryview) -> int | None:
        """Bytes put into `view`, 0 at the end of the stream, None if more must arrive first."""
        done = 0
        try:
            while done < len(view):
                read: Any = self._tls.read  # typed as if it returned bytes only
                count: int = read(len(view) - done, view[done:])
                if not count:
                    break
                done += count
        except ssl.SSLWantReadError:
            return done or None
        except ssl.SSLZeroReturnError:
            return done
        except ssl.SSLError:
            if not done:
                raise  # otherwise the next call meets it again
        return done

    async def _fill(self) -> None:
        """Wait for ciphertext."""
        if isinstance(self.transport, trio.SocketStream):
            await self._receive_from(self.transport.socket)
        else:
            self._take(await self.transport.receive_some(_RECEIVE))

    async def _receive_from(self, socket: trio.socket.SocketType) -> None:
        """As `SocketStream.receive_some`, into memory that is nobody's while others run."""
        waited = False
        try:
            while True:
                scratch = _shared_scratch()
                try:
                    count = os.readv(socket.fileno(), [scratch])
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(socket)
                    waited = True
                else:
                    self._take(scratch[:count])
                    break
        except OSError as error:
            raise trio.BrokenResourceError(f"connection lost: {error}") from error
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _take(self, data: bytes | bytearray | memoryview) -> None:
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        if self._outgoing.pending > _UNASKED and not self._in_handshake:
            self._broken = True
            raise trio.BrokenResourceError("the other side asks for new keys again and again")

    async def _flush(self) -> None:
        """Send the ciphertext that has gathered. When this is cancelled, part of a record may be gone."""
        data = self._outgoing.read()
        if data:
            try:
                await self.transport.send_all(data)
            except BaseException:
                self._broken = True
                raise


def _shared_scratch() -> memoryview:
    try:
        return _scratch.get()
    except LookupError:
        scratch = memoryview(bytearray(_RECEIVE))
        _scratch.set(scratch)
        return scratch
