"""`storjfs ledger`: serve a ledger that a group settles in, issue credits, show and audit it."""

import json
import logging
import socket
import sys
from pathlib import Path

import click
import trio

from storjfs.daemon.exit_codes import ExitCode, ReportedError
from storjfs.daemon.notify import Notifier
from storjfs.farmer.embedded import raise_file_limit
from storjfs.ledger.serve import open_books, serve_ledger, serving
from storjfs.protocol.ids import PublicKey, short
from storjfs.protocol.terms import Address
from storjfs.settlement import CREDIT, ServedAt
from storjfs.settlement.place import DEFAULT_PORT
from storjfs.volume import wording
from storjfs.volume.errors import SettingsError

from .options import folder_option, passphrase_for, passphrase_options, volume_option

EVERYWHERE = ("::", "0.0.0.0")


at_option = folder_option("ledger", "The folder in which the ledger is kept.")


@click.group()
def ledger() -> None:
    """Serve a ledger in which a group of renters and farmers settle.

    Its credits are promises of whoever runs it, and nothing else (docs/how-to/share-a-ledger.md).
    """


@ledger.command()
@at_option
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default=f"[::]:{DEFAULT_PORT}",
    show_default=True,
    help="Where to listen.",
)
def serve(folder: Path, listen: str) -> None:
    """Serve the ledger in a folder, which is made where there is none.

    Runs until it is interrupted, which is safe at any time. It shows the address that goes into the settings
    of renters and farmers. The folder is the ledger: whoever has a copy can issue its credits.
    """
    asked, port = _where(listen)
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    raise_file_limit()
    notifier = Notifier()
    with serving(folder.absolute()) as (identity, books):

        def ready(addresses: tuple[Address, ...]) -> None:
            host = socket.gethostname() if asked in EVERYWHERE else asked
            at = ServedAt(identity.node_id, Address(host, addresses[0].port))
            click.echo(f"identity  {identity.node_id.hex()}")
            click.echo(f"ledger    {at}")
            sys.stdout.flush()
            notifier.ready(f"serving at {at.address}")

        try:
            trio.run(serve_ledger, identity, books, asked, port, ready)
        except* OSError as group:
            first = _first(group)
            reason = first.strerror if isinstance(first, OSError) else None
            raise SettingsError(
                f"cannot listen on {listen}: {reason or first}",
                hint="Choose another address: --listen HOST:PORT",
            ) from group


def _where(text: str) -> tuple[str, int]:
    """Host and port to listen on; port 0 is any free one. Raises SettingsError."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise SettingsError(
            f"{text!r} is not where one can listen", hint=f'Write it as in "[::]:{DEFAULT_PORT}".'
        )
    return host, int(port)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@ledger.command()
@click.argument("account")
@click.argument("amount")
@at_option
@click.option("--memo", default="", help="A note that the account sees in its history.")
def issue(account: str, amount: str, folder: Path, memo: str) -> None:
    """Give AMOUNT credits to ACCOUNT, out of nothing: only the operator can, with the ledger's folder.

    ACCOUNT has 64 hex digits: `storjfs ledger account` shows a volume's, and a farmer's is its identity. The
    ledger may be running.
    """
    key = _key(account)
    units = CREDIT.parse(amount)
    _, books = open_books(folder.absolute())
    try:
        books.issue(key, units, memo=memo)
        balance = books.balance(key)
    finally:
        books.close_file()
    click.echo(f"{CREDIT.format(units)} issued; account {short(key)} holds {CREDIT.format(balance)} now.")


@ledger.command()
@at_option
@click.option("--json", "as_json", is_flag=True, help="As JSON; amounts in nanocredits.")
def show(folder: Path, as_json: bool) -> None:
    """Show the accounts and lanes of a ledger, with its folder; it may be running."""
    identity, books = open_books(folder.absolute())
    try:
        head, people, lanes = books.head(), books.people(), books.all_lanes()
        report = {
            "ledger": identity.node_id.hex(),
            "operator": books.operator.hex(),
            "transfers": head.number,
            "head": head.link.hex(),
            "accounts": [{"account": key.hex(), "balance": balance} for key, balance in people],
            "lanes": [
                {
                    "lane": lane.lane_id.hex(),
                    "payer": lane.payer.hex(),
                    "payee": lane.payee.hex(),
                    "source": lane.source.hex(),
                    "deposit": int(lane.deposit),
                    "claimed": int(lane.claimed),
                    "expiry": lane.expiry,
                    "state": str(lane.state),
                }
                for lane in lanes
            ],
        }
    finally:
        books.close_file()
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    click.echo(f"ledger    {identity.node_id.hex()}")
    click.echo(f"transfers {head.number}, the newest is {head.link.hex()[:16]}")
    for key, balance in people:
        click.echo(f"account   {key.hex()}  {CREDIT.format(balance)}")
    for lane in lanes:
        click.echo(
            f"lane      {short(lane.lane_id)}  {short(lane.source)} -> {short(lane.payee)}  {lane.state}  "
            f"{CREDIT.format(lane.claimed)} claimed of {CREDIT.format(lane.deposit)}"
        )


@ledger.command()
@at_option
def audit(folder: Path) -> int:
    """Check the books of a ledger: the chain, every signature, and that all sums are right.

    Reads everything; it may be running. The exit code is 1 if anything is wrong.
    """
    _, books = open_books(folder.absolute())
    try:
        found, head = books.check(), books.head()
    finally:
        books.close_file()
    for one in found:
        click.echo(f"wrong     {one}")
    if found:
        return int(ExitCode.FAILED)
    click.echo(f"All is right: {wording.count(head.number, 'transfer')}, the newest is {head.link.hex()}")
    return int(ExitCode.OK)


@ledger.command()
@volume_option
@passphrase_options
def account(volume: str, passphrase_file: Path | None, passphrase_command: str | None) -> None:
    """Show the account from which a volume pays, and what it holds."""
    from storjfs.daemon.parts import known_ledger, own_account
    from storjfs.settlement import SettlementError
    from storjfs.volume import VolumePaths, read_settings, unlock_volume

    paths = VolumePaths(volume)
    keys = unlock_volume(paths, passphrase_for(volume, passphrase_file, passphrase_command))
    settings = read_settings(paths)
    click.echo(f"account   {own_account(keys).hex()}")
    try:
        settlement = known_ledger(paths, settings, keys)
        try:
            click.echo(f"ledger    {settings.ledger or paths.ledger_db}")
            click.echo(f"balance   {CREDIT.format(settlement.balance(own_account(keys)))}")
        finally:
            settlement.close_file()
    except SettlementError as error:
        raise ReportedError(str(error), error.hint) from error


def _key(text: str) -> PublicKey:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise SettingsError(
            f"{text!r} is not an account",
            hint="It has 64 hex digits, as `storjfs ledger account` shows them.",
        )
    return PublicKey(key)
