"""Sealing appended runs into segment files, off the loop, in their order.

What a crash leaves: bytes behind the committed length of a file, which start-up cuts off. Nothing is ever
dropped because of an error: what could not be written stays in memory and is tried again at the next
commit.
"""

import errno
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from storjfs.coding.buffers import Buffer
from storjfs.coding.frames import FrameCipher, random_nonces
from storjfs.coding.geometry import FRAME_OVERHEAD, FULL_FRAME, PIECE, run_frames
from storjfs.segments.files import LocalFile, write_all
from storjfs.store.durable import sync_folder

_LOG = logging.getLogger(__name__)

BATCH: Final = 1 << 20
"""A write starts once so many sealed bytes are together, or nothing more is there."""
BUFFER: Final = 2 * BATCH + (64 << 10)
"""A batch below BATCH plus one run of up to 1 MiB, its frames' overhead and the gap before it."""
LONGEST_RUN: Final = 1 << 20
"""Of one run; the journal splits what is longer."""
WAKE_AT: Final = 512 << 10
"""Unsealed plaintext that wakes the thread; less waits for more, or for the commit."""

Item = tuple[LocalFile, FrameCipher, int, Buffer]
"""File, cipher, position of a run and its plaintext."""


class Sealer:
    """The queue of runs, and whoever works it off: its own thread, or the commit thread that waits for it.

    `put`, `barrier` and the counters are for the loop; `drain` for any thread. `pending` maps file.base +
    position to the plaintext of a run until it is in its file: first written, then forgotten, so a reader
    finds it in one of the two. `appended` and `sealed` count plaintext bytes; their difference waits in
    memory.
    """

    def __init__(self) -> None:
        self.pending: dict[int, Buffer] = {}
        self.appended = 0
        self.sealed = 0
        self.error: OSError | None = None
        """Why the last attempt failed; None while all is well."""
        self.progressed: Callable[[], None] = lambda: None
        """Called on the loop after a batch, if `notify` was set."""
        self.notify = False
        self._queue: deque[Item] = deque()
        self._batch: list[Item] = []
        self._buffer = bytearray(BUFFER)
        self._working = threading.Lock()
        self._wake = threading.Event()
        self._woken = False
        self._stop = False
        self._touched: list[LocalFile] = []
        self._new_directories: set[str] = set()
        self._token: trio.lowlevel.TrioToken | None = None

    # --- the loop's side ---

    def put(self, file: LocalFile, cipher: FrameCipher, pos: int, data: Buffer) -> None:
        """Take a run of at most 1 MiB; `data` must not change any more."""
        self.pending[file.base + pos] = data
        self._queue.append((file, cipher, pos, data))
        if not file.touched:
            file.touched = True
            self._touched.append(file)
        self.appended += len(data)
        if not self._woken and self.appended - self.sealed >= WAKE_AT and self.error is None:
            self._woken = True
            self._wake.set()

    @property
    def unsealed(self) -> int:
        return self.appended - self.sealed

    def barrier(self) -> Callable[[], None] | None:
        """What makes every run taken until now durable: blocking, repeatable, raises OSError.

        Where writing finds no space, that is ENOSPC and may be tried again. A failed sync is always EIO: the
        kernel may have dropped what it could not write, and the next sync would say that all is well.
        """
        if not self._touched:
            return None
        touched, self._touched = self._touched, []
        for file in touched:
            file.touched = False
            file.users += 1
        target = self.appended
        settled = False

        def wait() -> None:
            nonlocal settled
            self.drain(target)
            for file in touched:
                _sync_data(file)
            with self._working:
                folders, self._new_directories = self._new_directories, set()
            try:
                for folder in folders:
                    _sync_directory(folder)
            except OSError:
                with self._working:
                    self._new_directories |= folders
                raise
            if not settled:
                settled = True
                self._soon(release)

        def release() -> None:
            for file in touched:
                file.users -= 1

        return wait

    def kick(self) -> None:
        """Start working now, however little waits: somebody needs the memory."""
        self._wake.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work the queue off until cancelled. What is left is sealed by the last commit, if there is one."""
        self._token = trio.lowlevel.current_trio_token()
        thread = threading.Thread(target=self._work, name="storjfs sealer")
        thread.start()
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            self._stop = True
            self._wake.set()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(thread.join)

    # --- any thread ---

    def _work(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._stop:
                return
            try:
                self.drain(self.appended)
            except OSError as error:
                _LOG.warning("cannot write unsent data: %s; kept in memory and tried again", error)
            # Cleared last: what was put meanwhile wakes again with its next fellow, or the commit takes it.
            self._woken = False

    def drain(self, target: int) -> None:
        """Seal and write until `target` bytes of plaintext were. Raises OSError and drops nothing."""
        while self.sealed < target:
            with self._working:
                if self.sealed >= target:
                    return
                if not self._batch:
                    self._gather()
                try:
                    self._write_batch()
                except OSError as error:
                    self.error = error
                    raise
                self.error = None
            if self.notify:
                self.notify = False
                self._soon(self.progressed)

    def _gather(self) -> None:
        """Take from the queue what goes into one write: runs of one file, up to a batch."""
        queue, batch = self._queue, self._batch
        file = queue[0][0]
        start = file.written
        while queue:
            item = queue[0]
            if item[0] is not file or (batch and item[2] - start >= BATCH):
                return
            batch.append(queue.popleft())

    def _write_batch(self) -> None:
        batch = self._batch
        file, cipher = batch[0][0], batch[0][1]
        if file.fd < 0:
            file.open(create=True)
            self._new_directories.add(os.fspath(file.path.parent))
        start = at = file.written
        out = memoryview(self._buffer)
        # Drawn at once: each call may hand the interpreter's lock to another thread and back.
        nonces = iter(random_nonces(sum(2 + len(item[3]) // FULL_FRAME for item in batch)))
        total = 0
        for _, _, pos, data in batch:
            if pos > at:
                # Gaps between runs are written too, so that a hole always means "not there".
                out[at - start : pos - start] = bytes(pos - at)
            length = len(data)
            total += length
            if pos % PIECE + length + FRAME_OVERHEAD <= PIECE:
                at = pos + length + FRAME_OVERHEAD
                cipher.seal_into(pos, data, out[pos - start : at - start], next(nonces))
            else:
                plain, taken = memoryview(data), 0
                for where, size in run_frames(pos, length):
                    at = where + size + FRAME_OVERHEAD
                    part = plain[taken : taken + size]
                    cipher.seal_into(where, part, out[where - start : at - start], next(nonces))
                    taken += size
        write_all(file.fd, out[: at - start], start)
        file.written = at
        for _, _, pos, _ in batch:
            del self.pending[file.base + pos]
        self._batch = []
        self.sealed += total

    def _soon(self, call: Callable[[], None]) -> None:
        if self._token is not None:
            try:
                self._token.run_sync_soon(call)
            except trio.RunFinishedError:
                return


def _sync_data(file: LocalFile) -> None:
    fd = file.fd if file.fd >= 0 else file.open()
    try:
        os.fdatasync(fd)
    except OSError as error:
        raise _not_synced(error) from error


def _not_synced(error: OSError) -> OSError:
    return OSError(errno.EIO, f"unsent data did not reach the disk ({error.strerror})")


def _sync_directory(folder: str) -> None:
    try:
        sync_folder(folder)
    except OSError as error:
        raise _not_synced(error) from error
