"""`storjfs fsck`, `scrub` and `gc`: through the running mount, or on the volume where there is none."""

import contextlib
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from storjfs.daemon.client import NotMounted, request
from storjfs.daemon.exit_codes import ReportedError
from storjfs.errors import StorjfsError
from storjfs.volume import wording

from .options import Known, passphrase_for, passphrase_options, volume_option
from .progress import PartsBar

SCHEMA = 1

Tell = Callable[[Mapping[str, Any]], Awaitable[None]]

json_option = click.option("--json", "as_json", is_flag=True, help="The result as JSON, and no progress.")


def share_of(value: str) -> float:
    """A share of all, 5% or 0.05, as a number up to 1."""
    try:
        share = float(value[:-1]) / 100 if value.endswith("%") else float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a percentage nor a number") from None
    if not 0 < share <= 1:
        raise click.BadParameter("a share lies between 0% and 100%")
    return share


def rate_of(value: str) -> int:
    """Bytes per second, such as 10M."""
    from storjfs.volume import SettingsError, parse_size

    try:
        return parse_size(value)
    except (SettingsError, ValueError) as error:
        raise click.BadParameter(str(error)) from error


def passphrase_of(volume: str, file: Path | None, command: str | None) -> Known | None:
    """As `passphrase_for`; afterwards no child of this process can find it in its environment."""
    from storjfs.daemon.launch import PASSPHRASE_VARIABLES

    known = passphrase_for(volume, file, command)
    for name in PASSPHRASE_VARIABLES:
        os.environ.pop(name, None)
    return known


@contextlib.contextmanager
def failures_as_json(wanted: bool) -> Iterator[None]:
    """With --json a failure is an object on standard output too, beside what is said on standard error."""
    try:
        yield
    except (StorjfsError, ReportedError, KeyboardInterrupt) as error:
        if wanted:
            stopped = isinstance(error, KeyboardInterrupt)
            said = "interrupted" if stopped else str(error)
            found = {"schema": SCHEMA, "error": said, "hint": getattr(error, "hint", "")}
            click.echo(json.dumps(found, indent=2))
        raise


def ask(
    volume: str,
    do: str,
    arguments: dict[str, Any],
    bar: PartsBar,
    elsewise: Callable[[Tell], Awaitable[dict[str, Any]]],
) -> dict[str, Any]:
    """The result from the running mount, or from `elsewise` where there is none.

    Raises VolumeNotFound, ReportedError, and what `elsewise` raises.
    """
    from storjfs.volume import VolumePaths, volume_not_found

    paths = VolumePaths(volume)
    try:
        found = request(paths.control_socket, do, progress=bar.update, **arguments)
    except NotMounted:
        if not paths.exists:
            raise volume_not_found(paths) from None
    else:
        assert isinstance(found, dict)
        return found
    import trio

    from storjfs.daemon.hardening import keep_memory_private, raise_file_limit
    from storjfs.daemon.logs import start_log

    start_log(paths.log_file, verbose=False, foreground=False)
    raise_file_limit()
    keep_memory_private()

    async def tell(progress: Mapping[str, Any]) -> None:
        bar.update(progress)
        await trio.lowlevel.checkpoint()

    async def work() -> dict[str, Any]:
        return await elsewise(tell)

    from storjfs.daemon.main import cause_of

    try:
        return trio.run(work)
    except BaseExceptionGroup as group:
        raise cause_of(group) from group


@click.command()
@volume_option
@click.option("--repair", is_flag=True, help="Mend what can be mended without loss.")
@click.option("--no-farmers", is_flag=True, help="Only the books; do not ask farmers what they hold.")
@click.option(
    "--delete-unknown",
    is_flag=True,
    help="With --repair: farmers delete shards that the metadata here do not know. They may hold newer data, "
    "if a backup of the metadata was put back; nothing brings them back.",
)
@json_option
@passphrase_options
def fsck(
    volume: str,
    repair: bool,
    no_farmers: bool,
    delete_unknown: bool,
    as_json: bool,
    passphrase_file: Path | None,
    passphrase_command: str | None,
) -> int:
    """Check names, content, segments and shards against each other, and against what farmers hold.

    Nothing is changed without --repair. Works on a running mount too; some repairs need it unmounted. The
    exit code is that of fsck(8): 0 clean, 1 mended, 4 something is left, 8 and others: it did not work.
    """
    from storjfs.volume import VolumePaths

    if delete_unknown and (no_farmers or not repair):
        raise click.UsageError("--delete-unknown goes with --repair, and not with --no-farmers")
    choice = {"repair": repair, "farmers": not no_farmers, "delete_unknown": delete_unknown}

    async def unmounted(tell: Tell) -> dict[str, Any]:
        from storjfs.daemon.integrity import fsck_unmounted

        known = passphrase_of(volume, passphrase_file, passphrase_command)
        return await fsck_unmounted(VolumePaths(volume), known, tell, **choice)

    with failures_as_json(as_json), PartsBar(quiet=as_json) as bar:
        found = ask(volume, "fsck", choice, bar, unmounted)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _show_fsck(found)
    return int(found["exit_code"])


def _show_fsck(found: dict[str, Any]) -> None:
    for kind in found["found"]:
        mended, left = found["mended"].get(kind["code"], 0), found["left"].get(kind["code"], 0)
        outcome = "; mended" if mended and not left else f"; {mended} mended" if mended else ""
        click.echo(f"{kind['severity']}: {kind['meaning']} ({kind['code']}, {kind['count']}{outcome})")
        for one in kind["findings"][:10]:
            click.echo(f"    {one['text']}")
        if kind["count"] > 10:
            click.echo(f"    and {kind['count'] - 10} more")
        if left:
            click.echo(f"    repair: {kind['repair']}")
    codes = {kind["code"]: kind["count"] for kind in found["found"]}
    unasked = codes.get("farmer-silent", 0) + codes.get("farmer-old", 0)
    if not found["found"]:
        click.echo(f"The volume {found['volume']} is clean.")
    elif unasked and not found["left"]:
        click.echo(
            f"The books are {'mended' if found['mended'] else 'clean'}. "
            f"What {wording.count(unasked, 'farmer')} should hold was not checked."
        )
    elif not found["left"]:
        click.echo("Everything is mended." if found["mended"] else "The volume is clean but for these notes.")
    elif found["unmount_to_repair"]:
        click.echo("Unmount the volume to have the rest mended: storjfs umount, then storjfs fsck --repair.")
    elif not found["repair"]:
        click.echo("Nothing was changed. storjfs fsck --repair mends what can be mended without loss.")
    else:
        click.echo("What is left cannot be mended without loss; docs/reference/fsck.md tells what it means.")


@click.command()
@volume_option
@click.option("--sample", type=share_of, metavar="SHARE", help="Only a random share, such as 5%.")
@click.option(
    "--rate",
    type=rate_of,
    default="0",
    metavar="SIZE",
    help="Bytes per second at most, such as 10M; 0, as if it is left out: no limit.",
)
@click.option("--restart", is_flag=True, help="Begin anew, also where one was cut off.")
@json_option
@passphrase_options
def scrub(
    volume: str,
    sample: float | None,
    rate: int,
    restart: bool,
    as_json: bool,
    passphrase_file: Path | None,
    passphrase_command: str | None,
) -> int:
    """Download shards and verify every byte; what is wrong is rebuilt on other farmers.

    Ctrl-C leaves it so that the next scrub goes on there. The exit code is 0 if all was well, 1 if what was
    wrong is rebuilt, 4 if something is left, 8 and others: it did not work.
    """
    choice = {"share": sample, "rate": rate, "restart": restart}

    async def unmounted(tell: Tell) -> dict[str, Any]:
        from storjfs.daemon.integrity import scrub as work
        from storjfs.daemon.integrity import scrub_choice

        return await _with_drive(
            volume,
            passphrase_file,
            passphrase_command,
            lambda drive: work(drive, tell, **scrub_choice(choice)),
        )

    with failures_as_json(as_json), PartsBar(quiet=as_json) as bar:
        try:
            found = ask(volume, "scrub", choice, bar, unmounted)
        except KeyboardInterrupt:
            click.echo("cut off; the next storjfs scrub goes on here (--restart begins anew)", err=True)
            raise
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _show_scrub(found)
    return int(found["exit_code"])


def _show_scrub(found: dict[str, Any]) -> None:
    checked = f"{wording.count(found['read'], 'shard')} good, {wording.size(found['bytes'])} read"
    click.echo(f"{checked}; {found['wrong']} were not what was stored.")
    if found["rebuilt"]:
        click.echo(f"{wording.count(found['rebuilt'], 'segment')} rebuilt.")
    if found["broken"]:
        click.echo(f"{_numbered(found['broken'])} could not be rebuilt yet.")
    if found["damaged"]:
        click.echo(f"{_numbered(found['damaged'])} already damaged when sent.")
    if found["unread"]:
        click.echo(f"{wording.count(found['unread'], 'shard')} not read: their farmers did not answer.")


def _numbered(segments: list[int]) -> str:
    """How many segments, and which: 1 segment (number 5), 2 segments (numbers 5, 7)."""
    which = "number" if len(segments) == 1 else "numbers"
    return f"{wording.count(len(segments), 'segment')} ({which} {', '.join(map(str, segments))})"


@click.command()
@volume_option
@json_option
@passphrase_options
def gc(volume: str, as_json: bool, passphrase_file: Path | None, passphrase_command: str | None) -> None:
    """Move data out of segments that are mostly garbage, have farmers delete, remove stray files.

    All of that happens by itself, bit by bit, while the volume is mounted.
    """

    async def unmounted(tell: Tell) -> dict[str, Any]:
        from storjfs.daemon.integrity import collect

        return await _with_drive(
            volume, passphrase_file, passphrase_command, lambda drive: collect(drive, tell)
        )

    with failures_as_json(as_json), PartsBar(quiet=as_json) as bar:
        found = ask(volume, "gc", {}, bar, unmounted)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    segments = wording.count(found["compacted"], "segment")
    click.echo(f"{segments} compacted, {wording.size(found['moved'])} moved.")
    left = wording.size(found["garbage_left"])
    click.echo(f"{wording.size(found['garbage'])} of garbage gone, {left} left.")
    click.echo(f"Farmers deleted {wording.count(found['shards'], 'shard')}; {found['shards_left']} wait.")
    local = wording.size(found["file_bytes"] + found["log_bytes"])
    click.echo(f"{wording.count(found['files'], 'stray file')} and the log: {local} freed here.")


async def _with_drive(
    volume: str, file: Path | None, command: str | None, work: Callable[[Any], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    from storjfs.daemon.integrity import with_drive
    from storjfs.volume import VolumePaths

    known = passphrase_of(volume, file, command)
    return await with_drive(VolumePaths(volume), None if known is None else known.text, work)
