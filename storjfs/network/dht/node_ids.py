"""Whether the id of a node follows from its address, as BEP 42 asks, so that it was not chosen."""

import ipaddress
from functools import cache
from typing import Final

_MASKS: Final = {4: 0x030F3FFF, 6: 0x0103070F1F3F7FFF}
_CASTAGNOLI: Final = 0x82F63B78


def follows_from(host: str, id_: bytes) -> bool:
    """Whether the first 21 bits of `id_` (20 bytes) are what a node at `host` (numeric) may have: eight ways.

    So who wants an id near a target needs an address that fits, of 2^20 kinds that there are of IPv4.
    """
    address = ipaddress.ip_address(host)
    packed = address.packed[:8]
    masked = int.from_bytes(packed) & _MASKS[address.version]
    chosen = (id_[19] & 7) << (8 * len(packed) - 3)
    crc = _crc32c((masked | chosen).to_bytes(len(packed)))
    return int.from_bytes(id_[:3]) >> 3 == crc >> 11


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _table()[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


@cache
def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ _CASTAGNOLI if byte & 1 else byte >> 1
        table.append(byte)
    return tuple(table)
