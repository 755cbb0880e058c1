"""Ways to damage the books of the sample, with what is found of each, and what is left."""

from dataclasses import dataclass, field

import trio

from tests.integrity.volume import MIB, Sample

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
