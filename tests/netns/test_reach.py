"""Farmers behind real routers: what they learn of it, and how renters behind other ones reach them."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.drive import Drive, await_that, unmounted

from .homes import PORT, farmer_at, forwards, open_ports_by, relay_at
from .lab import Lab, lab

MIB = 1 << 20


@pytest.fixture
def net() -> Iterator[Lab]:
    """A lab."""
    with lab() as made:
        yield made


def test_a_farmer_of_the_internet_learns_that_it_is_reached(net: Lab, tmp_path: Path) -> None:
    world = net.network("203.0.113.0/24")
    asked, host = net.host("asked", world), net.host("farmer", net.network("198.51.100.0/24"))
    with (
        farmer_at(asked, tmp_path / "asked", "--no-map-port") as other,
        farmer_at(host, tmp_path / "farmer", "--peer", other.where) as farmer,
    ):
        said = f"yes: {asked.address}:{PORT} reached {host.address}:{PORT} from outside"
        assert farmer.process.until("reachable ") == said
        found = farmer.until_reached("yes")
        assert found["live"]["addresses"] == [f"{host.address}:{PORT}"]
        assert "unreachable" not in {warn["code"] for warn in found["warnings"]}


def test_the_sixth_version_counts_and_a_relay_stands_in_for_the_fourth(net: Lab, tmp_path: Path) -> None:
    """A farmer whose router lets in IPv6 and not IPv4: here it drops what comes of the latter."""
    world = net.network("203.0.113.0/24")
    asked, host = net.host("asked", world), net.host("farmer", world)
    for number, one in enumerate((asked, host), 1):
        one.run(["ip", "address", "add", f"2001:db8::{number}/64", "dev", "eth0", "nodad"])
    host.nft(f"table ip no {{ chain no {{ type filter hook input priority 0; tcp dport {PORT} drop; }}\n}}")
    with (
        relay_at(asked, tmp_path / "asked", "--listen", f"[::]:{PORT}", "--no-map-port") as other,
        farmer_at(
            host,
            tmp_path / "farmer",
            *("--listen", f"[::]:{PORT}", "--no-map-port"),
            *("--peer", f"[2001:db8::1]:{PORT}", "--peer", other.where),
        ) as farmer,
    ):
        farmer.until_attached(1)
        found = farmer.until_reached("yes")
        assert (
            f"[2001:db8::1]:{PORT} reached [2001:db8::2]:{PORT} from outside"
            in (found["live"]["reach"]["words"][0])
        )
        assert found["live"]["reach"]["words"][1] == "by kind of address: IPv4 no, IPv6 yes"
        assert found["live"]["addresses"][0] == f"[2001:db8::2]:{PORT}"
        assert any(one.startswith("relay+") for one in found["live"]["addresses"])


def test_a_farmer_behind_a_router_learns_what_to_forward_and_that_it_was_forwarded(
    net: Lab, tmp_path: Path
) -> None:
    asked = net.host("asked", net.network("203.0.113.0/24"))
    router = net.router("router", net.network("198.51.100.0/24"), "192.168.1.0/24")
    host = net.host("farmer", router.lan)
    with (
        farmer_at(asked, tmp_path / "asked", "--no-map-port") as other,
        farmer_at(host, tmp_path / "farmer", "--peer", other.where, "--no-map-port") as farmer,
    ):
        no = farmer.process.until("reachable ")
        assert no == (
            f"no: {asked.address}:{PORT} tried {router.address}:{PORT} from outside, and nothing came back"
        )
        advice = farmer.process.until("reachable ")
        assert advice == f"in your router, forward TCP port {PORT} to this computer ({host.address})"
        found = farmer.until_reached("no")
        (warn,) = (warn for warn in found["warnings"] if warn["code"] == "unreachable")
        assert advice in warn["hint"]
        router.forward(PORT, host)
        farmer.look_again()
        found = farmer.until_reached("yes")
        assert found["live"]["addresses"][0] == f"{router.address}:{PORT}"


@pytest.mark.parametrize("how", ["NAT-PMP", "UPnP"])
def test_a_router_that_can_be_asked_opens_the_port_while_the_farmer_runs(
    net: Lab, tmp_path: Path, how: str
) -> None:
    asked = net.host("asked", net.network("203.0.113.0/24"))
    router = net.router("router", net.network("11.22.33.0/24"), "192.168.1.0/24")
    open_ports_by(router, how, tmp_path)
    with (
        farmer_at(asked, tmp_path / "asked") as other,
        farmer_at(net.host("farmer", router.lan), tmp_path / "farmer", "--peer", other.where) as farmer,
    ):
        found = farmer.until_reached("yes")
        mapping = found["live"]["reach"]["mapping"]
        assert (mapping["state"], mapping["how"]) == ("mapped", how)
        assert (mapping["address"], mapping["port"]) == (str(router.address), PORT)
        assert found["live"]["addresses"][0] == f"{router.address}:{PORT}"
        assert f"dport {PORT}" in forwards(router)
        assert farmer.process.interrupt() == 0
        assert f"dport {PORT}" not in forwards(router)


def test_a_port_that_leads_to_another_machine_is_told_apart(net: Lab, tmp_path: Path) -> None:
    asked = net.host("asked", net.network("203.0.113.0/24"))
    router = net.router("router", net.network("198.51.100.0/24"), "192.168.1.0/24")
    host, brother = net.host("farmer", router.lan), net.host("brother", router.lan)
    router.forward(PORT, brother)
    with (
        farmer_at(asked, tmp_path / "asked", "--no-map-port") as other,
        farmer_at(brother, tmp_path / "brother", "--no-map-port"),
        farmer_at(host, tmp_path / "farmer", "--peer", other.where, "--no-map-port") as farmer,
    ):
        assert farmer.process.until("reachable ").endswith("something else answers there")
        assert "leads to another machine" in farmer.process.until("reachable ")


def test_a_neighbour_who_reaches_it_says_nothing_of_the_internet(net: Lab, tmp_path: Path) -> None:
    router = net.router("router", net.network("198.51.100.0/24"), "192.168.1.0/24")
    host, neighbour = net.host("farmer", router.lan), net.host("neighbour", router.lan)
    with (
        farmer_at(neighbour, tmp_path / "neighbour", "--no-map-port") as other,
        farmer_at(host, tmp_path / "farmer", "--peer", other.where, "--no-map-port") as farmer,
    ):
        assert "from your own network" in farmer.process.until("reachable ")
        assert farmer.status()["live"]["reach"]["state"] == "unknown"


def test_a_drive_behind_a_router_keeps_its_data_with_farmers_behind_others(net: Lab, tmp_path: Path) -> None:
    """All of it through relays, of which one is killed and comes back."""
    world = net.network("203.0.113.0/24")
    hosts = [net.host(f"relay{number}", world) for number in range(2)]
    homes = [
        net.router(f"home{number}", net.network(f"198.51.{100 + number}.0/24"), "192.168.1.0/24")
        for number in range(2)
    ]
    renter = net.host("renter", net.router("renters", net.network("192.0.2.0/24"), "192.168.7.0/24").lan)
    with (
        unmounted(tmp_path / "renter") as drive,
        relay_at(hosts[0], tmp_path / "relay0") as first,
        relay_at(hosts[1], tmp_path / "relay1") as second,
    ):
        words = (
            *("--peer", first.where, "--peer", second.where, "--no-map-port"),
            *("--ledger", str(drive.paths().ledger_db), "--new-ledger"),
        )
        with (
            farmer_at(net.host("farmer0", homes[0].lan), tmp_path / "farmer0", *words) as one,
            farmer_at(net.host("farmer1", homes[1].lan), tmp_path / "farmer1", *words) as other,
        ):
            for farmer in (one, other):
                farmer.until_attached(2)
                assert farmer.until_reached("through a relay")["health"] == "good"
            addresses = [farmer.through(relay) for farmer in (one, other) for relay in (first, second)]
            drive.init(*(word for address in addresses for word in ("--farmer", address)), code='"1/2"')
            with renter.entered():
                drive.mount()
            sums = write(drive, "before")
            drive.run("flush", timeout=300)
            read_cold(drive, renter.entered, sums)
            drive.run("audit", "--now")
            for farmer in (one, other):
                found = farmer.status()
                assert found["contracts"][0]["audits"] >= 1
                assert found["money"]["earned"] > 0
                assert found["space"]["stored"] > 8 * MIB
            assert first.status()["live"]["relayed"], "the first relay passed something on"

            first.kill()
            sums |= write(drive, "while the first relay is away")
            drive.run("flush", timeout=300)
            read_cold(drive, renter.entered, sums)
            first.start_again()
            for farmer in (one, other):
                farmer.until_attached(2)
            second.kill()
            sums |= write(drive, "while the second is")
            drive.run("flush", timeout=300)
            read_cold(drive, renter.entered, sums)
            await_that(lambda: drive.status()["health"] == "healthy", "no trace of it is left")
            drive.umount()


@pytest.mark.skipif(not os.environ.get("STORJFS_THOROUGH"), reason="waits minutes for what is silent")
def test_a_relay_that_falls_silent_is_left_for_the_other(net: Lab, tmp_path: Path) -> None:
    """No packet says that it is gone: TCP's own questions, and pings, find out."""
    world = net.network("203.0.113.0/24")
    hosts = [net.host(f"relay{number}", world) for number in range(2)]
    home = net.router("home", net.network("198.51.100.0/24"), "192.168.1.0/24")
    renter = net.host("renter", net.router("renters", net.network("192.0.2.0/24"), "192.168.7.0/24").lan)
    with (
        unmounted(tmp_path / "renter") as drive,
        relay_at(hosts[0], tmp_path / "relay0") as first,
        relay_at(hosts[1], tmp_path / "relay1") as second,
        farmer_at(
            net.host("farmer0", home.lan),
            tmp_path / "farmer0",
            *("--peer", first.where, "--peer", second.where, "--no-map-port"),
            *("--ledger", str(drive.paths().ledger_db), "--new-ledger"),
        ) as one,
        farmer_at(
            net.host("farmer1", world),
            tmp_path / "farmer1",
            *("--ledger", str(drive.paths().ledger_db), "--new-ledger"),
        ) as other,
    ):
        one.until_attached(2)
        addresses = (one.through(first), one.through(second), other.where)
        drive.init(*(word for address in addresses for word in ("--farmer", address)), code='"1/2"')
        with renter.entered():
            drive.mount()
        sums = write(drive, "before")
        drive.run("flush", timeout=300)
        hosts[0].cut()
        sums |= write(drive, "after")
        # It gives up waiting after a minute, which is not long enough to be sure that somebody is gone.
        await_that(lambda: drive.run("flush", check=False).returncode == 0, "the other relay is used", 300)
        read_cold(drive, renter.entered, sums)
        hosts[0].heal()
        one.until_attached(2)


def write(drive: Drive, name: str) -> dict[str, str]:
    """Some files; the sums of their content."""
    sums = {}
    for number in range(4):
        content = os.urandom(2 * MIB)
        (drive.at / f"{name} {number}").write_bytes(content)
        sums[f"{name} {number}"] = hashlib.sha256(content).hexdigest()
    return sums


def read_cold(drive: Drive, entered: object, sums: dict[str, str]) -> None:
    """Nothing is in the cache; the farmers have it all."""
    assert callable(entered)
    drive.umount()
    shutil.rmtree(drive.paths().cache_dir)
    with entered():
        drive.mount()
    for name, expected in sums.items():
        assert hashlib.sha256((drive.at / name).read_bytes()).hexdigest() == expected
