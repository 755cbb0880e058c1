"""What happens to content nobody can reach any more: unlinked files, and the tail of files cut short.

Small things go at once; large ones in the background, a bounded piece at a time, so that deleting a terabyte
stops nobody. The orphan table remembers what is still to do across a crash.
"""

import math
from collections.abc import Iterable

import trio

from storjfs.errors import FilesystemError
from storjfs.filesystem.core import SIZE_MAX, Core
from storjfs.filesystem.inodes import Inode
from storjfs.filesystem.windows import WINDOW
from storjfs.store import MODEST

FORGOTTEN_AT_ONCE = 16  # inodes reaped without letting others run, when the kernel forgets many
AT_ONCE = 64 * WINDOW  # bytes of a file whose extents are dropped without letting others run


class Reaper(Core):
    """Adds forgetting and reaping to the tables.

    An unlinked inode is reaped when no handle is open and the kernel has forgotten it; without word from the
    kernel at the next start.
    """

    def _prepare_reaper(self) -> None:
        """Queue what the last run left."""
        self._to_cut: dict[int, int] = {}  # inode: offset from which its tail must still go
        self._reap_send, self._reap_receive = trio.open_memory_channel[int](math.inf)
        if self._policy.read_only:
            return
        for ino in sorted(self._orphans.known):
            try:
                inode = self._inodes.get(ino)
            except FilesystemError:
                # Only in damaged metadata, which must not keep a volume from mounting.
                self._orphans.remove(ino)
                continue
            if inode.nlink:
                self._cut_later(inode, inode.size)
            else:
                # The kernel never heard of it.
                inode.forgotten = True
                inode.pins += 1
                self._reap_send.send_nowait(ino)

    def forget(self, forgotten: Iterable[tuple[int, int]]) -> None:
        """The kernel dropped these inodes: (ino, how many of the look-ups that it was told of).

        It may come late: behind another look-up, after which the kernel still has the inode.
        """
        count = 0
        for ino, lookups in forgotten:
            known = self._inodes.cache.peek(ino)
            if known is not None:
                known.lookups = max(known.lookups - lookups, 0)
            if ino in self._orphans.known:
                inode = self._inodes.get(ino)
                if not inode.nlink and not inode.lookups:
                    inode.forgotten = True
                    count += 1
                    if count <= FORGOTTEN_AT_ONCE:
                        self._reap_if_free(inode)
                    elif not inode.opens:
                        self._reap_send.send_nowait(ino)

    def _orphan(self, inode: Inode) -> None:
        """The last name is gone."""
        inode.pins += 1
        self._orphans.add(inode.ino)

    def _reap_if_free(self, inode: Inode) -> None:
        if inode.opens or not inode.forgotten or inode.gone or self._policy.read_only:
            return
        at_once = inode.size <= AT_ONCE and inode.ino not in self._to_cut
        if inode.stored and self._store.aside.distant:
            at_once = False
        if at_once and self._cut(inode, 0, inode.size) == inode.size:
            self._finish(inode)
        else:
            self._reap_send.send_nowait(inode.ino)

    def _finish(self, inode: Inode) -> None:
        for name in list(self._xattrs.all(inode)):
            self._xattrs.remove(inode, name)
        self._orphans.remove(inode.ino)
        self._inodes.delete(inode)

    def _cut(self, inode: Inode, start: int, end: int) -> int:
        """Make a hole of [start, end), or of as much as may be done without letting others run; its end."""
        if start < end and inode.stored:
            end = self._extents.cut(inode, start, end)
            self._inodes.mark(inode)
        return end

    def _shrink(self, inode: Inode, size: int) -> None:
        """Cut a file down to `size` bytes, its size included."""
        old = inode.size
        at = self._cut(inode, size, min(old, size + AT_ONCE))
        inode.size = size
        if inode.ino in self._to_cut or at < old:
            self._orphans.add(inode.ino)
            self._cut_later(inode, at)
        self._inodes.mark(inode)

    def _cut_later(self, inode: Inode, start: int) -> None:
        if inode.ino in self._to_cut:
            self._to_cut[inode.ino] = min(start, self._to_cut[inode.ino])
        else:
            inode.pins += 1
            self._to_cut[inode.ino] = start
            self._reap_send.send_nowait(inode.ino)

    async def _cut_tail(self, inode: Inode) -> None:
        """Return when nothing is left beyond the file's size, so that it may grow. Several may do this."""
        while inode.ino in self._to_cut:
            await self._store.room(most=MODEST)
            if self._store.aside.distant:
                await self._fetched(self._extents.missing(inode, self._to_cut.get(inode.ino, 0), SIZE_MAX))
            if (start := self._to_cut.get(inode.ino)) is None:
                return
            after = self._cut_piece(inode, start)
            if after is None or inode.gone:
                del self._to_cut[inode.ino]
                inode.pins -= 1
                if inode.nlink:
                    self._orphans.remove(inode.ino)
            else:
                self._to_cut[inode.ino] = after
            await trio.lowlevel.checkpoint()

    def _cut_piece(self, inode: Inode, start: int) -> int | None:
        """Cut AT_ONCE bytes or fewer; where to go on, None at the end."""
        end = min(start + AT_ONCE, SIZE_MAX)
        at = self._cut(inode, start, end)
        if at < end:
            return at
        return self._extents.next_used(inode, end) if end < SIZE_MAX else None

    async def _reap_all(self) -> None:
        """The background task."""
        async for ino in self._reap_receive:
            try:
                inode = self._inodes.get(ino)
            except FilesystemError:
                continue  # reaped meanwhile
            await self._cut_tail(inode)
            if inode.forgotten and not inode.opens and not inode.gone:
                await self._reap(inode)

    async def _reap(self, inode: Inode) -> None:
        at: int | None = 0
        while at is not None:
            await self._store.room(most=MODEST)
            if self._store.aside.distant:
                await self._fetched(self._extents.missing(inode, at, SIZE_MAX))
                if inode.gone:
                    return
            at = self._cut_piece(inode, at)
            await trio.lowlevel.checkpoint()
            if inode.gone:
                return
        self._finish(inode)
