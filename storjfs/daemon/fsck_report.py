"""What findings of fsck come to: which of them count, which may be mended, and the report. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from storjfs.integrity import KINDS, SUMS, Examination, Finding, Findings, difference
from storjfs.volume import VolumePaths

SCHEMA: Final = 1

MISSES_DATA: Final = frozenset(
    {
        "contract-invalid",
        "extent-missing",
        "extent-no-segment",
        "segment-lost",
        "shard-no-contract",
        "shard-row-missing",
        "value-impossible",
    }
)
"""Findings after which a shard that is not known may be one that was lost from the books."""

CLEAN: Final = 0
MENDED: Final = 1
LEFT: Final = 4


def confirmed(first: Findings, second: Findings) -> Findings:
    """What both found: the same kind of the same thing, sums wrong by the same amount."""
    seen = {_thing(finding) for finding in first}
    both = Findings()
    both.extend(finding for finding in second if _thing(finding) in seen)
    return both


def _thing(finding: Finding) -> tuple[Any, ...]:
    by = difference(finding) if finding.code in SUMS else 0
    return (finding.code, finding.ino, finding.seg, finding.row[:1], by)


def not_mended(found: Findings, mended: Mapping[str, int]) -> Findings:
    """What is left of the findings about farmers, which are not looked for again."""
    left = found.without(code for code, count in mended.items() if count >= found.counts[code])
    for code, count in mended.items():
        if code in left.counts:
            left.counts[code] -= count
    return left


def orphans_spared(books: Findings, at_farmers: Findings) -> Findings:
    """While data is missing from the books, no shard that they do not know is one that nothing needs."""
    count = at_farmers.counts.get("farmer-orphan", 0)
    if not count or not books.codes & MISSES_DATA:
        return at_farmers
    spared = at_farmers.without({"farmer-orphan"})
    text = f"{count} shards that are not known may be of data that is missing from the metadata"
    spared.add(Finding("farmer-orphans-kept", text))
    return spared


def to_mend(at_farmers: Findings, delete_unknown: bool) -> Findings:
    """What of the findings may be mended: unknown shards go only where a person asked for just that.

    Nothing here can tell waste from what was written after the copy of meta.db that is in use.
    """
    return at_farmers if delete_unknown else at_farmers.without({"farmer-orphan"})


def report(
    paths: VolumePaths, result: Examination, *, mounted: bool, repair: bool, farmers: bool
) -> dict[str, Any]:
    """The result as documented in docs/reference/fsck.md."""
    left = result.left.problems()
    # What a mount could not mend, or left because of what else is wrong.
    later = [code for code in left if KINDS[code].stage is not None and not code.startswith("farmer-")]
    waiting = mounted and any(repair or not KINDS[code].live for code in later)
    return {
        "schema": SCHEMA,
        "volume": paths.name,
        "mounted": mounted,
        "repair": repair,
        "farmers": farmers,
        "exit_code": LEFT if left else MENDED if result.mended else CLEAN,
        "found": result.found.report(),
        "mended": result.mended,
        "left": left,
        "unmount_to_repair": waiting,
    }
