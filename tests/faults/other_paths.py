"""What runs under the recorder: the write paths outside a mounted volume, `python -m tests.faults.other_paths
PATH FOLDER RECORD`. The marks of each stand with its coroutine.
"""

import sys
from itertools import pairwise
from pathlib import Path
from typing import Final

import trio

from storjfs.keys import Hardness, VolumeKeys
from storjfs.protocol.ids import NodeId
from storjfs.renter.pay import PayBook
from storjfs.settlement import Ledger
from storjfs.volume import (
    VolumePaths,
    VolumeSettings,
    change_passphrase,
    create_volume,
    lock_volume,
    write_settings,
)
from tests.farmer.renter import MIB, Renter, Shard, farming, renting
from tests.faults.recording import Marks
from tests.renter.values import FARMER, KEYS, contract, terms

ENTROPY: Final = bytes(range(32))
SETTINGS: Final = VolumeSettings(volume_id=VolumeKeys(ENTROPY).volume_id)
EASY: Final = Hardness(ops=1, mem_kib=8)
PRICES: Final = range(1, 5)
WORDS: Final = [None, "first", "second", None]
TERMS: Final = terms()
KEY: Final = b"k" * 32
BATCHES: Final = 12
SHARD: Final = 4 * MIB


class Saying:
    """A source of one passphrase."""

    def __init__(self, words: str) -> None:
        self.words = words

    def read(self, *, new: bool = False) -> str:
        return self.words


def source(words: str | None) -> Saying | None:
    return None if words is None else Saying(words)


def paths_of(folder: Path) -> VolumePaths:
    return VolumePaths("default", {"HOME": str(folder)})


async def files(folder: Path, mark: Marks) -> None:
    """A volume is made, its settings and its passphrase change: `made`; `settings <n>`, `passphrase <n>` when
    the n-th is in force, `begun ...` before each."""
    paths = paths_of(folder)
    create_volume(paths, ENTROPY, SETTINGS, None)
    mark("made")
    for number, price in enumerate(PRICES, 1):
        mark(f"begun settings {number}")
        write_settings(paths, settings_with(price))
        mark(f"settings {number}")
    for number, (old, new) in enumerate(pairwise(WORDS), 1):
        mark(f"begun passphrase {number}")
        change_passphrase(paths, source(old), source(new), EASY)
        mark(f"passphrase {number}")
    with lock_volume(paths):
        mark("locked")


def settings_with(price: int) -> VolumeSettings:
    return VolumeSettings(volume_id=SETTINGS.volume_id, capacity=price << 30)


async def pay(folder: Path, mark: Marks) -> None:
    """Vouchers for audit batches: `sent <n>` with the bytes of voucher n when it may be sent."""
    book = PayBook(folder / "pay.db", KEY, KEYS.payment_identity)
    lane = await book.know_lane(TERMS.lane, FARMER.node_id, 10**9, TERMS.end, used_before=False)
    for number in range(1, BATCHES + 1):
        nonce = number.to_bytes(32, "big")
        voucher = await book.settle(lane, TERMS, contract().contract_id, nonce, SHARD)
        mark(f"sent {number}", voucher.to_bytes())
        await book.forget_settled(nonce) if number % 3 == 0 else None
    book.close()


async def farmer(folder: Path, mark: Marks) -> None:
    """A farmer takes shards in and gives them up: `kept <id>` with the data when the receipt has come,
    `dropping <id>` before the order to delete, `paid <amount>` when the farmer has confirmed a voucher."""
    ledger = Ledger(folder / "ledger.db")
    async with farming(folder) as one, renting(ledger, NodeId(one.node_id), one.listening[0]) as renter:
        await renter.agree()
        mark("agreed", renter.contract_id)
        for size in (1000, 70_000, MIB + 5):
            await put(renter, size, mark)
        for shard in renter.shards[:2]:
            await drop(renter, shard, mark)
        await put(renter, 5000, mark)
        await renter.audit(*renter.shards[2:])
        await renter.pay()
        mark(f"paid {renter.tally.amount}")
        await drop(renter, renter.shards[2], mark)
        await put(renter, 300, mark)
    ledger.close_file()


async def put(renter: Renter, size: int, mark: Marks) -> None:
    shard = await renter.put(size)
    mark(f"kept {shard.shard_id.hex()}", shard.data)


async def drop(renter: Renter, shard: Shard, mark: Marks) -> None:
    mark(f"dropping {shard.shard_id.hex()}")
    await renter.delete(shard)


if __name__ == "__main__":
    path = {"files": files, "pay": pay, "farmer": farmer}[sys.argv[1]]
    trio.run(path, Path(sys.argv[2]), Marks(Path(sys.argv[3])))
