"""SQLite at the edge: encrypted databases and the group commit of meta.db.

`open_database` opens any of the project's databases (`connect` and `configure` are its parts, for a file that
says by itself what it is); `MetaStore` is the only writer of meta.db: it gathers what its participants
changed, commits it in groups on one thread and answers reads from another connection.
"""

from storjfs.store.batch import Values
from storjfs.store.database import StoreError, configure, connect, open_database
from storjfs.store.meta import MODEST, MetaStore, Participant, Statement, open_meta
from storjfs.store.schema import META_SCHEMA, META_VERSION, ROOT_INODE

__all__ = [
    "META_SCHEMA",
    "META_VERSION",
    "MODEST",
    "ROOT_INODE",
    "MetaStore",
    "Participant",
    "Statement",
    "StoreError",
    "Values",
    "configure",
    "connect",
    "open_database",
    "open_meta",
]
