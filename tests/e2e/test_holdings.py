"""What `storjfs status` says of the farmers of a real mount, against what the farmers' databases hold."""

import os
import random
import sqlite3

from .drive import Drive, await_that

FILES = 60
KIB = 1 << 10


def farmers_books(drive: Drive) -> dict[str, tuple[int, int]]:
    """Shards and their bytes by contract id, as the farmers have them."""
    found: dict[str, tuple[int, int]] = {}
    for folder in drive.farmer_folders():
        database = sqlite3.connect(f"file:{folder / 'farmer.db'}?mode=ro", uri=True)
        rows = database.execute(
            "SELECT c.contract_id, COUNT(s.shard_id), COALESCE(SUM(s.length), 0) "
            "FROM contract c LEFT JOIN shard s ON s.contract = c.contract GROUP BY c.contract_id"
        ).fetchall()
        database.close()
        found |= {bytes(contract).hex(): (shards, size) for contract, shards, size in rows}
    return found


def shown(drive: Drive, ids: list[str]) -> dict[str, tuple[int, int]]:
    """The same by `status`, which shortens the ids."""
    rows = drive.status()["contracts"]
    return {
        one: (row["shards"], row["used"]) for one in ids for row in rows if one.startswith(row["contract"])
    }


def agree(drive: Drive) -> bool:
    books = farmers_books(drive)
    return shown(drive, list(books)) == books


def change(drive: Drive, rng: random.Random) -> None:
    """Files are made, written over and removed, some of them with an fsync that closes a segment early."""
    for _ in range(150):
        name = drive.at / f"file{rng.randrange(FILES)}"
        if rng.random() < 0.4:
            name.unlink(missing_ok=True)
            continue
        with name.open("wb") as file:
            file.write(rng.randbytes(rng.randrange(600 * KIB)))
            if rng.random() < 0.1:
                os.fsync(file.fileno())


def test_status_says_what_the_farmers_hold_after_heavy_change_and_a_crash(drive: Drive) -> None:
    rng = random.Random(5)
    drive.mount()
    for life in range(3):
        for _ in range(3):
            change(drive, rng)
            drive.run("flush")
        if life < 2:
            change(drive, rng)
            drive.kill()
            drive.mount()
    drive.run("flush")
    drive.run("gc")
    drive.run("audit")
    await_that(lambda: agree(drive), "status and the farmers agree")
    books = farmers_books(drive)
    assert len(books) == len(drive.status()["contracts"]) == 6
    assert sum(shards for shards, _ in books.values()) > 0
    # That they stand on one machine is what embedded farmers are, and worth no warning.
    assert drive.status()["warnings"] == []
    drive.umount()
    assert agree(drive), "it is on the disk"
    assert drive.examine() == {}
    drive.mount()
    for file in drive.at.iterdir():
        file.unlink()
    drive.run("flush")
    drive.run("gc")
    await_that(lambda: not any(shards for shards, _ in farmers_books(drive).values()), "all is deleted")
    await_that(lambda: agree(drive), "status and the farmers agree")
