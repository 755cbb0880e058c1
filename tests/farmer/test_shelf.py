"""The shelf: whole shards or nothing, whatever step a crash comes after, and never more than its limit."""

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from storjfs.coding import merkle
from storjfs.coding.buffers import Buffer
from storjfs.farmer.disk import Disk
from storjfs.farmer.shelf import BATCH, PER_ARRIVAL, Held, NoRoom, ShardDamaged, Shelf, footprint
from storjfs.protocol.ids import Digest, ShardId


class PowerCut(BaseException):
    """The process is gone."""


class CountingDisk(Disk):
    """Counts what is done to files; after `stop_after` steps the power fails and nothing happens any more."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.steps = 0
        self.stop_after = stop_after
        self.room = 1 << 40

    def step(self) -> None:
        if self.stop_after is not None and self.steps >= self.stop_after:
            raise PowerCut
        self.steps += 1

    def create(self, path: Path) -> int:
        self.step()
        return super().create(path)

    def write(self, file: int, data: Buffer, offset: int) -> None:
        view = memoryview(data)
        half = len(view) // 8192 * 4096
        if half:
            self.step()
            super().write(file, view[:half], offset)
        self.step()
        super().write(file, view[half:], offset + half)

    def cut(self, file: int, length: int) -> None:
        self.step()
        super().cut(file, length)

    def sync_data(self, file: int) -> None:
        self.step()

    def sync_folder(self, path: Path) -> None:
        self.step()

    def rename(self, source: Path, target: Path) -> None:
        self.step()
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        self.step()
        super().remove(path)

    def free(self, path: Path) -> int:
        return self.room


class Keeping:
    """A shelf with an index that is a dictionary, used in the order in which a farmer uses it."""

    def __init__(self, folder: Path, disk: CountingDisk, limit: int = 1 << 30) -> None:
        self.folder = folder
        self.disk = disk
        self.index: dict[ShardId, Held] = {}
        self.doomed: set[ShardId] = set()
        self.limit = limit
        self.start()

    def start(self) -> None:
        self.shelf = Shelf(self.folder, self.limit, disk=self.disk)
        self.shelf.stored = sum(self.shelf.space_of(held.length) for held in self.index.values())
        self.shelf.recover(self.index.__contains__)
        self.shelf.remove(self.doomed - self.index.keys())
        self.doomed = set()

    def put(self, shard_id: ShardId, data: bytes) -> None:
        arrival = self.shelf.begin(shard_id, len(data))
        view, at = memoryview(data), 0
        while len(data) - at > BATCH:
            arrival.write(view[at : at + BATCH])
            at += BATCH
        root = arrival.finish(view[at:])
        self.shelf.sync_arriving()
        self.disk.step()
        self.index[shard_id] = Held(shard_id, root, len(data))
        self.shelf.place(shard_id)
        self.shelf.settled(arrival)

    def delete(self, shard_id: ShardId) -> None:
        self.disk.step()
        held = self.index.pop(shard_id)
        self.doomed.add(shard_id)
        self.shelf.remove([shard_id])
        self.shelf.removed([held.length])
        self.disk.step()
        self.doomed.discard(shard_id)

    def files(self) -> set[str]:
        return {path.name for path in self.folder.rglob("*") if path.is_file()}


OLD, NEW, GONE = (ShardId(bytes([number]) * 32) for number in (1, 2, 3))
DATA = os.urandom(BATCH + 70_001)


def script(keeping: Keeping) -> None:
    keeping.put(OLD, DATA[:5000])
    keeping.put(GONE, DATA[:9000])
    keeping.delete(GONE)
    keeping.put(NEW, DATA)


def steps_of_script() -> int:
    with tempfile.TemporaryDirectory() as folder:
        keeping = Keeping(Path(folder), CountingDisk())
        script(keeping)
        return keeping.disk.steps


@pytest.mark.parametrize("steps", range(steps_of_script()))
def test_after_a_crash_at_any_step_each_shard_is_whole_or_gone(tmp_path: Path, steps: int) -> None:
    keeping = Keeping(tmp_path, CountingDisk(stop_after=steps))
    with pytest.raises(PowerCut):
        script(keeping)
    keeping.disk.stop_after = None
    keeping.start()
    assert keeping.files() == {shard_id.hex() for shard_id in keeping.index}
    for shard_id, held in keeping.index.items():
        data = keeping.shelf.read(held, 0, held.length)
        assert data == DATA[: {OLD: 5000, GONE: 9000, NEW: len(DATA)}[shard_id]]
    assert keeping.shelf.taken == sum(keeping.shelf.space_of(held.length) for held in keeping.index.values())
    script_rest = [one for one in (OLD, NEW) if one not in keeping.index]
    for shard_id in script_rest:
        keeping.put(shard_id, DATA[:100])


@pytest.fixture
def keeping(tmp_path: Path) -> Keeping:
    return Keeping(tmp_path, CountingDisk())


@pytest.mark.parametrize("length", [1, 4095, 4096, 4097, 65552, BATCH, BATCH + 1, 2 * BATCH + 65552])
def test_file_is_shard_then_leaf_hashes_then_footer(keeping: Keeping, length: int) -> None:
    data = os.urandom(length)
    keeping.put(NEW, data)
    content = keeping.shelf.path(NEW).read_bytes()
    assert len(content) == footprint(length)
    assert content.startswith(data)
    leaves = merkle.leaf_hashes(data)
    assert content[length : length + len(leaves)] == leaves
    root = merkle.shard_root(data)
    assert keeping.index[NEW].root == root
    footer = b"storjfs shard 1\0" + length.to_bytes(8, "big") + root + (4096).to_bytes(4, "big") + bytes(4)
    assert content[length + len(leaves) :] == footer


def test_proofs_convince(keeping: Keeping) -> None:
    data = os.urandom(37 * 4096 + 5)
    keeping.put(NEW, data)
    held = keeping.index[NEW]
    for index, (leaf, path) in enumerate(keeping.shelf.prove(held, range(38))):
        assert merkle.verify(held.root, held.length, index, leaf, path)


def test_damaged_leaf_or_hashes_are_noticed_when_proving(keeping: Keeping) -> None:
    for at in (4096, 10 * 4096 + 40):
        keeping.put(NEW, os.urandom(10 * 4096))
        path = keeping.shelf.path(NEW)
        content = bytearray(path.read_bytes())
        content[at] ^= 0x80
        path.write_bytes(content)
        with pytest.raises(ShardDamaged):
            keeping.shelf.prove(keeping.index[NEW], range(10))
        keeping.delete(NEW)


def test_reading_beyond_the_shard_is_no_way_to_its_leaf_hashes(keeping: Keeping) -> None:
    keeping.put(NEW, bytes(5000))
    with pytest.raises(ShardDamaged):
        keeping.shelf.read(keeping.index[NEW], 4999, 2)


def test_a_shard_that_finds_no_room_for_its_name_is_used_where_it_is(keeping: Keeping) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    move = keeping.disk.rename
    keeping.disk.rename = full  # type: ignore[method-assign]
    for shard_id in (OLD, NEW):
        keeping.put(shard_id, DATA[:9000])
    held = keeping.index[NEW]
    assert keeping.shelf.read(held, 0, held.length) == DATA[:9000]
    assert keeping.shelf.prove(held, [0])
    keeping.delete(OLD)
    assert keeping.files() == {NEW.hex()}
    keeping.start()
    assert keeping.shelf.read(held, 0, held.length) == DATA[:9000]
    keeping.disk.rename = move  # type: ignore[method-assign]
    keeping.start()
    assert keeping.shelf.path(NEW).parent.name == NEW.hex()[:2]
    assert keeping.shelf.read(held, 0, held.length) == DATA[:9000]


def test_abandoned_arrival_leaves_nothing(keeping: Keeping) -> None:
    arrival = keeping.shelf.begin(NEW, 3 * BATCH)
    arrival.write(bytes(BATCH))
    assert keeping.shelf.taken == keeping.shelf.space_of(3 * BATCH)
    arrival.discard()
    keeping.shelf.abandon(arrival)
    keeping.shelf.abandon(arrival)
    assert keeping.shelf.taken == 0
    assert keeping.files() == set()


def test_full_disk_is_said_before_it_is_full(keeping: Keeping) -> None:
    keeping.disk.room = (64 << 20) + keeping.shelf.space_of(BATCH) - 1
    with pytest.raises(NoRoom):
        keeping.shelf.begin(NEW, BATCH)
    keeping.disk.room += 1
    arrival = keeping.shelf.begin(NEW, BATCH)
    with pytest.raises(NoRoom):
        keeping.shelf.begin(OLD, 1)
    keeping.shelf.abandon(arrival)


def test_file_systems_without_direct_writes_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def without_direct(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            os.close(opened(path, flags & ~os.O_DIRECT, mode))
            raise OSError(22, "Invalid argument")
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", without_direct)
    file = Disk().create(tmp_path / "file")
    Disk().write(file, b"anything", 3)
    os.close(file)
    assert (tmp_path / "file").read_bytes() == b"\0\0\0anything"


def test_unaligned_writes_work(tmp_path: Path) -> None:
    file = Disk().create(tmp_path / "file")
    Disk().write(file, b"anything", 3)
    os.close(file)
    assert (tmp_path / "file").read_bytes() == b"\0\0\0anything"


def on_disk(folder: Path) -> int:
    """Bytes of all files and folders."""
    found = (path.stat() for path in (folder, *folder.rglob("*")))
    return sum(max(one.st_blocks * 512, one.st_size) for one in found)


class ShelfMachine(RuleBasedStateMachine):
    """Puts, arrivals, deletes, crashes: the accounts are those of the files, and the limit holds."""

    LIMIT = 400_000

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.keeping = Keeping(self.folder, CountingDisk(), self.LIMIT)
        self.content: dict[ShardId, bytes] = {}
        self.number = 0

    def new_id(self) -> ShardId:
        self.number += 1
        return ShardId(self.number.to_bytes(32, "big"))

    @rule(length=st.integers(1, 60_000))
    def put(self, length: int) -> None:
        shard_id, data = self.new_id(), os.urandom(length)
        shelf = self.keeping.shelf
        growth = (len(shelf.arrivals) + 1) * PER_ARRIVAL * 4096
        room = (
            on_disk(self.folder) - shelf.stored + shelf.taken + -(-footprint(length) // 4096) * 4096 + growth
        )
        try:
            self.keeping.put(shard_id, data)
        except NoRoom:
            assert room > self.LIMIT - 4096  # nor is room refused; a block is for `pulse`
        else:
            self.content[shard_id] = data

    @rule(length=st.integers(1, 60_000))
    def arrive(self, length: int) -> None:
        try:
            arrival = self.keeping.shelf.begin(self.new_id(), length)
        except NoRoom:
            return
        if length > 4096:
            arrival.write(bytes(4096))

    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        arrivals = sorted(self.keeping.shelf.arrivals)
        if arrivals:
            arrival = self.keeping.shelf.arrivals[data.draw(st.sampled_from(arrivals))]
            arrival.discard()
            self.keeping.shelf.abandon(arrival)

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        if self.content:
            shard_id = data.draw(st.sampled_from(sorted(self.content)))
            self.keeping.delete(shard_id)
            del self.content[shard_id]

    @rule(steps=st.integers(0, 12), length=st.integers(1, 20_000))
    def crash(self, steps: int, length: int) -> None:
        disk = self.keeping.disk
        disk.stop_after = disk.steps + steps
        shard_id, data = self.new_id(), os.urandom(length)
        with contextlib.suppress(PowerCut, NoRoom):
            self.keeping.put(shard_id, data)
        disk.stop_after = None
        self.keeping.start()
        if shard_id in self.keeping.index:
            self.content[shard_id] = data

    @invariant()
    def limit_holds(self) -> None:
        assert on_disk(self.folder) <= self.LIMIT
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) <= self.keeping.shelf.taken
        assert sum(path.stat().st_blocks * 512 for path in files) <= self.keeping.shelf.taken

    @invariant()
    def content_is_there(self) -> None:
        index = self.keeping.index
        assert index.keys() == self.content.keys()
        for shard_id, data in self.content.items():
            held = index[shard_id]
            assert self.keeping.shelf.read(held, 0, held.length) == data
            assert held.root == Digest(merkle.shard_root(data))

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


TestShelfMachine = ShelfMachine.TestCase
TestShelfMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
