"""Mends of a drive that is in use, through its rooms: what needs no look at all rows, or no room's leave.

What changes where bytes of files are found, or what leads to a directory, waits until nobody uses the volume.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from storjfs.filesystem import Filesystem
from storjfs.integrity.findings import KINDS, Finding, Findings
from storjfs.segments import Segments

AT_ONCE: Final = 64
"""Findings mended without letting programs in between."""

SUMS: Final = frozenset(
    {"links-wrong", "directory-links-wrong", "stored-wrong", "live-wrong", "plain-wrong", "tally-wrong"}
)
"""Findings whose row is (what, right, said): mended by the difference."""

_Mend = Callable[[tuple[Any, ...]], bool | Awaitable[bool]]


def difference(finding: Finding) -> int:
    """By how much a sum is wrong."""
    _, right, said = finding.row
    return int(right) - int(said)


class LiveMender:
    """Methods belong to the loop's thread. What is mended is committed with the group, as any change."""

    def __init__(self, filesystem: Filesystem, segments: Segments) -> None:
        files, amend = filesystem, segments.amend
        self._mends: dict[str, _Mend] = {
            "counter-behind": lambda row: (
                amend.numbers(row[1]) if row[0] == "next_seg" else files.amend_numbers(*row)
            ),
            "entry-dangling": lambda row: files.amend_dangling(*row[:3]),
            "inode-unnamed": lambda row: files.keep(row[0]),
            "inode-leaked": lambda row: files.amend_leaked(*row),
            "orphan-missing": lambda row: files.amend_orphan(*row),
            "xattr-nowhere": lambda row: files.amend_xattrs(*row),
            "links-wrong": lambda row: files.amend_links(row[0], row[1] - row[2]),
            "directory-links-wrong": lambda row: files.amend_links(row[0], row[1] - row[2]),
            "xattr-flag-wrong": lambda row: files.amend_xattr_flag(row[0]),
            "extent-run-missing": lambda row: amend.way_back(*row),
            "run-no-segment": lambda row: amend.run_of_nothing(*row),
            "stored-wrong": lambda row: files.amend_stored(row[0], row[1] - row[2]),
            "live-wrong": lambda row: amend.live(row[0], row[1] - row[2]),
            "plain-wrong": lambda row: amend.plain(row[0], row[1] - row[2]),
            "shard-no-segment": lambda row: amend.shard_of_nothing(row[0]),
            "shard-invalid": lambda row: amend.shard(row[1], row[0], senseless=row[2]),
            "shard-duplicate": lambda row: amend.duplicate(*row),
            "shard-no-contract": lambda row: amend.shard(row[1], row[0], senseless=False),
            "shard-row-missing": lambda row: amend.missing(*row),
            "tally-wrong": lambda row: amend.tally(row[0], row[1] - row[2]),
            "doomed-needed": lambda row: amend.withdraw(*row),
            "doomed-no-contract": lambda row: amend.withdraw(*row),
        }
        assert all(KINDS[code].live for code in self._mends)

    def codes(self, found: Findings) -> list[str]:
        """Those of what was found that can be mended here, in the order in which they are to be."""
        codes = [code for code in KINDS if code in found.codes & self._mends.keys()]
        return sorted(codes, key=lambda code: KINDS[code].stage or 0)

    async def mend(self, code: str, found: Findings) -> None:
        """Mend all findings of a kind, as far as what was found is still so. Raises OSError, StorjfsError."""
        for count, finding in enumerate(found.kept.get(code, ()), 1):
            outcome = self._mends[code](finding.row)
            if not isinstance(outcome, bool):
                await outcome
            if count % AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
