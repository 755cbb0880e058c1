"""`storjfs farm`: be a farmer; `storjfs farm status`: how it is doing."""

import dataclasses
import json
import logging
import os
import signal
import sys
from pathlib import Path

import click
import trio
from click.core import ParameterSource

from storjfs.farmer.embedded import SWITCH_INTERVAL, raise_file_limit
from storjfs.farmer.farmer import Farmer
from storjfs.farmer.report import FarmerReport, read_report, report_of
from storjfs.farmer.settings import FarmerSettings, parse_address
from storjfs.settlement import CREDIT
from storjfs.volume.errors import SettingsError
from storjfs.volume.units import parse_credits, parse_size

STATUS_EVERY = 60.0


def default_folder() -> Path:
    """Where a farmer lives unless it is told otherwise."""
    given = os.environ.get("XDG_DATA_HOME", "")
    base = Path(given) if os.path.isabs(given) else Path.home() / ".local" / "share"
    return base / "storjfs" / "farmer"


at_option = click.option(
    "--at",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=default_folder,
    show_default="~/.local/share/storjfs/farmer",
    help="The folder in which the farmer keeps everything.",
)


@click.group(invoke_without_command=True)
@click.option("--share", metavar="SIZE", help='How much of the disk may be used, as in "500GB".')
@at_option
@click.option("--listen", metavar="HOST:PORT", help='Where to listen, as in "0.0.0.0:7420".')
@click.option("--announce", metavar="HOST:PORT", multiple=True, help="Where renters reach this farmer.")
@click.option("--price", metavar="CREDITS", help="Per GiB and month.")
@click.option("--egress-price", metavar="CREDITS", help="Per GiB sent to renters.")
@click.option("--group", metavar="NAME", help="What it fails together with: one name per disk.")
@click.option(
    "--ledger",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The ledger in which renters open their lanes: that of their volume. Must be there already.",
)
@click.option("--new-ledger", is_flag=True, help="Make the ledger, with its folder, where there is none.")
@click.pass_context
def farm(
    context: click.Context,
    share: str | None,
    folder: Path,
    listen: str | None,
    announce: tuple[str, ...],
    price: str | None,
    egress_price: str | None,
    group: str | None,
    ledger: Path | None,
    new_ledger: bool,
) -> None:
    """Be a farmer: share disk space, prove what you hold, and earn.

    Runs until it is interrupted. What is given here is kept in farmer.toml, so that the next start needs
    nothing but the folder. Interrupting is safe at any time; renters wait for a while for your return.
    """
    if context.invoked_subcommand is not None:
        return
    folder = folder.absolute()
    first = ledger is None and FarmerSettings.read(folder) is None
    settings = _settings(
        folder,
        capacity=parse_size(share) if share is not None else None,
        listen=parse_address(listen) if listen is not None else None,
        announce=tuple(map(parse_address, announce)) or None,
        price=parse_credits(price) if price is not None else None,
        egress_price=parse_credits(egress_price) if egress_price is not None else None,
        group=group,
        ledger=ledger.absolute() if ledger is not None else None,
    )
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    if not (first or new_ledger):
        _require_ledger(settings.ledger)
    raise_file_limit()
    sys.setswitchinterval(SWITCH_INTERVAL)
    farmer = Farmer.open(folder, settings, wait=5.0)
    try:
        trio.run(_serve, farmer, folder)
    except ExceptionGroup as group:
        raise _plain(group, settings) from group
    finally:
        farmer.close()


@farm.command()
@at_option
@click.option("--json", "as_json", is_flag=True, help="As JSON: sizes in bytes, money in nanocredits.")
@click.pass_context
def status(context: click.Context, folder: Path, as_json: bool) -> None:
    """Show what the farmer shares, holds and earned, whether it runs or not."""
    if context.parent is not None and context.get_parameter_source("folder") is ParameterSource.DEFAULT:
        folder = context.parent.params["folder"]  # `farm --at DIR status`
    node_id, running, report = read_report(folder.absolute())
    if as_json:
        values = {"version": 1, "node_id": node_id, "running": running, **dataclasses.asdict(report)}
        click.echo(json.dumps(values, indent=2))
        return
    click.echo(f"identity  {node_id}")
    click.echo(f"state     {'running' if running else 'not running'}")
    click.echo(f"status    {status_line(report)}")


def _settings(folder: Path, **given: object) -> FarmerSettings:
    """Those in the folder with what was given on the command line."""
    found = FarmerSettings.read(folder)
    if found is not None:
        return found.changed(**given)
    if given["capacity"] is None:
        raise SettingsError("how much space to share is not known yet", hint="Say it: --share 100GB")
    given["ledger"] = given["ledger"] or folder / "ledger.db"
    return FarmerSettings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def _require_ledger(path: Path) -> None:
    """A ledger that is not there is a typing mistake or a disk that is not mounted. Raises SettingsError."""
    if not path.is_file():
        raise SettingsError(
            f"there is no ledger {path}; nothing was made or changed",
            hint="Give that of the volume, its ledger.db; with --new-ledger a new one is made there.",
        )


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


async def _serve(farmer: Farmer, folder: Path) -> None:
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            await nursery.start(farmer.serve)
            farmer.settings.write(folder)  # only what works is kept
            click.echo(f"identity  {farmer.node_id.hex()}")
            for address in farmer.addresses:
                click.echo(f"address   {address}/{farmer.node_id.hex()}")
            nursery.start_soon(_tell, farmer)
            async for _ in signals:
                break
        click.echo("stopping: claiming what was earned")
        nursery.cancel_scope.cancel()


async def _tell(farmer: Farmer) -> None:
    """Print the status line when it has changed, once a minute at most."""
    before = ""
    while True:
        line = status_line(report_of(farmer.book, farmer.settings.capacity))
        if line != before:
            click.echo(f"status    {line}")
            before = line
        await trio.sleep(STATUS_EVERY)


def status_line(report: FarmerReport) -> str:
    """One line for people."""
    parts = [
        f"{_size(report.stored)} of {_size(report.capacity)} used, {_size(report.reserved)} sold",
        f"{report.contracts} contract{'s' * (report.contracts != 1)}",
        f"{report.shards} shard{'s' * (report.shards != 1)}",
        f"earned {CREDIT.format(report.promised, places=3)}",
    ]
    if report.unpaid:
        parts.append(f"{report.unpaid} must pay first")
    return " · ".join(parts)


def _size(size: int) -> str:
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
