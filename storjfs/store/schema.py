"""The tables of meta.db: what is replicated to farmers. Specified in docs/formats/metadata.md.

Every table has a NOT NULL primary key: SQLite's sessions silently leave out tables without one.
Times are nanoseconds since 1970; names, link targets and xattrs are bytes; sizes and offsets are bytes.
"""

META_VERSION = 3
ROOT_INODE = 1

META_SCHEMA = """
CREATE TABLE counters (
    key    TEXT NOT NULL PRIMARY KEY,      -- 'next_ino', 'next_dentry', 'next_seg': never handed out twice
    value  INTEGER NOT NULL
) WITHOUT ROWID;

-- Names ----------------------------------------------------------------------------------------------------

CREATE TABLE inode (
    ino     INTEGER NOT NULL PRIMARY KEY,
    mode    INTEGER NOT NULL,              -- type and permission bits, as in stat(2)
    uid     INTEGER NOT NULL,
    gid     INTEGER NOT NULL,
    nlink   INTEGER NOT NULL,              -- directories: 2 + number of subdirectories
    size    INTEGER NOT NULL,
    atime   INTEGER NOT NULL,
    mtime   INTEGER NOT NULL,
    ctime   INTEGER NOT NULL,
    rdev    INTEGER NOT NULL,
    parent  INTEGER NOT NULL,              -- of a directory, else 0
    flags   INTEGER NOT NULL,              -- bit 0: has xattrs
    stored  INTEGER NOT NULL,              -- bytes covered by extents (holes are not)
    target  BLOB                           -- of a symlink
);

CREATE TABLE dentry (
    parent  INTEGER NOT NULL,
    name    BLOB NOT NULL,
    ino     INTEGER NOT NULL,
    id      INTEGER NOT NULL,              -- the readdir cookie: grows within a directory, never reused
    PRIMARY KEY (parent, name)
) WITHOUT ROWID;
CREATE UNIQUE INDEX dentry_by_id ON dentry (parent, id);

CREATE TABLE xattr (
    ino     INTEGER NOT NULL,
    name    BLOB NOT NULL,
    value   BLOB NOT NULL,
    PRIMARY KEY (ino, name)
) WITHOUT ROWID;

CREATE TABLE orphan (                      -- unlinked, its content not yet reaped
    ino     INTEGER NOT NULL PRIMARY KEY
);

-- Content --------------------------------------------------------------------------------------------------

CREATE TABLE extent (                      -- file bytes [off, off+len) = bytes [skip, skip+len) of a run
    ino     INTEGER NOT NULL,
    off     INTEGER NOT NULL,
    len     INTEGER NOT NULL,              -- never crosses a 1 MiB window of the file
    seg     INTEGER NOT NULL,
    pos     INTEGER NOT NULL,              -- of the run's first frame in the segment
    run     INTEGER NOT NULL,              -- plaintext length of the whole run
    skip    INTEGER NOT NULL,
    PRIMARY KEY (ino, off)
) WITHOUT ROWID;

CREATE TABLE run (                         -- who wrote a run: the way back from a segment to its extents
    seg     INTEGER NOT NULL,
    pos     INTEGER NOT NULL,
    length  INTEGER NOT NULL,
    ino     INTEGER NOT NULL,
    off     INTEGER NOT NULL,
    PRIMARY KEY (seg, pos)
) WITHOUT ROWID;

CREATE TABLE segment (
    seg         INTEGER NOT NULL PRIMARY KEY,
    segment_id  BLOB NOT NULL UNIQUE,      -- 16 random bytes
    state       INTEGER NOT NULL,          -- 0 open, 1 closed, 2 stored, 3 doomed
    algorithm   INTEGER NOT NULL,          -- of its frames: 1 AES-256-GCM, 2 ChaCha20-Poly1305
    k           INTEGER NOT NULL,          -- 0 until closed
    n           INTEGER NOT NULL,
    size        INTEGER NOT NULL,          -- bytes of frames that are committed
    live        INTEGER NOT NULL,          -- plaintext bytes that extents still point to
    created     INTEGER NOT NULL,
    plain       INTEGER NOT NULL DEFAULT 0 -- plaintext bytes of its frames: what `live` was at most
);
CREATE INDEX segment_by_state ON segment (state);
CREATE INDEX segment_bare ON segment (seg) WHERE state = 2 AND k = n;  -- stored without a spare shard

CREATE TABLE shard (
    shard_id    BLOB NOT NULL PRIMARY KEY, -- 32 random bytes, new at each upload
    seg         INTEGER NOT NULL,
    idx         INTEGER NOT NULL,          -- row of the erasure code
    contract    INTEGER NOT NULL,
    root        BLOB NOT NULL,             -- Merkle root over the sealed bytes; empty before the receipt
    checksum    BLOB NOT NULL,             -- SHA-256 of the shard before its seal
    length      INTEGER NOT NULL,          -- sealed bytes
    state       INTEGER NOT NULL           -- 0 uploading, 1 held, 2 suspect, 3 lost
) WITHOUT ROWID;
CREATE INDEX shard_by_segment ON shard (seg, idx);
CREATE INDEX shard_by_contract ON shard (contract);
CREATE INDEX shard_unwell ON shard (seg) WHERE state IN (0, 3);  -- what start-up and repair look for

CREATE TABLE doomed (                      -- shards whose deletion a farmer has yet to confirm
    shard_id    BLOB NOT NULL PRIMARY KEY,
    contract    INTEGER NOT NULL,
    length      INTEGER NOT NULL DEFAULT 0 -- sealed bytes, if it was held until then; else 0
) WITHOUT ROWID;
CREATE INDEX doomed_by_contract ON doomed (contract);

-- Contracts ------------------------------------------------------------------------------------------------

CREATE TABLE contract (
    contract     INTEGER NOT NULL PRIMARY KEY,
    contract_id  BLOB NOT NULL UNIQUE,     -- SHA-256 over the first doubly signed terms
    node_id      BLOB NOT NULL,            -- the farmer
    state        INTEGER NOT NULL,         -- as numbered by storjfs.protocol.contracts
    terms        BLOB NOT NULL,            -- the newest doubly signed bytes, as they were received
    addresses    BLOB NOT NULL             -- msgpack array of strings
);
CREATE INDEX contract_by_node ON contract (node_id);

INSERT INTO counters VALUES ('next_ino', 2), ('next_dentry', 1), ('next_seg', 1);
"""

META_MIGRATIONS = {
    1: """
ALTER TABLE segment ADD COLUMN plain INTEGER NOT NULL DEFAULT 0;
UPDATE segment SET plain = (SELECT COALESCE(SUM(length), 0) FROM run WHERE run.seg = segment.seg);
REPLACE INTO counters SELECT 'segments_garbage', COALESCE(SUM(plain - live), 0) FROM segment WHERE state = 2;
""",
    2: """
CREATE INDEX segment_bare ON segment (seg) WHERE state = 2 AND k = n;
ALTER TABLE doomed ADD COLUMN length INTEGER NOT NULL DEFAULT 0;
REPLACE INTO counters SELECT 'held_shards_' || contract, COUNT(*) FROM shard
    WHERE state IN (1, 2) AND contract <> 0 GROUP BY contract;
REPLACE INTO counters SELECT 'held_bytes_' || contract, SUM(length) FROM shard
    WHERE state IN (1, 2) AND contract <> 0 GROUP BY contract;
""",
}
