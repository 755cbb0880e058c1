"""The room's face."""

from collections.abc import Callable

import trio

from storjfs.filesystem.amending import Amending
from storjfs.filesystem.core import Capacity, Policy
from storjfs.filesystem.seam import SegmentRoom
from storjfs.store import MetaStore, outlasting


class Filesystem(Amending):
    """Every request of a mount, as one coroutine each; see the room's docstring for the list.

    Made on the loop's thread; `owner` (uid, gid) gets the root directory of a new volume; `clock` gives
    nanoseconds since 1970 (None: FileClock). `run` does what is not urgent: reaping, compaction,
    defragmentation.
    """

    def __init__(
        self,
        store: MetaStore,
        segments: SegmentRoom,
        space: Callable[[], Capacity],
        policy: Policy | None = None,
        owner: tuple[int, int] = (0, 0),
        clock: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(store, segments, space, policy or Policy(), owner, clock)
        self._prepare_reaper()
        self._prepare_content()
        self._prepare_directories()
        self._prepare_compactor()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work in the background until cancelled, which loses nothing. In a read-only mount: do nothing."""
        task_status.started()
        if self._policy.read_only:
            await trio.sleep_forever()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outlasting, self._reap_all)
            nursery.start_soon(self._compact_forever)
