"""What is put back of a file's content costs no more than looking through the tables a few times."""

from pathlib import Path

from storjfs.integrity.missing import put_back
from storjfs.integrity.tables import Tables

FRAME = 100
LACKING = 2


def steps_to_put_back(path: Path, segments: int) -> int:
    """Steps of SQLite's for a file with a run in each segment and no extent, beside many others' extents."""
    tables = Tables(path, None, 0)
    connection = tables._connection
    segs = range(1, segments + 1)
    with tables.transaction():
        connection.executemany(
            "INSERT INTO segment VALUES (?, randomblob(16), 2, 1, 3, 5, 4096, ?, 0, ?)",
            [(seg, 20 * FRAME, 20 * FRAME) for seg in segs],
        )
        runs = [(seg, pos, LACKING if pos == 0 else 100 * seg + pos) for seg in segs for pos in range(20)]
        connection.executemany(
            f"INSERT INTO run VALUES (?, ?, {FRAME}, ?, ?)",
            [(seg, pos * FRAME, ino, seg * FRAME if ino == LACKING else 0) for seg, pos, ino in runs],
        )
        connection.executemany(
            f"INSERT INTO extent VALUES (?, 0, {FRAME}, ?, ?, {FRAME}, 0)",
            [(ino, seg, pos * FRAME) for seg, pos, ino in runs if ino != LACKING],
        )
        size, stored = (segments + 1) * FRAME, segments * FRAME
        tables.run(
            "INSERT INTO inode VALUES (?, ?, 0, 0, 1, ?, 0, 0, 0, 0, 0, 0, ?, NULL)",
            *(LACKING, 0o100644, size, stored),
        )
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += 1
        return False

    connection.set_progress_handler(count, 10)
    with tables.transaction():
        put_back(tables, (LACKING,))
    connection.set_progress_handler(None)
    found = tables.rows("SELECT COUNT(*), SUM(len) FROM extent WHERE ino = ?", LACKING)
    tables.close()
    assert found == [(segments, stored)]
    return steps


def test_a_file_in_many_segments_is_put_back_in_proportion_to_what_there_is(tmp_path: Path) -> None:
    some, many = (steps_to_put_back(tmp_path / f"{count}.db", count) for count in (40, 160))
    assert many < 8 * some
