"""What is looked up in meta.db when something is wrong."""

from pathlib import Path

from storjfs.daemon.facts import look_at_trouble, unreadable_segments
from storjfs.keys import VolumeKeys
from storjfs.store import open_meta

KEYS = VolumeKeys(bytes(range(32)))
DIRECTORY, FILE = 0o40755, 0o100644


def test_files_with_lost_parts_are_named_by_all_their_paths(tmp_path: Path) -> None:
    path = tmp_path / "meta.db"
    db = open_meta(path, KEYS.metadata_key)
    with db:
        # ino, mode, parent: /one/two/deep and /also are one file, /well another
        for ino, mode, parent in (
            (1, DIRECTORY, 1),
            (2, DIRECTORY, 1),
            (3, DIRECTORY, 2),
            (4, FILE, 0),
            (5, FILE, 0),
        ):
            db.execute(
                "INSERT INTO inode VALUES (?, ?, 0, 0, 2, 0, 0, 0, 0, 0, ?, 0, 0, NULL)", (ino, mode, parent)
            )
        for number, (parent, name, ino) in enumerate(
            ((1, b"one", 2), (2, b"two", 3), (3, b"deep", 4), (1, b"also", 4), (1, b"well", 5)), 1
        ):
            db.execute("INSERT INTO dentry VALUES (?, ?, ?, ?)", (parent, name, ino, number))
        for seg, ino in ((7, 4), (8, 5)):
            db.execute("INSERT INTO run VALUES (?, 0, 100, ?, 0)", (seg, ino))
            db.execute("INSERT INTO extent VALUES (?, 0, 100, ?, 0, 100, 0)", (ino, seg))
        db.execute("INSERT INTO segment VALUES (7, x'07', 2, 1, 3, 5, 128, 100, 0, 100)")
        for idx in range(5):
            state = 1 if idx < 2 else 3
            db.execute(
                "INSERT INTO shard VALUES (?, 7, ?, 1, x'', x'', 65552, ?)", (bytes([idx]), idx, state)
            )
    db.close()
    found = look_at_trouble(path, KEYS, name_files=True)
    assert dict(found.by_spare) == {-1: 1}
    assert sorted(found.lost_files) == ["also", "one/two/deep"]
    assert look_at_trouble(path, KEYS, name_files=True, damaged=[8]).lost_files == [
        "also",
        "one/two/deep",
        "well",
    ]


def test_segments_are_counted_of_which_too_few_shards_lie_with_farmers_that_answer(tmp_path: Path) -> None:
    path = tmp_path / "meta.db"
    db = open_meta(path, KEYS.metadata_key)
    with db:
        # by segment: the contracts of its shards; 4 has lost too many anyway, 5 is not stored yet
        places = {1: (1, 2, 3, 4, 5), 2: (3, 4, 5, 6, 7), 3: (1, 2, 4, 5, 6), 4: (4, 5), 5: (4, 5, 6, 7, 1)}
        for seg, contracts in places.items():
            state = 1 if seg == 5 else 2
            db.execute(
                "INSERT INTO segment VALUES (?, ?, ?, 1, 3, 5, 128, 100, 0, 100)", (seg, bytes([seg]), state)
            )
            for idx, contract in enumerate(contracts):
                shard = bytes([seg, idx])
                db.execute(
                    "INSERT INTO shard VALUES (?, ?, ?, ?, x'', x'', 65552, 1)", (shard, seg, idx, contract)
                )
    db.close()

    def unreadable(*away: int) -> int:
        return unreadable_segments(path, KEYS, away)

    assert unreadable(4, 5) == 0
    assert unreadable(4, 5, 6, 7) == 2
    assert unreadable(1, 2, 3, 4, 5, 6, 7) == 3
