"""A disk that may not answer: who asks it waits for a while, and is told then that it fails.

A thread that the kernel does not let go can be neither ended nor taken back. So every call is made by a
thread of its own, and whoever wanted it waits for PATIENCE at most. What was given up may still happen, so
nothing more is asked of such a disk until all of it has returned and its owner has said `answers_again`.
"""

import errno
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar, TypeVarTuple

import outcome
import trio

from storjfs.coding.buffers import Buffer
from storjfs.farmer.disk import Disk

T = TypeVar("T")
Args = TypeVarTuple("Args")

PATIENCE: Final = 20.0
"""Seconds: a disk that has to spin up, or reads a bad sector again and again, takes less as a rule."""
ON_THE_LOOP: Final = 3.0
"""Seconds for what is asked while everything else waits, and comes from memory as a rule."""
NOT_ANSWERING: Final = "it does not answer"


class PatientDisk(Disk):
    """Does what `disk` does. Calls raise Silent after `patience` seconds without an answer, and
    at once from then on.

    `gave_up(error)` is called, in any thread, when a call was given up. Every method may run in any thread.
    """

    def __init__(self, disk: Disk, patience: float | None = None) -> None:
        self._disk = disk
        self._patience = PATIENCE if patience is None else patience
        self._lock = threading.Lock()
        self._here = threading.local()
        self._late: set[object] = set()
        self._given_up = False
        # Closed only when nothing can write to them any more: their numbers would be those of other files.
        self._unclosed: list[int] = []
        self.gave_up: Callable[[OSError], object] = lambda _: None

    @property
    def given_up(self) -> bool:
        """As that of Disk."""
        return self._given_up

    def answers_again(self) -> bool:
        with self._lock:
            if self._late:
                return False
            self._given_up = False
        return True

    def ask(self, work: Callable[[*Args], T], *args: *Args) -> T:
        """As that of Disk. What `work` asks in turn it does itself: to change threads costs 90 us."""
        return self._within(self._patience, work, *args)

    def _within(self, patience: float, work: Callable[[*Args], T], *args: *Args, opens: bool = False) -> T:
        if getattr(self._here, "asking", False):
            return work(*args)  # a part of something larger, which is waited for
        if self._given_up:
            raise Silent
        answer: SimpleQueue[outcome.Outcome[T]] = SimpleQueue()
        job = object()

        def deliver(result: outcome.Outcome[T]) -> None:
            with self._lock:
                answer.put(result)
                if job in self._late:
                    self._late.discard(job)
                    self._returned(result if opens else None)

        def carry_out() -> T:
            self._here.asking = True
            try:
                return work(*args)
            finally:
                self._here.asking = False

        trio.lowlevel.start_thread_soon(carry_out, deliver)
        with suppress(Empty):
            return answer.get(timeout=patience).unwrap()
        with self._lock:
            late = answer.empty()
            if late:
                self._late.add(job)
                self._given_up = True
        if not late:
            return answer.get().unwrap()
        error = Silent()
        self.gave_up(error)
        raise error

    def _returned(self, opened: outcome.Outcome[Any] | None) -> None:
        """One of those given up has returned; after the last of them files can be closed. Holds the lock."""
        if isinstance(opened, outcome.Value):
            self._unclosed.append(opened.value)
        if not self._late:
            files, self._unclosed = self._unclosed, []
            for file in files:
                self._close_soon(file)

    def _close_soon(self, file: int) -> None:
        trio.lowlevel.start_thread_soon(partial(self._disk.close, file), lambda _: None)

    # --- what is asked ---

    def create(self, path: Path) -> int:
        return self._within(self._patience, self._disk.create, path, opens=True)

    def write(self, file: int, data: Buffer, offset: int) -> None:
        """As that of `disk`. Where it fails `data` may be read later still: let nobody else write there."""
        self.ask(self._disk.write, file, data, offset)

    def open(self, path: Path) -> int:
        return self._within(self._patience, self._disk.open, path, opens=True)

    def read(self, file: int, length: int, offset: int) -> bytes:
        return self.ask(self._disk.read, file, length, offset)

    def forget(self, file: int, length: int, offset: int) -> None:
        self.ask(self._disk.forget, file, length, offset)

    def cut(self, file: int, length: int) -> None:
        self.ask(self._disk.cut, file, length)

    def sync_data(self, file: int) -> None:
        self.ask(self._disk.sync_data, file)

    def sync_folder(self, path: Path) -> None:
        self.ask(self._disk.sync_folder, path)

    def close(self, file: int) -> None:
        with self._lock:
            late = bool(self._late) and not getattr(self._here, "asking", False)
            if late:
                self._unclosed.append(file)
        if not late and self._given_up:
            self._close_soon(file)
        elif not late:
            self.ask(self._disk.close, file)

    def rename(self, source: Path, target: Path) -> None:
        self.ask(self._disk.rename, source, target)

    def remove(self, path: Path) -> None:
        self.ask(self._disk.remove, path)

    def probe(self, path: Path) -> bool:
        return self.ask(self._disk.probe, path)

    def block(self, path: Path) -> int:
        return self.ask(self._disk.block, path)

    def free(self, path: Path) -> int:
        return self._within(min(self._patience, ON_THE_LOOP), self._disk.free, path)


class Silent(OSError):
    """The disk does not answer: what was asked may still happen."""

    def __init__(self) -> None:
        super().__init__(errno.ETIMEDOUT, NOT_ANSWERING)
