"""Opening the connection to the kernel: mount, and agree with it on how to talk.

libfuse (here through pyfuse3) can be given a connection that is already mounted, as the mount point
`/dev/fd/N`. We use that for two things that it does not do itself: to say why a mount failed, and to add to
its answer in the INIT handshake what our libfuse does not know yet. It gets the handshake over a socket; then
the real connection takes the socket's place under the same number.

Wire format: struct fuse_init_in and fuse_init_out in linux/fuse.h.
"""

import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

from storjfs.errors import StorjfsError

# The kernel asks for the xattr security.capability before each write(2), unless the filesystem promises to
# drop set-user-id and set-group-id bits on write, chown and truncate by itself (as ours does). Writes of
# 4 KiB with nothing behind them: 40 MB/s without this, 300 with it.
HANDLE_KILLPRIV_V2 = 1 << 28
# Discards cached pages when mtime or size came back changed; but nobody but the kernel changes files.
AUTO_INVAL_DATA = 1 << 12
# Names that readlink(2) was asked for stay known to the kernel.
CACHE_SYMLINKS = 1 << 23

# The umask is ours to apply: where a directory has a default ACL, that takes its place (umask(2)).
DONT_MASK = 1 << 6

WANTED = HANDLE_KILLPRIV_V2 | CACHE_SYMLINKS | DONT_MASK
UNWANTED = AUTO_INVAL_DATA

# How many reads through the page cache and writes out of it the kernel lets wait for us at once: with its own
# 12, a dozen programs that wait for a silent farmer keep all others from reading what is cached here.
MOST_BACKGROUND = 1024
# From so many on the kernel neither reads ahead nor writes out before somebody needs it.
CONGESTED = 768

_OFFERED_FLAGS = struct.Struct("<40xIIII")  # header, major, minor, max_readahead, flags
_FLAGS_AT = 16 + 12  # header, major, minor, max_readahead
_BACKGROUND = struct.Struct("<HH")  # max_background, congestion_threshold
_BACKGROUND_AT = _FLAGS_AT + 4
_LARGEST_INIT = 8192 + 4096


class MountFailed(StorjfsError):
    """The kernel or fusermount3 refused the mount."""


class Connection:
    """A mounted connection to the kernel before its handshake.

    `descriptor` is what libfuse gets. Close it only if libfuse never got it (libfuse closes what it got).
    """

    def __init__(self, kernel: int) -> None:
        self._kernel = kernel
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours = ours
        self.descriptor = theirs.detach()

    def offer(self) -> None:
        """Pass the kernel's INIT on to libfuse. The mount has made it available, so this does not wait."""
        self._offered = os.read(self._kernel, _LARGEST_INIT)
        self._ours.send(self._offered)

    def agree(self) -> None:
        """Pass libfuse's answer to the kernel, amended; from then on libfuse talks to the kernel itself."""
        answer = amended(self._offered, self._ours.recv(_LARGEST_INIT))
        os.write(self._kernel, answer)
        os.dup2(self._kernel, self.descriptor, inheritable=False)
        os.close(self._kernel)
        self._ours.close()

    def close(self) -> None:
        """Give the mount up."""
        self._ours.close()
        os.close(self.descriptor)
        os.close(self._kernel)


def amended(offered: bytes, answer: bytes) -> bytes:
    """The answer to INIT with the flags above, as far as the kernel offered them, and the limits."""
    _, _, _, on_offer = _OFFERED_FLAGS.unpack_from(offered)
    changed = bytearray(answer)
    if len(changed) >= _FLAGS_AT + 4:
        (flags,) = struct.unpack_from("<I", changed, _FLAGS_AT)
        struct.pack_into("<I", changed, _FLAGS_AT, (flags | (WANTED & on_offer)) & ~UNWANTED)
    if len(changed) >= _BACKGROUND_AT + _BACKGROUND.size:
        _BACKGROUND.pack_into(changed, _BACKGROUND_AT, MOST_BACKGROUND, CONGESTED)
    return bytes(changed)


def open_connection(mountpoint: Path, options: Iterable[str]) -> Connection:
    """Mount with fusermount3, which hands over the connection (as to libfuse). Raises MountFailed."""
    tool = shutil.which("fusermount3")
    if tool is None:
        raise MountFailed("the program fusermount3 is missing", hint="install the package fuse3")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        done = subprocess.run(
            [tool, "-o", ",".join(sorted(options)), "--", str(mountpoint)],
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "LC_ALL": "C",
                "_FUSE_COMMFD": str(theirs.fileno()),
            },
            pass_fds=(theirs.fileno(),),
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        theirs.close()
        if done.returncode == 0:
            _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
            if descriptors:
                os.set_inheritable(descriptors[0], False)
                return Connection(descriptors[0])
    said = done.stderr.strip().removeprefix("fusermount3: ") or f"fusermount3 ended with {done.returncode}"
    hint = "-o allow_other needs the line user_allow_other in /etc/fuse.conf" if "allow_other" in said else ""
    raise MountFailed(f"{mountpoint} could not be mounted: {said}", hint=hint)
