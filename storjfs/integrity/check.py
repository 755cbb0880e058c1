"""One examination of a volume's own books, and the rounds that put them right."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import apsw

from storjfs.integrity.content import check_content
from storjfs.integrity.findings import KINDS, Finding, Findings
from storjfs.integrity.local import check_database, check_journal
from storjfs.integrity.mending import Mender
from storjfs.integrity.mending_local import LocalFiles
from storjfs.integrity.names import check_names
from storjfs.integrity.shards import check_segments, check_shards
from storjfs.integrity.values import check_values
from storjfs.integrity.view import View
from storjfs.keys import VolumeKeys
from storjfs.store import StoreError

_DAMAGED: Final = (apsw.CorruptError, apsw.NotADBError, apsw.IOError)


def check(
    view: View,
    *,
    journal: Path | None = None,
    keys: VolumeKeys | None = None,
    segments: bool = True,
    contracts: bool = True,
) -> Findings:
    """Everything that a committed state says about itself. Blocking: belongs into a worker thread.

    `journal`: the folder of unsent segments, None to leave it out; `keys`: to look into its files, None not
    to. `segments`, `contracts`: whether those
    tables are kept; tests of single rooms have only some. Raises Stopped, TooMuchWritten, StoreError.
    """
    findings = Findings()
    with view.held():
        findings.extend(check_database(view))
        try:
            findings.extend(check_values(view))
            findings.extend(_tables(view, journal, keys, segments, contracts))
        except apsw.FullError as error:
            raise StoreError(
                f"no space for what a check gathers in {tempfile.gettempdir()}",
                hint="Nothing was changed. Free some space there, or name another folder in TMPDIR.",
            ) from error
        except (*_DAMAGED, apsw.SQLError, apsw.MismatchError, TypeError, ValueError, OverflowError) as error:
            # The file is damaged, or impossible values that were just found spoil what follows.
            if not findings.counts:
                findings.add(Finding("database-damaged", f"it cannot be looked through: {error}"))
            elif isinstance(error, _DAMAGED):
                findings.add(Finding("database-damaged", str(error)))
    return findings


def _tables(
    view: View, journal: Path | None, keys: VolumeKeys | None, segments: bool, contracts: bool
) -> Iterator[Finding]:
    yield from check_names(view)
    yield from check_content(view, segments=segments)
    if segments:
        yield from check_segments(view)
        yield from check_shards(view, contracts=contracts)
        if journal is not None:
            yield from check_journal(view, journal, keys)


@dataclass(slots=True)
class Examination:
    """What one fsck found at first, what is left of it after mending, and how often each kind was mended."""

    found: Findings
    left: Findings
    mended: dict[str, int] = field(default_factory=dict)

    def note_mended(self) -> None:
        """Count as mended what was found and is not left."""
        for code, count in self.found.counts.items():
            done = count - self.left.counts.get(code, 0)
            if done > 0:
                self.mended[code] = done

    @classmethod
    def only(cls, found: Findings) -> "Examination":
        """Looked at, nothing changed."""
        return cls(found, found)


def mend(
    path: Path,
    key: bytes | None,
    found: Findings,
    again: Callable[[], Findings],
    *,
    local: LocalFiles | None = None,
    now: int | None = None,
) -> Examination:
    """Put right what `found` names and can be put right, in meta.db of a volume that nobody uses.

    Each kind of finding is mended in one transaction, lower stages first; after each stage `again` examines
    anew, because one mend can bring about what another looks for. Ends when nothing is left that can be
    mended. Interrupted anywhere it leaves whole mends done. Blocking. `local`: see Mender.
    """
    result = Examination(found, found)
    stuck: set[str] = set()
    while stages := {stage for code in result.left.codes - stuck if (stage := KINDS[code].stage) is not None}:
        stage = min(stages)
        codes = [code for code in KINDS if KINDS[code].stage == stage and code in result.left.codes - stuck]
        with Mender(path, key, time.time_ns() if now is None else now, local) as mender:
            for code in codes:
                mender.mend(code, result.left.kept[code])
        before, result.left = result.left, again()
        # What was not mended now will not be by doing the same again.
        stuck.update(code for code in codes if result.left.counts.get(code, 0) >= before.counts[code])
    result.note_mended()
    return result
