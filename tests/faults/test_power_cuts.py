"""Promise 1 under a power cut after every single step that the volume's files go through."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest
import trio

from storjfs.coding.frames import NONCE
from storjfs.coding.geometry import run_frames
from tests.faults.cuts import SEED, THOROUGH, Cut, announce, check, cuts, volume_of
from tests.faults.disk import NOTHING, Disk
from tests.faults.history import random_history, trees
from tests.faults.recording import Entry, Kind, read_record, recorded
from tests.faults.volume import opened, sealing

LENGTH = 400 if THOROUGH else 120
SHARE = 0.015
PAGE, PAGE_NONCE = 4096, 32

Sealed = tuple[bytes, bytes]
"""Segment id and nonce."""


def run_recorded(root: Path, record: Path, *words: str) -> list[Entry]:
    """The record of `tests.faults.workload`."""
    command = [sys.executable, "-m", "tests.faults.workload", str(root / "volume"), str(record), *words]
    subprocess.run(command, env=recorded(root, record), check=True)
    return list(read_record(record))


def sealed_in(entries: list[Entry]) -> list[Sealed]:
    marks = [entry.path.split() for entry in entries if entry.path.startswith("sealed ")]
    return [(bytes.fromhex(segment_id), bytes.fromhex(nonce)) for _, segment_id, nonce in marks]


class Recorded:
    """A workload that ran once under the recorder, and every nonce used in it and after cuts of it."""

    def __init__(self, folder: Path, seed: int, length: int) -> None:
        root = folder / "recorded"
        root.mkdir()
        self.entries = run_recorded(root, folder / "record", str(seed), str(length), "2")
        (folder / "record").unlink()
        self.states = trees(random_history(seed, length))
        self.sealed = Counter(sealed_in(self.entries))
        self.recoveries = 0

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Count what is sealed by starts after a cut."""
        before = self.sealed.total()
        with sealing(lambda segment_id, nonce: self.sealed.update([(segment_id, nonce)])):
            yield
        self.recoveries += self.sealed.total() > before


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return Recorded(tmp_path_factory.mktemp("workload"), SEED, LENGTH)


def checked(cut: Cut, folder: Path, run: Recorded) -> int:
    """See `check`; a failure tells which cut it was."""
    try:
        with run.noting():
            return trio.run(check, cut, folder, run.states)
    except BaseException as error:
        error.add_note(str(cut))
        raise


def test_after_a_cut_at_any_step_the_volume_is_a_prefix_with_all_that_was_synced(
    run: Recorded, quick: Path
) -> None:
    announce(SHARE)
    survived = {checked(cut, quick / "cut", run) for cut in cuts(run.entries, share=SHARE)}
    assert len(survived) > 10, "the cuts do not differ"


def test_the_steps_are_those_of_every_write_path(run: Recorded) -> None:
    names = {entry.file: entry.path for entry in run.entries if entry.kind is Kind.CREATE}
    places = {entry.file: Path(path).parent.name for entry in run.entries if (path := names.get(entry.file))}
    marks = Counter(entry.path.split()[0] for entry in run.entries if entry.kind is Kind.MARK)
    moved = [entry.second for entry in run.entries if entry.kind is Kind.RENAME]
    removed = [entry.path for entry in run.entries if entry.kind is Kind.UNLINK]
    assert any(path.startswith("/volume/cache/") for path in moved), "nothing stored became cache"
    assert any(path.startswith("/volume/cache/") for path in removed), "nothing was given up"
    assert marks["put"] > 10, "nothing was sent"
    assert marks["delete"] > 4, "nothing was deleted"
    assert any(entry.path.startswith("compacted ") and entry.path[10:] > "0" for entry in run.entries)
    checkpoints = [
        entry for entry in run.entries if entry.kind is Kind.SYNC and entry.path == "/volume/meta.db"
    ]
    assert len(checkpoints) > 4, "the log was not copied"
    assert "journal" in places.values()


def test_a_cut_during_the_recovery_from_a_cut_changes_nothing(run: Recorded, quick: Path) -> None:
    """A start is cut off at its steps as well, and the one after it finds the same."""
    announce(SHARE)
    for number, first in enumerate(islice(cuts(run.entries, tries=1), 100, None, 40 if THOROUGH else 450)):
        root = quick / str(number)
        volume_of(first, root)
        disk = Disk.of(first.state, root)
        entries = run_recorded(root, quick / f"record {number}", "recover")
        run.sealed.update(sealed_in(entries))
        for cut in cuts(entries, tries=2, share=SHARE, after=(first, disk)):
            try:
                checked(cut, quick / "cut", run)
            except BaseException as error:
                error.add_note(f"the start after: {first}")
                raise


def test_no_nonce_is_used_twice_for_a_key(run: Recorded, quick: Path) -> None:
    """Neither in a run nor across the starts after cuts of it, and what is counted is all there is."""
    for cut in islice(cuts(run.entries, tries=0), 200, 1400, 60):
        checked(cut, quick / "cut", run)
    assert run.recoveries > 10
    assert run.sealed.most_common(1)[0][1] == 1
    *_, last = cuts(run.entries, tries=0)
    nonces = trio.run(committed_nonces, last, quick / "cut")
    assert len(nonces) > 5
    assert set(nonces) <= set(run.sealed)


async def committed_nonces(cut: Cut, folder: Path) -> list[Sealed]:
    """Of all frames that the tables name and local files hold."""
    volume = volume_of(cut, folder)
    found = []
    async with opened(volume, cut.farm.copy()) as at:
        rows = at.store.read("SELECT segment_id, pos, length FROM run JOIN segment USING (seg)")
    for segment_id, pos, length in rows:
        for place in ("journal", "cache"):
            path = volume / place / segment_id.hex()
            if path.exists():
                content = path.read_bytes()
                nonces = [content[at : at + NONCE] for at, _ in run_frames(pos, length)]
                found += [(segment_id, nonce) for nonce in nonces if nonce.strip(b"\0")]
    return found


def test_no_nonce_is_used_twice_for_a_page_of_the_metadata(run: Recorded) -> None:
    """AEGIS-256 keeps it in the last bytes of each page, in the log as in the database."""
    names = {entry.file: entry.path for entry in run.entries if entry.kind is Kind.CREATE}
    pages = [
        entry.data
        for entry in run.entries
        if entry.kind is Kind.WRITE and len(entry.data) == PAGE and "/meta.db" in names[entry.file]
    ]
    assert len(pages) > 100
    assert len({page[-PAGE_NONCE:] for page in pages}) == len(pages)


@pytest.mark.parametrize("left_out", ["/volume/journal/", "/volume/meta.db-wal", "/volume/journal"])
def test_the_checks_notice_where_a_sync_is_missing(left_out: str, run: Recorded, quick: Path) -> None:
    """As if the code never synced the segment files, the log of the metadata, or the journal folder."""

    def missing(entry: Entry) -> bool:
        if left_out == "/volume/journal":
            return entry.kind is Kind.SYNC_FOLDER and entry.path == left_out
        return entry.kind is Kind.SYNC and entry.path.startswith(left_out)

    entries = [entry for entry in run.entries if not missing(entry)]
    assert len(entries) < len(run.entries)
    bare = (cut for cut in cuts(entries, tries=0) if cut.arrival == NOTHING.name)
    assert any(fails(cut, quick, run) for cut in islice(bare, 30, None, 4))


def fails(cut: Cut, quick: Path, run: Recorded) -> bool:
    try:
        checked(cut, quick / "cut", run)
    except BaseExceptionGroup:
        return True
    return False
