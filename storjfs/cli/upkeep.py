"""`storjfs flush`, `audit` and `repair`: what a running mount does by itself, asked for now."""

import time
from pathlib import Path

import click

from storjfs.daemon.exit_codes import ExitCode, ReportedError
from storjfs.volume import wording

from .asking import ask_mount
from .options import passphrase_options, volume_option


@click.command()
@volume_option
def flush(volume: str) -> None:
    """Wait until all data is with the farmers, so that it survives the loss of this machine."""
    from .progress import FlushBar

    with FlushBar() as bar:
        left = ask_mount(volume, "flush", progress=bar.update)
    if left["waiting"]:
        away = wording.farmers(left.get("away", ()))
        raise ReportedError(
            f"{wording.size(left['waiting'])} could not be sent to enough farmers"
            + (f"; {away}" if away else ""),
            "it is safe on this machine and is tried again; storjfs status shows which farmers are missing",
            ExitCode.NOT_FLUSHED,
        )
    click.echo("All data is with the farmers.")


@click.command()
@volume_option
@click.option("--now", is_flag=True, help="Audit every shard now instead of spread over the period.")
@passphrase_options
def audit(volume: str, now: bool, passphrase_file: Path | None, passphrase_command: str | None) -> int | None:
    """Show how audits go; with --now, challenge every farmer for every shard at once.

    With --now the exit code is 1 if a farmer failed or did not answer.
    """
    if not now:
        _show_audits(volume, passphrase_file, passphrase_command)
        return None
    result = ask_mount(volume, "audit", now=True)
    click.echo(f"{wording.count(result['passed'], 'shard')} passed, {result['failed']} failed.")
    if result["offline"]:
        click.echo(f"{wording.count(result['offline'], 'farmer')} did not answer.")
    return int(ExitCode.FAILED) if result["failed"] or result["offline"] else None


def _show_audits(volume: str, passphrase_file: Path | None, passphrase_command: str | None) -> None:
    from .status import report_of

    report = report_of(volume, passphrase_file, passphrase_command)
    audits = report["audits"]
    click.echo(f"Every shard is audited once in {wording.duration(audits['period'])}.")
    if audits["unproven"]:
        since = wording.ago(audits["unproven_since"], time.time())
        click.echo(
            f"Not so with {wording.count(audits['unproven'], 'farmer')}: shards that were due {since} or "
            "later are not proven, for there was no answer. That is made up for when there is."
        )
    last = (
        "There was none yet"
        if audits["last"] is None
        else f"Last one {wording.ago(audits['last'], time.time())}"
    )
    click.echo(f"{last}.")
    for row in report["contracts"]:
        counts = f"{row['passed']} passed, {row['failed']} failed, {row['offline']} offline"
        click.echo(f"  {wording.short_id(row['farmer'])}  {counts}")


@click.command()
@volume_option
def repair(volume: str) -> None:
    """Rebuild missing shards on other farmers now, without waiting for the usual threshold."""
    result = ask_mount(volume, "repair")
    click.echo(
        f"{wording.count(result['repaired'], 'segment')} repaired, {result['left']} still miss shards."
    )
    if result["left"]:
        raise ReportedError(
            "not everything could be repaired", "storjfs status shows what is missing", ExitCode.FAILED
        )
