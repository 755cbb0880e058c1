"""farmer.toml, the identity file, and the records' group commit."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from storjfs.farmer.identity import IdentityUnusable, load_identity
from storjfs.farmer.records import Records
from storjfs.farmer.schedule import Limit, Schedule
from storjfs.farmer.settings import DiskShare, FarmerSettings, parse_address
from storjfs.protocol.terms import Address
from storjfs.volume import StaticFarmer
from storjfs.volume.errors import SettingsError

FULL = FarmerSettings(
    capacity=500 << 30,
    disks=(DiskShare(Path("/mnt/disk two/farmer"), 1 << 40), DiskShare(Path("/mnt/c"), 10**12)),
    disk_grace=3600,
    ledger=Path('/srv/with "quotes"/ledger.db'),
    listen=Address("::", 7420),
    announce=(Address("farm.example.org", 7420), Address("::1", 1)),
    price=3,
    egress_price=0,
    group="the \\ group",
    region="EU-DE",
    announce_lan=False,
    term_min=61,
    limit=Limit(1_250_000, 6_250_000),
    schedule=Schedule.parse("Mon-Fri 08:00-23:00; Sat,Sun 22:00-06:00"),
    connections=100,
    connections_per_renter=7,
    dht=True,
    dht_listen=(Address("0.0.0.0", 7421), Address("::", 7421)),
    dht_bootstrap=(Address("192.0.2.1", 6881),),
    network="ours",
    peers=(
        StaticFarmer(Address("farm.example.org", 7420)),
        StaticFarmer(Address("::1", 7), bytes(range(32))),
    ),
    ask_strangers=False,
    map_port=False,
    relay=True,
    relay_limit=Limit(2_500_000, 2_500_000),
)


@pytest.mark.parametrize("settings", [FULL, FarmerSettings(capacity=1 << 20, ledger=Path("l"))])
def test_what_is_written_is_read(settings: FarmerSettings, tmp_path: Path) -> None:
    settings.write(tmp_path)
    assert FarmerSettings.read(tmp_path) == settings


def test_after_power_loss_what_was_written_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def note(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", note)
    FULL.write(tmp_path)
    assert synced[-1] == str(tmp_path)


def test_no_file_no_settings(tmp_path: Path) -> None:
    assert FarmerSettings.read(tmp_path) is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("colour = 1", "colour"),
        ('capacity = "much"', "much"),
        ('listen = "here:there"', "here:there"),
        ("announce = 5", "list"),
        ("group = 5", "quotes"),
        ('region = "Europe?"', "Europe"),
        ('announce_lan = "no"', "true or false"),
        ('capacity = "1 KiB"', "1 MiB"),
        ("=", "TOML"),
        ('limit = "fast"', "fast"),
        ("limit = 20", "quotes"),
        ('schedule = "always"', "always"),
        ('connections = "many"', "many"),
        ("connections = true", "whole number"),
        ("connections = 0", "connections"),
        ("connections_per_renter = 513", "connections"),
        ('dht = "yes"', "true or false"),
        ("dht_listen = 7421", "list"),
        ('network = ""', "1 to 128"),
        ('peers = "farm.example.org:7420"', "list"),
        ('peers = ["somebody"]', "somebody"),
        ('relay = "yes"', "true or false"),
        ('relay_limit = "fast"', "fast"),
    ],
)
def test_mistakes_are_named(line: str, said: str) -> None:
    base = {"version": "1", "capacity": '"1 GiB"', "ledger": '"l"'}
    base.pop(line.split(" ")[0], None)
    text = "\n".join([*(f"{name} = {value}" for name, value in base.items()), line])
    with pytest.raises(SettingsError, match=said) as caught:
        FarmerSettings.from_toml(text)
    assert caught.value.hint


def test_version_and_needed_settings_are_checked() -> None:
    with pytest.raises(SettingsError, match="version 9"):
        FarmerSettings.from_toml("version = 9")
    with pytest.raises(SettingsError, match="capacity"):
        FarmerSettings.from_toml("version = 1")


def test_addresses_have_a_usual_port() -> None:
    assert parse_address("host") == Address("host", 7420)
    assert parse_address("[::1]") == Address("::1", 7420)
    assert parse_address("[::1]:8") == Address("::1", 8)


def test_a_port_alone_is_no_address() -> None:
    with pytest.raises(SettingsError, match="port without a host") as caught:
        parse_address("7420")
    assert "127.0.0.1:7420" in caught.value.hint


def test_identity_is_made_once_and_private(tmp_path: Path) -> None:
    first = load_identity(tmp_path)
    assert load_identity(tmp_path).node_id == first.node_id
    assert (tmp_path / "identity").stat().st_mode & 0o777 == 0o600


def test_unusable_identities_are_refused(tmp_path: Path) -> None:
    load_identity(tmp_path)
    file = tmp_path / "identity"
    file.chmod(0o644)
    with pytest.raises(IdentityUnusable, match="others"):
        load_identity(tmp_path)
    file.chmod(0o600)
    file.write_bytes(b"short")
    with pytest.raises(IdentityUnusable, match="damaged"):
        load_identity(tmp_path)


DOOM = "INSERT INTO doomed(shard_id, disk) VALUES (?, 1)"


async def test_commits_made_together_share_a_group(tmp_path: Path) -> None:
    records = Records(tmp_path / "farmer.db")
    said: list[str] = []

    def prepare() -> None:
        said.append("before")

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as commits:
            for number in range(5):
                commits.start_soon(
                    lambda n: records.commit(
                        [(DOOM, (bytes([n]),))], before=prepare, after=lambda: said.append("after")
                    ),
                    number,
                )
            await trio.testing.wait_all_tasks_blocked()
            await nursery.start(records.run)
        assert said == ["before"] + ["after"] * 5
        assert records.read("SELECT count(*) FROM doomed") == [(5,)]
        records.stop()


async def test_group_that_fails_changes_nothing_and_says_so(tmp_path: Path) -> None:
    records = Records(tmp_path / "farmer.db")
    async with trio.open_nursery() as nursery:
        await nursery.start(records.run)

        def fail() -> None:
            raise OSError("no")

        with pytest.raises(OSError, match="no"):
            await records.commit([(DOOM, (b"x",))], before=fail)
        assert records.read("SELECT shard_id FROM doomed") == []
        await records.commit([(DOOM, (b"y",))])
        assert records.read("SELECT shard_id FROM doomed") == [(b"y",)]
        records.stop()


async def test_what_fails_before_the_commit_is_no_matter_of_others(tmp_path: Path) -> None:
    records = Records(tmp_path / "farmer.db")
    ends: list[str] = []

    def fail() -> None:
        raise OSError("no")

    async def commit(name: bytes, before: Callable[[], None] | None) -> None:
        try:
            await records.commit([(DOOM, (name,))], before=before)
            ends.append("done")
        except OSError as error:
            ends.append(str(error))

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as commits:
            commits.start_soon(commit, b"x", fail)
            commits.start_soon(commit, b"y", None)
            await trio.testing.wait_all_tasks_blocked()
            await nursery.start(records.run)
        assert sorted(ends) == ["done", "no"]
        assert records.read("SELECT shard_id FROM doomed") == [(b"y",)]
        records.stop()


async def test_commit_outlives_the_cancellation_of_who_waits(tmp_path: Path) -> None:
    records = Records(tmp_path / "farmer.db")
    async with trio.open_nursery() as nursery:
        await nursery.start(records.run)
        with trio.CancelScope() as scope:
            scope.cancel()
            await records.commit([(DOOM, (b"x",))])
        assert records.read("SELECT shard_id FROM doomed") == [(b"x",)]
        records.stop()
    with pytest.raises(trio.ClosedResourceError):
        await records.commit([])
