"""Claims at a served ledger: `scripts/bench/run ledger [claims]`.

A ledger in a process of its own, farmers that claim over the loopback from this one, each on a connection and
a lane of its own. Every claim is a voucher worth one unit more, and durable before its answer. Orders are
signed beforehand and answers are not verified: what is measured is the ledger. Beside it the same books
without the network, one claim at a time.
"""

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio
from rich.console import Console
from rich.table import Table

from storjfs.ledger.serve import open_books
from storjfs.network.identity import Identity
from storjfs.network.peer import Peer
from storjfs.protocol.ids import ContractId, LaneId, NodeId, lane_id
from storjfs.protocol.ledger import Claim, LedgerOrder, OpenLane, open_order, sign_order
from storjfs.protocol.messages import Settle
from storjfs.protocol.signing import Signed, SigningKey
from storjfs.protocol.vouchers import Voucher, sign_voucher
from storjfs.settlement import ServedAt, parse_place
from storjfs.settlement.shared import SharedLedger

SOURCE, PAYER = SigningKey(b"s" * 32), SigningKey(b"p" * 32)
AT_ONCE = 16
FAR = 1 << 40


def claims(node_id: NodeId, farmer: SigningKey, lane: LaneId, first: int, count: int) -> list[Signed]:
    """Signed orders, each of which pays one unit."""
    orders = []
    for amount in range(first, first + count):
        voucher = sign_voucher(PAYER, Voucher(lane, ContractId(bytes(32)), 0, amount, amount))
        orders.append(sign_order(farmer, LedgerOrder(node_id, farmer.public, b"%d" % amount, Claim(voucher))))
    return orders


def open_lanes(books: SharedLedger, farmers: list[SigningKey], deposit: int) -> list[LaneId]:
    """A lane to each farmer."""
    books.issue(SOURCE.public, 2 * deposit * len(farmers))
    for number, farmer in enumerate(farmers):
        wanted = OpenLane(PAYER.public, farmer.public, deposit, FAR)
        signed = sign_order(SOURCE, LedgerOrder(books.node_id, SOURCE.public, b"%d" % number, wanted))
        books.answer([(open_order(signed, books.node_id), signed)])
    return [lane_id(books.name, PAYER.public, farmer.public) for farmer in farmers]


async def over_the_network(at: ServedAt, work: list[list[Signed]]) -> tuple[float, list[float]]:
    """Seconds in all, and for each claim."""
    times: list[float] = []

    async def claim(peer: Peer, orders: list[Signed]) -> None:
        # Vouchers are cumulative: one that overtakes others would make them worthless, so each task takes
        # the next, and those at once may be refused; a refusal is worked out and signed as an answer is.
        while orders:
            began = time.perf_counter()
            await peer.request(Settle(orders.pop()))
            times.append(time.perf_counter() - began)

    async with trio.open_nursery() as lines:
        peers = []
        for number in range(len(work)):
            peer = Peer(Identity(bytes([number]) * 32), at.node_id, (at.address,))
            await lines.start(peer.run)
            peers.append(peer)
        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for peer, orders in zip(peers, work, strict=True):
                orders.reverse()
                for _ in range(AT_ONCE):
                    nursery.start_soon(claim, peer, orders)
        seconds = time.perf_counter() - began
        lines.cancel_scope.cancel()
    return seconds, times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("claims", type=int, nargs="?", default=10_000)
    parser.add_argument("--farmers", type=int, default=16)
    parser.add_argument("--at", type=Path, help="a folder on the disk to be measured; else the temporary one")
    wanted = parser.parse_args()
    table = Table("claims", "per second", "median", "99 %")
    with tempfile.TemporaryDirectory(dir=wanted.at) as folder:
        command = [*(sys.executable, "-m", "storjfs", "ledger", "serve"), "--listen", "127.0.0.1:0"]
        process = subprocess.Popen([*command, "--at", folder], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            process.stdout.readline()
            at = parse_place(process.stdout.readline().removeprefix("ledger").strip())
            assert isinstance(at, ServedAt)
            _, books = open_books(Path(folder))
            farmers = [SigningKey(number.to_bytes(32, "big")) for number in range(1, wanted.farmers + 1)]
            each = math.ceil(wanted.claims / len(farmers))
            lanes = open_lanes(books, farmers, 2 * each)
            work = [claims(at.node_id, *pair, 1, each) for pair in zip(farmers, lanes, strict=True)]
            seconds, times = trio.run(over_the_network, at, work)
            moved = sum(lane.claimed for lane in books.all_lanes())
            times.sort()
            row(table, f"{len(times)} over the network, {moved} units", len(times) / seconds, times)
            alone = claims(at.node_id, farmers[0], lanes[0], each + 1, min(each, 500))
            times = []
            for signed in alone:
                began = time.perf_counter()
                books.answer([(open_order(signed, at.node_id), signed)])
                times.append(time.perf_counter() - began)
            times.sort()
            row(table, f"{len(times)} in the file, one at a time", len(times) / sum(times), times)
            found = books.check()
            books.close_file()
        finally:
            process.terminate()
            process.wait()
    Console().print(table)
    print("the audit finds", found or "nothing")


def row(table: Table, name: str, rate: float, times: list[float]) -> None:
    """Times in ascending order."""
    high = times[int(len(times) * 0.99)]
    table.add_row(name, f"{rate:.0f}", f"{statistics.median(times) * 1000:.1f} ms", f"{high * 1000:.1f} ms")


if __name__ == "__main__":
    main()
