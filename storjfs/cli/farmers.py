"""`storjfs farmers`: which farmers there are, and what you say of them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from storjfs.daemon.client import NotMounted, request
from storjfs.volume import wording

from .options import passphrase_for, passphrase_options, volume_option

if TYPE_CHECKING:
    from rich.table import Table


@click.group(invoke_without_command=True)
@volume_option
@click.option("--json", "as_json", is_flag=True, help="As JSON; see docs/reference/control-socket.md.")
@passphrase_options
@click.pass_context
def farmers(
    context: click.Context,
    volume: str,
    as_json: bool,
    passphrase_file: Path | None,
    passphrase_command: str | None,
) -> None:
    """Show the farmers that this volume uses or knows, what they ask, and why some are not used.

    Works without a running mount too, with what the last one knew.
    """
    context.obj = volume
    if context.invoked_subcommand is None:
        _show(volume, as_json, passphrase_file, passphrase_command)


@farmers.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@passphrase_options
@click.pass_obj
def list_(volume: str, as_json: bool, passphrase_file: Path | None, passphrase_command: str | None) -> None:
    """The same as without a word."""
    _show(volume, as_json, passphrase_file, passphrase_command)


def _show(volume: str, as_json: bool, passphrase_file: Path | None, passphrase_command: str | None) -> None:
    from storjfs.volume import VolumePaths

    paths = VolumePaths(volume)
    try:
        rows = request(paths.control_socket, "farmers")
    except NotMounted:
        from storjfs.daemon.offline import read_farmers

        rows = read_farmers(paths, passphrase_for(volume, passphrase_file, passphrase_command))
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo("No farmer is known yet. Name one: storjfs farmers add HOST:PORT. Or have others")
        click.echo("looked for: docs/how-to/find-farmers.md.")
        return
    from .tables import console

    console().print(farmers_table(rows))


def farmers_table(rows: list[dict[str, Any]]) -> "Table":
    """A row for each; those in use come first."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("farmer", no_wrap=True)
    for column in ("price", "latency", "free"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("region", no_wrap=True)
    table.add_column("group")
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("contract", no_wrap=True)
    table.add_column("used, or why not")
    for row in rows:
        used = "used" if row["used"] else row["why_not"] or "no contract yet"
        if row["mark"] == "preferred":
            used += ", preferred"
        elif row["mark"] == "blocked" and row["contract"]:
            used += "; its shards move to others"
        table.add_row(
            wording.short_id(row["node_id"]),
            wording.money(row["price"]),
            "-" if row["latency"] is None else f"{row['latency'] * 1000:.0f} ms",
            "-" if row["free"] is None else wording.size(row["free"]),
            Text(row["region"] or "-"),
            Text(row["group"] or "-"),
            "-" if row["score"] is None else f"{row['score']:.2f}",
            row["contract"] or "-",
            Text(used, style="green" if row["used"] else ""),
        )
    table.caption = "price: credits per GiB and month. Region and group are what farmers say of themselves."
    table.caption_justify = "left"
    return table


@farmers.command()
@click.argument("address", metavar="HOST:PORT")
@click.pass_obj
def add(volume: str, address: str) -> None:
    """Use the farmer at this address, which may be followed by its id: HOST:PORT/ID."""
    _change(volume, "add_farmer", address=address)
    click.echo(f"Added {address}. A contract is made once it answers; storjfs farmers shows it.")


def _marking(name: str, mark: str, help_text: str, done: str) -> None:
    @farmers.command(name, help=help_text)
    @click.argument("farmer", metavar="ID")
    @click.pass_obj
    def command(volume: str, farmer: str) -> None:
        answer = _change(volume, "mark_farmer", farmer=farmer, mark=mark)
        click.echo(done.format(wording.short_id(answer["node_id"])))


_marking(
    "block",
    "blocked",
    "Use this farmer no more: what it holds moves to others, then its contract ends.",
    "Farmer {} is blocked. What it holds moves to others as far as they have room.",
)
_marking("unblock", "", "Take the block off again.", "Farmer {} is blocked no more.")
_marking("prefer", "preferred", "Give this farmer more than others.", "Farmer {} is preferred.")
_marking("unprefer", "", "Treat it like any other again.", "Farmer {} is preferred no more.")


def _change(volume: str, do: str, **arguments: Any) -> Any:
    """By the mount, or in the settings where there is none."""
    from storjfs.volume import VolumePaths

    paths = VolumePaths(volume)
    try:
        return request(paths.control_socket, do, **arguments)
    except NotMounted:
        from storjfs.daemon import farmers as unmounted

        if do == "add_farmer":
            return unmounted.add(paths, arguments["address"])
        mark = unmounted.Mark(arguments["mark"])
        _, node_id = unmounted.mark(paths, (), arguments["farmer"], mark)
        return {"node_id": node_id.hex()}
