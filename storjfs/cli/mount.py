"""`storjfs mount` and `storjfs umount`."""

import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import click

from storjfs.daemon.exit_codes import ExitCode, ReportedError
from storjfs.volume import wording

from .options import (
    Known,
    new_passphrase_for,
    no_passphrase_option,
    passphrase_for,
    passphrase_options,
    volume_option,
)

END_PATIENCE = 20.0


class Place(click.Path):
    """A path. The empty one, which an unset variable gives in a shell, is a mistake, not this directory."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See click.ParamType."""
        if not value:
            self.fail("it is empty", param, ctx)
        return super().convert(value, param, ctx)


@click.command()
@click.argument("directory", type=Place())
@volume_option
@click.option(
    "-o",
    "options",
    multiple=True,
    metavar="OPTIONS",
    help="Mount options, separated by commas; later ones win: ro, rw, allow_other, noatime, relatime, "
    "sync=network (fsync returns when the data survives the loss of this machine), sync=local (its crash; "
    "default), offline_timeout=SECONDS (how long a read waits for farmers that do not answer, 30 if not "
    "given), offline=wait (until they do), offline=fail (default), nosuid, nodev, noexec, dirsync.",
)
@click.option(
    "--cache-size",
    metavar="SIZE",
    help="Most local disk space for file data (as 20G), what waits for farmers included; at least 16M.",
)
@click.option("--foreground", "-f", is_flag=True, help="Stay here and log to the terminal; Ctrl-C unmounts.")
@click.option("--nonempty", is_flag=True, help="Mount over files; they are hidden until the unmount.")
@click.option(
    "--new-farmers",
    is_flag=True,
    help="Also if all embedded farmers are gone: go on with new ones. What is not cached here cannot be read "
    "then, and is lost for good unless the old ones come back.",
)
@click.option("--verbose", is_flag=True, help="Log more.")
@no_passphrase_option
@passphrase_options
def mount(
    directory: Path,
    volume: str,
    options: tuple[str, ...],
    cache_size: str | None,
    foreground: bool,
    nonempty: bool,
    new_farmers: bool,
    verbose: bool,
    no_passphrase: bool,
    passphrase_file: Path | None,
    passphrase_command: str | None,
) -> int | None:
    """Mount the volume on DIRECTORY and return once it is usable.

    Without a volume yet, one is made, with farmers on this machine. DIRECTORY is made if it does not exist.
    """
    from storjfs.daemon.mountpoint import canonical, prepare, refuse_own, require_fuse, taken_back
    from storjfs.daemon.request import MountRequest
    from storjfs.volume import VolumePaths, check_cache_size, parse_size

    size = None if cache_size is None else check_cache_size(parse_size(cache_size))
    paths = VolumePaths(volume)
    require_fuse()
    target = canonical(directory)
    refuse_own(target, paths.directories)
    with taken_back(target):
        prepare(target, nonempty=nonempty)
        if paths.exists:
            passphrase = passphrase_for(volume, passphrase_file, passphrase_command)
        else:
            passphrase = _first_time(volume, passphrase_file, passphrase_command, no_passphrase)
        request = MountRequest(
            volume=volume,
            mountpoint=str(target),
            options=options,
            cache_size=size,
            passphrase=None if passphrase is None else passphrase.text,
            foreground=foreground,
            verbose=verbose,
            nonempty=nonempty,
            new_farmers=new_farmers,
        )
        if not foreground:
            from storjfs.daemon.launch import start_in_background

            warning = start_in_background(request, paths.state_dir / "mount.out", click.echo)
            click.echo(f"{target} is ready.")
            if warning:
                click.echo(warning)
            return None
        from storjfs.daemon.main import run_in_foreground

        code = int(run_in_foreground(request))
        if code:
            raise SystemExit(code)  # said already; what was made for it goes
    return 0


def _first_time(volume: str, file: Path | None, command: str | None, without: bool) -> Known | None:
    """Make the volume; returns its passphrase."""
    from storjfs.volume import VolumePaths, volume_not_found

    from .making import make_volume

    paths = VolumePaths(volume)
    if paths.remains:
        raise volume_not_found(paths)
    first = f"There is no volume {volume} yet: making one."
    passphrase = new_passphrase_for(volume, file, command, without, first)
    make_volume(paths, passphrase)
    sys.stdout.flush()
    return passphrase


NOT_WAITING: Final = (
    "--no-flush does not wait: what is not sent stays safe here, and goes out at the next mount"
)


@click.command()
@click.argument("directory", type=Place(), required=False)
@click.option("--volume", "-v", metavar="NAME", help="The volume, instead of the directory.")
@click.option(
    "--lazy",
    is_flag=True,
    help="Also if programs still use files there; they can go on until they close them.",
)
@click.option(
    "--no-flush",
    is_flag=True,
    help="Do not wait for the farmers; what is missing goes out at the next mount.",
)
def umount(directory: Path | None, volume: str | None, lazy: bool, no_flush: bool) -> None:
    """Send everything to the farmers, and unmount."""
    from storjfs.daemon.client import NotMounted
    from storjfs.volume import KeyFileMissing, VolumeNotFound

    from .asking import ask_mount
    from .progress import FlushBar

    if directory is None and volume is None:
        raise click.UsageError("Which one? Give the directory, or --volume NAME.")
    name = volume or _volume_on(directory)
    try:
        pid = ask_mount(name, "ping")["pid"]
        with FlushBar(hint=NOT_WAITING) as bar:
            left = ask_mount(name, "umount", progress=bar.update, lazy=lazy, flush=not no_flush)
    except (NotMounted, VolumeNotFound, KeyFileMissing):
        if directory is None or not _take_off_dead_mount(directory):
            raise
        click.echo(
            f"The mount process of {directory} had died; the dead mount is taken off. "
            "Nothing that was fsynced is lost."
        )
        return
    if not lazy:  # else it ends when the last program closes its files
        _await_end(pid)
    if left.get("refused"):
        later = ""
        if left["waiting"]:
            later = f"; {wording.size(left['waiting'])} of it go to the farmers at the next mount"
        raise ReportedError(
            f"unmounted, but {left['refused']}",
            f"all that was synced is safe{later}",
            ExitCode.WRITES_REFUSED,
        )
    if left["waiting"] and not no_flush:
        raise ReportedError(
            f"unmounted, but {wording.size(left['waiting'])} are not with the farmers yet",
            "they are safe on this machine and go out at the next mount",
            ExitCode.NOT_FLUSHED,
        )


def _volume_on(directory: Path | None) -> str:
    """Which volume is mounted there, as the kernel's list of mounts says."""
    from storjfs.daemon.client import NotMounted
    from storjfs.daemon.mountpoint import OUR_TYPE, canonical, mounted_at

    assert directory is not None
    entry = mounted_at(canonical(directory))
    if entry is None or entry.kind != OUR_TYPE:
        raise NotMounted(f"{directory} is not a storjfs mount", "storjfs volumes lists what is mounted where")
    return entry.source.partition(":")[2]


def _take_off_dead_mount(directory: Path) -> bool:
    """False if nothing is mounted there. A mount that is alive, but unreachable from here, is left alone."""
    from storjfs.daemon.mountpoint import answers, canonical, detach, mounted_at

    target = canonical(directory)
    if mounted_at(target) is None:
        return False
    if answers(target):
        raise ReportedError(
            f"{directory} is mounted, but its mount process cannot be asked from here",
            "set XDG_RUNTIME_DIR as when it was mounted; or fusermount3 -u DIR, then it flushes by itself",
        )
    detach(target, lazy=True)
    return True


def _await_end(pid: int) -> None:
    """Until the mount process is gone, so that what follows finds the volume free."""
    deadline = time.monotonic() + END_PATIENCE
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return
        except OSError:
            return
        time.sleep(0.02)
