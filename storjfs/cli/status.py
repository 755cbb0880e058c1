"""`storjfs status` and `storjfs contracts`."""

import json
from pathlib import Path
from typing import Any

import click

from storjfs.daemon.client import NotMounted, request

from .options import passphrase_for, passphrase_options, volume_option

HEALTH_CODES = {"healthy": 0, "degraded": 1, "at_risk": 2}


def report_of(volume: str, passphrase_file: Path | None, passphrase_command: str | None) -> dict[str, Any]:
    """The status report: from the running mount, or from the databases if there is none."""
    from storjfs.volume import VolumePaths

    paths = VolumePaths(volume)
    try:
        report = request(paths.control_socket, "status")
    except NotMounted:
        from storjfs.daemon.mountpoint import dead_mount
        from storjfs.daemon.offline import read_report

        report = read_report(paths, passphrase_for(volume, passphrase_file, passphrase_command))
        died = dead_mount(volume, paths.control_socket, paths.mount_note)
        report["dead_mount"] = None if died is None else str(died)
    assert isinstance(report, dict)
    return report


@click.command()
@volume_option
@click.option("--json", "as_json", is_flag=True, help="As JSON; the schema is in docs/reference/status.md.")
@passphrase_options
def status(volume: str, as_json: bool, passphrase_file: Path | None, passphrase_command: str | None) -> int:
    """Show the volume, its data, its contracts and its health.

    The exit code is the health: 0 healthy, 1 degraded, 2 data at risk. Works without a running mount too; a
    volume with a passphrase needs it then.
    """
    report = report_of(volume, passphrase_file, passphrase_command)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        from .tables import console, print_status

        print_status(report, console())
    return HEALTH_CODES[report["health"]]


@click.command()
@volume_option
@click.option("--json", "as_json", is_flag=True, help="As JSON: the member `contracts` of the status report.")
@passphrase_options
def contracts(
    volume: str, as_json: bool, passphrase_file: Path | None, passphrase_command: str | None
) -> None:
    """Show the contracts with farmers: what they hold, how audits went, what was paid."""
    rows = report_of(volume, passphrase_file, passphrase_command)["contracts"]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo("There are no contracts yet; the first mount makes them.")
        return
    from .tables import console, contracts_table

    out = console()
    out.print(contracts_table(rows, out.width))
