"""From the phrase alone to the farmers, through a DHT of real nodes."""

import os

import pytest

from storjfs.keys import KnownFarmer, RecoveryRecordUnusable, VolumeKeys
from storjfs.keys.recovery import SALT
from storjfs.network.dht import Item
from storjfs.protocol.ids import NodeId
from storjfs.protocol.signing import SigningKey
from storjfs.protocol.terms import Address
from storjfs.renter.recovery import find_farmers, publish_farmers
from tests.network.dht.swarm import swarm

FARMERS = [KnownFarmer(NodeId(os.urandom(32)), Address(f"192.0.2.{number}", 7420)) for number in range(5)]


async def test_a_new_machine_finds_the_farmers_by_the_phrase_alone() -> None:
    entropy = os.urandom(32)
    async with swarm() as nodes:
        _, kept = await publish_farmers(nodes.dhts[0], VolumeKeys(entropy), FARMERS)
        assert kept >= 8
        assert await find_farmers(nodes.dhts[9], VolumeKeys(entropy)) == FARMERS
        assert await find_farmers(nodes.dhts[9], VolumeKeys(os.urandom(32))) == []


async def test_the_newest_list_counts_though_the_clock_went_back() -> None:
    keys = VolumeKeys(os.urandom(32))
    async with swarm() as nodes:
        first, _ = await publish_farmers(nodes.dhts[0], keys, FARMERS[:2], clock=lambda: 4e9)
        second, kept = await publish_farmers(nodes.dhts[1], keys, FARMERS, clock=lambda: 5.0)
        assert second.number == first.number + 1
        assert kept >= 8
        assert await find_farmers(nodes.dhts[9], keys) == FARMERS


async def test_a_farmer_keeps_it_alive_without_any_key_of_the_volume() -> None:
    keys = VolumeKeys(os.urandom(32))
    async with swarm() as nodes, swarm() as others:
        item, _ = await publish_farmers(nodes.dhts[0], keys, FARMERS)
        assert await find_farmers(others.dhts[0], keys) == []
        assert await others.dhts[3].put(item) >= 8
        assert await find_farmers(others.dhts[0], keys) == FARMERS


async def test_a_record_of_a_newer_version_is_said_to_be_one() -> None:
    keys = VolumeKeys(os.urandom(32))
    newer = Item.make(SigningKey(keys.discovery_record_signer), SALT, 1, bytes([2]).ljust(992, b"x"))
    async with swarm() as nodes:
        await nodes.dhts[0].put(newer)
        with pytest.raises(RecoveryRecordUnusable, match="version 2"):
            await find_farmers(nodes.dhts[9], keys)
