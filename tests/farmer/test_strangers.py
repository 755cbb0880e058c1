"""`storjfs farm --dht`: strangers find the process, its status says so, and it works without libtorrent."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from storjfs.farmer.live import MeetingFacts
from storjfs.farmer.settings import FarmerSettings
from storjfs.network import Identity, open_stream
from storjfs.network.dht import Dht
from storjfs.protocol.terms import Address
from storjfs.settlement import Ledger
from tests.farmer.process import Running, live, run, status
from tests.farmer.renter import MIB
from tests.network.dht.swarm import Swarm, swarm


def prepare(tmp_path: Path, nodes: Swarm) -> Path:
    """The folder of a farmer that listens, and has its node, at an address of its own."""
    folder = tmp_path / "farm"
    folder.mkdir()
    Ledger(tmp_path / "ledger.db").close_file()
    where = nodes.settings(port=7421)
    FarmerSettings(
        capacity=64 * MIB,
        ledger=tmp_path / "ledger.db",
        listen=Address(where.listen[0].host, 7420),
        dht_listen=where.listen,
        dht_bootstrap=where.bootstrap,
        network="test",
    ).write(folder)
    return folder


async def until(folder: Path, true: Callable[[MeetingFacts], bool]) -> MeetingFacts:
    """What the process says of its announcing, once that is so."""
    with trio.fail_after(60):
        while True:
            facts = (await trio.to_thread.run_sync(live, folder)).dht
            assert facts is not None
            if true(facts):
                return facts
            await trio.sleep(0.05)


async def test_a_renter_who_knows_nobody_finds_a_farmer_and_its_key(tmp_path: Path) -> None:
    async with swarm() as nodes:
        folder = prepare(tmp_path, nodes)
        with Running("--at", str(folder), "--dht") as farmer:
            node_id, address = await trio.to_thread.run_sync(farmer.where)
            await until(folder, lambda facts: facts.announced is not None)
            renter: Dht = nodes.dhts[-1]
            found = [one async for one in renter.find("test")]
            assert found == [address]
            async with await open_stream(Identity(bytes(range(32))), None, found) as stream:
                assert stream.peer == node_id
            record = await renter.record(node_id, "test")
            assert record is not None
            assert (record.addresses, record.capabilities) == ((address,), ("cancel",))
            seen = await trio.to_thread.run_sync(status, folder)
            assert seen["live"]["dht"]["network"] == "test"
            assert seen["live"]["dht"]["nodes"] >= 8
            assert seen["live"]["dht"]["problem"] == ""
            shown = await trio.to_thread.run_sync(lambda: run("status", "--at", str(folder)).stdout)
            assert "find this farmer: announced in test" in shown
            assert await trio.to_thread.run_sync(farmer.interrupt) == 0
        kept = FarmerSettings.read(folder)
        assert kept is not None
        assert kept.dht


async def test_a_reload_with_another_address_is_published_at_once(tmp_path: Path) -> None:
    async with swarm() as nodes:
        folder = prepare(tmp_path, nodes)
        with Running("--at", str(folder), "--dht") as farmer:
            node_id, address = await trio.to_thread.run_sync(farmer.where)
            before = await until(folder, lambda facts: facts.announced is not None)
            settings = FarmerSettings.read(folder)
            assert settings is not None
            other = Address("127.0.0.9", 7420)
            settings.changed(announce=(other, address)).write(folder)
            assert (await trio.to_thread.run_sync(run, "reload", "--at", str(folder))).returncode == 0
            await until(folder, lambda facts: facts.announced != before.announced)
            record = await nodes.dhts[-1].record(node_id, "test")
            assert record is not None
            assert record.addresses == (other, address)


def test_a_farmer_is_not_announced_unless_it_is_told_to(tmp_path: Path) -> None:
    words = (
        *("--share", "64MiB", "--at", str(tmp_path / "farm"), "--listen", "local"),
        *("--ledger", str(tmp_path / "l.db")),
    )
    with Running(*words, "--new-ledger") as farmer:
        farmer.where()
        assert live(tmp_path / "farm").dht is None
        shown = run("status", "--at", str(tmp_path / "farm")).stdout
        assert "not announced" in shown
        assert "for this machine only" in shown
        assert farmer.interrupt() == 0


WITHOUT_LIBTORRENT = """
import sys
sys.modules["libtorrent"] = None  # as where it is not installed
from storjfs.cli import main
sys.argv[0] = "storjfs"
main()
"""


@pytest.mark.parametrize("extra", [[], ["service"]])
def test_without_libtorrent_it_says_what_to_install_and_changes_nothing(
    tmp_path: Path, extra: list[str]
) -> None:
    words = ["farm", "--share", "64MiB", "--at", str(tmp_path / "farm"), "--dht", *extra]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LIBTORRENT, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert f"{sys.executable} -m pip install libtorrent" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "farm").exists()


async def test_a_farmer_that_lost_libtorrent_serves_and_says_what_to_install(tmp_path: Path) -> None:
    async with swarm(1) as nodes:
        folder = prepare(tmp_path, nodes)
    settings = FarmerSettings.read(folder)
    assert settings is not None
    settings.changed(dht=True).write(folder)
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", WITHOUT_LIBTORRENT, "farm", "--at", str(folder)], stdout=subprocess.PIPE
    )
    try:
        assert isinstance(process.stdout, trio.lowlevel.FdStream)
        said = b""
        while b"status" not in said:
            said += await process.stdout.receive_some(4096)
        await until(folder, lambda facts: "pip install libtorrent" in facts.problem)
        process.terminate()
        assert await process.wait() == 0
        await process.stdout.aclose()
    finally:
        if process.returncode is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
