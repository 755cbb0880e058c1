"""Requests to the running mount of a volume; where there is none, what to do instead."""

from collections.abc import Callable
from typing import Any

from storjfs.daemon.client import NotMounted, request


def ask_mount(
    volume: str, do: str, *, progress: Callable[[dict[str, Any]], None] | None = None, **arguments: Any
) -> Any:
    """The result of one request. Raises VolumeNotFound, NotMounted, VolumeDamaged where its metadata are
    gone, and ReportedError as told over there."""
    from storjfs.daemon.mountpoint import dead_mount
    from storjfs.volume import VolumePaths, has_metadata, volume_not_found

    paths = VolumePaths(volume)
    try:
        return request(paths.control_socket, do, progress=progress, **arguments)
    except NotMounted:
        if not paths.exists:
            raise volume_not_found(paths) from None
        has_metadata(paths)
        which = "" if volume == "default" else f"--volume {volume} "
        died = dead_mount(volume, paths.control_socket, paths.mount_note)
        if died is not None:
            raise NotMounted(
                f"the mount process of the volume {volume} has died; nothing that was fsynced is lost",
                f"storjfs mount {which}{died} goes on where it was",
            ) from None
        raise NotMounted(f"the volume {volume} is not mounted", f"storjfs mount {which}DIR") from None
