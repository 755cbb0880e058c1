"""SQLite at the edge: encrypted databases and the group commit of meta.db.

`open_database` opens any of the project's databases; `MetaStore` is the only writer of meta.db: it gathers
what its participants changed, commits it in groups on one thread and answers reads from another connection.
"""

from storjfs.store.background import outlasting
from storjfs.store.database import StoreError, open_database
from storjfs.store.meta import MetaStore, Participant, Statement, open_meta
from storjfs.store.schema import META_SCHEMA, META_VERSION, ROOT_INODE

__all__ = [
    "META_SCHEMA",
    "META_VERSION",
    "ROOT_INODE",
    "MetaStore",
    "Participant",
    "Statement",
    "StoreError",
    "open_database",
    "open_meta",
    "outlasting",
]
