"""A segment whose row is lost is made again from its file on this machine."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storjfs.coding.frames import Algorithm, FrameCipher, FrameCorrupt
from storjfs.coding.geometry import FRAME_OVERHEAD, run_end, run_frames
from storjfs.integrity.tables import Row, Tables
from storjfs.keys import VolumeKeys
from storjfs.store.durable import copy_atomically

_NAME: Final = 32
Runs = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """Where segments lie on this machine, and the keys to tell whose they are."""

    keys: VolumeKeys
    journal: Path
    cache: Path

    def unknown(self, tables: Tables) -> Iterator[tuple[bytes, Path]]:
        """(segment id, path) of each file whose segment has no row, those of unsent segments first."""
        for folder in (self.journal, self.cache):
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                try:
                    segment_id = bytes.fromhex(path.name) if len(path.name) == _NAME else b""
                except ValueError:
                    continue
                if segment_id and not tables.one("SELECT 1 FROM segment WHERE segment_id = ?", segment_id):
                    yield segment_id, path


def make_segment_again(tables: Tables, row: Row, local: LocalFiles) -> None:
    """Of an extent's segment that has no row: find its file, and note it as not sent yet.

    A file of the journal is it if one of its frames proves itself; one of the cache must have them all, and
    is copied to the journal. Shards of it at farmers are superfluous then.
    """
    seg = row[2]
    if tables.one("SELECT 1 FROM segment WHERE seg = ?", seg):
        return
    runs: Runs = tables.rows("SELECT pos, length FROM run WHERE seg = ? ORDER BY pos", seg)
    if not runs:
        return
    for segment_id, path in local.unknown(tables):
        unsent = path.parent == local.journal
        algorithm = _algorithm(local.keys, segment_id, path, runs, whole=not unsent)
        if algorithm is None:
            continue
        if not unsent:
            copy_atomically(path, local.journal / path.name)
        size = max(run_end(pos, length) for pos, length in runs)
        live = tables.one("SELECT COALESCE(SUM(len), 0) FROM extent WHERE seg = ?", seg)
        plain = sum(length for _, length in runs)
        tables.run(
            "INSERT INTO segment VALUES (?, ?, 1, ?, 0, 0, ?, ?, ?, ?)",
            *(seg, segment_id, int(algorithm), size, live, tables.now, plain),
        )
        for (shard_id,) in tables.rows("SELECT shard_id FROM shard WHERE seg = ?", seg):
            tables.take_out(shard_id)
        return


def _algorithm(
    keys: VolumeKeys, segment_id: bytes, path: Path, runs: Runs, *, whole: bool
) -> Algorithm | None:
    """With which algorithm the file's frames are sealed, None where it is not the segment of these runs."""
    for algorithm in Algorithm:
        cipher = FrameCipher(keys.content_key(segment_id, int(algorithm)), segment_id, algorithm)
        with path.open("rb") as file:
            frames = (frame for pos, length in runs for frame in run_frames(pos, length))
            proven = (_proves(cipher, file.fileno(), at, size) for at, size in frames)
            if all(proven) if whole else any(proven):
                return algorithm
    return None


def _proves(cipher: FrameCipher, fd: int, at: int, size: int) -> bool:
    try:
        cipher.open(at, os.pread(fd, size + FRAME_OVERHEAD, at))
    except FrameCorrupt:
        return False
    return True
