"""What lies on this machine: SQLite's own file, and the journal's files against unsent segments."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import apsw

from storjfs.coding.frames import Algorithm, FrameCipher, FrameCorrupt
from storjfs.coding.geometry import FRAME_OVERHEAD, run_frames
from storjfs.integrity.findings import Finding
from storjfs.integrity.view import View
from storjfs.keys import VolumeKeys
from storjfs.store import missing_indexes

_MOST_SAID: Final = 20
_NAME: Final = 32


def check_database(view: View) -> Iterator[Finding]:
    """Whether the file is what SQLite takes for one; reads all of it."""
    view.step("database")
    try:
        for (said,) in view.rows(f"PRAGMA main.integrity_check({_MOST_SAID})"):
            if said != "ok":
                yield Finding("database-damaged", str(said))
        for name in missing_indexes(view.connection):
            yield Finding("database-damaged", f"the index {name} is not there")
    except (apsw.CorruptError, apsw.NotADBError, apsw.IOError) as error:
        yield Finding("database-damaged", str(error))


def check_journal(view: View, folder: Path, keys: VolumeKeys | None = None) -> Iterator[Finding]:
    """Whether each segment that is not with farmers yet has its file, and each file its segment. Needs
    `pointed`. With `keys`, whether what was written to those files proves itself, too."""
    view.step("journal")
    sql = """
        SELECT s.seg, s.segment_id, s.size, s.live,
               (SELECT COUNT(DISTINCT h.idx) FROM shard h WHERE h.seg = s.seg AND h.state IN (1, 2)), s.k
        FROM segment s WHERE s.state IN (0, 1)
    """
    for seg, segment_id, size, live, held, k in view.rows(sql):
        if not size or live <= 0 or (k and held >= k):
            continue
        try:
            found = os.stat(folder / bytes(segment_id).hex()).st_size
        except FileNotFoundError:
            yield Finding("journal-missing", f"segment {seg}: {live} bytes of files", (seg,), seg=seg)
            continue
        if found < size:
            text = f"segment {seg}: {found} of {size} bytes are there"
            yield Finding("journal-short", text, (seg,), seg=seg)
        elif keys is not None and (wrong := _unproven(view, keys, folder, seg)):
            text = f"segment {seg}: {wrong} bytes do not prove themselves"
            yield Finding("journal-damaged", text, (seg,), seg=seg)
    yield from _strays(view, folder)


# Of those that files still consist of.
_POINTED_RUNS: Final = """
    SELECT r.pos, r.length FROM run r WHERE r.seg = ? AND EXISTS (
        SELECT 1 FROM extent e WHERE e.ino = r.ino AND e.off >= r.off AND e.off < r.off + r.length
        AND e.seg = r.seg AND e.pos = r.pos
    ) ORDER BY r.pos
"""


def _unproven(view: View, keys: VolumeKeys, folder: Path, seg: int) -> int:
    """Plaintext bytes of an unsent segment's file whose frames are not what was written."""
    view.step("journal")
    ((segment_id, algorithm),) = view.rows("SELECT segment_id, algorithm FROM segment WHERE seg = ?", (seg,))
    if algorithm not in tuple(Algorithm):
        return 0  # told otherwise
    cipher = FrameCipher(keys.content_key(segment_id, algorithm), segment_id, Algorithm(algorithm))
    wrong = 0
    try:
        with open(folder / bytes(segment_id).hex(), "rb") as file:
            for pos, length in view.rows(_POINTED_RUNS, (seg,)):
                for at, size in run_frames(pos, length):
                    try:
                        cipher.open(at, os.pread(file.fileno(), size + FRAME_OVERHEAD, at))
                    except FrameCorrupt:
                        wrong += size
    except FileNotFoundError:
        return 0  # sent meanwhile
    return wrong


def _strays(view: View, folder: Path) -> Iterator[Finding]:
    unknown = "SELECT 1 FROM pointed WHERE seg <> 0 AND seg NOT IN (SELECT seg FROM segment) LIMIT 1"
    if view.one(unknown):
        return  # one of them may be what files lack
    try:
        names = os.scandir(folder)
    except FileNotFoundError:
        return
    with names:
        for entry in names:
            try:
                segment_id = bytes.fromhex(entry.name) if len(entry.name) == _NAME else b""
            except ValueError:
                continue
            if not segment_id:
                continue
            # That of a stored segment becomes cache at the next mount, that of a doomed one goes with it.
            if view.one("SELECT 1 FROM segment WHERE segment_id = ?", (segment_id,)) is None:
                yield Finding("journal-stray", entry.name, (str(folder / entry.name),))
