"""The farmer as a process: signals, reload under transfer, what systemd hears, and its end."""

import json
import os
import pty
import shutil
import signal
from pathlib import Path

import apsw
import pytest
import trio

from storjfs.daemon.farm import LONGEST_ADDRESS
from storjfs.errors import StorjfsError
from storjfs.farmer.settings import FILE, FarmerSettings
from storjfs.protocol.failures import ErrorCode, RequestFailed
from storjfs.settlement import Ledger
from tests.farmer.process import Manager, Running, live, run, status
from tests.farmer.renter import MIB, Renter, renting


@pytest.fixture
def at(tmp_path: Path) -> Path:
    """A farmer's folder with settings that suit the tests' renter."""
    folder = tmp_path / "farm"
    folder.mkdir()
    Ledger(tmp_path / "ledger.db").close_file()
    FarmerSettings(capacity=64 * MIB, ledger=tmp_path / "ledger.db", term_min=1, period_min=1).write(folder)
    return folder


def change(at: Path, **settings: object) -> None:
    found = FarmerSettings.read(at)
    assert found is not None
    found.changed(**settings).write(at)


def edit(at: Path, old: str, new: str) -> None:
    text = (at / FILE).read_text()
    assert old in text
    (at / FILE).write_text(text.replace(old, new))


async def begun(at: Path, shards: int = 1) -> None:
    """Return when so many shards are on their way in."""
    while (await trio.to_thread.run_sync(live, at)).arriving < shards:
        await trio.lowlevel.checkpoint()


async def put(renter: Renter, size: int, ends: list[str]) -> None:
    try:
        await renter.put(size)
        ends.append("stored")
    except (StorjfsError, trio.BrokenResourceError) as error:
        ends.append(type(error).__name__)


async def test_reload_takes_hold_under_a_transfer_and_drops_nothing(at: Path, ledger: Ledger) -> None:
    edit(at, "# limit =", 'limit = "8Mbit"')
    with Running("--at", str(at)) as farmer:
        async with renting(ledger, *farmer.where()) as renter:
            await renter.agree()
            offered = (await renter.ask_offer()).capacity
            ends: list[str] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(put, renter, 4 * MIB, ends)
                await begun(at)
                before = live(at)
                assert before.received.limit == 1_000_000
                edit(at, 'limit = "8Mbit"', "# limit =")
                edit(at, 'capacity = "64 MiB"', 'capacity = "128 MiB"')
                farmer.send(signal.SIGHUP)
                said = {farmer.until("settings"), farmer.until("settings")}
                assert said == {"share: 64 MiB -> 128 MiB", "limit: 8Mbit -> none"}
                assert live(at).received.limit is None
            assert ends == ["stored"]
            after = live(at)
            assert (after.pid, after.since, after.connections) == (
                before.pid,
                before.since,
                before.connections,
            )
            assert after.selling.share == 128 * MIB
            assert (await renter.ask_offer()).capacity > offered + 60 * MIB
        assert farmer.interrupt() == 0


async def test_wrong_file_is_refused_with_the_reason_and_the_old_settings_stay(
    at: Path, ledger: Ledger, manager: Manager
) -> None:
    with Running("--at", str(at), NOTIFY_SOCKET=str(manager.path)) as farmer:
        where = farmer.where()
        assert manager.until("READY")["STATUS"].startswith("0 B of 64.0 MiB used")
        edit(at, 'capacity = "64 MiB"', 'capacity = "lots"')
        farmer.send(signal.SIGHUP)
        assert manager.until("RELOADING")["MONOTONIC_USEC"].isdigit()
        assert "'lots' is not a size" in manager.until("READY")["STATUS"]
        done = run("reload", "--at", str(at))
        assert done.returncode != 0
        assert "'lots' is not a size" in done.stderr
        assert "Traceback" not in done.stderr
        async with renting(ledger, *where) as renter:
            assert (await renter.ask_offer()).capacity > 60 * MIB
        report = status(at)  # it goes by what is in force
        assert report["space"]["share"] == 64 * MIB
        refused = [warn["message"] for warn in report["warnings"] if warn["code"] == "settings_refused"]
        assert "'lots' is not a size" in refused[0]
        edit(at, 'capacity = "lots"', 'capacity = "32 MiB"')
        done = run("reload", "--at", str(at))
        assert (done.returncode, done.stdout) == (0, "share: 64 MiB -> 32 MiB\n")
        assert live(at).refused_settings == ""
        assert farmer.interrupt() == 0
        assert "was refused, and the old settings hold" in farmer.errors()


def test_what_waits_for_the_next_start_is_named(at: Path) -> None:
    with Running("--at", str(at)) as farmer:
        farmer.where()
        change(at, connections=100, group="home")
        done = run("reload", "--at", str(at))
        assert done.stdout.splitlines() == [
            "group: none -> home",
            "connections: 512 -> 100, from the next start on",
        ]
        assert run("reload", "--at", str(at)).stdout.splitlines() == [
            "connections: 512 -> 100, from the next start on"
        ]
        assert [warn["code"] for warn in status(at)["warnings"]].count("settings_waiting") == 1
        assert farmer.interrupt() == 0
    with Running("--at", str(at)) as farmer:
        farmer.where()
        assert live(at).at_next_start == ()
        assert run("reload", "--at", str(at)).stdout == "nothing has changed\n"


async def test_share_shrinks_below_what_is_stored_and_grows_again(at: Path, ledger: Ledger) -> None:
    with Running("--at", str(at)) as farmer:
        async with renting(ledger, *farmer.where()) as renter:
            await renter.agree()
            shard = await renter.put(4 * MIB)
            change(at, capacity=2 * MIB)
            done = run("reload", "--at", str(at))
            assert "share: 64 MiB -> 2 MiB" in done.stdout
            assert "nothing new is taken or offered" in done.stdout
            assert "nothing is dropped" in done.stdout
            with pytest.raises(RequestFailed) as refusal:
                await renter.put(4096)
            assert refusal.value.code == ErrorCode.NO_SPACE
            assert (await renter.ask_offer()).capacity == 0
            assert await renter.get(shard) == shard.data
            assert [verdict.passed for verdict in await renter.audit()] == [True]
            await renter.pay()
            assert "over_share" in [warn["code"] for warn in status(at)["warnings"]]
            change(at, capacity=32 * MIB)
            assert run("reload", "--at", str(at)).stdout == "share: 2 MiB -> 32 MiB\n"
            await renter.put(4096)
            change(at, capacity=8 * MIB)
            assert "more than that are sold" in run("reload", "--at", str(at)).stdout
            await renter.put(4096)
        assert farmer.interrupt() == 0


def test_watchdog_hears_of_a_farmer_whose_disk_works_and_of_no_other(at: Path, manager: Manager) -> None:
    with Running("--at", str(at), NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC="300000") as farmer:
        manager.until("READY")
        for _ in range(3):
            manager.until("WATCHDOG")
        (at / "shelf" / "pulse").unlink()
        (at / "shelf" / "pulse").mkdir()
        while "Is a directory" not in manager.until("STATUS")["STATUS"]:
            pass
        for _ in range(5):
            assert "Is a directory" in manager.heard()["STATUS"]
        report = status(at)
        assert (report["health"], report["warnings"][0]["code"]) == ("critical", "disk_failing")
        (at / "shelf" / "pulse").rmdir()
        manager.until("WATCHDOG")
        while "Is a directory" in manager.until("STATUS")["STATUS"]:
            pass
        assert farmer.interrupt() == 0


def test_watchdog_hears_nothing_while_the_records_do_not_commit(at: Path, manager: Manager) -> None:
    with Running("--at", str(at), NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC="300000") as farmer:
        manager.until("WATCHDOG")
        locked = apsw.Connection(str(at / "farmer.db"))
        locked.execute("BEGIN IMMEDIATE")
        manager.drain()
        beats = 0
        while "database is locked" not in (heard := manager.heard()).get("STATUS", ""):
            beats += "WATCHDOG" in heard
        assert beats <= 1  # that which was under way
        locked.execute("ROLLBACK")
        locked.close()
        manager.until("WATCHDOG")
        assert farmer.interrupt() == 0


async def test_clean_stop_ends_the_put_under_way(at: Path, ledger: Ledger, manager: Manager) -> None:
    edit(at, "# limit =", 'limit = "8Mbit"')
    seed, ends = os.urandom(32), list[str]()
    with Running("--at", str(at), NOTIFY_SOCKET=str(manager.path)) as farmer:
        async with renting(ledger, *farmer.where(), seed) as renter, trio.open_nursery() as nursery:
            await renter.agree()
            await renter.pay(7)
            nursery.start_soon(put, renter, 3 * MIB, ends)
            await begun(at)
            farmer.send(signal.SIGTERM)
            assert (
                "waiting for transfers"
                in (await trio.to_thread.run_sync(manager.until, "STOPPING"))["STATUS"]
            )
        assert ends == ["stored"]
        assert await trio.to_thread.run_sync(farmer.ended) == 0
    assert ledger.balance(renter.terms.payee) == 7
    report = status(at)
    assert report["runs"][0]["stopped"] is not None
    assert [warn["code"] for warn in report["warnings"]] == ["not_running"]
    with Running("--at", str(at)) as again:
        async with renting(ledger, *again.where(), seed) as back:
            back.contract, back.offer = renter.contract, renter.offer
            assert await back.get(renter.shards[0]) == renter.shards[0].data
        assert again.interrupt() == 0


async def test_second_signal_does_not_wait_and_leaves_nothing_half(at: Path, ledger: Ledger) -> None:
    edit(at, "# limit =", 'limit = "1Mbit"')
    ends: list[str] = []
    with Running("--at", str(at)) as farmer:
        async with renting(ledger, *farmer.where()) as renter, trio.open_nursery() as nursery:
            await renter.agree()
            nursery.start_soon(put, renter, 15 * MIB, ends)
            await begun(at)
            farmer.send(signal.SIGTERM)
            await trio.to_thread.run_sync(farmer.until, "stopping")
            farmer.send(signal.SIGTERM)
            assert await trio.to_thread.run_sync(farmer.ended) == 0
        assert ends == ["PeerUnreachable"]
    assert list((at / "shelf" / "arriving").iterdir()) == []
    assert status(at)["runs"][0]["stopped"] is not None


async def test_a_process_finds_rot_by_itself_and_tells_its_renter(at: Path, ledger: Ledger) -> None:
    change(at, scrub_every=1)
    seed = b"s" * 32
    with Running("--at", str(at)) as farmer:
        async with renting(ledger, *farmer.where(), seed) as renter:
            await renter.agree()
            sound, rotten = await renter.put(9000), await renter.put(MIB)
        assert farmer.interrupt() == 0
    name = rotten.shard_id.hex()
    path = at / "shelf" / name[:2] / name
    path.write_bytes(path.read_bytes()[::-1])
    with Running("--at", str(at)) as farmer:
        node_id, address = farmer.where()
        with trio.fail_after(30):
            while not (await trio.to_thread.run_sync(status, at))["damaged"]:
                pass
        async with renting(ledger, node_id, address, seed) as again:
            again.offer, again.contract, again.epoch = renter.offer, renter.contract, renter.epoch
            challenge = again.challenge(sound)
            answer = await again.ask(challenge)
            assert [verdict.passed for verdict in again.judge(challenge, answer)] == [True]
            assert answer.damaged == (rotten.shard_id,)
        assert farmer.interrupt() == 0


def test_killed_farmer_is_told_from_a_stopped_one(at: Path) -> None:
    with Running("--at", str(at)) as farmer:
        farmer.where()
        while not status(at)["runs"]:
            pass
        farmer.send(signal.SIGKILL)
        farmer.ended()
    with Running("--at", str(at)) as farmer:
        farmer.where()
        while len(status(at)["runs"]) < 2:
            pass
        assert "restarts" in [warn["code"] for warn in status(at)["warnings"]]
        assert farmer.interrupt() == 0


def test_terminal_that_goes_away_ends_it(at: Path) -> None:
    outer, inner = pty.openpty()
    try:
        with Running("--at", str(at), stdin=inner) as farmer:
            farmer.where()
            farmer.send(signal.SIGHUP)
            assert farmer.ended() == 0
    finally:
        os.close(outer)
        os.close(inner)


def test_farmer_that_says_nothing_is_told_from_one_that_does_not_run(at: Path) -> None:
    with Running("--at", str(at)) as farmer:
        farmer.where()
        farmer.send(signal.SIGSTOP)
        report = status(at)
        farmer.send(signal.SIGCONT)
        assert (report["running"], report["answers"], report["live"]) == (True, False, None)
        assert report["warnings"][0]["code"] == "silent"
        assert farmer.interrupt() == 0


def test_control_socket_is_found_in_a_folder_deeper_than_a_sockets_address(at: Path) -> None:
    deep = at.joinpath(*["a-long-name-of-a-folder"] * 6)
    assert len(str(deep)) > LONGEST_ADDRESS
    deep.mkdir(parents=True)
    shutil.move(at / FILE, deep / FILE)
    with Running("--at", str(deep)) as farmer:
        farmer.where()
        assert live(deep).pid == farmer.process.pid
        assert run("reload", "--at", str(deep)).stdout == "nothing has changed\n"
        assert farmer.interrupt() == 0


def test_settings_that_a_person_wrote_are_not_written_over(at: Path) -> None:
    text = "# my own words\n" + (at / FILE).read_text()
    (at / FILE).write_text(text)
    with Running("--at", str(at)) as farmer:
        farmer.where()
        assert farmer.interrupt() == 0
    assert (at / FILE).read_text() == text
    with Running("--at", str(at), "--price", "0.007") as farmer:
        farmer.where()
        assert farmer.interrupt() == 0
    assert 'price = "0.007"' in (at / FILE).read_text()


def test_status_is_shown_again_and_again(at: Path) -> None:
    with Running("--at", str(at)) as farmer:
        farmer.where()
        with Running("status", "--at", str(at), "--watch", "--json") as watching:
            seen = [json.loads(watching.line()) for _ in range(2)]
            watching.send(signal.SIGINT)
            assert watching.ended() == 1  # it can be reached from this machine only
        assert seen[0]["node_id"] == seen[1]["node_id"]
        assert seen[0]["at"] < seen[1]["at"]
        assert farmer.interrupt() == 0


def test_failures_of_status_are_told_from_what_it_says(at: Path, tmp_path: Path) -> None:
    assert run("status", "--at", str(tmp_path / "none")).returncode == 8
    edit(at, 'capacity = "64 MiB"', 'capacity = "lots"')
    done = run("status", "--at", str(at))
    assert (done.returncode, done.stdout) == (13, "")
    assert "'lots' is not a size" in done.stderr


async def test_audits_and_vouchers_do_not_wait_behind_shards(at: Path, ledger: Ledger) -> None:
    edit(at, "# limit =", 'limit = "1Mbit"')
    with Running("--at", str(at)) as farmer:
        async with renting(ledger, *farmer.where()) as renter, trio.open_nursery() as nursery:
            await renter.agree()
            shard = await renter.put(4096)
            ends: list[str] = []
            for _ in range(3):
                nursery.start_soon(put, renter, 4 * MIB, ends)
            await begun(at, 2)
            for _ in range(20):
                assert [verdict.passed for verdict in await renter.audit(shard)] == [True]
                await renter.pay()
            # The three take a hundred seconds.
            assert ends == []
            nursery.cancel_scope.cancel()
        assert farmer.interrupt() == 0
