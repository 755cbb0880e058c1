"""Finding farmers on the internet through the mainline DHT of BitTorrent.

`node` is libtorrent; questions of our own go out by `client`, `search` and `krpc`; `items` and `records` are
what is kept there; `source` is this way to find farmers beside others. Decision: docs/decisions/0015-dht.md.
"""

from storjfs.network.dht.dht import Dht, Outdated
from storjfs.network.dht.items import Item, next_number
from storjfs.network.dht.node import DhtSettings, DhtUnavailable, require_libtorrent
from storjfs.network.dht.records import FarmerRecord, make_record
from storjfs.network.dht.source import DhtSource

__all__ = [
    "Dht",
    "DhtSettings",
    "DhtSource",
    "DhtUnavailable",
    "FarmerRecord",
    "Item",
    "Outdated",
    "make_record",
    "next_number",
    "require_libtorrent",
]
