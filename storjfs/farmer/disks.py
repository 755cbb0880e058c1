"""The disks of a farmer, as farmer.db knows them: what lies on each, in the blocks of that disk."""

from storjfs.coding import merkle
from storjfs.farmer.records import Records
from storjfs.farmer.shelf import BATCH, FOOTER, Shelf

FIRST = 1
"""The number of the disk that has the farmer's own folder."""
_FILE = f"(length + (length + {merkle.LEAF - 1}) / {merkle.LEAF} * {merkle.HASH} + {FOOTER.size})"
_SPACE = f"(({_FILE} + :block - 1) / :block + (length > {BATCH})) * :block"  # storjfs.farmer.shelf.space_of


def stored(records: Records) -> int:
    """Bytes of the files of all shards."""
    ((found,),) = records.read("SELECT sum(stored) FROM disk")
    return int(found)


def stored_on(records: Records, shelf: Shelf, number: int = FIRST) -> int:
    """Bytes of the files of shards on a disk; added up anew where its blocks are others than they were.

    Blocking, and only before the records run.
    """
    ((block, stored),) = records.read("SELECT block, stored FROM disk WHERE number = ?", number)
    if block == shelf.block:
        return int(stored)
    sql = f"SELECT count(*), coalesce(sum({_SPACE.replace(':block', str(shelf.block))}), 0) FROM shard"
    ((shards, stored),) = records.read(f"{sql} WHERE disk = ?", number)
    records.write_first(
        [
            (
                "UPDATE disk SET block = ?, shards = ?, stored = ? WHERE number = ?",
                (shelf.block, shards, stored, number),
            )
        ]
    )
    return int(stored)
