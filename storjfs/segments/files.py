"""One local file per segment: reading frames from it, writing to it, and which pieces of it are there.

Segment position = file position, for the journal's files and for the cache's sparse ones alike. Which
pieces are present is advice: a frame proves itself or it does not.
"""

import contextlib
import ctypes
import errno
import logging
import os
import stat
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from storjfs.coding.buffers import Buffer
from storjfs.coding.frames import FrameCipher, FrameCorrupt
from storjfs.coding.geometry import FRAME_OVERHEAD, PIECE, run_frames
from storjfs.segments.order import Entry

_LOG = logging.getLogger(__name__)

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_PUNCH_KEEPING_SIZE: Final = 0x03  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, fallocate(2)
_OPENING: Final = threading.Lock()
"""Held while a file is opened: the loop and the sealer may both find that one is not."""
LARGEST_READ: Final = (1 << 20) + 2 * PIECE
"""Bytes of whole pieces that a run of 1 MiB may lie in."""


def is_ours(status: os.stat_result) -> bool:
    """Whether this can be a file that the cache made: it makes no links."""
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def punch(fd: int, start: int, length: int) -> None:
    """Give the blocks of `[start, start + length)` back to the disk. Raises OSError if it cannot."""
    done = _LIBC.fallocate(fd, _PUNCH_KEEPING_SIZE, ctypes.c_int64(start), ctypes.c_int64(length))
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def pieces_mask(first: int, count: int) -> int:
    """The bits of `count` pieces from piece `first` on."""
    return ((1 << count) - 1) << first


def byte_ranges(mask: int) -> list[tuple[int, int]]:
    """The pieces of a mask as (start, length) in the file, neighbours joined."""
    ranges = []
    at = 0
    while mask:
        zeros = (mask & -mask).bit_length() - 1
        mask >>= zeros
        at += zeros
        ones = (~mask & (mask + 1)).bit_length() - 1
        ranges.append((at * PIECE, ones * PIECE))
        mask >>= ones
        at += ones
    return ranges


def piece_count(size: int) -> int:
    """Pieces that a segment of `size` bytes has, the last perhaps in part."""
    return -(-size // PIECE)


def write_all(fd: int, data: memoryview, start: int) -> None:
    """Write all of `data` at `start`. Raises OSError; what was written until then stays."""
    while data:
        done = os.pwrite(fd, data, start)
        data, start = data[done:], start + done


class LocalFile:
    """The local file of one segment, at `path`.

    `unsent`: the only copy, complete up to what was written, never evicted. Otherwise `present` has a bit
    for each piece that is there; None means not looked yet. `users` counts threads and tasks that use the
    descriptor, which stays open as long. All fields belong to the loop's thread; only reading and writing
    happens in others.
    """

    __slots__ = (
        "base",
        "entry",
        "fd",
        "path",
        "present",
        "segment_id",
        "touched",
        "unproven",
        "unsent",
        "users",
        "written",
    )

    def __init__(self, seg: int, segment_id: bytes, path: Path, *, unsent: bool) -> None:
        self.base = seg << 25
        """Run positions plus this are unique among all segments (a segment has at most 32 MiB)."""
        self.segment_id = segment_id
        self.path = path
        self.fd = -1
        self.unsent = unsent
        self.present: int | None = None
        self.entry = Entry(segment_id)
        """Its place among what is cached; the size in it is what it counts for against the limit."""
        self.users = 0
        self.written = 0
        """Of a file that the sealer writes: its end."""
        self.touched = False
        """Appended to, and not yet known to be on disk."""
        self.unproven = False
        """Found at start-up; its frames have not been looked at since."""

    def open(self, *, create: bool = False) -> int:
        """The descriptor. Raises OSError; of a cached one also where something else lies at its path.

        Holes are punched into cached files and their ends are cut off: that must never hit what a link leads
        to.
        """
        with _OPENING:
            return self._open(create) if self.fd < 0 else self.fd

    def _open(self, create: bool) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        if not self.unsent:
            flags |= os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(self.path, flags, 0o600)
        if not self.unsent and not is_ours(os.fstat(fd)):
            os.close(fd)
            raise OSError(errno.EINVAL, "not a file of this cache", os.fspath(self.path))
        self.fd = fd
        return fd

    def close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def look(self, size: int) -> int:
        """Rebuild `present` for a segment of `size` bytes from where the file has data; see lseek(2).

        Blocks that belong to no whole piece go back to the disk.
        """
        fd = self.open()
        present = 0
        end = os.fstat(fd).st_size
        if end > size:
            os.ftruncate(fd, size)
            end = size
        at = 0
        while at < end:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break
            if start >= end:
                break
            at = os.lseek(fd, start, os.SEEK_HOLE)
            first = -(-start // PIECE)
            last = piece_count(size) if at >= size else at // PIECE
            if last > first:
                present |= pieces_mask(first, last - first)
            for torn, until in ((start, min(first * PIECE, at)), (max(last * PIECE, start), at)):
                if torn < until:
                    with contextlib.suppress(OSError):
                        punch(fd, torn, until - torn)
        self.present = present
        return present

    def has(self, first: int, count: int) -> bool:
        """Whether the pieces are known to be there."""
        if self.unsent:
            return True
        mask = ((1 << count) - 1) << first
        return self.present is not None and self.present & mask == mask


def free_blocks(file: LocalFile, ranges: Sequence[tuple[int, int]]) -> None:
    """Punch these byte ranges out of an open file. Blocking. Raises OSError."""
    for start, length in ranges:
        try:
            punch(file.fd, start, length)
        except OSError as error:
            # Without holes on this disk the whole file would keep its blocks: cut off from here on instead,
            # which frees at least as much. The pieces lost with it fail their proof and are fetched again.
            _LOG.debug("no holes here: %s", error)
            os.ftruncate(file.fd, start)


def read_run(
    file: LocalFile,
    cipher: FrameCipher,
    frames: list[tuple[int, int, int, int]],
    buffer: bytearray,
    flags: int,
) -> Buffer | None:
    """The plaintext of `frames` (as `frames_covering` gives them) from `file`; None where less than that
    can be had with these flags (RWF_NOWAIT, preadv2(2)) or the file is too short.

    `buffer` has room for their sealed bytes and is overwritten. Raises FrameCorrupt, OSError.
    """
    start = frames[0][0]
    last = frames[-1]
    length = last[0] + last[1] + FRAME_OVERHEAD - start
    view = memoryview(buffer)[:length]
    if os.preadv(file.fd, [view], start, flags) != length:
        return None
    return open_frames(cipher, frames, view, start)


def unproven_bytes(file: LocalFile, cipher: FrameCipher, runs: Sequence[tuple[int, int]]) -> int:
    """How many bytes of these runs (pos, length) lie in frames that do not prove themselves. Blocking.

    Raises OSError other than EIO, which is what a disk says of a part that it cannot read.
    """
    bad = 0
    for pos, length in runs:
        for at, size in run_frames(pos, length):
            try:
                cipher.open(at, os.pread(file.fd, size + FRAME_OVERHEAD, at))
            except FrameCorrupt:
                bad += size
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                bad += size
    return bad


def open_frames(
    cipher: FrameCipher, frames: list[tuple[int, int, int, int]], sealed: memoryview, start: int
) -> Buffer:
    """The plaintext of `frames` from `sealed`, which holds the segment from position `start` on.

    Raises FrameCorrupt.
    """
    if len(frames) == 1:
        pos, length, from_, to = frames[0]
        plain = cipher.open(pos, sealed[pos - start : pos - start + length + FRAME_OVERHEAD])
        return plain if to - from_ == length else plain[from_:to]
    out = bytearray(sum(to - from_ for _, _, from_, to in frames))
    sink = memoryview(out)
    at = 0
    for pos, length, from_, to in frames:
        frame = sealed[pos - start : pos - start + length + FRAME_OVERHEAD]
        end = at + to - from_
        if to - from_ == length:
            cipher.open_into(pos, frame, sink[at:end])
        else:
            sink[at:end] = cipher.open(pos, frame)[from_:to]
        at = end
    return out


def pieces_of(frames: list[tuple[int, int, int, int]]) -> tuple[int, int]:
    """(first piece, number of pieces) that `frames` lie in."""
    first = frames[0][0] // PIECE
    return first, frames[-1][0] // PIECE - first + 1
