"""Nothing but the plain commands: a farmer that shares a disk, and a renter who looks around."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from storjfs.farmer.listening import FIRST_PORT, free_port
from storjfs.farmer.settings import FarmerSettings
from tests.e2e.drive import Drive, await_that, unmounted
from tests.farmer.process import Running, status

from .lab import Host, Lab, lab
from .test_reach import read_cold, write

FARMERS = 5
"""Of the smallest code that bears the loss of two."""


@pytest.fixture
def net() -> Iterator[Lab]:
    """A lab."""
    with lab() as made:
        yield made


@contextlib.contextmanager
def plain_farmer(host: Host, folder: Path, drive: Drive, *words: str) -> Iterator[Running]:
    """`storjfs farm --share --at` there, in the ledger that the drive is going to have; it serves."""
    with Running(
        *("--share", "2GB", "--at", str(folder)),
        *("--ledger", str(drive.paths().ledger_db), "--new-ledger", *words),
        within=host.command,
    ) as farmer:
        try:
            farmer.until("open ")
            yield farmer
        finally:
            farmer.interrupt()


def test_two_machines_in_one_network_need_no_word_of_each_other(net: Lab, tmp_path: Path) -> None:
    house = net.network("192.168.77.0/24")
    machine, laptop = net.host("machine", house), net.host("laptop", house)
    folders = [tmp_path / f"farmer{number}" for number in range(FARMERS)]
    with unmounted(tmp_path / "renter") as drive, contextlib.ExitStack() as running:
        drive.within = laptop.command
        for folder in folders:
            running.enter_context(plain_farmer(machine, folder, drive))
        ports = [
            settings.listen.port for settings in map(settings_of, folders) if settings.listen is not None
        ]
        assert ports == list(range(FIRST_PORT, FIRST_PORT + 2 * FARMERS, 2)), "each keeps a port of its own"
        await_that(lambda: all(status(one)["live"]["announced_lan"] for one in folders), "all are announced")
        made = drive.run("init", "--no-passphrase", "--find", "lan", "--yes")
        assert "Any 3 of 5 shards" in made.stdout
        drive.mount()
        sums = write(drive, "file")
        drive.run("flush", timeout=300)
        read_cold(drive, contextlib.nullcontext, sums)
        for folder in folders:
            found = status(folder)
            assert found["space"]["stored"] > 0
            assert found["live"]["neighbours"] == FARMERS - 1, "they know each other too"
            # That those in the house come says nothing of others.
            await_that(lambda folder=folder: of_the_house(folder), "neighbours were asked")
            assert status(folder)["reachable"] == "unknown"
        drive.umount()


def of_the_house(folder: Path) -> bool:
    """Whether the farmer knows that it is reached from its own network."""
    return "from your own network" in status(folder)["live"]["reach"]["words"][0]


def settings_of(folder: Path) -> FarmerSettings:
    found = FarmerSettings.read(folder)
    assert found is not None
    return found


def test_farmers_behind_routers_are_found_and_reached_through_a_relay_that_they_found(
    net: Lab, tmp_path: Path
) -> None:
    """All know one farmer by its address, which relays nobody; the relay is known to nobody."""
    town, far = net.network("11.1.1.0/24"), net.network("11.2.2.0/24")
    first, relay = net.host("first", town), net.host("relay", far)
    homes = [
        net.router(f"router{number}", net.network(f"11.3.{number}.0/24"), "192.168.1.0/24")
        for number in range(FARMERS - 2)
    ]
    hosts = [net.host(f"home{number}", router.lan) for number, router in enumerate(homes)]
    renters = net.router("renters", net.network("11.4.4.0/24"), "192.168.7.0/24")
    folders = [tmp_path / f"home{number}" for number in range(len(homes))]
    with unmounted(tmp_path / "renter") as drive, contextlib.ExitStack() as running:
        drive.within = net.host("renter", renters.lan).command
        where = f"{first.address}:{FIRST_PORT}"
        running.enter_context(plain_farmer(first, tmp_path / "first", drive))
        running.enter_context(plain_farmer(relay, tmp_path / "relay", drive, "--relay", "--peer", where))
        knows(tmp_path / "first", 1)
        farmers = [
            running.enter_context(plain_farmer(host, folder, drive, "--peer", where))
            for host, folder in zip(hosts, folders, strict=True)
        ]
        through = f"relay+{relay.address}:{FIRST_PORT}"
        for farmer in farmers:
            assert farmer.until("address ").startswith(through)
        for folder in folders:
            found = status(folder)
            assert found["reachable"] == "through a relay"
            assert found["live"]["reach"]["relays"][0]["found"]
            assert any("forward TCP port 7420" in line for line in found["live"]["reach"]["words"])
        knows(tmp_path / "first", 1 + len(homes))
        drive.run("init", "--no-passphrase", "--farmer", where, "--find", "peers", "--yes")
        drive.mount()
        sums = write(drive, "file")
        drive.run("flush", timeout=300)
        read_cold(drive, contextlib.nullcontext, sums)
        for folder in folders:
            assert status(folder)["space"]["stored"] > 0
        assert status(tmp_path / "relay")["live"]["relayed"]
        drive.umount()


def knows(folder: Path, count: int) -> None:
    await_that(
        lambda: status(folder)["live"]["neighbours"] >= count, f"{folder.name} knows {count} other farmers"
    )


def test_a_port_that_is_taken_is_passed_over(net: Lab) -> None:
    host = net.host("machine", net.network("192.168.77.0/24"))
    taken = host.popen(["python3", "-c", "import socket; socket.create_server(('', 7423)); input()"])
    with host.entered():
        assert free_port() == FIRST_PORT
    assert taken.poll() is None
