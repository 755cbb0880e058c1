"""The contract book: durable before it returns, only by the table, the same after a restart."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from storjfs.protocol.contracts import Event, State
from storjfs.protocol.failures import IllegalTransition
from storjfs.protocol.terms import Address
from storjfs.renter.book import STATE_NUMBERS, ContractBook
from storjfs.store import MetaStore
from tests.renter.values import FARMER, contract

HERE = (Address("farm.example", 7420), Address("2001:db8::1", 7420))


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[ContractBook]:
    async with trio.open_nursery() as nursery:
        store = MetaStore.open(path / "meta.db", None)
        await nursery.start(store.run)
        yield ContractBook(store)
        nursery.cancel_scope.cancel()


def test_every_state_has_its_own_number() -> None:
    assert sorted(STATE_NUMBERS.values()) == list(range(len(State)))


async def test_a_contract_comes_back_as_it_was_entered(tmp_path: Path) -> None:
    signed = contract()
    async with opened(tmp_path) as book:
        entry = await book.add(signed, State.SIGNED, HERE)
        await book.change(entry, Event.FUND)
    async with opened(tmp_path) as book:
        (again,) = book
        assert again.number == entry.number
        assert again.contract == signed
        assert again.contract.to_bytes() == signed.to_bytes()
        assert again.contract_id == signed.contract_id
        assert again.state is State.FUNDED
        assert again.addresses == HERE
        assert book.current(FARMER.node_id) is again


async def test_entering_a_contract_twice_finds_the_first_entry(tmp_path: Path) -> None:
    async with opened(tmp_path) as book:
        entry = await book.add(contract(), State.SIGNED, HERE)
        assert await book.add(contract(), State.SIGNED, ()) is entry
        assert len(list(book)) == 1


async def test_what_the_table_does_not_allow_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as book:
        entry = await book.add(contract(), State.SIGNED, HERE)
        with pytest.raises(IllegalTransition):
            await book.change(entry, Event.RENEW)
        assert entry.state is State.SIGNED


async def test_a_forged_contract_is_not_entered(tmp_path: Path) -> None:
    signed = contract()
    forged = type(signed)(signed.body, signed.renter_signature, signed.renter_signature)
    async with opened(tmp_path) as book:
        with pytest.raises(Exception, match="signature"):
            await book.add(forged, State.SIGNED, HERE)
        assert list(book) == []


async def test_a_contract_that_is_over_makes_room_for_a_new_one_with_the_same_farmer(tmp_path: Path) -> None:
    async with opened(tmp_path) as book:
        old = await book.add(contract(), State.FUNDED, HERE)
        await book.change(old, Event.BREACH)
        assert book.current(FARMER.node_id) is None
        new = await book.add(contract(capacity=1 << 20), State.SIGNED, HERE)
        assert book.current(FARMER.node_id) is new
        assert new.number > old.number
