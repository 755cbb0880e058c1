"""The mounted session: from the mount until the kernel has let go of the mount point."""

import contextlib
import logging
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyfuse3
import trio

from . import waiting
from .adapter import Adapter
from .connection import MOST_BACKGROUND, Connection, open_connection
from .options import MountOptions

log = logging.getLogger(__name__)

# How far the kernel reads ahead for a sequential reader, where we are allowed to say so (root): requests of
# up to 1 MiB instead of 128 KiB.
READ_AHEAD_KIB = 1024
# Requests answered at once: all that may wait for farmers, and others beside them. One that waits costs some
# KiB, a write up to 2 MiB; but the kernel has no more of these under way than it may hold dirty for a mount.
MOST_AT_ONCE = 4 * MOST_BACKGROUND


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
    page. Cancelled, it cuts the connection: programs get ENOTCONN, and what the kernel had not yet sent is
    lost, as in a crash. Raises MountFailed. One per process (pyfuse3 keeps its session in globals).
    """
    connection = open_connection(mountpoint, options.for_kernel(volume))
    unmounted = False
    try:
        _attach(adapter, connection)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_answer_until_unmounted, nursery.cancel_scope.cancel)
                await trio.to_thread.run_sync(_first_look, mountpoint, abandon_on_cancel=True)
                task_status.started()
            unmounted = True
        finally:
            pyfuse3.close(unmount=False)
    finally:
        if not unmounted:
            _take_off(mountpoint)


def _attach(adapter: Adapter, connection: Connection) -> None:
    """Give the connection to libfuse."""
    waiting.install(connection)
    try:
        pyfuse3.init(adapter, f"/dev/fd/{connection.descriptor}", set())
    except BaseException:
        connection.close()
        raise


def _take_off(mountpoint: Path) -> None:
    """Leave no dead mount behind. Nobody answers any more, so this does not wait for dirty pages."""
    subprocess.run(["fusermount3", "-u", "-z", "--", str(mountpoint)], check=False, capture_output=True)


async def _answer_until_unmounted(unmounted: Callable[[], Any]) -> None:
    await pyfuse3.main(max_tasks=MOST_AT_ONCE)
    unmounted()


def _first_look(mountpoint: Path) -> None:
    """Use the mount once, as a program would; then let the kernel read ahead further."""
    os.listdir(mountpoint)
    device = os.stat(mountpoint).st_dev
    knob = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    with contextlib.suppress(OSError):
        knob.write_text(str(READ_AHEAD_KIB))
