"""A full and a failing disk, at the n-th call: what the drive says is true, what fsync confirmed stays."""

import errno
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio

from storjfs.store import META_SCHEMA, META_VERSION, open_database
from tests.faults.cuts import SEED, THOROUGH, Cut, explain, volume_of
from tests.faults.disk import EVERYTHING, NOTHING, Disk, digest, lay_out, some
from tests.faults.failing import LENGTH, Case
from tests.faults.half_checkpoint import HELD
from tests.faults.history import Model, Tree, random_history
from tests.faults.recording import Entry, Kind, read_record, recorded
from tests.faults.volume import KEYS, TellingFarm, opened

TAKES_SPACE = (Kind.CREATE, Kind.WRITE, Kind.TRUNCATE, Kind.MKDIR)
SYNCS = (Kind.SYNC, Kind.SYNC_FOLDER)
EVER = 1 << 40
CASES = 8

KINDS = {
    "a full disk": Case(errno.ENOSPC, TAKES_SPACE, 1, EVER),
    "a full disk that takes a part": Case(errno.ENOSPC, TAKES_SPACE, 1, EVER, torn=500),
    "a disk that is full for a moment": Case(errno.ENOSPC, TAKES_SPACE, 1, 1),
    "a quota that is used up": Case(errno.EDQUOT, TAKES_SPACE, 1, EVER),
    "a quota that takes a part": Case(errno.EDQUOT, TAKES_SPACE, 1, EVER, torn=500),
    "a quota at the start": Case(errno.EDQUOT, TAKES_SPACE, 1, EVER, opening=True),
    "a write that fails": Case(errno.EIO, (Kind.WRITE,), 1, 1),
    "a sync that fails once": Case(errno.EIO, SYNCS, 1, 1),
    "a sync that finds no space": Case(errno.ENOSPC, SYNCS, 1, 1),
    "a disk that fails for good": Case(errno.EIO, (*TAKES_SPACE, *SYNCS), 1, EVER),
    "a name that cannot be changed": Case(errno.EIO, (Kind.RENAME, Kind.UNLINK, Kind.PUNCH), 1, 1),
    "a full disk at the start": Case(errno.ENOSPC, TAKES_SPACE, 1, EVER, opening=True),
    "a sync that fails at the start": Case(errno.EIO, SYNCS, 1, 1, opening=True),
}


def run_cases(cases: list[Case], folder: Path) -> list[list[Entry]]:
    """The record of each case."""
    root, record, control = folder / "failing", folder / "record", folder / "control"
    root.mkdir()
    control.write_bytes(bytes(64))
    words = [str(root), str(record), str(control), msgspec.json.encode(cases).decode()]
    subprocess.run(
        [sys.executable, "-m", "tests.faults.failing", *words],
        env=recorded(root, record, control),
        check=True,
    )
    parts: list[list[Entry]] = []
    for entry in read_record(record):
        if entry.path.startswith("case "):
            parts.append([])
        parts[-1].append(entry)
    record.unlink()
    return parts


def calls(entries: list[Entry]) -> tuple[int, int]:
    """How many calls there were that could have failed, and how many did."""
    ((_, seen, failed),) = [entry.path.split() for entry in entries if entry.path.startswith("seen ")]
    return int(seen), int(failed)


def states_of(entries: list[Entry], seed: int) -> list[Tree]:
    """What the drive was after each request that succeeded."""
    model, history = Model(), random_history(seed, LENGTH)
    found = [model.tree()]
    for entry in entries:
        if entry.path.startswith("applied "):
            model.apply(history[int(entry.path.split()[1])])
            found.append(model.tree())
    return found


def cuts_of(entries: list[Entry], number: int) -> Iterator[Cut]:
    """Power cuts after the errors, and some in between."""
    disk, farm = Disk(), TellingFarm()
    started = durable = 0
    chance = random.Random(SEED)
    failed, seen = False, set()
    for step, entry in enumerate(entries):
        words = entry.path.split()
        if entry.kind is Kind.MARK and words[0] == "started":
            started = max(started, int(words[1]))
        elif entry.kind is Kind.MARK and words[0] == "durable":
            durable = int(words[1])
        elif entry.kind is Kind.MARK and words[0] in ("put", "delete"):
            farm.note(words, entry.data)
        failed = failed or entry.error != 0
        last = entry.path.startswith("ended ")
        if not disk.apply(entry) and not last:
            continue
        if last or (failed and chance.random() < (0.1 if THOROUGH else 0.01)):
            for arrival in (NOTHING, EVERYTHING, some(number * 1000 + step)):
                state = {path.removeprefix(f"/{number}"): held for path, held in disk.cut(arrival).items()}
                if digest(state) not in seen:
                    seen.add(digest(state))
                    yield Cut(step, arrival.name, state, farm, started, durable)


async def check_cut(cut: Cut, folder: Path, states: list[Tree]) -> None:
    """As in `cuts.check`, without the starts after the first."""
    async with opened(volume_of(cut, folder), cut.farm.copy()) as found:
        tree = await found.tree()
        assert tree in states[cut.durable : cut.started + 1], explain(tree, states, cut)
        assert not found.segments.report().damaged
        await found.settled()
        found.check_accounts()


@pytest.mark.parametrize("name", KINDS)
def test_what_the_drive_says_is_true_whatever_call_fails(name: str, quick: Path) -> None:
    """The calls that fail are chosen over a whole run; see `failing` for what the running drive is held to.

    Afterwards the power fails too: what an fsync confirmed is there, the rest is a prefix of what succeeded.
    """
    kind = KINDS[name]
    ((probe),) = run_cases([msgspec.structs.replace(kind, first=EVER, last=EVER)], quick)
    total, _ = calls(probe)
    (quick / "failing").rename(quick / "probe")
    chance = random.Random(SEED)
    numbers = (
        range(1, total + 1) if THOROUGH else sorted(chance.sample(range(1, total + 1), min(CASES, total)))
    )
    sys.stdout.write(f"\nSTORJFS_SEED={SEED}, {name}: calls {list(numbers)} of {total}\n")
    cases = [
        msgspec.structs.replace(kind, first=number, last=kind.last if kind.last == EVER else number)
        for number in numbers
    ]
    failed = 0
    for number, entries in enumerate(run_cases(cases, quick)):
        failed += calls(entries)[1]
        states = states_of(entries, kind.seed)
        for cut in cuts_of(entries, number):
            try:
                trio.run(check_cut, cut, quick / "cut", states)
            except BaseException as error:
                error.add_note(f"{cases[number]}: {cut}")
                raise
    assert failed, "no call was made to fail"


@pytest.mark.parametrize(
    ("which", "name", "schema", "version", "query", "times"),
    [
        ("meta", "meta.db", META_SCHEMA, META_VERSION, "SELECT value FROM xattr ORDER BY ino", 500),
        ("durable", "pay.db", HELD, 1, "SELECT value FROM held ORDER BY row", 25_000),
        ("ledger", "ledger.db", "", 1, "SELECT CAST(memo AS BLOB) FROM transfer ORDER BY transfer", 25_000),
    ],
)
def test_a_failed_sync_of_a_checkpoint_loses_nothing_that_was_copied(
    which: str, name: str, schema: str, version: int, query: str, times: int, quick: Path
) -> None:
    root, record, control = quick / "recorded", quick / "record", quick / "control"
    root.mkdir()
    control.write_bytes(bytes(64))
    command = [
        sys.executable,
        "-m",
        "tests.faults.half_checkpoint",
        which,
        str(root),
        str(record),
        str(control),
    ]
    subprocess.run(command, env=recorded(root, record, control), check=True)
    disk, durable, refused = Disk(), 0, False
    for entry in read_record(record):
        disk.apply(entry)
        if entry.path.startswith("durable "):
            durable = int(entry.path.split()[1])
        refused = refused or entry.path == "refused for good"
    for number, arrival in enumerate([NOTHING, EVERYTHING, *map(some, range(8))]):
        folder = quick / str(number)
        folder.mkdir()
        lay_out({path: content for path, content in disk.cut(arrival).items() if path}, folder)
        key = None if which == "ledger" else KEYS.metadata_key
        database = open_database(folder / name, key, schema, version=version)
        found = [value for (value,) in database.execute(query)]
        assert found[:durable] == [b"%04d" % row * times for row in range(1, durable + 1)]
        assert database.pragma("integrity_check") == "ok"
        database.close()
    assert refused
