"""A disk as POSIX promises it and no better: from a record to all that a power cut may leave.

What a file holds is sure up to its last fsync or fdatasync. Of later writes each sector of 512 bytes is there
or is not, whatever the others are; a length may be there without the bytes. What a failed fsync should have
written may be there or not, and no later fsync changes that, for the kernel counts the pages as clean
(https://lwn.net/Articles/752063/).

Names are sure up to the last fsync of their directory. Of later changes any may have arrived, but of one name
none without those before it. A rename is one step, also between two directories. An fsync of a file says
nothing about its name.
"""

import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.faults.recording import Entry, Kind

SECTOR: Final = 512
BLOCK: Final = 4096


@dataclass(slots=True)
class _Change:
    """Of a file's content: `data` at `offset`; or, where that is None, the length (`punched` 0) or a hole."""

    offset: int
    data: bytes | None
    punched: int = 0
    adrift: bool = False
    """An fsync failed to write it."""

    def apply(self, content: bytearray) -> None:
        if self.data is not None:
            _grow(content, self.offset)
            content[self.offset : self.offset + len(self.data)] = self.data
        elif self.punched:
            end = min(self.offset + self.punched, len(content))
            content[self.offset : end] = bytes(max(0, end - self.offset))
        else:
            del content[self.offset :]
            _grow(content, self.offset)

    def arrive(self, content: bytearray, chance: random.Random) -> None:
        """As much of it as chance lets through."""
        kind = chance.random()
        if kind < 0.35:
            self.apply(content)
        elif kind > 0.6 and self.data is not None:
            self._tear(content, chance)

    def _tear(self, content: bytearray, chance: random.Random) -> None:
        assert self.data is not None
        end = self.offset + len(self.data)
        if chance.random() < 0.5:
            _grow(content, end)
        share = chance.random()
        at = self.offset
        while at < end:
            after = min(end, (at // SECTOR + 1) * SECTOR)
            if chance.random() < share:
                _grow(content, after)
                content[at:after] = self.data[at - self.offset : after - self.offset]
            at = after


def _grow(content: bytearray, size: int) -> None:
    if len(content) < size:
        content.extend(bytes(size - len(content)))


@dataclass(slots=True, eq=False)
class _File:
    base: bytes = b""
    """What is sure, but for `changes` that are sure as well."""
    changes: list[tuple[_Change, bool]] = field(default_factory=list)
    """In their order, each with whether it is sure."""

    def note(self, change: _Change) -> None:
        self.changes.append((change, False))

    def synced(self, *, failed: bool) -> None:
        if failed:
            for change, sure in self.changes:
                change.adrift = change.adrift or not sure
            return
        self.changes = [(change, sure or not change.adrift) for change, sure in self.changes]
        content = bytearray(self.base)
        settled = 0
        for change, sure in self.changes:
            if not sure:
                break
            change.apply(content)
            settled += 1
        self.base = bytes(content)
        del self.changes[:settled]

    def content(self, arrives: "Arrival") -> bytes:
        if not self.changes:
            return self.base
        content = bytearray(self.base)
        for change, sure in self.changes:
            if sure:
                change.apply(content)
            else:
                arrives.content(change, content)
        return bytes(content)


@dataclass(slots=True, eq=False)
class _Naming:
    """One change of names: `made` is the new file, None for a directory; `old` vanishes, `new` appears."""

    old: str | None
    new: str | None
    made: _File | None = None
    settled: bool = False

    @property
    def paths(self) -> set[str]:
        return {path for path in (self.old, self.new) if path is not None}

    @property
    def folders(self) -> set[str]:
        return {path.rpartition("/")[0] for path in self.paths}


@dataclass(frozen=True, slots=True)
class Arrival:
    """What of that which is not sure is on the disk."""

    name: str
    content: Callable[[_Change, bytearray], None]
    name_arrives: Callable[[], bool]
    """Asked for each change of names."""


EVERYTHING: Final = Arrival("everything", lambda change, content: change.apply(content), lambda: True)
NOTHING: Final = Arrival("nothing", lambda change, content: None, lambda: False)


def some(seed: int) -> Arrival:
    """Chance decides, the same for the same seed."""
    chance = random.Random(seed)
    share = chance.choice((0.0, 0.5, 1.0, chance.random()))
    return Arrival(
        f"some({seed})",
        lambda change, content: change.arrive(content, chance),
        lambda: chance.random() < share,
    )


State = dict[str, bytes | None]
"""By path (from the record's directory on): a file's content, None for a directory."""


class Disk:
    """Follows a record."""

    def __init__(self) -> None:
        self._names: dict[str, _File | None] = {"": None}
        self._pending: list[_Naming] = []
        self._files: dict[int, _File] = {}
        self._now: dict[str, _File | None] = {"": None}

    @classmethod
    def of(cls, state: State, folder: Path) -> "Disk":
        """A disk with `state`, all of it sure, as it is laid out below `folder`."""
        disk = cls()
        for path, content in state.items():
            file = None if content is None else _File(content)
            disk._names[path] = disk._now[path] = file
            if file is not None:
                disk._files[(folder / path.lstrip("/")).stat().st_ino] = file
        return disk

    def apply(self, entry: Entry) -> bool:
        """Follow one step; False where it changed nothing on the disk."""
        match entry.kind:
            case Kind.CREATE:
                made = self._files[entry.file] = _File()
                self._now[entry.path] = made
                self._pending.append(_Naming(None, entry.path, made))
            case Kind.MKDIR:
                self._now[entry.path] = None
                self._pending.append(_Naming(None, entry.path))
            case Kind.RENAME:
                self._now[entry.second] = self._now.pop(entry.path)
                self._pending.append(_Naming(entry.path, entry.second))
            case Kind.UNLINK | Kind.RMDIR:
                del self._now[entry.path]
                self._pending.append(_Naming(entry.path, None))
            case Kind.WRITE:
                if not entry.data:
                    return False
                self._files[entry.file].note(_Change(entry.offset, entry.data))
            case Kind.TRUNCATE:
                self._files[entry.file].note(_Change(entry.length, None))
            case Kind.PUNCH:
                self._files[entry.file].note(_Change(entry.offset, None, entry.length))
            case Kind.SYNC:
                self._files[entry.file].synced(failed=entry.error != 0)
            case Kind.SYNC_FOLDER:
                if entry.error == 0:
                    self._sync_folder(entry.path)
            case Kind.MARK:
                return False
        return True

    def _sync_folder(self, path: str) -> None:
        self._settle([naming for naming in self._pending if path in naming.folders], self._names)
        self._pending = [naming for naming in self._pending if not naming.settled]

    def _settle(self, chosen: list[_Naming], names: dict[str, _File | None]) -> None:
        """Bring `chosen` to the disk, and with each what came before it of the same names."""
        settled, paths = set(map(id, chosen)), set[str]()
        for naming in reversed(self._pending):
            if id(naming) in settled or naming.paths & paths:
                settled.add(id(naming))
                paths |= naming.paths
        for naming in self._pending:
            if id(naming) in settled:
                _rename(names, naming)
                naming.settled = names is self._names

    def cut(self, arrival: Arrival) -> State:
        """What is on the disk if the power fails now and `arrival` is what else arrived."""
        names = dict(self._names)
        self._settle([naming for naming in self._pending if arrival.name_arrives()], names)
        state: State = {}
        for path in sorted(names):
            if all(parent in state for parent in _parents(path)):
                file = names[path]
                state[path] = None if file is None else file.content(arrival)
        return state


def _rename(names: dict[str, _File | None], naming: _Naming) -> None:
    made: _File | None = naming.made
    if naming.old is not None:
        made = names.pop(naming.old, None)
        if made is None and naming.new is not None:
            return  # made in a directory that is not on the disk either
    if naming.new is not None:
        names[naming.new] = made


def _parents(path: str) -> Iterable[str]:
    while path:
        path = path.rpartition("/")[0]
        yield path


def digest(state: State) -> bytes:
    """Equal for equal states."""
    hashed = hashlib.blake2b(digest_size=16)
    for path, content in state.items():
        hashed.update(f"{path}\0{'' if content is None else len(content)}\0".encode())
        hashed.update(content or b"")
    return hashed.digest()


def lay_out(state: State, folder: Path) -> None:
    """Make the files of `state` below `folder`, which is new; blocks of zeros as holes."""
    for path, content in state.items():
        target = folder / path.lstrip("/")
        if content is None:
            target.mkdir(mode=0o700)
            continue
        with target.open("wb") as file:
            file.truncate(len(content))
            for at in range(0, len(content), BLOCK):
                block = content[at : at + BLOCK]
                if block.strip(b"\0"):
                    file.seek(at)
                    file.write(block)
        target.chmod(0o600)
