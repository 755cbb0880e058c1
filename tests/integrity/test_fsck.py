"""Each way to damage the books is found by its code and nothing else, and mended as far as it can be."""

import os
import random
from pathlib import Path

import apsw
import pytest

from storjfs.coding.geometry import run_end, sealed_length, segment_capacity, shard_length
from storjfs.integrity import KINDS, Severity, Stopped, View, check
from storjfs.integrity import view as view_module
from storjfs.integrity.content import RUN_END
from storjfs.integrity.shards import CAPACITY, SHARD_LENGTH
from storjfs.integrity.tables import Tables
from storjfs.store import StoreError
from tests.integrity.damages import (
    DAMAGES,
    SMALL,
    Damage,
    read_everything,
)
from tests.integrity.volume import KEYS, Sample


def test_a_sound_volume_is_clean(sample: Sample) -> None:
    assert sample.check().counts == {}


@pytest.mark.parametrize("damage", DAMAGES, ids=str)
async def test_damage_is_found_and_mended_and_nothing_else_is_hurt(sample: Sample, damage: Damage) -> None:
    sample.damage(*damage.statements)
    assert sample.check().codes == damage.codes
    done = sample.mend()
    assert done.found.codes == damage.codes
    left = {code for code in done.left.codes if KINDS[code].severity is not Severity.NOTE}
    assert sample.check().counts == done.left.counts
    if damage.mended:
        assert left == set()
    else:
        assert left
    again = sample.mend()
    assert again.mended == {}
    assert again.left.counts == done.left.counts
    await read_everything(sample, damage)


def test_every_kind_has_its_damage() -> None:
    elsewhere = {"database-damaged", "journal-damaged", "journal-missing", "journal-short", "journal-stray"}
    covered = set().union(*(damage.codes for damage in DAMAGES)) | elsewhere
    assert covered == {code for code in KINDS if not code.startswith("farmer-")}


def test_a_file_of_nothing_in_the_journal_is_removed(sample: Sample) -> None:
    stray = sample.journal / os.urandom(16).hex()
    stray.write_bytes(b"?")
    done = sample.mend()
    assert (done.found.codes, done.left.codes) == ({"journal-stray"}, set())
    assert not stray.exists()


def test_an_index_that_differs_from_its_table_is_made_anew(sample: Sample) -> None:
    connection = sample.database()
    row = connection.execute("SELECT * FROM sqlite_schema WHERE name = 'shard_by_contract'").fetchall()
    connection.pragma("writable_schema", True)
    connection.execute("DELETE FROM sqlite_schema WHERE name = 'shard_by_contract'").fetchall()
    connection.close()
    sample.damage("UPDATE shard SET contract = 7 - contract")
    connection = sample.database()
    connection.pragma("writable_schema", True)
    connection.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", row[0]).fetchall()
    connection.close()
    done = sample.mend()
    assert (done.found.codes, done.left.codes) == ({"database-damaged", "tally-wrong"}, set())


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_page_that_does_not_prove_itself_is_told(sample: Sample, share: float) -> None:
    size = sample.meta_db.stat().st_size
    with sample.meta_db.open("r+b") as file:
        file.seek(int(size * share) // 4096 * 4096 + 100)
        file.write(os.urandom(3000))
    done = sample.mend()
    assert done.found.codes >= {"database-damaged"}
    assert done.left.codes >= {"database-damaged"}


def test_the_limits_in_sql_are_those_of_the_code(sample: Sample) -> None:
    rng = random.Random(5)
    database = sample.database()
    for _ in range(2000):
        pos, run = rng.randrange(1 << 25), rng.choice([1, 27, 65508, rng.randrange(1, 3 << 20)])
        sql = f"SELECT {RUN_END} FROM (SELECT ? AS pos, ? AS run) AS e"
        assert database.execute(sql, (pos, run)).fetchall() == [(run_end(pos, run),)]
        k, size = rng.randrange(1, 40), rng.randrange(32 << 20)
        sql = f"SELECT {CAPACITY}, {SHARD_LENGTH} FROM (SELECT ? AS k, ? AS size) AS s"
        expected = segment_capacity(k), sealed_length(shard_length(size, k))
        assert database.execute(sql, (k, size)).fetchall() == [expected]
    database.close()


def test_an_examination_can_be_given_up(sample: Sample) -> None:
    with View(sample.meta_db, KEYS.metadata_key) as view:
        view.stop()
        with pytest.raises(Stopped):
            check(view, journal=sample.journal)


def test_a_state_is_not_held_while_the_log_fills_the_disk(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view_module, "MOST_LOG", -1)
    with (
        View(sample.meta_db, KEYS.metadata_key) as view,
        pytest.raises(view_module.TooMuchWritten, match="consistent state"),
    ):
        check(view, journal=sample.journal)


def test_the_reference_names_every_kind() -> None:
    reference = (Path(__file__).parents[2] / "docs" / "reference" / "fsck.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in reference.splitlines()
        if line.startswith("| `")
    ]
    assert [row for row in rows if row[0].strip("`") in KINDS and len(row) > 2] == [
        [f"`{kind.code}`", str(kind.severity), kind.meaning, kind.repair, "yes" if kind.live else ""]
        for kind in KINDS.values()
    ]


INTERRUPTED = [
    "inode row of a directory gone",
    "extent-missing",
    "an unsent segment's row gone",
    "a stored segment's row gone",
    "a segment's size too small",
    "directory-loop",
    "extent-overlap",
]


@pytest.mark.parametrize("name", INTERRUPTED)
async def test_a_repair_cut_off_anywhere_is_gone_on_with_and_comes_to_the_same(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (damage,) = [one for one in DAMAGES if one.name == name]
    sample.damage(*damage.statements)
    run, statements = Tables.run, 0
    left = 1 << 30

    def count(self: Tables, sql: str, *args: object) -> None:
        nonlocal statements, left
        if sql not in ("BEGIN IMMEDIATE", "ROLLBACK"):
            statements, left = statements + 1, left - 1
            if left < 0:
                raise CutOffError
        run(self, sql, *args)

    monkeypatch.setattr(Tables, "run", count)
    whole = sample.copy_to(tmp_path / "whole")
    expected = whole.mend().left.counts
    for cut in range(0, statements, max(statements // 12, 1)):
        one = sample.copy_to(tmp_path / f"cut{cut}")
        left = cut
        with pytest.raises(CutOffError):
            one.mend()
        left = 1 << 30
        assert one.mend().left.counts == expected, cut
        await read_everything(one, damage)


class CutOffError(Exception):
    """Stands for the end of the process."""


def test_a_full_disk_is_an_error_and_no_finding(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    sample.damage(f"UPDATE inode SET nlink = 7 WHERE ino = {SMALL}")
    with View(sample.meta_db, KEYS.metadata_key) as view:
        view.run("PRAGMA temp.max_page_count=1")
        with pytest.raises(StoreError, match="no space"):
            check(view, journal=sample.journal)
    before = sample.rows("SELECT * FROM inode ORDER BY ino")

    def full(self: Tables, sql: str, *args: object) -> None:
        if sql == "COMMIT":
            raise apsw.FullError("database or disk is full")
        run(self, sql, *args)

    run = Tables.run
    monkeypatch.setattr(Tables, "run", full)
    with pytest.raises(StoreError, match="cannot be mended"):
        sample.mend()
    assert sample.rows("SELECT * FROM inode ORDER BY ino") == before
