"""The farmers of a volume, in the DHT for whoever has nothing but the phrase: published, and found again."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from storjfs.keys import KnownFarmer, RecoveryRecordUnusable, VolumeKeys, open_farmers, seal_farmers
from storjfs.keys.recovery import SALT
from storjfs.network.dht import Dht, Item, Outdated, next_number
from storjfs.protocol.signing import SigningKey

_CHANGES: Final = 3


async def publish_farmers(
    dht: Dht,
    keys: VolumeKeys,
    farmers: Sequence[KnownFarmer],
    *,
    number: int = 0,
    clock: Callable[[], float] = time.time,
) -> tuple[Item, int]:
    """Put the sealed list there, above any that is there; the item, and how many nodes took it.

    The first of `farmers` that fit are in it. `number`: of the last item that is known. The item may be put
    there again by anybody (`Dht.put`), without a key; nodes forget it after two hours. Raises Outdated where
    another machine publishes at the same time.
    """
    signer = SigningKey(keys.discovery_record_signer)
    value, _ = seal_farmers(keys, farmers)
    there = await dht.get(signer.public, SALT)
    known = [number] if there is None else [number, there.number]
    for attempt in range(_CHANGES):
        item = Item.make(signer, SALT, next_number(*known, now=clock()), value)
        try:
            return item, await dht.put(item)
        except Outdated as error:
            if attempt == _CHANGES - 1:
                raise
            known.append(error.newest.number)
    raise AssertionError("the last attempt returns or raises")


async def find_farmers(dht: Dht, keys: VolumeKeys) -> list[KnownFarmer]:
    """The farmers in the newest record of this phrase, none where there is no record.

    The addresses may be old: what counts is who answers there. Raises RecoveryRecordUnusable for a record
    that only a newer storjfs reads.
    """
    item = await dht.get(SigningKey(keys.discovery_record_signer).public, SALT)
    return [] if item is None else open_farmers(keys, item.value)


__all__ = ["KnownFarmer", "RecoveryRecordUnusable", "find_farmers", "publish_farmers"]
