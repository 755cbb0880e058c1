"""Farmers that relay and farmers that are relayed, as they are: contracts, shards, audits, limits, counts."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from storjfs.farmer.farmer import Farmer
from storjfs.farmer.live import Live, facts
from storjfs.farmer.pulse import ClockWatch
from storjfs.farmer.reachability import State
from storjfs.farmer.records import Records
from storjfs.farmer.relayed import OTHERS, Passed, RelayedLine
from storjfs.farmer.report import make_report
from storjfs.farmer.schedule import ALWAYS, Limit
from storjfs.farmer.traffic import CHUNK, Traffic
from storjfs.network.splice import PIPE
from storjfs.protocol.failures import RequestFailed
from storjfs.protocol.ids import NodeId
from storjfs.protocol.messages import Attach, DialBack, GetOffer
from storjfs.settlement import Ledger
from storjfs.volume import StaticFarmer
from tests.farmer.renter import MIB, Renter, farming, renting
from tests.network.relaying import PATIENCE, eventually

ONE, TWO = NodeId(b"1" * 32), NodeId(b"2" * 32)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "relayed" / "ledger.db")
    yield ledger
    ledger.close_file()


@asynccontextmanager
async def relayed(tmp_path: Path, **relay: object) -> AsyncIterator[tuple[Farmer, Farmer]]:
    """A relay, and a farmer that nobody but it is to dial, attached to it."""
    async with farming(tmp_path / "relay", relay=True, **relay) as helper:
        peer = StaticFarmer(helper.listening[0], helper.node_id)
        async with farming(tmp_path / "relayed", peers=(peer,)) as farmer:
            await eventually(lambda: helper.listening[0].through() in farmer.addresses)
            yield helper, farmer


@asynccontextmanager
async def through(helper: Farmer, farmer: Farmer, ledger: Ledger) -> AsyncIterator[Renter]:
    async with renting(ledger, farmer.node_id, helper.listening[0].through()) as renter:
        yield renter


def live_of(farmer: Farmer) -> Live:
    return facts(
        farmer,
        since=0.0,
        heartbeat=None,
        clock=ClockWatch(0.0),
        synchronised=None,
        refused_settings="",
        at_next_start=(),
    )


async def test_a_renter_does_all_through_the_relay(tmp_path: Path, ledger: Ledger) -> None:
    async with relayed(tmp_path) as (helper, farmer), through(helper, farmer, ledger) as renter:
        await renter.agree()
        assert renter.offer is not None
        # Not where it listens on its own machine: elsewhere that would be somebody else.
        assert renter.offer.addresses == (helper.listening[0].through(),)
        shard = await renter.put(2 * MIB)
        assert await renter.get(shard, 5, 100_000) == shard.data[5:100_005]
        assert all(verdict.passed for verdict in await renter.audit())
        await renter.pay()
        assert await renter.delete(shard) == 1
        await helper.relayed.fold()
        (counted,) = live_of(helper).relayed
        assert (counted.farmer, counted.attached) == (farmer.node_id.hex(), True)
        assert counted.to_farmer > 2 * MIB
        assert 100_000 < counted.from_farmer < MIB
        assert helper.relay.streams >= 2
        # Nobody who is relayed is taken for a renter of the relay.
        assert {one.renter for one in live_of(helper).renters} == {farmer.node_id.hex()}
    assert not helper.relay.streams


async def test_who_comes_through_a_relay_has_nobody_dialled(tmp_path: Path, ledger: Ledger) -> None:
    """The address below is the relay's, who has asked for nothing."""
    async with relayed(tmp_path) as (helper, farmer), through(helper, farmer, ledger) as renter:
        farmer.apply(farmer.settings.changed(relay=True))
        with pytest.raises(RequestFailed, match="no address"):
            await renter.peer.request(DialBack(7420))
        with pytest.raises(RequestFailed, match="not reached through a relay"):
            await renter.peer.request(Attach())


async def test_a_farmer_dials_nothing_on_its_own_machine(tmp_path: Path, ledger: Ledger) -> None:
    """Who comes from this machine may be a proxy that somebody elsewhere speaks through."""
    async with relayed(tmp_path) as (helper, _):
        (here,) = helper.listening
        async with renting(ledger, helper.node_id, here) as renter:
            with pytest.raises(RequestFailed, match="dialled for nobody"):
                await renter.peer.request(DialBack(here.port))


async def test_the_farmer_says_how_it_is_reached(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (helper, farmer):
        live = live_of(farmer)
        assert live.reach is not None
        assert live.reach.state == State.CLOSED
        assert live.reach.relayed
        report = make_report(farmer.book, live.selling, farmer.folder, live, running=True)
        assert report.reachable == "through a relay"
        assert "relayed" in {warn.code for warn in report.warnings}
        assert live_of(helper).relaying


async def test_a_relay_that_is_no_more_lets_what_is_joined_go_on(tmp_path: Path, ledger: Ledger) -> None:
    async with relayed(tmp_path) as (helper, farmer), through(helper, farmer, ledger) as renter:
        await renter.agree()
        helper.apply(helper.settings.changed(relay=False))
        await renter.peer.request(GetOffer())
        helper.apply(helper.settings.changed(relay=True))
        await renter.put(1000)


async def test_a_farmer_that_forgets_its_peers_leaves_the_relay(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (helper, farmer):
        farmer.apply(farmer.settings.changed(peers=()))
        await eventually(lambda: not helper.relay.attached)
        assert farmer.addresses == farmer.listening


# --- the line ---


@asynccontextmanager
async def line(tmp_path: Path) -> AsyncIterator[tuple[RelayedLine, Records]]:
    records = Records(tmp_path / "farmer.db")
    found = RelayedLine(Traffic(), records, lambda: 86400.0 * 20000)
    async with trio.open_nursery() as nursery:
        await nursery.start(records.run)
        nursery.start_soon(found.run)
        try:
            yield found, records
        finally:
            records.stop()
            nursery.cancel_scope.cancel()
    records.close()


async def test_what_passes_is_held_to_the_limit_in_each_direction(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with line(tmp_path) as (relayed_line, _):
        assert relayed_line.step == PIPE
        relayed_line.limit(Limit(1_000_000, 2_000_000))
        assert relayed_line.step == CHUNK
        for to_farmer, seconds in ((True, 10), (False, 5)):
            begun = trio.current_time()
            for _ in range(10_000_000 // CHUNK):
                await relayed_line.pass_on(ONE, CHUNK, to_farmer=to_farmer)
            assert seconds * 0.9 < trio.current_time() - begun < seconds * 1.1
        relayed_line.limit(None)
        begun = trio.current_time()
        await relayed_line.pass_on(ONE, 10_000_000, to_farmer=True)
        assert trio.current_time() == begun


async def test_the_limit_of_the_farmer_holds_too(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with line(tmp_path) as (relayed_line, _), trio.open_nursery() as nursery:
        traffic = relayed_line._traffic
        nursery.start_soon(traffic.run)
        traffic.configure(Limit(1_000_000, 1_000_000), ALWAYS)
        begun = trio.current_time()
        for _ in range(5_000_000 // CHUNK):
            await relayed_line.pass_on(ONE, CHUNK, to_farmer=True)
        assert 4.5 < trio.current_time() - begun < 5.5
        nursery.cancel_scope.cancel()


async def test_two_farmers_share_the_limit(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    passed = {ONE: 0, TWO: 0}

    async def busy(farmer: NodeId, size: int) -> None:
        while True:
            await relayed_line.pass_on(farmer, size, to_farmer=True)
            passed[farmer] += size

    async with line(tmp_path) as (relayed_line, _), trio.open_nursery() as nursery:
        relayed_line.limit(Limit(1_000_000, 1_000_000))
        for _ in range(8):
            nursery.start_soon(busy, ONE, CHUNK)
        nursery.start_soon(busy, TWO, CHUNK)
        nursery.start_soon(busy, TWO, CHUNK)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert 0.8 < passed[ONE] / passed[TWO] < 1.25


async def test_the_counts_are_kept_by_day_and_farmer(tmp_path: Path) -> None:
    async with line(tmp_path) as (relayed_line, records):
        for _ in range(2):
            relayed_line.joined(ONE)
            await relayed_line.pass_on(ONE, 100, to_farmer=True)
            await relayed_line.pass_on(ONE, 7, to_farmer=False)
            await relayed_line.fold()
        await relayed_line.pass_on(TWO, 1, to_farmer=False)
        await relayed_line.fold()
        assert relayed_line.recent() == {ONE: Passed(200, 14, 2), TWO: Passed(0, 1, 0)}
        assert records.read("SELECT count(*) FROM relayed") == [(2,)]


async def test_farmers_without_end_are_counted_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storjfs.farmer.relayed.FARMERS_A_DAY", 3)
    async with line(tmp_path) as (relayed_line, _):
        for number in range(10):
            await relayed_line.pass_on(NodeId(bytes([number + 1]) * 32), 10, to_farmer=True)
            if number % 4 == 0:
                await relayed_line.fold()
        await relayed_line.fold()
        found = relayed_line.recent()
        assert len(found) <= 4
        assert sum(one.to_farmer for one in found.values()) == 100
        assert found[OTHERS].to_farmer == 70
        assert found.keys() == {OTHERS, *(NodeId(bytes([number]) * 32) for number in (1, 2, 3))}


async def test_a_commit_that_fails_forgets_no_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with line(tmp_path) as (relayed_line, records):
        await relayed_line.pass_on(ONE, 5, to_farmer=True)

        async def fail(*_: object) -> None:
            raise OSError("no")

        with monkeypatch.context() as patched:
            patched.setattr(records, "commit", fail)
            with pytest.raises(OSError):
                await relayed_line.fold()
        await relayed_line.pass_on(ONE, 6, to_farmer=True)
        with trio.fail_after(PATIENCE):
            await relayed_line.fold()
        assert relayed_line.recent() == {ONE: Passed(11, 0, 0)}
