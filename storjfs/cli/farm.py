"""`storjfs farm`: be a farmer; `status`, `reload` and `service` beside it."""

import contextlib
import dataclasses
import logging
import os
import sys
from pathlib import Path
from typing import Any, Final

import click
import trio
from click.core import ParameterSource

from storjfs.daemon.client import NotMounted, request
from storjfs.daemon.exit_codes import ExitCode, ReportedError, exit_code_of
from storjfs.daemon.farm import ANSWER_PATIENCE, FarmProcess, socket_address
from storjfs.daemon.notify import Notifier
from storjfs.errors import StorjfsError
from storjfs.farmer.embedded import SWITCH_INTERVAL, raise_file_limit
from storjfs.farmer.farmer import Farmer
from storjfs.farmer.listening import EVERYWHERE, free_port
from storjfs.farmer.prices import TABLE
from storjfs.farmer.report import NoFarmer
from storjfs.farmer.schedule import Limit, Schedule
from storjfs.farmer.settings import DiskShare, FarmerSettings, parse_address
from storjfs.protocol.terms import Address
from storjfs.settlement import Ledger, Place
from storjfs.volume import StaticFarmer, wording
from storjfs.volume.errors import SettingsError
from storjfs.volume.files import make_private
from storjfs.volume.units import parse_credits, parse_region, parse_size

from .options import LedgerPlace, folder_option, require_parent

NO_LIMIT: Final = "none"
ALL: Final = "all"
LOCAL: Final = "local"
"""Where to listen, in words."""


at_option = folder_option("farmer", "The folder in which the farmer keeps everything.")


@click.group(invoke_without_command=True)
@click.option("--share", metavar="SIZE", help='How much of the disk may be used, as in "500GB".')
@at_option
@click.option(
    "--disk",
    "disks",
    metavar="DIR=SIZE",
    multiple=True,
    help="Another disk and how much of it, beside those that are there; again for each.",
)
@click.option(
    "--listen",
    metavar="WHERE",
    help='Where to listen: "all" addresses of this machine (a new farmer does), "local" for this machine '
    'only, or an address, as in "192.168.1.20:7420".',
)
@click.option("--announce", metavar="HOST:PORT", multiple=True, help="Where renters reach this farmer.")
@click.option(
    "--limit", metavar="RATE", help='Bandwidth for shards: "20Mbit", "10Mbit/50Mbit" sent/received; "none".'
)
@click.option("--schedule", metavar="TIMES", help='When the limit holds, as in "08:00-23:00"; else always.')
@click.option("--connections", type=click.IntRange(min=1), help="Connections at a time.")
@click.option("--connections-per-renter", type=click.IntRange(min=1), help="Of these, for each renter.")
@click.option(
    "--peer", metavar="HOST:PORT", multiple=True, help="Another farmer: tells of this one, tests, relays."
)
@click.option(
    "--ask-strangers/--no-ask-strangers",
    default=None,
    help="Let farmers that it only got to know test and relay it (they may); no: its peers alone.",
)
@click.option("--relay/--no-relay", default=None, help="Relay farmers that cannot be dialled.")
@click.option("--relay-limit", metavar="RATE", help='Bandwidth for that, as in "20Mbit".')
@click.option("--map-port/--no-map-port", default=None, help="Ask the router for the port.")
@click.option("--prices", type=click.Choice(list(TABLE)), help="A row of the table of prices; home at first.")
@click.option("--price", metavar="CREDITS", help="Per GiB and month.")
@click.option("--egress-price", metavar="CREDITS", help="Per GiB sent to renters.")
@click.option(
    "--dht/--no-dht",
    default=None,
    help="Let strangers find this farmer, through BitTorrent's DHT (where libtorrent is installed).",
)
@click.option("--group", metavar="NAME", help="What it fails together with: one name per disk.")
@click.option("--region", metavar="REGION", help='Where it stands, as in "EU" or "EU-DE".')
@click.option(
    "--lan/--no-lan",
    "announce_lan",
    default=None,
    help="Whether the local network hears of it, and it of farmers there (they do).",
)
@click.option(
    "--ledger",
    type=LedgerPlace(),
    help="The ledger in which renters open their lanes: one that is served, or the file of their volume.",
)
@click.option("--new-ledger", is_flag=True, help="Make the ledger, with its folder, where there is none.")
@click.pass_context
def farm(
    context: click.Context,
    /,
    share: str | None,
    folder: Path,
    disks: tuple[str, ...],
    listen: str | None,
    announce: tuple[str, ...],
    limit: str | None,
    schedule: str | None,
    connections: int | None,
    connections_per_renter: int | None,
    prices: str | None,
    price: str | None,
    egress_price: str | None,
    dht: bool | None,
    group: str | None,
    region: str | None,
    announce_lan: bool | None,
    ledger: Place | None,
    new_ledger: bool,
    **reach: Any,
) -> None:
    """Be a farmer: share disk space, prove what you hold, and earn.

    Renters find and reach it by themselves as far as the router lets them; status says what it lacks. Runs
    until it is interrupted; for good as a service: storjfs farm service. What is given here is kept in
    farmer.toml, so that the next start needs nothing but the folder. Interrupting is safe at any time;
    renters wait for a while for your return.
    """
    folder = folder.absolute()
    row = TABLE[prices] if prices is not None else None
    given: dict[str, Any] = {
        "capacity": parse_size(share) if share is not None else None,
        "disks": _with_disks(folder, disks) if disks else None,
        "listen": parse_address(listen) if listen not in (None, ALL, LOCAL) else None,
        "announce": tuple(map(parse_address, announce)) or None,
        "limit": Limit.parse(limit) if limit not in (None, NO_LIMIT) else None,
        "schedule": Schedule.parse(schedule) if schedule is not None else None,
        "connections": connections,
        "connections_per_renter": connections_per_renter,
        **_reach(**reach),
        "price": parse_credits(price) if price is not None else row and row.storage,
        "egress_price": parse_credits(egress_price) if egress_price is not None else row and row.egress,
        "dht": dht,
        "group": group,
        "region": parse_region(region) if region is not None else None,
        "announce_lan": announce_lan,
        "ledger": ledger,
    }
    if dht:
        from storjfs.network.dht import require_libtorrent

        require_libtorrent()
    if context.invoked_subcommand is None:
        settings = _settings(folder, listen, unlimited=limit == NO_LIMIT, **given)
        if not new_ledger:
            _require_ledger(folder, settings.ledger)
        run(folder, settings)
    elif any(value is not None for value in (limit, listen, *given.values())):
        if context.invoked_subcommand != "service":
            raise click.UsageError(f"{context.invoked_subcommand} changes no settings.")
        settings = _settings(folder, listen, unlimited=limit == NO_LIMIT, **given)

        def keep() -> None:
            if new_ledger and isinstance(settings.ledger, Path):
                Ledger(settings.ledger).close_file()
            _require_ledger(folder, settings.ledger)
            make_private(folder)
            settings.write(folder)

        context.obj = keep


def _with_disks(folder: Path, disks: tuple[str, ...]) -> tuple[DiskShare, ...]:
    """Those in the settings with those that are given: new ones, or with another share."""
    found = FarmerSettings.read(folder)
    given = [DiskShare.parse(_absolute(text)) for text in disks]
    old = found.disks if found is not None else ()
    return tuple({one.folder: one for one in (*old, *given)}.values())


def _absolute(text: str) -> str:
    """The path in it from the root on."""
    path, equals, size = text.rpartition("=")
    return f"{Path(path).absolute()}={size}" if equals and path else text


def _reach(
    peer: tuple[str, ...],
    ask_strangers: bool | None,
    relay: bool | None,
    relay_limit: str | None,
    map_port: bool | None,
) -> dict[str, Any]:
    """The settings of how it is reached, and of whom it relays."""
    return {
        "peers": tuple(map(StaticFarmer.parse, peer)) or None,
        "ask_strangers": ask_strangers,
        "relay": relay,
        "relay_limit": Limit.parse(relay_limit) if relay_limit is not None else None,
        "map_port": map_port,
    }


def run(folder: Path, settings: FarmerSettings) -> None:
    """Be the farmer in `folder` until a signal ends it."""
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    notifier = Notifier()
    raise_file_limit()
    sys.setswitchinterval(SWITCH_INTERVAL)
    farmer = Farmer.open(folder, settings, wait=5.0)
    _warn_of_too_much(farmer)
    try:
        trio.run(FarmProcess(farmer, notifier, _say, at_terminal=os.isatty(0)).run)
    except ExceptionGroup as group:
        raise _plain(group, settings) from group
    finally:
        farmer.close()


def _require_ledger(folder: Path, path: Place) -> None:
    """A file that is not there is a typing mistake or a disk that is not mounted. Raises SettingsError.

    But a new farmer's own one, in its folder, is made at its first start.
    """
    if not isinstance(path, Path):
        return  # whether it can be reached shows later, and may change
    own = path == folder / "ledger.db" and not (folder / "farmer.db").exists()
    if not own and not path.is_file():
        raise SettingsError(
            f"there is no ledger {path}; nothing was made or changed",
            hint="Give that of the volume, its ledger.db; with --new-ledger a new one is made there. "
            "One that is served is named NODEID@HOST:PORT, as `storjfs ledger serve` shows it.",
        )


def _warn_of_too_much(farmer: Farmer) -> None:
    """Say where the disk cannot hold what was allowed: only what is free is sold, but it may be a mistake."""
    shelf = farmer.shelf
    room = shelf.stored + max(shelf.disk.free(shelf.folder) - shelf.keep_free, 0)
    if farmer.settings.capacity > room:
        click.echo(
            f"warning   {wording.size(farmer.settings.capacity)} are shared, but this disk has room for "
            f"{wording.size(room)}: no more than that is sold. Is {farmer.folder} on the disk you meant?",
            err=True,
        )


def _say(line: str) -> None:
    """A line for whoever watches; the terminal may be gone."""
    with contextlib.suppress(OSError):
        click.echo(line)


def _folder(context: click.Context, folder: Path) -> Path:
    """`farm --at DIR status` as well as `farm status --at DIR`."""
    if context.parent is not None and context.get_parameter_source("folder") is ParameterSource.DEFAULT:
        folder = context.parent.params["folder"]
    return folder.absolute()


@farm.command(short_help="Show how the farmer does, and what to see to.")
@at_option
@click.option("--json", "as_json", is_flag=True, help="As JSON; see docs/reference/farm-status.md.")
@click.option("--watch", is_flag=True, help="Again and again, until interrupted.")
@click.pass_context
def status(context: click.Context, folder: Path, as_json: bool, watch: bool) -> int:
    """Show whether the farmer works, what it holds and earns, and what threatens that.

    Works whether it runs or not. The exit code is 0 if all is well, 1 if something wants attention, 2 if pay
    or contracts are being lost.
    """
    from .farm_status import show, show_again

    folder = _folder(context, folder)
    try:
        return show_again(folder, as_json) if watch else show(folder, as_json)
    except StorjfsError as error:
        if exit_code_of(error) > ExitCode.USAGE:
            raise
        # 1 and 2 say something about the farmer here.
        raise ReportedError(str(error), error.hint, ExitCode.HEALTH_UNKNOWN) from error


@farm.command(short_help="Have the running farmer read farmer.toml again.")
@at_option
@click.pass_context
def reload(context: click.Context, folder: Path) -> None:
    """Have the running farmer read farmer.toml again; what is connected stays so.

    A wrong file is refused, with the reason, and the old settings stay.
    """
    folder = _folder(context, folder)
    try:
        answer = request(socket_address(folder), "reload", patience=ANSWER_PATIENCE)
    except NotMounted:
        if FarmerSettings.read(folder) is None:
            raise NoFarmer(f"there is no farmer in {folder}", hint="Name its folder: --at DIR") from None
        raise ReportedError(
            f"the farmer in {folder} does not run, or has no control socket",
            "it reads farmer.toml when it starts",
            ExitCode.NOT_FOUND,
        ) from None
    for line in answer["changed"] or ["nothing has changed"]:
        click.echo(line)


@farm.command(short_help="Move all shards of a disk to the others.")
@at_option
@click.argument("disk", type=click.Path(file_okay=False, path_type=Path))
@click.pass_context
def empty(context: click.Context, folder: Path, disk: Path) -> None:
    """Move all shards off the folder DISK to the other disks, so that it can be taken away.

    It goes on while the farmer runs, and after a restart; status shows what is left. Once the disk is no
    longer shown there, its folder is empty and it may go.
    """
    folder, disk = _folder(context, folder), disk.absolute()
    settings = FarmerSettings.read(folder)
    if settings is None:
        raise NoFarmer(f"there is no farmer in {folder}", hint="Name its folder: --at DIR")
    left = tuple(one for one in settings.disks if one.folder != disk)
    if len(left) == len(settings.disks):
        if disk == folder.absolute():
            raise SettingsError(
                f"{disk} is this farmer's first disk, with its records, and cannot be emptied",
                hint="Only those beside it can: storjfs farm status shows them.",
            )
        named = ", ".join(str(one.folder) for one in settings.disks) or "none"
        raise SettingsError(f"{disk} is no disk of this farmer", hint=f"Its others are: {named}.")
    dataclasses.replace(settings, disks=left).write(folder)
    with contextlib.suppress(NotMounted):
        request(socket_address(folder), "reload", patience=ANSWER_PATIENCE)
        click.echo(f"{disk} is being emptied: storjfs farm status shows what is left")
        return
    click.echo(f"{disk} is emptied from the next start on")


@farm.command()
@at_option
@click.option("--install", is_flag=True, help="Install it, and start it now and at every boot.")
@click.option("--name", default="storjfs-farm", show_default=True, help="Of the unit.")
@click.option("--system/--user", "system", default=None, help="Which systemd: the machine's, or yours.")
@click.pass_context
def service(context: click.Context, folder: Path, install: bool, name: str, system: bool | None) -> None:
    """Print the systemd unit of this farmer, or install it.

    As root it is the machine's and runs as the owner of the farmer's folder; else it is yours. Settings may
    come before the word, and are kept with --install: storjfs farm --share 500GB service --install
    Printing changes nothing.
    """
    from .farm_service import install_unit, unit_name, unit_text

    folder = _folder(context, folder)
    name = unit_name(name)
    system = os.geteuid() == 0 if system is None else system
    if install:
        if context.obj is not None:
            context.obj()
        install_unit(folder, name, system=system)
    else:
        click.echo(unit_text(folder, system=system), nl=False)


def _settings(folder: Path, where: str | None, *, unlimited: bool, **given: object) -> FarmerSettings:
    """Those in the folder with what was given on the command line. `where`: to listen, as it was given."""
    found = FarmerSettings.read(folder)
    if found is not None:
        found = found.changed(**given)
        if where == LOCAL:
            found = dataclasses.replace(found, listen=None)
        elif where == ALL:
            port = found.listen.port if found.listen is not None else free_port()
            found = dataclasses.replace(found, listen=Address(EVERYWHERE, port))
        return dataclasses.replace(found, limit=None) if unlimited else found
    if given["capacity"] is None:
        raise SettingsError(
            f"there is no farmer in {folder}; nothing was made",
            hint="If there should be one: is its disk mounted? For a new one say how much to share: "
            "--share 100GB",
        )
    require_parent(folder, "farmer")
    given["ledger"] = given["ledger"] or folder / "ledger.db"
    if given["listen"] is None and where != LOCAL:
        given["listen"] = Address(EVERYWHERE, free_port())
    return FarmerSettings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def _plain(group: ExceptionGroup[Exception], settings: FarmerSettings) -> Exception:
    """What to tell a person where the farmer could not start; anything else as it is."""
    error: Exception = group
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, OSError) and settings.listen is not None:
        return SettingsError(
            f"cannot listen on {settings.listen}: {error.strerror or error}",
            hint="Choose another address: --listen HOST:PORT",
        )
    return error
