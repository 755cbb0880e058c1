"""What runs under the recorder while the disk fails.

`python -m tests.faults.failing FOLDER RECORD CONTROL CASES`; CASES is JSON, a list of `Case`s, each of which
gets a volume of its own, FOLDER/<number>/volume. Marks: `case <number>` and `ended <number>`; `seen <calls>
<failed>` when the calls no longer fail; `started` and `durable` as in `workload`, but counting requests that
succeeded; `applied <index>` for each of these, by its place in the history; `refused <index> <errno>` for the
others.
"""

import errno
import sys
from pathlib import Path

import msgspec
import trio

from storjfs.errors import FilesystemError, StorjfsError
from storjfs.store import StoreError
from storjfs.volume.files import make_private
from tests.faults.history import Model, Request, random_history
from tests.faults.recording import Control, Kind, Marks
from tests.faults.volume import TellingFarm, Volume, opened

LENGTH = 45
CALM = 8
"""Requests before the first call that may fail."""


class Case(msgspec.Struct, frozen=True):
    """`first` to `last` of the calls of `kinds` fail with `error`; `opening`: those of the next start."""

    error: int
    kinds: tuple[int, ...]
    first: int
    last: int
    torn: int = 0
    opening: bool = False
    seed: int = 5


class Failing:
    """One case."""

    def __init__(self, case: Case, control: Control, mark: Marks) -> None:
        self._case = case
        self._control = control
        self._mark = mark
        self._history = random_history(case.seed, LENGTH)
        self._model = Model()
        self._applied = 0
        self.distrusted = False
        """An fsync has failed for good."""

    async def run_in_time(self, folder: Path) -> None:
        with trio.fail_after(60):
            await self.run(folder)

    async def run(self, folder: Path) -> None:
        """Whatever fails, the drive says so, and what it said is true."""
        farm = TellingFarm(self._mark)
        async with opened(folder, farm) as volume:
            await self._carry_out(volume, 0, CALM)
            await self._fsync(volume)
            if not self._case.opening:
                self._arm()
                await self._carry_out(volume, CALM, LENGTH - 10)
                await self._over(volume)
                await self._carry_out(volume, LENGTH - 10, LENGTH)
                await self._fsync(volume)
                await self._let_go(volume)
                await self._check(volume)
            else:
                await self._let_go(volume)
        if self._case.opening:
            await self._open_again(folder, farm)

    def _arm(self) -> None:
        case = self._case
        self._control.fail(case.error, {Kind(kind) for kind in case.kinds}, case.first, case.last, case.torn)

    async def _over(self, volume: Volume) -> None:
        seen, failed = self._control.heal()
        self._mark(f"seen {seen} {failed}")
        # Where something failed for lack of space, it now goes on by itself.
        full = self._case.error in (errno.ENOSPC, errno.EDQUOT)
        await self._fsync(volume, must=full and Kind.SYNC not in self._case.kinds)

    async def _carry_out(self, volume: Volume, first: int, last: int) -> None:
        for index in range(first, last):
            request = self._history[index]
            if request.kind == "fsync":
                await self._fsync(volume)
            elif request.kind == "flush":
                await self._patiently(volume, request)
            elif request.kind == "compact":
                continue  # waits for programs to pause
            elif self._model.allows(request) and (request.kind != "let go" or request.path in volume.held):
                await self._change(volume, index, request)

    async def _change(self, volume: Volume, index: int, request: Request) -> None:
        self._mark(f"started {self._applied + request.changes}")
        try:
            await volume.do(request)
        except FilesystemError as error:
            self._mark(f"refused {index} {error.errno}")
            if error.errno not in (self._case.error, errno.EROFS):
                raise
            return
        if request.changes:
            self._applied += 1
            self._model.apply(request)
            self._mark(f"applied {index}")

    async def _fsync(self, volume: Volume, *, must: bool = False) -> None:
        self._mark(f"started {self._applied}")
        try:
            await volume.do(Request("fsync"))
        except FilesystemError as error:
            if must:
                raise AssertionError("the disk is well again, and an fsync still fails") from error
            permanent = volume.store.failure is not None and volume.store.failure.permanent
            if self.distrusted and not permanent:
                raise AssertionError("what failed for good no longer counts") from error
            self.distrusted = permanent
        else:
            assert not self.distrusted, "an fsync claims success after one that failed for good"
            self._mark(f"durable {self._applied}")

    async def _patiently(self, volume: Volume, request: Request) -> None:
        """What may wait for ever on a broken disk."""
        try:
            with trio.move_on_after(0.1):
                await volume.do(request)
        except (StoreError, FilesystemError) as error:
            if error.errno not in (self._case.error, errno.EIO, errno.EROFS):
                raise

    async def _let_go(self, volume: Volume) -> None:
        for handle in volume.held.values():
            await volume.fs.release(handle)

    async def _check(self, volume: Volume) -> None:
        assert await volume.tree() == self._model.tree(), "the drive is not what it said it was"

    async def _open_again(self, folder: Path, farm: TellingFarm) -> None:
        """The start itself meets the error: it says so or goes on, and once all is well it opens."""
        self._arm()
        try:
            async with opened(folder, farm) as volume:
                await self._check(volume)
        except* (StorjfsError, OSError) as errors:
            self._mark(f"refused {LENGTH} {len(errors.exceptions)}")
        seen, failed = self._control.heal()
        self._mark(f"seen {seen} {failed}")
        async with opened(folder, farm) as volume:
            await self._check(volume)
            await self._fsync(volume)


def main() -> None:
    folder, record, control = Path(sys.argv[1]), Path(sys.argv[2]), Control(Path(sys.argv[3]))
    mark = Marks(record)
    for number, case in enumerate(msgspec.json.decode(sys.argv[4], type=list[Case])):
        mark(f"case {number}")
        place = folder / str(number)
        make_private(place)
        failing = Failing(case, control, mark)
        try:
            trio.run(failing.run_in_time, place / "volume")
        except BaseException as error:
            error.add_note(f"case {number}: {case}")
            raise
        mark(f"ended {number} {int(failing.distrusted)}")


if __name__ == "__main__":
    main()
