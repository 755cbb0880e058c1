"""Open directories."""

import errno

from storjfs.errors import FilesystemError
from storjfs.filesystem.attributes import Attributes
from storjfs.filesystem.content import Content
from storjfs.filesystem.dentries import Listing

Entry = tuple[bytes, Attributes, int]


class Directories(Content):
    def _prepare_directories(self) -> None:
        self._listings: dict[int, Listing] = {}

    def _listing(self, handle: int) -> Listing:
        listing = self._listings.get(handle)
        if listing is None:
            raise FilesystemError(errno.EBADF)
        return listing

    async def opendir(self, ino: int) -> int:
        inode = self._directory(ino)
        handle = self._new_handle()
        listing = self._listings[handle] = Listing(inode)
        self._dentries.watch(listing)
        inode.opens += 1
        inode.pins += 1
        return handle

    async def readdir(self, handle: int, cookie: int, limit: int = 64) -> list[Entry]:
        """Up to `limit` entries after the one whose cookie is given (0: from the start), without . and ..;
        nothing at the end. Each comes with its attributes and its own cookie.

        Cookies stay valid whatever happens to the directory: an entry that is there all the time is returned
        exactly once.
        """
        listing = self._listing(handle)
        get = self._inodes.get
        if not cookie:
            self._accessed(listing.inode)
        if self._store.aside.distant:
            await self._fetched(listing.missing(cookie))
        entries = await listing.take(self._dentries, cookie, limit)
        return [(name, get(ino), number) for number, name, ino in entries]

    async def fsyncdir(self, handle: int) -> None:
        """Return when all changes of names until now survive a power loss."""
        self._listing(handle)
        await self._sync()

    async def releasedir(self, handle: int) -> None:
        listing = self._listing(handle)
        del self._listings[handle]
        self._dentries.unwatch(listing)
        inode = listing.inode
        inode.opens -= 1
        inode.pins -= 1
        if not inode.nlink:
            self._reap_if_free(inode)
