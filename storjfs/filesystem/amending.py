"""Putting rows right while programs work: what a check of the committed state found, applied to what is now.

A count that is wrong by so much in a committed state is wrong by as much later, since every operation adds or
takes away; so counts are corrected by a difference, whatever went on since. Each of these is one step of the
loop, hence part of one group commit, and does nothing where the thing found is not there any more; it returns
whether it changed anything.
"""

import stat

from storjfs.errors import FilesystemError
from storjfs.filesystem.compactor import Compactor
from storjfs.filesystem.dentries import NOTHING
from storjfs.filesystem.inodes import HAS_XATTRS, Inode
from storjfs.store import ROOT_INODE

LOST_AND_FOUND = b"lost+found"


class Amending(Compactor):
    def amend_links(self, ino: int, delta: int) -> bool:
        """Its count of names, or of a directory that of its subdirectories, was wrong by `delta`."""
        inode = self._settled(ino)
        if inode is None or inode.nlink + delta < 1:
            return False
        inode.nlink += delta
        self._inodes.mark(inode)
        return True

    def amend_stored(self, ino: int, delta: int) -> bool:
        """Its sum of content was wrong by `delta`."""
        inode = self._settled(ino)
        if inode is None or inode.stored + delta < 0:
            return False
        inode.stored += delta
        self._inodes.mark(inode)
        return True

    def amend_xattr_flag(self, ino: int) -> bool:
        """Whether it has attributes is what the table says, unless a change of it is not committed yet."""
        inode = self._settled(ino)
        if inode is None or inode.group:
            return False
        there = bool(self._store.read("SELECT 1 FROM xattr WHERE ino = ? LIMIT 1", (ino,)))
        inode.flags = inode.flags & ~HAS_XATTRS | (HAS_XATTRS if there else 0)
        inode.xattrs = None
        self._inodes.mark(inode)
        return True

    def amend_numbers(self, key: str, right: int) -> bool:
        """Numbers up to `right` - 1 are in use already. `key`: next_ino or next_dentry."""
        if key == "next_ino":
            self._inodes.skip_to(right)
        else:
            self._dentries.skip_to(right)
        self._store.changed()
        return True

    def amend_orphan(self, ino: int) -> bool:
        """An unlinked inode that does not exist needs no removal."""
        if ino not in self._orphans.known or self._find(ino) is not None:
            return False
        self._orphans.remove(ino)
        return True

    def amend_leaked(self, ino: int) -> bool:
        """An empty inode without names goes, at the next mount at the latest."""
        inode = self._settled(ino)
        if inode is None or inode.nlink or inode.stored:
            return False
        self._orphan(inode)
        return True

    def amend_dangling(self, parent: int, name: bytes, ino: int) -> bool:
        """A name leads to no inode, of which nothing is left either: it goes."""
        if self._dentries.find(parent, name) != NOTHING or self._find(ino) is not None:
            return False
        holds = "SELECT 1 FROM extent WHERE ino = ?1 UNION ALL SELECT 1 FROM dentry WHERE parent = ?1 LIMIT 1"
        if self._store.read(holds, (ino,)):
            return False  # the inode is to be made again under this name
        self._dentries.remove(parent, name)
        return True

    def amend_xattrs(self, ino: int) -> bool:
        """Attributes of no inode go."""
        if self._find(ino) is not None:
            return False
        self._store.write("DELETE FROM xattr WHERE ino = ? AND ino NOT IN (SELECT ino FROM inode)", [(ino,)])
        return True

    async def keep(self, ino: int) -> bool:
        """Give an inode without a name one in lost+found. Raises what making that directory raises."""
        found = self._dentries.find(ROOT_INODE, LOST_AND_FOUND)[0]
        if not found:
            root = self._inodes.get(ROOT_INODE)
            found = (await self.mkdir(ROOT_INODE, LOST_AND_FOUND, 0o700, root.uid, root.gid)).ino
        folder, inode = self._directory(found), self._settled(ino)
        name = b"#%d" % ino
        if inode is None or ino == found or self._dentries.find(found, name) != NOTHING:
            return False
        self._dentries.add(found, name, ino)
        if stat.S_ISDIR(inode.mode):
            inode.parent = found
            folder.nlink += 1
        else:
            inode.nlink = 1
        inode.nlink = max(inode.nlink, 1)
        self._inodes.mark(inode)
        self._touch_directory(folder, self._clock())
        return True

    def _settled(self, ino: int) -> Inode | None:
        """The inode, unless it is gone or on its way to be."""
        return None if ino in self._orphans.known else self._find(ino)

    def _find(self, ino: int) -> Inode | None:
        try:
            return self._inodes.get(ino)
        except FilesystemError:
            return None
