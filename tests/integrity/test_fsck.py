"""Each way to damage the books is found by its code and nothing else, and mended as far as it can be."""

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import pytest
import trio

from storjfs.coding.geometry import run_end, sealed_length, segment_capacity, shard_length
from storjfs.errors import FilesystemError
from storjfs.integrity import KINDS, Severity, Stopped, View, check
from storjfs.integrity import view as view_module
from storjfs.integrity.content import RUN_END
from storjfs.integrity.shards import CAPACITY, SHARD_LENGTH
from storjfs.integrity.tables import Tables
from storjfs.segments import Segments
from storjfs.store import ROOT_INODE, StoreError
from tests.integrity.volume import KEYS, MIB, Sample, make

FILE = "SELECT ino FROM dentry WHERE parent = 1 AND name = x'{}'"
SMALL = f"({FILE.format(b'small'.hex())})"
OTHER = f"({FILE.format(b'other'.hex())})"
LARGE = f"({FILE.format(b'large'.hex())})"
ASKEW = f"({FILE.format(b'askew'.hex())})"
UNSENT = f"({FILE.format(b'unsent'.hex())})"
LINK = f"({FILE.format(b'link'.hex())})"
DOCS = f"({FILE.format(b'docs'.hex())})"
DEEP = f"(SELECT ino FROM dentry WHERE name = x'{b'deep'.hex()}')"
OLD = f"(SELECT ino FROM dentry WHERE parent = {DOCS} AND name = x'{b'old'.hex()}')"
STORED = "(SELECT MIN(seg) FROM segment WHERE state = 2)"
OPEN = "(SELECT MAX(seg) FROM segment WHERE state < 2)"
SHARD = f"(SELECT shard_id FROM shard WHERE seg = {STORED} AND idx = 4)"


@dataclass
class Damage:
    """`statements` do it; `codes` are found then, in any order; `moved`: where content is after the mend;
    `lost`: files whose content is not looked at, since it is what was damaged."""

    name: str
    statements: list[str]
    codes: set[str]
    moved: dict[str, str] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    mended: bool = True

    def __str__(self) -> str:
        return self.name


def one(code: str, *statements: str, **more: object) -> Damage:
    """A damage found under one code, after which the case is named."""
    return Damage(code, list(statements), {code}, **more)  # type: ignore[arg-type]


DAMAGES = [
    one("counter-behind", "UPDATE counters SET value = 3 WHERE key = 'next_ino'"),
    Damage("dentry counter gone", ["DELETE FROM counters WHERE key = 'next_dentry'"], {"counter-behind"}),
    Damage("segment counter", ["UPDATE counters SET value = 1 WHERE key = 'next_seg'"], {"counter-behind"}),
    Damage("root's type", ["UPDATE inode SET mode = 33188 WHERE ino = 1"],
           {"root-missing", "entry-nowhere", "inode-invalid"}, lost={"*"}),
    one("entry-bad-name", f"UPDATE dentry SET name = x'612f62' WHERE ino = {SMALL} AND parent = 1",
        moved={"small": "#{small}"}),
    one("entry-dangling", "INSERT INTO dentry VALUES (1, x'6161', 800, 3000)",
        "UPDATE counters SET value = 3001 WHERE key = 'next_dentry'"),
    Damage("inode row of a file gone", [f"DELETE FROM inode WHERE ino = {OTHER}"],
           {"entry-dangling", "extent-no-file"}),
    Damage("inode row of a directory gone", [f"DELETE FROM inode WHERE ino = {OLD}"],
           {"entry-dangling", "entry-nowhere", "directory-links-wrong"}),
    Damage("a directory and its name gone", [f"DELETE FROM inode WHERE ino = {OLD}",
            f"DELETE FROM dentry WHERE parent = {DOCS} AND name = x'{b'old'.hex()}'"],
           {"entry-nowhere", "directory-links-wrong"},
           moved={"docs/old/draft": "lost+found/#{docs/old}/draft",
                  "docs/old/deep/note": "lost+found/#{docs/old}/deep/note"}),
    Damage("a name in a file", [f"UPDATE dentry SET parent = {OTHER} WHERE name = x'{b'large'.hex()}'"],
           {"entry-nowhere"}, moved={"large": "lost+found/#{large}"}),
    one("directory-wrong-parent", f"UPDATE inode SET parent = 1 WHERE ino = {OLD}"),
    Damage("directory-many-names", [f"INSERT INTO dentry VALUES ({DOCS}, x'7a', {OLD}, 3000)",
            "UPDATE counters SET value = 3001 WHERE key = 'next_dentry'"],
           {"directory-many-names", "directory-links-wrong"}),
    Damage("a second name elsewhere", [f"INSERT INTO dentry VALUES (1, x'7a', {OLD}, 3000)",
            "UPDATE counters SET value = 3001 WHERE key = 'next_dentry'"],
           {"directory-many-names", "directory-wrong-parent", "directory-links-wrong"}),
    Damage("directory-loop", [
            f"UPDATE inode SET parent = {DEEP} WHERE ino = {OLD}",
            f"UPDATE dentry SET parent = {DEEP} WHERE name = x'{b'old'.hex()}'"],
           {"directory-loop", "directory-links-wrong"},
           moved={"docs/old/draft": "lost+found/#{docs/old}/draft",
                  "docs/old/deep/note": "lost+found/#{docs/old}/deep/note"}),
    Damage("a name for the root", ["INSERT INTO dentry VALUES (1, x'7a', 1, 3000)",
            "UPDATE counters SET value = 3001 WHERE key = 'next_dentry'"], {"directory-loop"}),
    one("inode-unnamed", f"DELETE FROM dentry WHERE ino = {LARGE}", moved={"large": "lost+found/#{large}"}),
    one("inode-leaked", "INSERT INTO inode VALUES (900, 33188, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL)",
        "UPDATE counters SET value = 1000 WHERE key = 'next_ino'"),
    one("orphan-missing", "INSERT INTO orphan VALUES (77)"),
    Damage("a link's size", [f"UPDATE inode SET size = 77 WHERE ino = {LINK}"], {"inode-invalid"}),
    Damage("a link's type", [f"UPDATE inode SET mode = 0 WHERE ino = {LINK}"], {"inode-invalid"}),
    Damage("a file's parent", [f"UPDATE inode SET parent = 5 WHERE ino = {SMALL}"], {"inode-invalid"}),
    Damage("a file's size", [f"UPDATE inode SET size = -5 WHERE ino = {SMALL}"],
           {"inode-invalid", "extent-beyond-size"}),
    one("xattr-nowhere", "INSERT INTO xattr VALUES (77, x'61', x'62')"),
    one("links-wrong", f"UPDATE inode SET nlink = 7 WHERE ino = {SMALL}"),
    one("directory-links-wrong", f"UPDATE inode SET nlink = 7 WHERE ino = {DOCS}"),
    Damage("root's count", ["UPDATE inode SET nlink = 2 WHERE ino = 1"], {"directory-links-wrong"}),
    one("xattr-flag-wrong", "UPDATE inode SET flags = 0 WHERE flags = 1"),
    Damage("an attribute that is gone", ["DELETE FROM xattr"], {"xattr-flag-wrong"}),
    Damage("extent-no-file", [f"DELETE FROM inode WHERE ino = {LARGE}",
            f"DELETE FROM dentry WHERE parent = 1 AND name = x'{b'large'.hex()}'"],
           {"extent-no-file"}, moved={"large": "lost+found/#{large}"}),
    Damage("extent-not-a-file", [f"UPDATE inode SET mode = 4516 WHERE ino = {OTHER}"], {"extent-not-a-file"},
           mended=False, lost={"other"}),
    Damage("extent-overlap", [f"UPDATE extent SET len = len + 50 "
            f"WHERE ino = {LARGE} AND off + len = 2 * {MIB} - 1000"],
           {"extent-overlap", "live-wrong", "stored-wrong"}),
    Damage("older over newer", [f"UPDATE extent SET off = off - 50, len = len + 50, skip = skip - 50 "
            f"WHERE ino = {LARGE} AND off = 2 * {MIB} - 1000 + 35000"],
           {"extent-overlap", "live-wrong", "stored-wrong"}),
    Damage("extent-crosses-window", [f"UPDATE extent SET len = len + (SELECT n.len FROM extent n WHERE "
            f"n.ino = {ASKEW} AND n.off = {MIB}) WHERE ino = {ASKEW} AND off + len = {MIB}",
            f"DELETE FROM extent WHERE ino = {ASKEW} AND off = {MIB}"], {"extent-crosses-window"}),
    one("extent-invalid", f"UPDATE extent SET skip = run WHERE ino = {OTHER}", lost={"other"}, mended=False),
    Damage("an offset beyond all files", [f"UPDATE extent SET off = 9223372036854775807 WHERE ino = {OTHER}"],
           {"extent-invalid"}),
    Damage("an offset before the file", [f"UPDATE extent SET off = -16 WHERE ino = {OTHER}"],
           {"value-impossible", "extent-invalid"}),
    Damage("a huge length", [f"UPDATE extent SET len = 9223372036854775807 WHERE ino = {OTHER}"],
           {"value-impossible", "extent-invalid"}, lost={"other"}, mended=False),
    Damage("a length that is text", [f"UPDATE extent SET len = 'x' WHERE ino = {OTHER}"],
           {"value-impossible"}, lost={"other"}, mended=False),
    Damage("a position beyond all", [f"UPDATE extent SET pos = 9223372036854775807 WHERE ino = {OTHER}"],
           {"value-impossible", "extent-beyond-segment"}, lost={"other"}, mended=False),
    Damage("a size that is text", [f"UPDATE inode SET size = 'abc' WHERE ino = {SMALL}"],
           {"value-impossible", "inode-invalid"}),
    Damage("a size that is no whole number", [f"UPDATE inode SET size = 11.5 WHERE ino = {SMALL}"],
           {"value-impossible"}),
    Damage("a time that is text", [f"UPDATE inode SET mtime = 'yesterday' WHERE ino = {SMALL}"],
           {"value-impossible"}),
    Damage("a mode that is text", [f"UPDATE inode SET mode = 'abc' WHERE ino = {SMALL}"],
           {"value-impossible", "inode-invalid", "extent-not-a-file"}),
    Damage("a directory's mode too large", [f"UPDATE inode SET mode = 1 << 40 WHERE ino = {OLD}"],
           {"value-impossible", "inode-invalid", "entry-nowhere", "links-wrong", "directory-links-wrong"}),
    Damage("a name that is text", [f"UPDATE dentry SET name = 'small' WHERE ino = {SMALL} AND parent = 1"],
           {"value-impossible", "entry-bad-name"}),
    Damage("a name that leads to text", [f"UPDATE dentry SET ino = 'zz' WHERE ino = {LARGE}"],
           {"value-impossible"}, moved={"large": "lost+found/#{large}"}),
    Damage("a name's number", [f"UPDATE dentry SET id = 9223372036854775807 WHERE ino = {OTHER}"],
           {"value-impossible"}),
    Damage("an attribute that is text", ["UPDATE xattr SET name = 'user.colour', value = 'red'"],
           {"value-impossible"}),
    Damage("an inode's number below 1", [
            f"UPDATE extent SET ino = -5 WHERE ino = {OTHER}",
            f"UPDATE dentry SET ino = -5 WHERE ino = {OTHER}"],
           {"value-impossible", "extent-no-file", "entry-dangling", "inode-unnamed", "stored-wrong",
            "extent-run-differs"}, mended=False),
    Damage("a counter that is text", ["UPDATE counters SET value = 'abc' WHERE key = 'next_ino'"],
           {"value-impossible", "counter-behind"}),
    Damage("a counter at its end", ["UPDATE counters SET value = 9223372036854775807 WHERE key = 'next_ino'"],
           {"value-impossible", "counter-behind"}),
    Damage("extent-missing", ["DELETE FROM extent"], {"extent-missing"}),
    Damage("some of a file's parts gone", [f"DELETE FROM extent WHERE ino = {LARGE} AND off >= {MIB}"],
           {"extent-missing"}),
    Damage("an unlinked inode with content", [f"UPDATE inode SET nlink = 0 WHERE ino = {LARGE}",
            f"DELETE FROM dentry WHERE ino = {LARGE}"], {"inode-unnamed"},
           moved={"large": "lost+found/#{large}"}),
    Damage("an unlinked directory with entries", [f"UPDATE inode SET nlink = 0 WHERE ino = {OLD}",
            f"DELETE FROM dentry WHERE ino = {OLD}"], {"inode-unnamed", "directory-links-wrong"},
           moved={"docs/old/draft": "lost+found/#{docs/old}/draft",
                  "docs/old/deep/note": "lost+found/#{docs/old}/deep/note"}),
    Damage("the root's parent", [f"UPDATE inode SET parent = {DOCS} WHERE ino = 1"], {"root-missing"}),
    Damage("an unsent segment's row gone", [f"DELETE FROM segment WHERE seg = {OPEN}"],
           {"extent-no-segment"}),
    Damage("a stored segment's row gone", [f"DELETE FROM segment WHERE seg = {STORED}"],
           {"extent-no-segment", "tally-wrong"}),
    Damage("a segment's size too small", [f"UPDATE segment SET size = 0 WHERE seg = {STORED}"],
           {"segment-invalid", "extent-beyond-segment", "shard-invalid", "tally-wrong"}),
    Damage("a segment's size too large", [f"UPDATE segment SET size = 1 << 50 WHERE seg = {STORED}"],
           {"value-impossible", "segment-invalid", "shard-invalid", "tally-wrong"}),
    Damage("all contracts gone", ["DELETE FROM contract"], {"shard-no-contract"}, mended=False),
    Damage("extent-no-segment", [f"UPDATE extent SET seg = 555 WHERE ino = {OTHER}",
            "UPDATE counters SET value = 600 WHERE key = 'next_seg'"],
           {"extent-no-segment", "live-wrong"}, lost={"other"}, mended=False),
    Damage("extent-beyond-segment", [f"UPDATE extent SET pos = pos + 30 * 1048576 WHERE ino = {OTHER}"],
           {"extent-beyond-segment"}, lost={"other"}, mended=False),
    one("extent-beyond-size", f"UPDATE inode SET size = 1000 WHERE ino = {LARGE}"),
    Damage("extent-run-missing", [f"DELETE FROM run WHERE ino = {LARGE}"],
           {"extent-run-missing", "plain-wrong"}),
    one("extent-run-differs", f"UPDATE run SET ino = 2 WHERE ino = {LARGE}", mended=False),
    one("run-no-segment", "INSERT INTO run VALUES (555, 0, 1, 2, 3)",
        "UPDATE counters SET value = 600 WHERE key = 'next_seg'"),
    one("stored-wrong", f"UPDATE inode SET stored = 1 WHERE ino = {LARGE}"),
    one("segment-invalid", f"UPDATE segment SET algorithm = 9 WHERE seg = {OPEN}", mended=False, lost={"*"}),
    Damage("segment-doomed", [f"UPDATE segment SET state = 3 WHERE seg = {STORED}"],
           {"segment-doomed", "tally-wrong"}),
    Damage("live-wrong", [f"UPDATE segment SET live = live + 1 WHERE seg = {STORED}"],
           {"live-wrong", "tally-wrong"}),
    Damage("plain-wrong", [f"UPDATE segment SET plain = plain + 1 WHERE seg = {STORED}"],
           {"plain-wrong", "tally-wrong"}),
    Damage("segment-dead", [
        "INSERT INTO segment VALUES (700, randomblob(16), 2, 1, 0, 0, 0, 0, 0, 0)",
        "UPDATE segment SET k = 3, n = 3 WHERE seg = 700",
        *(f"INSERT INTO shard VALUES (randomblob(32), 700, {i}, 0, x'', x'', 65552, 3)" for i in range(3)),
        "UPDATE counters SET value = 701 WHERE key = 'next_seg'"],
           {"segment-dead", "segment-lost", "tally-wrong"}, mended=False),
    Damage("segment-lost", [f"UPDATE shard SET state = 3 WHERE seg = {STORED} AND idx < 3"],
           {"segment-lost", "tally-wrong"}, mended=False, lost={"*"}),
    Damage("shard-no-segment", ["INSERT INTO shard VALUES (randomblob(32), 555, 0, 1, randomblob(32), "
        "randomblob(32), 65552, 1)"], {"shard-no-segment", "tally-wrong"}),
    one("shard-invalid", f"UPDATE shard SET root = x'00' WHERE shard_id = {SHARD}"),
    Damage("a shard's index", [f"UPDATE shard SET idx = 9 WHERE shard_id = {SHARD}"],
           {"shard-invalid", "shard-row-missing"}),
    Damage("a shard's length", [f"UPDATE shard SET length = 65552 WHERE shard_id = {SHARD}"],
           {"shard-invalid", "tally-wrong"}),
    Damage("shard-duplicate", [
        f"INSERT INTO shard SELECT randomblob(32), seg, idx, 6, root, checksum, length, 2 FROM shard "
        f"WHERE shard_id = {SHARD}"], {"shard-duplicate", "tally-wrong"}),
    Damage("shard-no-contract", [f"UPDATE shard SET contract = 99 WHERE shard_id = {SHARD}"],
           {"shard-no-contract", "tally-wrong"}),
    Damage("shard-row-missing", [f"DELETE FROM shard WHERE shard_id = {SHARD}"],
           {"shard-row-missing", "tally-wrong"}),
    one("tally-wrong", "UPDATE counters SET value = 77 WHERE key = 'segments_full'"),
    Damage("what a farmer holds", [
        "UPDATE counters SET value = value - 1 WHERE key LIKE 'held_shards_%'",
        "DELETE FROM counters WHERE key = (SELECT MAX(key) FROM counters WHERE key LIKE 'held_bytes_%')",
        "INSERT INTO counters VALUES ('held_shards_99', 3)"], {"tally-wrong"}),
    one("doomed-needed", f"INSERT INTO doomed VALUES ({SHARD}, 1, 0)"),
    one("doomed-no-contract", "INSERT INTO doomed VALUES (randomblob(32), 99, 0)"),
    Damage("contract-invalid", ["UPDATE contract SET terms = x'93' WHERE contract = 6"],
           {"contract-invalid"}, mended=False),
]  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    sample = Sample(tmp_path_factory.mktemp("original") / "volume")
    trio.run(make, sample)
    return sample


@pytest.fixture
def sample(original: Sample, tmp_path: Path) -> Sample:
    return original.copy_to(tmp_path / "volume")


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


async def read_everything(sample: Sample, damage: Damage) -> None:
    """What was not damaged reads as it was written, wherever its name is now, from farmers."""
    sample.drop_cache()
    if "*" in damage.lost:
        return
    with trio.fail_after(30):
        async with sample.running() as fs:
            for path, content in sample.content.items():
                if path in damage.lost:
                    continue
                where = damage.moved.get(path, path)
                for known, ino in sample.inodes.items():
                    where = where.replace("{" + known + "}", str(ino))
                assert await sample.read_back(fs, where) == content, path


async def test_a_file_of_which_nothing_can_be_read_can_be_deleted(sample: Sample) -> None:
    sample.damage(
        f"UPDATE extent SET seg = 555 WHERE ino = {OTHER}",
        "UPDATE counters SET value = 600 WHERE key = 'next_seg'",
    )
    sample.mend()
    async with sample.running() as fs:
        ino = sample.inodes["other"]
        with pytest.raises(FilesystemError):
            await sample.read_back(fs, "other")
        await fs.unlink(ROOT_INODE, b"other")
        fs.forget([(ino, 1)])
        await fs._store.sync()
        await fs._store.sync()
    assert sample.check().problems() == {}


async def test_a_mount_survives_an_unlinked_inode_that_is_gone(sample: Sample) -> None:
    sample.damage("INSERT INTO orphan VALUES (77)")
    async with sample.running() as fs:
        assert await sample.read_back(fs, "small") == sample.content["small"]
        await fs._store.sync()
    assert sample.check().counts == {}


def test_every_kind_has_its_damage() -> None:
    elsewhere = {"database-damaged", "journal-damaged", "journal-missing", "journal-short", "journal-stray"}
    covered = set().union(*(damage.codes for damage in DAMAGES)) | elsewhere
    assert covered == {code for code in KINDS if not code.startswith("farmer-")}


async def test_unsent_data_that_is_gone_is_told_and_the_rest_is_well(sample: Sample) -> None:
    (file,) = sample.journal.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[:1000])
    assert sample.check().codes == {"journal-short"}
    file.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    assert sample.check().codes == {"journal-damaged"}
    file.unlink()
    done = sample.mend()
    assert (done.found.codes, done.left.codes) == ({"journal-missing"}, {"journal-missing"})
    file.write_bytes(content)
    assert sample.check().codes == set()


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


@pytest.mark.parametrize("said", ["live = 0", "live = 0, state = 3"])
async def test_a_mount_deletes_no_segment_that_files_need_whatever_its_sum_says(
    sample: Sample, said: str
) -> None:
    sample.damage(f"UPDATE segment SET {said} WHERE seg = {STORED}")
    sample.drop_cache()
    async with sample.running() as fs:
        segments = fs._segments
        assert isinstance(segments, Segments)
        await fs.compact()
        await segments.delete_now()
        await fs._store.sync()
        assert any("fsck" in problem for problem in segments.report().problems)
    sample.drop_cache()
    done = sample.mend()
    assert done.found.codes >= {"segment-doomed", "live-wrong"}
    assert done.left.problems() == {}
    await read_everything(sample, one("none"))


@pytest.mark.parametrize("segment", [STORED, OPEN], ids=["stored", "unsent"])
@pytest.mark.parametrize(
    "change",
    ["segment_id = x'00'", "segment_id = 'text'", "size = 'text'", "size = -1", "k = 1 << 40, n = 1 << 41",
     "algorithm = 9", "state = 17", "live = 'text'"],
)  # fmt: skip
async def test_a_segment_whose_row_makes_no_sense_costs_no_more_than_its_own_content(
    sample: Sample, segment: str, change: str
) -> None:
    well = ["unsent"] if segment == STORED else ["small", "large", "docs/old/draft"]
    hurt = "small" if segment == STORED else "unsent"
    sample.damage(f"UPDATE segment SET {change} WHERE seg = {segment}")
    sample.drop_cache()
    with trio.fail_after(30):
        async with sample.running() as fs:
            segments = fs._segments
            assert isinstance(segments, Segments)
            await fs.compact()
            await segments.delete_now()
            await segments.repair_all()
            for path in well:
                assert await sample.read_back(fs, path) == sample.content[path]
            if "live" not in change:
                with pytest.raises(FilesystemError):
                    await sample.read_back(fs, hurt)
            await sample.write(fs, "new", b"goes on")
            await fs._store.sync()
    assert sample.check().problems()


async def test_content_behind_the_end_of_its_segment_is_an_error_for_its_readers_only(
    sample: Sample,
) -> None:
    sample.damage(f"UPDATE extent SET pos = 9223372036854775807 WHERE ino = {OTHER}")
    async with sample.running() as fs:
        with pytest.raises(FilesystemError):
            await sample.read_back(fs, "other")
        assert await sample.read_back(fs, "small") == sample.content["small"]
