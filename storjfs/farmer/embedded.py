"""Several farmers in one process: `python -m storjfs.farmer.embedded`, the child of a mount or of a test.

Prints one JSON line `[{"node_id": hex, "address": "host:port", "folder": path, "leaving": bool}, ...]` to
`--ready-fd` when all of them serve,
and ends when `--parent-fd` reaches its end, which it does whatever way the parent goes.
"""

import logging
import os
import resource
import signal
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import click
import msgspec
import trio

from storjfs.errors import StorjfsError
from storjfs.farmer.farmer import Farmer
from storjfs.farmer.identity import IdentityUnusable
from storjfs.farmer.settings import KEEP_FREE, FarmerSettings
from storjfs.protocol.contracts import State
from storjfs.settlement import Ledger, Place, Settlement
from storjfs.store import DiskFull, StoreError
from storjfs.volume.ledger import ledger_named

log = logging.getLogger(__name__)

PREDECESSOR_SECONDS = 15.0
"""How long to wait for a predecessor that is still stopping."""
SWITCH_INTERVAL = 0.0005
"""Seconds a thread keeps Python's lock while others want it: hashing threads need it back 256 times a MiB."""


def embedded_settings(
    ledger: Place, capacity: int, price: int, egress_price: int, keep_free: int = KEEP_FREE
) -> FarmerSettings:
    """What embedded farmers sell: as others do, but on any terms of length and audit period."""
    return FarmerSettings(
        capacity=capacity,
        keep_free=keep_free,
        ledger=ledger,
        price=price,
        egress_price=egress_price,
        term_min=1,
        period_min=1,
        group="embedded",
        claim_every=60,
    )


def farmer_folder(folder: Path, index: int) -> Path:
    """Where the embedded farmer number `index` (from 0) lives."""
    return folder / f"farmer-{index:02}"


def farmer_folders(folder: Path) -> list[Path]:
    """Where embedded farmers live, in the order of their numbers."""
    return sorted(path for path in folder.glob("farmer-[0-9][0-9]") if path.is_dir())


def leaving_folders(folder: Path, count: int) -> list[Path]:
    """Where farmers live that are no longer among the first `count`."""
    wanted = {farmer_folder(folder, index) for index in range(count)}
    return [path for path in farmer_folders(folder) if path not in wanted]


def _still_needed(farmer: Farmer) -> bool:
    """Whether somebody has a contract with it that is not over."""
    over = (State.ENDED, State.BREACHED)
    return any(entry.state not in over for entry in farmer.book.contracts.values())


def _open(folder: Path, settings: FarmerSettings, settlement: Settlement | None) -> list[Farmer]:
    """The farmer in `folder`, with a settlement of its own where there is no common one.

    None, and a line in the log, if it is damaged: the others serve without it.
    """
    try:
        return [Farmer.open(folder, settings, settlement=settlement, wait=PREDECESSOR_SECONDS)]
    except (StoreError, IdentityUnusable) as error:
        if isinstance(error, DiskFull):
            raise  # not damaged: all of them are tried again
        log.error("the farmer in %s is left out: %s %s", folder, error, error.hint)
        return []


async def run(
    farmers: Sequence[Farmer], ready: int | None, parent: int | None, leaving: Collection[Path] = ()
) -> None:
    """Serve until the parent is gone or SIGTERM or SIGINT comes; `leaving` are folders of farmers that are no
    longer wanted."""
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            for farmer in farmers:
                await nursery.start(farmer.serve)
            if ready is not None:
                _report(farmers, ready, leaving)
            if parent is not None:
                nursery.start_soon(_watch, parent, nursery.cancel_scope)
            async for _ in signals:
                nursery.cancel_scope.cancel()
                break


def _report(farmers: Sequence[Farmer], ready: int, leaving: Collection[Path]) -> None:
    lines = [
        {
            "node_id": farmer.node_id.hex(),
            "address": str(farmer.listening[0]),
            "folder": str(farmer.folder),
            "leaving": farmer.folder in leaving,
        }
        for farmer in farmers
    ]
    os.write(ready, msgspec.json.encode(lines) + b"\n")
    os.close(ready)


async def _watch(parent: int, scope: trio.CancelScope) -> None:
    """Cancel `scope` when nobody holds the other end of the pipe `parent` any more."""
    async with trio.lowlevel.FdStream(parent) as pipe:
        while await pipe.receive_some(4096):
            pass
    scope.cancel()


def raise_file_limit() -> None:
    """As many open files as the system lets us have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@click.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path), required=True)
@click.option("--count", type=click.IntRange(0, 256), default=6)
@click.option("--ledger", required=True)
@click.option("--capacity", type=int, required=True, help="Bytes each farmer may use.")
@click.option("--keep-free", type=int, default=KEEP_FREE, help="Bytes of the disk that are never used.")
@click.option("--price", type=int, default=5_000_000, help="Nanocredits per GiB and month.")
@click.option("--egress-price", type=int, default=10_000_000, help="Nanocredits per GiB sent.")
@click.option("--ready-fd", type=int)
@click.option("--parent-fd", type=int)
@click.option("--without", type=int, multiple=True, help="Leave out the farmer of this number.")
def main(
    folder: Path,
    count: int,
    ledger: str,
    capacity: int,
    keep_free: int,
    price: int,
    egress_price: int,
    ready_fd: int | None,
    parent_fd: int | None,
    without: tuple[int, ...],
) -> None:
    """Run embedded farmers until the parent is gone: the first COUNT, and others that have contracts."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    raise_file_limit()
    sys.setswitchinterval(SWITCH_INTERVAL)
    place = ledger_named(ledger)
    settings = embedded_settings(place, capacity, price, egress_price, keep_free)
    farmers: list[Farmer] = []
    try:
        settlement = Ledger(place) if isinstance(place, Path) else None
        for index in range(count):
            if index not in without:
                farmers += _open(farmer_folder(folder, index), settings, settlement)
        leaving = leaving_folders(folder, count)
        for path in leaving:
            for farmer in _open(path, settings, settlement):
                if _still_needed(farmer):
                    farmers.append(farmer)
                else:
                    farmer.close()
        trio.run(run, farmers, ready_fd, parent_fd, leaving)
    except StorjfsError as error:
        log.error("%s %s", error, error.hint)
        sys.exit(1)
    finally:
        for farmer in farmers:
            farmer.close()


if __name__ == "__main__":
    main()
