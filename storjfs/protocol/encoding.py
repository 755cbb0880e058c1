"""MessagePack as tagged arrays: the only place where bytes become values and values become bytes."""

from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from storjfs.protocol.failures import ProtocolViolation

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()

encode = _encoder.encode
"""The bytes of a value. Fields stand in the order of their declaration, without names."""


@lru_cache(maxsize=256)
def _decoder(wanted: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(wanted)


def decode(data: bytes | bytearray | memoryview | msgspec.Raw, wanted: type[T]) -> T:
    """The value of type `wanted` in `data`. Raises ProtocolViolation for everything else, and nothing else.

    Memory used is bounded by a small multiple of `len(data)`: lengths claimed inside are not believed.
    """
    try:
        return _decoder(wanted).decode(data)  # type: ignore[no-any-return, arg-type]
    except (ValueError, RecursionError, OverflowError) as error:
        raise ProtocolViolation(f"not a valid {getattr(wanted, '__name__', wanted)}: {error}") from error
