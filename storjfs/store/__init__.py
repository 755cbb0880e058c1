"""SQLite at the edge: encrypted databases and the group commit of meta.db.

`open_database` opens any of the project's databases (`connect` and `configure` are its parts, for a file that
says by itself what it is); `MetaStore` is the only writer of meta.db: it gathers what its participants
changed, commits it in groups on one thread and answers reads from another connection. `Ballast` is space set
aside for when the disk is full (decision record 9). `durable` is for the files that are no databases.
"""

from storjfs.store.background import outlasting, tell_committed
from storjfs.store.ballast import FULL, Ballast
from storjfs.store.batch import Values
from storjfs.store.database import (
    DiskFull,
    StoreError,
    configure,
    connect,
    copy_database,
    damage_in,
    found_full,
    open_database,
)
from storjfs.store.meta import MODEST, MetaStore, Participant, Statement
from storjfs.store.reading import missing_indexes, open_meta
from storjfs.store.schema import META_SCHEMA, META_VERSION, ROOT_INODE

__all__ = [
    "FULL",
    "META_SCHEMA",
    "META_VERSION",
    "MODEST",
    "ROOT_INODE",
    "Ballast",
    "DiskFull",
    "MetaStore",
    "Participant",
    "Statement",
    "StoreError",
    "Values",
    "configure",
    "connect",
    "copy_database",
    "damage_in",
    "found_full",
    "missing_indexes",
    "open_database",
    "open_meta",
    "outlasting",
    "tell_committed",
]
