"""The mounted session: from pyfuse3.init until the kernel has let go of the mount point."""

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyfuse3
import trio

from storjfs.errors import StorjfsError

from . import waiting
from .adapter import Adapter
from .options import MountOptions

log = logging.getLogger(__name__)

# How far the kernel reads ahead for a sequential reader, where we are allowed to say so (root): requests of up
# to 1 MiB instead of 128 KiB.
READ_AHEAD_KIB = 1024


class MountFailed(StorjfsError):
    """The kernel or fusermount3 refused the mount."""


async def serve(
    adapter: Adapter,
    mountpoint: Path,
    options: MountOptions,
    volume: str,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Mount, report started once the root can be listed through the mount, and serve until it is unmounted.

    Returns after an unmount by anyone (`fusermount3 -u`, umount(8), us): the kernel has then sent every dirty
    page. Cancelled, it cuts the connection: programs get ENOTCONN, and what the kernel had not yet sent is lost,
    as in a crash. Raises MountFailed. One per process (pyfuse3 keeps its session in globals).
    """
    waiting.install()
    try:
        pyfuse3.init(adapter, str(mountpoint), set(options.for_kernel(volume)))
    except RuntimeError as error:
        raise MountFailed(
            f"{mountpoint} could not be mounted ({error})",
            hint="see the log; for -o allow_other, /etc/fuse.conf must contain the line user_allow_other",
        ) from None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_answer_until_unmounted, nursery.cancel_scope.cancel)
            await trio.to_thread.run_sync(_first_look, mountpoint, abandon_on_cancel=True)
            task_status.started()
    finally:
        pyfuse3.close(unmount=True)


async def _answer_until_unmounted(unmounted: Callable[[], Any]) -> None:
    await pyfuse3.main()
    unmounted()


def _first_look(mountpoint: Path) -> None:
    """Use the mount once, as a program would; then let the kernel read ahead further."""
    os.listdir(mountpoint)
    device = os.stat(mountpoint).st_dev
    knob = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    with contextlib.suppress(OSError):
        knob.write_text(str(READ_AHEAD_KIB))
