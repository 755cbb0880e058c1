"""Freeing now what a mount frees bit by bit: garbage, shards that nobody needs, stray files, the log."""

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from storjfs.errors import StorjfsError
from storjfs.filesystem import Filesystem
from storjfs.segments import Segments
from storjfs.store import MetaStore

SCHEMA: Final = 1

Tell = Callable[[Mapping[str, Any]], Awaitable[None]]


@dataclass(slots=True)
class Collected:
    """What was freed, in bytes. `unreadable`: segments whose rest could not be moved, numbers."""

    compacted: int = 0
    """Segments whose live rest was moved."""
    moved: int = 0
    """Bytes of it."""
    garbage: int = 0
    """Plaintext bytes of stored segments that nothing needs, that are gone."""
    garbage_left: int = 0
    shards: int = 0
    """Shards that farmers were told to delete and confirmed."""
    shards_left: int = 0
    """Shards whose deletion no farmer has confirmed yet."""
    files: int = 0
    """Local files that belonged to nothing."""
    file_bytes: int = 0
    log_bytes: int = 0
    """Of the metadata's write-ahead log."""
    unreadable: list[int] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """For JSON; see docs/reference/gc.md."""
        return {"schema": SCHEMA, **asdict(self)}


class Collector:
    """One collection. Methods belong to the loop's thread; what was done stays done if it is cancelled."""

    def __init__(self, store: MetaStore, segments: Segments, filesystem: Filesystem, meta_db: Path) -> None:
        self._store = store
        self._segments = segments
        self._filesystem = filesystem
        self._log = meta_db.with_name(meta_db.name + "-wal")

    async def run(self, tell: Tell) -> Collected:
        """Collect everything; returns what came of it. Raises StoreError, and what `tell` raises."""
        done = Collected()
        await self._store.sync()
        before = self._segments.garbage
        await self._compact(done, tell)
        await tell({"part": "deletions", "done": 0, "of": 1})
        await self._store.sync()
        done.shards, done.shards_left = await self._segments.delete_now()
        await self._store.sync()
        done.garbage_left = self._segments.garbage
        done.garbage = max(before - done.garbage_left, 0)
        await tell({"part": "files", "done": 0, "of": 1})
        done.files, done.file_bytes = await self._segments.remove_strays()
        await tell({"part": "log", "done": 0, "of": 1})
        size = _size(self._log)
        await self._store.shrink_log()
        done.log_bytes = max(size - _size(self._log), 0)
        await tell({"part": "log", "done": 1, "of": 1})
        return done

    async def _compact(self, done: Collected, tell: Tell) -> None:
        after, last = 0, self._segments.newest()
        while True:
            wasteful, at = self._segments.wasteful_after(after)
            for seg in wasteful:
                await tell({"part": "segments", "done": min(seg, last), "of": last, "moved": done.moved})
                try:
                    done.moved += await self._filesystem.move_out(seg)
                    done.compacted += 1
                except StorjfsError:
                    done.unreadable.append(seg)
            if at is None:
                return
            after = at
            await tell({"part": "segments", "done": min(after, last), "of": last, "moved": done.moved})


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
