"""What can be wrong with a volume: every kind of finding, by its stable code. Pure values."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

KEPT: Final = 100_000
"""Findings of one kind that are kept to be mended in one round; the rest is only counted."""
SHOWN: Final = 100
"""Findings of one kind that a report names."""


class Severity(StrEnum):
    """What a finding means."""

    NOTE = "note"
    """Nothing is wrong: waste that is collected by itself, or something that could not be looked at."""
    WARNING = "warning"
    """The books are wrong, or redundancy is missing; every byte of every file is there."""
    ERROR = "error"
    """Names, attributes or data cannot be reached as they should, or are in danger."""
    LOSS = "loss"
    """Bytes of files are gone, as far as can be seen from here."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of finding.

    `stage`: in which round it is mended, since one mend can bring about what another looks for; None where it
    cannot be mended without loss. `live`: a mount mends it while it runs.
    """

    code: str
    severity: Severity
    stage: int | None
    meaning: str
    repair: str
    live: bool = False


_NOTE, _WARNING, _ERROR, _LOSS = Severity.NOTE, Severity.WARNING, Severity.ERROR, Severity.LOSS
_EIO: Final = "nothing: the part reads as an error, never as wrong bytes; restore or delete the file"

_ALL: Final = (
    # the database
    Kind("database-damaged", _ERROR, 0, "SQLite finds its file inconsistent", "indexes are built anew"),
    Kind("counter-behind", _ERROR, 0, "a number could be given out twice",
         "the counter is moved forward", live=True),
    Kind("value-impossible", _ERROR, 0, "a value of the wrong type, or beyond all bounds",
         "it becomes one from which the rest can be put right"),
    # names
    Kind("root-missing", _ERROR, 1, "there is no root directory", "an empty one is made"),
    Kind("entry-bad-name", _ERROR, 1, "a name that no program can use", "it is renamed to #INODE"),
    Kind("entry-dangling", _LOSS, 1, "a name leads to no inode",
         "the name is removed, and reported", live=True),
    Kind("entry-nowhere", _ERROR, 1, "a name lies in no directory", "it is moved to lost+found"),
    Kind("directory-wrong-parent", _ERROR, 1, "a directory names another parent than it lies in",
         "it names the one it lies in"),
    Kind("directory-many-names", _ERROR, 1, "a directory has several names", "one of them stays"),
    Kind("directory-loop", _ERROR, 1, "a directory lies in itself", "it is moved to lost+found"),
    Kind("inode-unnamed", _ERROR, 1, "an inode that no name leads to",
         "it gets a name in lost+found", live=True),
    Kind("inode-leaked", _WARNING, 1, "an unlinked inode that nobody would ever remove",
         "it is noted for removal at the next mount", live=True),
    Kind("orphan-missing", _ERROR, 1, "the list of unlinked inodes names one that is gone",
         "the line is removed", live=True),
    Kind("inode-invalid", _ERROR, 1, "type, size, target or parent of an inode contradict each other",
         "size and parent are set right; an unknown type becomes a file in place"),
    Kind("xattr-nowhere", _WARNING, 1, "extended attributes of no inode", "they are removed", live=True),
    Kind("links-wrong", _ERROR, 2, "a wrong count of names", "it is counted anew", live=True),
    Kind("directory-links-wrong", _ERROR, 2, "a wrong count of subdirectories",
         "it is counted anew", live=True),
    Kind("xattr-flag-wrong", _ERROR, 2, "extended attributes are there and not seen, or the other way round",
         "the flag is set right", live=True),
    # content
    Kind("extent-no-file", _ERROR, 1, "content of an inode that is gone",
         "a file with this content is made in lost+found"),
    Kind("extent-not-a-file", _ERROR, None, "content of something that is no file", "nothing"),
    Kind("extent-overlap", _ERROR, 1, "two parts of a file lie over each other",
         "where both are, what was appended last counts"),
    Kind("extent-crosses-window", _ERROR, 1, "a part of a file lies across a boundary of 1 MiB",
         "it is cut in two"),
    Kind("extent-invalid", _LOSS, 1, "a part of a file that cannot lie where it says",
         "the part reads as an error, never as zeros; restore or delete the file"),
    Kind("extent-missing", _LOSS, 1, "parts of a file's content are gone from its table",
         "they are put back by the way back, or kept in lost+found where their place is in doubt"),
    Kind("extent-no-segment", _LOSS, 1, "a part of a file lies in a segment that is not known",
         "the segment is made again from its file on this machine; else the part reads as an error"),
    Kind("extent-beyond-segment", _LOSS, None, "a part of a file lies behind the end of its segment", _EIO),
    Kind("extent-beyond-size", _ERROR, 2, "a file has content behind its end", "the file ends behind it"),
    Kind("extent-run-missing", _WARNING, 2, "the way back from a segment to its file is missing",
         "the row is written anew", live=True),
    Kind("extent-run-differs", _WARNING, None, "the way back from a segment leads elsewhere",
         "nothing: it is not known which of the two is right"),
    Kind("run-no-segment", _WARNING, 1, "the way back from a segment that is gone",
         "the row is removed", live=True),
    Kind("stored-wrong", _WARNING, 2, "a wrong sum of a file's content (du)",
         "it is added up anew", live=True),
    # segments and shards
    Kind("segment-invalid", _ERROR, 0, "a segment whose state, code or size makes no sense",
         "its size is where its last run ends; the rest stays"),
    Kind("segment-doomed", _ERROR, 2, "a segment is to be deleted though files need it", "it is kept"),
    Kind("live-wrong", _WARNING, 3, "a wrong sum of a segment's live bytes",
         "it is added up anew", live=True),
    Kind("plain-wrong", _WARNING, 3, "a wrong sum of a segment's plaintext bytes",
         "it is added up anew", live=True),
    Kind("segment-dead", _NOTE, None, "a segment that no file needs any more",
         "nothing: the next mount, or gc, deletes it", live=True),
    Kind("segment-lost", _LOSS, None, "fewer than k shards of a segment are left",
         "nothing: farmers that come back may bring it back"),
    Kind("shard-no-segment", _WARNING, 1, "a shard of a segment that is gone",
         "its farmer is to delete it", live=True),
    Kind("shard-invalid", _WARNING, 1, "a shard whose index, length or hash makes no sense",
         "it counts as lost and is rebuilt, where k others are there", live=True),
    Kind("shard-duplicate", _WARNING, 1, "two shards for one place", "one of them is deleted", live=True),
    Kind("shard-no-contract", _WARNING, 1, "a shard under a contract that is not known",
         "it counts as lost and is rebuilt, where k others are there", live=True),
    Kind("shard-row-missing", _WARNING, 2, "a shard that nobody would rebuild",
         "it is noted as lost and rebuilt", live=True),
    Kind("tally-wrong", _WARNING, 4, "a wrong count of segments, or of what a farmer holds (status)",
         "they are counted anew", live=True),
    Kind("doomed-needed", _ERROR, 1, "a shard in use is to be deleted", "the order is withdrawn", live=True),
    Kind("doomed-no-contract", _WARNING, 1, "a shard is to be deleted under a contract that is not known",
         "the order is dropped", live=True),
    Kind("contract-invalid", _ERROR, None, "a contract cannot be read, or is not the one it says", "nothing"),
    # this machine
    Kind("journal-missing", _LOSS, None, "unsent data is gone from this machine", _EIO),
    Kind("journal-short", _LOSS, None, "unsent data was cut short on this machine", _EIO),
    Kind("journal-damaged", _LOSS, None, "unsent data was changed on this machine", _EIO),
    Kind("journal-stray", _NOTE, 4, "a file in the journal that belongs to nothing",
         "it is removed; set aside in `journal-kept` where meta.db is older than what was last written here"),
    # farmers
    Kind("farmer-orphan", _WARNING, 4,
         "a farmer keeps a shard, for pay, that is not known: waste, or written after a copy of meta.db that "
         "was put back",
         "nothing; with --delete-unknown the farmer deletes it", live=True),
    Kind("farmer-orphans-kept", _WARNING, None,
         "farmers keep shards that are not known, while metadata are missing that may have known them",
         "nothing; see farmer-orphan once all else is mended", live=True),
    Kind("farmer-missing", _WARNING, 3, "a farmer does not have a shard that it should have",
         "it counts as lost and is rebuilt, where k others are there", live=True),
    Kind("farmer-differs", _WARNING, 3, "a farmer has another shard than it signed for",
         "it counts as lost and is rebuilt, where k others are there", live=True),
    Kind("farmer-found", _WARNING, 3, "a farmer has a shard noted as lost, of a segment that lacks it",
         "it counts as there again", live=True),
    Kind("farmer-senseless", _WARNING, None,
         "a farmer's list of what it keeps is out of order, or longer than its contract allows",
         "nothing: audits tell what it really has", live=True),
    Kind("farmer-silent", _NOTE, None, "a farmer could not be asked what it keeps", "nothing", live=True),
    Kind("farmer-old", _NOTE, None, "a farmer's version cannot say what it keeps", "nothing", live=True),
)  # fmt: skip

KINDS: Final[dict[str, Kind]] = {kind.code: kind for kind in _ALL}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `row` is what its mend needs, of a shape that belongs to the code."""

    code: str
    text: str
    row: tuple[Any, ...] = ()
    ino: int | None = None
    seg: int | None = None

    @property
    def kind(self) -> Kind:
        return KINDS[self.code]


@dataclass(slots=True)
class Findings:
    """Findings by code, with a bound on how many of each are kept."""

    counts: dict[str, int] = field(default_factory=dict)
    kept: dict[str, list[Finding]] = field(default_factory=dict)

    def add(self, finding: Finding) -> None:
        self.counts[finding.code] = self.counts.get(finding.code, 0) + 1
        several = self.kept.setdefault(finding.code, [])
        if len(several) < KEPT:
            several.append(finding)

    def extend(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self.add(finding)

    def merge(self, other: "Findings") -> None:
        """Take over what another examination found."""
        for code, several in other.kept.items():
            self.kept.setdefault(code, []).extend(several[: KEPT - len(self.kept.get(code, ()))])
            self.counts[code] = self.counts.get(code, 0) + other.counts[code]

    def __iter__(self) -> Iterator[Finding]:
        for several in self.kept.values():
            yield from several

    def __bool__(self) -> bool:
        return bool(self.counts)

    @property
    def codes(self) -> set[str]:
        return set(self.counts)

    def problems(self) -> dict[str, int]:
        """The counts without notes."""
        return {code: count for code, count in self.counts.items() if KINDS[code].severity is not _NOTE}

    def without(self, codes: Iterable[str]) -> "Findings":
        """The same less some kinds."""
        left_out = set(codes)
        return Findings(
            {code: count for code, count in self.counts.items() if code not in left_out},
            {code: several for code, several in self.kept.items() if code not in left_out},
        )

    def report(self) -> list[dict[str, Any]]:
        """For JSON: an object per kind, worst first; see docs/reference/fsck.md."""
        order = [_LOSS, _ERROR, _WARNING, _NOTE]
        codes = sorted(self.counts, key=lambda code: (order.index(KINDS[code].severity), code))
        return [
            {
                "code": code,
                "severity": str(KINDS[code].severity),
                "count": self.counts[code],
                "meaning": KINDS[code].meaning,
                "repair": KINDS[code].repair,
                "findings": [_shown(one) for one in self.kept.get(code, ())[:SHOWN]],
            }
            for code in codes
        ]


def _shown(finding: Finding) -> dict[str, Any]:
    shown: dict[str, Any] = {"text": finding.text}
    if finding.ino is not None:
        shown["inode"] = finding.ino
    if finding.seg is not None:
        shown["segment"] = finding.seg
    return shown
