"""Following a record, cutting the power at its steps, and opening a volume from what is left."""

import os
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.faults.disk import EVERYTHING, NOTHING, Disk, State, digest, lay_out, some
from tests.faults.history import Tree
from tests.faults.recording import Entry, Kind
from tests.faults.volume import TellingFarm, Volume, opened

THOROUGH: Final = os.environ.get("STORJFS_THOROUGH") == "1"
"""Every cut instead of a sample: for nights."""
SEED: Final = int(os.environ.get("STORJFS_SEED", "1"))


@dataclass(frozen=True, slots=True)
class Cut:
    """The power fails after step `step` of a record (counted from 0, marks included)."""

    step: int
    arrival: str
    state: State
    farm: TellingFarm
    """What the farmers hold then; changes when the next cut is asked for."""
    started: int
    """Requests begun."""
    durable: int
    """Of these, how many were acknowledged before an fsync that returned."""

    def __str__(self) -> str:
        return f"power cut after step {self.step}, {self.arrival} arrived: {self.durable}..{self.started}"


def cuts(
    entries: Sequence[Entry], *, tries: int = 3, share: float = 1.0, after: tuple[Cut, Disk] | None = None
) -> Iterator[Cut]:
    """Every distinct state of the disk: after each step with everything that is not sure arrived, nothing of
    it, and `tries` times as chance has it.

    Of these a `share`, unless THOROUGH; which, follows from SEED. `after`: the record is of a start after
    that cut, which left such a disk.
    """
    disk, farm = (Disk(), TellingFarm()) if after is None else (after[1], after[0].farm.copy())
    started, durable = (0, 0) if after is None else (after[0].started, after[0].durable)
    chance = random.Random(SEED)
    seen: set[bytes] = set()
    for step, entry in enumerate(entries):
        words = entry.path.split()
        if entry.kind is Kind.MARK and words[0] == "started":
            started = int(words[1])
        elif entry.kind is Kind.MARK and words[0] == "durable":
            durable = int(words[1])
        elif entry.kind is Kind.MARK and words[0] in ("put", "delete"):
            farm.note(words, entry.data)
        if not disk.apply(entry):
            continue
        for arrival in [
            NOTHING,
            EVERYTHING,
            *(some(SEED * 10**6 + step * 100 + n) for n in range(tries)),
        ]:
            if not THOROUGH and chance.random() >= share:
                continue
            state = disk.cut(arrival)
            # An equal disk is another case where more was promised, or the farmers hold something else.
            known = digest(state) + b"%d %d" % (durable, farm.shard_count())
            if known not in seen:
                seen.add(known)
                yield Cut(step, arrival.name, state, farm, started, durable)


def announce(share: float) -> None:
    """How to repeat this selection."""
    which = "every cut" if THOROUGH else f"{share:.1%} of the cuts, STORJFS_THOROUGH=1 for all"
    sys.stdout.write(f"\nSTORJFS_SEED={SEED}, {which}\n")


def volume_of(cut: Cut, folder: Path) -> Path:
    """The cut's files below `folder`, made anew; the volume's own folder there."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    lay_out({path: content for path, content in cut.state.items() if path}, folder)
    (folder / "volume").mkdir(exist_ok=True)
    return folder / "volume"


async def check(cut: Cut, folder: Path, states: Sequence[Tree]) -> int:
    """Promise 1 after a cut; returns how many requests survived.

    The volume opens without help, is what it was after some number of requests between those that an fsync
    confirmed and those that had begun, is that also at the next start, and takes new requests.
    """
    volume = volume_of(cut, folder)
    farm = cut.farm.copy()
    async with opened(volume, farm) as found:
        tree = await found.tree()
        assert tree in states[cut.durable : cut.started + 1], explain(tree, states, cut)
        await no_damage(found)
    # That start is cut off as well: nothing but what its own commits made durable is left of it.
    async with opened(volume, farm) as found:
        assert await found.tree() == tree, "the second recovery found something else"
        await found.settled()
        found.check_accounts()
        handle, _ = await found.fs.create(1, b"after the cut", 0o644, 0, 0)
        await found.fs.write(handle, 0, b"written afterwards")
        await found.fs.fsync(handle)
        await found.fs.release(handle)
    async with opened(volume, farm) as found:
        assert await found.read(b"after the cut") == b"written afterwards"
        after = await found.tree()
        del after[b"after the cut"]
        assert after == tree
        await no_damage(found)
        if cut.step % 8 == 0:
            await found.segments.flush()
            await found.no_orphans()
    (survived,) = [number for number, state in enumerate(states) if state == tree][:1]
    return survived


async def no_damage(volume: Volume) -> None:
    report = volume.segments.report()
    assert not report.damaged, report.problems
    assert not report.lost, report.problems
    assert not report.unreadable, report.problems


def explain(tree: Tree, states: Sequence[Tree], cut: Cut) -> str:
    """Why `tree` is none of the states that it may be."""
    if tree in states:
        return f"{cut}: found what was after {states.index(tree)} requests"
    nearest = min(
        states[cut.durable : cut.started + 1], key=lambda state: len(dict(tree.items() ^ state.items()))
    )
    found = {
        path: tree.get(path) for path in tree.keys() | nearest.keys() if tree.get(path) != nearest.get(path)
    }
    return f"{cut}: after no number of requests it was so; differs in {found} from the nearest"
