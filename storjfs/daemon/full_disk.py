"""What a mount does about a full disk: the ballast, the order of giving up, and what a person is told.

See decision record 9 for the order and for what a crash leaves.
"""

import errno
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import trio

from storjfs.segments import Segments
from storjfs.store import Ballast, MetaStore
from storjfs.volume import VolumePaths
from storjfs.volume.units import show_size

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 2.0
"""Seconds between two looks whether there is room again."""


class FullDisk:
    """Of one mount whose settings keep `reserve` bytes free.

    `make_way` comes before anything is opened, `attach` after, `run` as long as it runs.
    """

    def __init__(self, paths: VolumePaths, reserve: int) -> None:
        self._paths = paths
        self._reserve = reserve
        self._ballast = Ballast(paths.ballast, reserve // 4)
        self._used_up = 0
        self._making = True
        self._store: MetaStore
        self._segments: Segments

    # --- before anything is opened ---

    def make_way(self) -> None:
        """Have enough free for the databases to be opened; first the ballast goes, then cached copies.

        Where that is not enough either, opening says so. Blocking. Raises OSError.
        """
        wanted = self._reserve // 16
        if _free(self._paths.data_dir) < wanted:
            self._ballast.give_up()
        data, cache = self._paths.data_dir, self._paths.cache_dir
        # The cache folder may be gone: it is what a person deletes first.
        if _free(data) < wanted and cache.is_dir() and _same_disk(data, cache):
            _give_up_oldest(cache, lambda: _free(data) >= wanted)

    def attach(self, store: MetaStore, segments: Segments) -> None:
        """Have these ask and tell. On the loop; before anything is committed."""
        self._store, self._segments = store, segments
        token = trio.lowlevel.current_trio_token()

        def relieve(number: int) -> bool:
            if _on_loop(token, segments.relieve):
                return True
            given = self._ballast.give_up()
            # Whatever it gave: nothing more is taken until it is there again.
            self._used_up = number
            return given > 0

        store.relieve = relieve
        segments.space.missing = lambda: 0 if self._making else self._ballast.missing
        segments.space.used_up = lambda: self._used_up

    # --- while it runs ---

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Make the ballast, before this counts as started if there is room; then again whenever it is gone
        and there is room. Wakes what waited for that. Until cancelled."""
        short = not await self._made()
        self._making = False
        task_status.started()
        while True:
            await trio.sleep(LOOK_EVERY)
            was, short = short, not await self._made() or not self._segments.space.takes_new
            if was and not short:
                log.info("the disk has room again")
                self._segments.farmers_changed()
                self._store.request_commit()

    async def _made(self) -> bool:
        """Whether the ballast is whole; it is made if there is room for it above the reserve."""
        if not self._ballast.missing:
            return True
        missing = self._ballast.missing
        try:
            room = _free(self._paths.data_dir) >= self._reserve + missing
            whole = room and await trio.to_thread.run_sync(self._ballast.make)
        except OSError as error:
            log.warning("no space can be set aside in %s: %s", self._ballast.path, error)
            whole = True  # without one, as on a disk that cannot have any
        if whole:
            self._used_up = 0
        return whole

    # --- what a person is told ---

    def problems(self) -> list[str]:
        """Sentences for the status report, worst first; empty while nothing is wrong."""
        said = []
        failure = self._store.failure
        if failure is not None:
            said.append(
                f"What was written lately is in memory only: {failure}."
                + (f" {failure.hint}" if failure.hint else "")
            )
        space = self._segments.space
        space.left(look=True)
        if self._used_up == errno.EDQUOT:
            said.append(
                f"The quota for {self._paths.data_dir} is used up: nothing can be written to the drive until "
                f"{show_size(self._reserve // 4)} of it are free; reading and deleting go on."
            )
        elif not space.takes_new:
            wanted = space.reserve + space.missing()
            what = "nothing can be written" if not space.takes_more else "nothing new can be made or opened"
            said.append(
                f"The disk that holds {self._paths.data_dir} is nearly full: {what} until "
                f"{show_size(wanted)} are free on it ({show_size(_free(self._paths.data_dir))} are now); "
                "reading and deleting go on, and writing by itself then."
            )
        return said

    @property
    def at_risk(self) -> bool:
        """Whether something that programs wrote is in memory only, and cannot be written down."""
        return self._store.failure is not None


def _on_loop(token: trio.lowlevel.TrioToken, ask: Callable[[], Awaitable[bool]]) -> bool:
    """What `ask` answers on the loop, called in another thread; False where the loop has ended."""
    try:
        return trio.from_thread.run(ask, trio_token=token)
    except (trio.RunFinishedError, trio.Cancelled):
        return False


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _same_disk(one: Path, other: Path) -> bool:
    return os.stat(one).st_dev == os.stat(other).st_dev


def _give_up_oldest(folder: Path, enough: Callable[[], bool]) -> None:
    """Remove files of the cache folder, those first that were written first."""
    with os.scandir(folder) as entries:
        files = sorted((entry.stat().st_mtime_ns, entry.path) for entry in entries if entry.is_file())
    for _, path in files:
        if enough():
            return
        os.unlink(path)


__all__ = ["FullDisk"]
