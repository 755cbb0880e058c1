"""Putting meta.db right, kind by kind: each in one transaction, each the same when done twice.

Only of a volume that nobody uses: a mount has its own view of these tables in memory.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Self

from storjfs.integrity import mending_content, mending_names, mending_shards, mending_values
from storjfs.integrity.findings import Finding
from storjfs.integrity.mending_local import LocalFiles, make_segment_again
from storjfs.integrity.missing import put_back
from storjfs.integrity.tables import Row, Tables

Mend = Callable[[Tables, Row], None]

MENDS: Final[dict[str, Mend]] = {
    **mending_names.MENDS,
    **mending_content.MENDS,
    **mending_shards.MENDS,
    **mending_values.MENDS,
    "extent-missing": put_back,
}


class Mender:
    """Mends through one connection of its own. Blocking. Raises StoreError, apsw.Error, OSError.

    Without `local` nothing is made again from files on this machine.
    """

    def __init__(self, path: Path, key: bytes | None, now: int, local: LocalFiles | None = None) -> None:
        self._tables = Tables(path, key, now)
        self._local = local

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tables.close()

    def mend(self, code: str, findings: Sequence[Finding]) -> int:
        """Mend all of `findings`, which are of this one kind, or nothing; returns how many were."""
        if code == "database-damaged":
            # Of what SQLite finds wrong only its indexes can be made from what is there.
            self._tables.reindex()
            return 0
        if code == "extent-no-segment":
            if self._local is None:
                return 0
            mend: Mend = partial(make_segment_again, local=self._local)
        else:
            mend = MENDS[code]
        mended = 0
        with self._tables.transaction():
            for finding in findings:
                before = self._tables.changes
                mend(self._tables, finding.row)
                mended += self._tables.changes > before
        return mended
