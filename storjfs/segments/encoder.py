"""From a segment's local file to its sealed shards, in worker threads and reused memory."""

import hashlib
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import trio

from storjfs.coding.erasure import erasure_code
from storjfs.coding.geometry import PIECE, sealed_length, shard_length
from storjfs.coding.merkle import shard_root
from storjfs.coding.shards import ShardCipher

_MOST_IDLE: Final = 80 << 20
"""Bytes of buffers kept for the next segment."""


class Buffers:
    """Reused byte buffers: fresh memory costs a page fault per 4 KiB, more than encrypting into it.

    A buffer is lent with at least the asked size, its content arbitrary. What is given back is kept as long
    as somebody is `at_work`. Methods belong to the loop's thread.
    """

    def __init__(self) -> None:
        self._idle: list[bytearray] = []
        self._idle_bytes = 0
        self._workers = 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """More is needed soon, until the end of the block."""
        self._workers += 1
        try:
            yield
        finally:
            self._workers -= 1
            if not self._workers:
                self._idle.clear()
                self._idle_bytes = 0

    async def take(self, size: int) -> bytearray:
        """A buffer of at least `size` bytes, for `give_back` when done.

        A new one is made on another thread: to fill 12 MiB for the first time can take 10 ms.
        """
        fitting = [one for one in self._idle if len(one) >= size]
        if fitting:
            best = min(fitting, key=len)
            if len(best) <= 4 * size:
                self._idle = [one for one in self._idle if one is not best]
                self._idle_bytes -= len(best)
                return best
        return await trio.to_thread.run_sync(bytearray, size)

    def give_back(self, buffer: bytearray) -> None:
        """Nobody looks at it any more."""
        if self._workers and self._idle_bytes + len(buffer) <= _MOST_IDLE:
            self._idle.append(buffer)
            self._idle_bytes += len(buffer)


@dataclass(slots=True, eq=False)
class Sealed:
    """A shard ready to be sent: its sealed bytes, the Merkle root over them, its hash before the seal."""

    buffer: bytearray
    view: memoryview
    root: bytes
    checksum: bytes


class Encoder:
    """The shards of one segment, of `size` bytes, in the file behind `fd`, under the (k, n) code.

    Call `load` first; it may run beside whatever prepares the upload. `close` gives the memory back, but
    not while a `seal` is under way.
    """

    def __init__(
        self, fd: int, size: int, k: int, n: int, buffers: Buffers, threads: trio.CapacityLimiter
    ) -> None:
        self._fd = fd
        self._size = size
        self._k = k
        self._n = n
        self.length = shard_length(size, k)
        """Bytes of each unsealed shard."""
        self._buffers = buffers
        self._threads = threads
        self._data: bytearray | None = None
        self._parity: bytearray | None = None

    async def load(self, *, parity: bool) -> None:
        """Read the segment, and compute its parity if any of that is wanted. Raises OSError, EOFError."""
        self._data = await self._buffers.take(self._k * self.length)
        if parity:
            self._parity = await self._buffers.take((self._n - self._k) * self.length)
        await trio.to_thread.run_sync(self._load, limiter=self._threads)

    def _load(self) -> None:
        assert self._data is not None
        data = memoryview(self._data)[: self._k * self.length]
        at = 0
        while at < self._size:
            got = os.preadv(self._fd, [data[at : self._size]], at)
            if not got:
                raise EOFError(f"the local file ends at {at} instead of {self._size}")
            at += got
        pad = len(data) - self._size
        data[self._size :] = bytes(pad)
        if self._parity is not None:
            parity = [self._block(idx) for idx in range(self._k, self._n)]
            erasure_code(self._k, self._n).encode_into([self._block(idx) for idx in range(self._k)], parity)

    def _block(self, idx: int) -> memoryview:
        source, at = (self._data, idx) if idx < self._k else (self._parity, idx - self._k)
        assert source is not None
        return memoryview(source)[at * self.length : (at + 1) * self.length]

    async def seal(self, idx: int, key: bytes) -> Sealed:
        """Shard `idx` sealed under its key. Give its buffer back to `buffers` when it is sent."""
        out = await self._buffers.take(sealed_length(self.length))
        return await trio.to_thread.run_sync(seal_shard, self._block(idx), key, out, limiter=self._threads)

    async def checksums(self, indices: Collection[int]) -> dict[int, bytes]:
        """The hashes of these shards before their seal."""

        def hashed() -> dict[int, bytes]:
            return {idx: hashlib.sha256(self._block(idx)).digest() for idx in indices}

        return await trio.to_thread.run_sync(hashed, limiter=self._threads)

    def close(self) -> None:
        """Give the memory back."""
        for buffer in (self._data, self._parity):
            if buffer is not None:
                self._buffers.give_back(buffer)
        self._data = self._parity = None


def seal_shard(plain: memoryview, key: bytes, out: bytearray) -> Sealed:
    """Seal one whole shard into `out`; hash it before and after. Blocking."""
    checksum = hashlib.sha256(plain).digest()
    length = ShardCipher(key).seal_into(plain, out)
    view = memoryview(out)[:length]
    return Sealed(out, view, shard_root(view), checksum)


__all__ = ["PIECE", "Buffers", "Encoder", "Sealed", "seal_shard"]
