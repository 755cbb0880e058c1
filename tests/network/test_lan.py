"""Announcing a farmer by multicast DNS and hearing of it: on the loopback only."""

import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing
from zeroconf import ServiceInfo, Zeroconf

from storjfs.network.lan import (
    SERVICE,
    Lan,
    NoLan,
    _found,
    _on_the_link,
    announced,
    is_at_home,
    is_loopback,
    moved,
    own_addresses,
)
from storjfs.network.sources import Found
from storjfs.protocol.ids import NodeId
from storjfs.protocol.terms import Address

HERE = "127.0.0.1"
PATIENCE = 30


def node(number: int) -> NodeId:
    return NodeId(bytes([number] * 32))


async def heard(wanted: set[NodeId]) -> dict[NodeId, Found]:
    """Until all those have been heard of; others in the same network do not disturb."""
    found: dict[NodeId, Found] = {}
    with trio.fail_after(PATIENCE):
        async with aclosing(cast(Any, Lan([HERE]).find())) as names:
            async for one in cast(AsyncIterator[Found], names):
                if one.node_id in wanted:
                    found[one.node_id] = one
                if found.keys() == wanted:
                    break
    return found


async def test_farmers_that_announce_themselves_are_heard_of_with_their_addresses() -> None:
    async with announced(node(1), HERE, 7421), announced(node(2), HERE, 7422):
        found = await heard({node(1), node(2)})
    assert found[node(1)] == Found((Address(HERE, 7421),), node(1))
    assert found[node(2)].addresses == (Address(HERE, 7422),)


async def test_a_library_that_fails_at_its_end_ends_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    close = Zeroconf.close

    def close_and_fail(self: Zeroconf) -> None:
        close(self)
        raise RuntimeError("the loop is gone")

    monkeypatch.setattr(Zeroconf, "close", close_and_fail)
    async with announced(node(5), HERE, 7425):
        pass


async def test_who_comes_later_is_heard_of_too() -> None:
    found: list[NodeId] = []
    came = trio.Event()

    async def listen(task_status: trio.TaskStatus[None]) -> None:
        async with aclosing(cast(Any, Lan([HERE]).find())) as names:
            task_status.started()
            async for one in names:
                if one.node_id in (node(3), node(4)):
                    found.append(one.node_id)
                    came.set()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(listen)
            for number in (3, 4):
                came = trio.Event()
                async with announced(node(number), HERE, 7423):
                    await came.wait()
            nursery.cancel_scope.cancel()
    assert found[0] == node(3)
    assert node(4) in found


@contextlib.contextmanager
def saying(properties: dict[str, Any], name: str, hosts: Sequence[str] = (HERE,)) -> Iterator[None]:
    """Somebody who announces whatever it likes under our service."""
    addresses = [socket.inet_aton(one) for one in hosts]
    info = ServiceInfo(SERVICE, f"{name}.{SERVICE}", port=9, addresses=addresses, properties=properties)
    carrier = Zeroconf(interfaces=[HERE])
    try:
        carrier.register_service(info)
        yield
    finally:
        carrier.close()


async def test_nonsense_in_the_network_hides_nobody() -> None:
    def begin(stack: contextlib.ExitStack) -> None:
        nonsense: tuple[dict[str, Any], ...] = ({"id": "xyz"}, {"id": b"\xff\xfe"}, {"id": "ab" * 20}, {})
        for number, properties in enumerate(nonsense):
            stack.enter_context(saying(properties, f"nonsense-{number}"))

    with contextlib.ExitStack() as stack:
        await trio.to_thread.run_sync(begin, stack)
        try:
            async with announced(node(5), HERE, 7425):
                assert (await heard({node(5)}))[node(5)].addresses == (Address(HERE, 7425),)
        finally:
            await trio.to_thread.run_sync(stack.close)


async def test_what_is_heard_leads_nowhere_but_into_the_local_network() -> None:
    with contextlib.ExitStack() as stack:
        for number, hosts in ((7, ["198.51.100.7"]), (8, ["198.51.100.8", HERE])):
            said = saying({"id": node(number).hex()}, f"far-{number}", hosts)
            await trio.to_thread.run_sync(stack.enter_context, said)
        try:
            async with announced(node(9), HERE, 7429):
                found = await heard({node(8), node(9)})
            assert found[node(8)].addresses == (Address(HERE, 9),)
            assert node(7) not in found
        finally:
            await trio.to_thread.run_sync(stack.close)


@pytest.mark.parametrize(
    ("host", "listening", "there"),
    [
        ("192.168.1.9", ["192.168.1.2"], True),
        ("192.168.2.9", ["192.168.1.2"], False),
        ("8.8.8.8", ["192.168.1.2"], False),
        ("127.0.0.1", ["192.168.1.2"], False),
        ("127.0.0.1", ["127.0.0.1"], True),
        ("fe80::7%eth0", ["192.168.1.2"], True),
    ],
)
def test_who_can_be_heard_is_in_a_network_of_ours(host: str, listening: list[str], there: bool) -> None:
    networks = [ipaddress.ip_network(one) for one in ("127.0.0.0/8", "192.168.1.0/24", "fe80::/64")]
    assert _on_the_link(listening, networks, host) is there


@pytest.mark.parametrize(
    ("identity", "port", "hosts"),
    [
        ("zz", 7420, [HERE]),
        ("ab" * 31, 7420, [HERE]),
        ("ab" * 32, 0, [HERE]),
        ("ab" * 32, None, [HERE]),
        ("", 1, []),
    ],
)
def test_what_makes_no_sense_is_no_hint(identity: str, port: int | None, hosts: list[str]) -> None:
    info = SimpleNamespace(
        decoded_properties={"id": identity}, port=port, parsed_scoped_addresses=lambda: hosts
    )
    assert _found(info) is None


def test_an_announcement_without_an_id_is_still_an_address() -> None:
    info = SimpleNamespace(decoded_properties={}, port=7, parsed_scoped_addresses=lambda: ["192.168.1.7"])
    assert _found(info) == Found((Address("192.168.1.7", 7),))


async def test_an_address_that_is_not_ours_cannot_be_announced_from() -> None:
    with pytest.raises(NoLan):
        async with announced(node(6), "203.0.113.77", 7420):
            pass
    with pytest.raises(NoLan):
        async with announced(node(6), "::1", 7420):
            pass
    with pytest.raises(NoLan):
        async for _ in Lan(["203.0.113.77"]).find():
            pass


async def test_other_addresses_of_this_machine_are_listened_on_and_announced_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = [HERE]
    monkeypatch.setattr("storjfs.network.lan.CHECK", 0.01)
    monkeypatch.setattr("storjfs.network.lan._all_addresses", lambda: list(here))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            gone = trio.Event()

            async def watch() -> None:
                await moved()
                gone.set()

            async def listen() -> None:
                async with aclosing(cast(Any, Lan([HERE]).find())) as names:
                    async for _ in names:
                        pass

            nursery.start_soon(watch)
            nursery.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            assert not gone.is_set()
            here.append("192.0.2.77")
            await gone.wait()


def test_own_addresses_are_addresses_of_this_machine() -> None:
    found = own_addresses()
    assert found
    assert all(is_loopback(one) for one in found) or not any(is_loopback(one) for one in found)


@pytest.mark.parametrize(
    ("listening", "own", "at_home"),
    [
        ("::", ("192.168.1.20", "2a00::7"), True),
        ("0.0.0.0", ("8.8.4.4", "2a00::7"), False),
        ("192.168.1.20", (), True),
        ("8.8.4.4", (), False),
        ("127.0.0.1", (), False),
    ],
)
def test_a_server_of_the_internet_is_in_no_local_network(
    listening: str, own: tuple[str, ...], at_home: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storjfs.network.lan.own_addresses", lambda: own)
    assert is_at_home(listening) is at_home
