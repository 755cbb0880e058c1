"""Renters and farmers who do not know each other: found in a local network, by asking others, and chosen."""

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from storjfs.daemon.exit_codes import ExitCode
from storjfs.farmer.settings import FarmerSettings
from storjfs.network.dht import DhtSettings
from storjfs.network.identity import Identity
from storjfs.network.streams import open_stream
from storjfs.network.visits import visit
from storjfs.protocol.ids import NodeId
from storjfs.protocol.terms import Address
from storjfs.volume import read_settings, write_settings
from storjfs.volume.dht import DhtNeeds
from tests.farmer.process import Running, status
from tests.netns.lab import lab
from tests.network.dht.swarm import swarm

from .drive import Drive, await_that, shards_in

MIB = 1 << 20
NETWORK = "test"
CONTENT = random.Random(1).randbytes(3 * MIB)


class Farm:
    """Farmers in processes of their own with the ledger of a drive; killed in the end."""

    def __init__(self, drive: Drive, folder: Path) -> None:
        self.drive, self.folder = drive, folder
        self.running: list[Running] = []
        self.ids: list[NodeId] = []
        self.addresses: list[str] = []

    def words(self, number: int, *more: str) -> list[str]:
        """Of the command that starts one."""
        ledger = str(self.drive.paths().ledger_db)
        return [
            *("--at", str(self.folder / f"farmer{number}"), "--share", "3GB", "--listen", "local"),
            *("--ledger", ledger, "--new-ledger", *more),
        ]

    def start(self, *more: str) -> None:
        """One more."""
        self.running.append(Running(*self.words(len(self.running), *more)))
        node_id, address = self.running[-1].where()
        self.ids.append(node_id)
        self.addresses.append(str(address))

    def start_announced(self, part: DhtSettings) -> None:
        """One more, that takes that part in a DHT and listens at the same address."""
        folder = self.folder / f"farmer{len(self.running)}"
        folder.mkdir()
        FarmerSettings(
            capacity=3 << 30,
            ledger=self.drive.paths().ledger_db,
            listen=Address(part.listen[0].host, 7420),
            dht_listen=part.listen,
            dht_bootstrap=part.bootstrap,
            network=NETWORK,
        ).write(folder)
        self.start("--dht", "--listen", f"{part.listen[0].host}:7420")

    def shards(self, node_id: str) -> int:
        """How many shards one has on its shelf."""
        number = [one.hex() for one in self.ids].index(node_id)
        return len(shards_in(self.folder / f"farmer{number}" / "shelf"))

    def stop(self) -> None:
        for one in self.running:
            with one, contextlib.suppress(ProcessLookupError):
                one.interrupt()


@pytest.fixture
def farm(drive: Drive, tmp_path: Path) -> Iterator[Farm]:
    made = Farm(drive, tmp_path)
    yield made
    drive.stop()
    made.stop()


def known(drive: Drive) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(drive.run("farmers", "--json").stdout)
    return rows


def used(drive: Drive) -> set[str]:
    return {row["node_id"] for row in known(drive) if row["used"]}


def store_and_read(drive: Drive) -> None:
    """Write, have it at the farmers, and read it back from nobody else."""
    (drive.at / "file").write_bytes(CONTENT)
    drive.run("flush", timeout=300)
    drive.umount()
    shutil.rmtree(drive.paths().cache_dir)
    drive.mount()
    assert hashlib.sha256((drive.at / "file").read_bytes()).digest() == hashlib.sha256(CONTENT).digest()


def test_farmers_in_the_local_network_are_found_and_used(tmp_path: Path) -> None:
    with lab() as net:
        house = net.network("192.168.77.0/24")
        drive = Drive(tmp_path)
        drive.within = net.host("renter", house).command
        farmers = Farm(drive, tmp_path)
        for number in range(5):
            host = net.host(f"farmer{number}", house)
            words = farmers.words(number, "--listen", "0.0.0.0:7420", "--region", "EU-DE")
            log = (tmp_path / f"farmer{number}.log").open("wb")
            host.popen(
                [sys.executable, "-m", "storjfs", "farm", *words], env=drive.env, stdout=log, stderr=log
            )
            log.close()
        try:
            _all_listen(tmp_path, 5)
            await_that(
                lambda: all(
                    status(tmp_path / f"farmer{number}")["live"]["announced_lan"] for number in range(5)
                ),
                "all are announced",
            )
            done = drive.run(
                *("init", "--no-passphrase", "--find", "lan", "--size", "1GB", "--max-price", "8/TiB-month"),
                *("--regions", "EU", "--yes"),
            )
            assert "Any 3 of 5 shards" in done.stdout
            assert "credits a month" in done.stdout
            drive.mount()
            store_and_read(drive)
            await_that(
                lambda: all("lan" in row["found_by"] for row in known(drive)),
                "those named in the settings are heard of in the network too",
            )
            rows = known(drive)
            assert len(rows) == 5
            for row in rows:
                assert row["used"], row
                assert row["region"] == "EU-DE"
                assert row["addresses"][0].startswith("192.168.77.")
        finally:
            drive.stop()


def _all_listen(folder: Path, count: int) -> None:
    def listen() -> bool:
        logs = [folder / f"farmer{number}.log" for number in range(count)]
        return all("address " in log.read_text() for log in logs)

    await_that(listen, "all farmers serve")


def test_one_farmer_leads_to_all_others(drive: Drive, farm: Farm, tmp_path: Path) -> None:
    farm.start()
    for _ in range(5):
        farm.start("--peer", farm.addresses[0])
    _knows(farm.addresses[0], 5)
    assert status(tmp_path / "farmer0")["live"]["neighbours"] == 5
    looking = ("init", "--no-passphrase", "--farmer", farm.addresses[0], "--find", "peers", "--size", "1GB")
    asked = drive.run(*looking, check=False)
    assert "nobody was there to agree; no volume was made" in asked.stderr
    cheap = drive.run(*looking, "--max-price", "0.001", "--yes", check=False)
    assert cheap.returncode == ExitCode.FARMERS_UNREACHABLE
    assert "Raise --max-price: the cheapest asks 0.005" in cheap.stderr
    made = drive.run(*looking, "--yes")
    assert "6 farmers, 1.00 GiB contracted with each" in made.stdout
    assert "if farmers fail independently" in made.stdout
    drive.mount()
    assert used(drive) <= {one.hex() for one in farm.ids}
    store_and_read(drive)
    await_that(lambda: len(used(drive)) == 6, "all six have contracts")
    drive.run("farmers", "add", farm.addresses[5])
    drive.run("farmers", "add", farm.addresses[5])
    assert drive.paths().settings_file.read_text().count(f'"{farm.addresses[5]}"') == 1
    # One that is blocked is emptied and left; what it held is on others.
    blocked = next(who for who in used(drive) if farm.shards(who))
    drive.run("farmers", "block", blocked[:12])
    await_that(lambda: farm.shards(blocked) == 0, "the blocked farmer has nothing left")
    drive.run("flush")
    assert blocked not in used(drive)
    assert next(row for row in known(drive) if row["node_id"] == blocked)["mark"] == "blocked"
    assert (drive.at / "file").read_bytes() == CONTENT
    drive.umount()
    assert f'blocked = ["{blocked}"]' in drive.paths().settings_file.read_text()
    offline = known(drive)
    assert {row["node_id"] for row in offline} == {one.hex() for one in farm.ids}
    drive.run("farmers", "unblock", blocked[:12])
    drive.run("farmers", "prefer", blocked)
    drive.mount()
    await_that(lambda: blocked in used(drive), "it is used again")


async def test_farmers_that_announce_themselves_in_the_dht_are_found_and_used(
    drive: Drive, farm: Farm, tmp_path: Path
) -> None:
    async with swarm() as nodes:
        for _ in range(6):
            await trio.to_thread.run_sync(farm.start_announced, nodes.settings(port=7421))
        await trio.to_thread.run_sync(_all_announced, tmp_path, 6)
        part = nodes.settings(port=7421)
        needs = DhtNeeds(network=NETWORK, listen=part.listen, bootstrap=part.bootstrap)
        await trio.to_thread.run_sync(_found_by_the_dht, drive, farm, needs)


def _found_by_the_dht(drive: Drive, farm: Farm, dht: DhtNeeds) -> None:
    """One is named, and the others are looked for."""
    drive.run("init", "--no-passphrase", "--farmer", farm.addresses[0])
    settings = read_settings(drive.paths())
    write_settings(drive.paths(), dataclasses.replace(settings, find=("dht",), dht=dht))
    drive.mount()
    await_that(lambda: used(drive) == {one.hex() for one in farm.ids}, "all six are used")
    store_and_read(drive)
    by = {row["node_id"]: row["found_by"] for row in known(drive)}
    assert all("dht" in by[one.hex()] for one in farm.ids[1:])
    drive.umount()


def _all_announced(folder: Path, count: int) -> None:
    def announced() -> bool:
        live = [status(folder / f"farmer{number}")["live"] for number in range(count)]
        return all(one["dht"]["announced"] for one in live)

    await_that(announced, "all are announced in the DHT")


def _knows(address: str, count: int) -> None:
    """Until the farmer there can tell of so many others."""

    async def ask() -> int:
        stranger = Identity(os.urandom(32))
        return len((await visit(stranger, None, [Address.parse(address)], open_stream, ask=True)).others)

    await_that(lambda: trio.run(ask) >= count, f"the farmer knows {count} others")
