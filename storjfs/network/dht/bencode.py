"""Bencoding, in which the DHT speaks (BEP 3): integers, byte strings, lists and dictionaries."""

from typing import Final, TypeAlias, Union

Value: TypeAlias = Union[int, bytes, "list[Value]", "dict[bytes, Value]"]

LARGEST: Final = 4096
"""Bytes that are decoded at most: more than any packet of the DHT has."""
DEEPEST: Final = 8
LONGEST_NUMBER: Final = 20


def encode(value: Value) -> bytes:
    """The one encoding of `value`: keys sorted, no leading zeros."""
    match value:
        case int():
            return b"i%de" % value
        case bytes():
            return b"%d:%b" % (len(value), value)
        case list():
            return b"l%be" % b"".join(map(encode, value))
        case dict():
            return b"d%be" % b"".join(encode(key) + encode(value[key]) for key in sorted(value))


def decode(data: bytes, largest: int = LARGEST) -> Value:
    """The value in `data`, which must be all of it, `largest` bytes at most. Raises ValueError otherwise.

    Dictionaries in any order are taken, for some nodes send them; of a key that comes twice the last counts.
    """
    if len(data) > largest:
        raise ValueError(f"{len(data)} bytes are more than {largest}")
    value, end = _value(data, 0, 0)
    if end != len(data):
        raise ValueError("bytes follow the value")
    return value


def _value(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    if depth > DEEPEST:
        raise ValueError("nested too deep")
    match data[at : at + 1]:
        case b"i":
            end = data.find(b"e", at, at + LONGEST_NUMBER + 2)
            return _number(data[at + 1 : end] if end > 0 else b""), end + 1
        case b"l":
            return _list(data, at + 1, depth)
        case b"d":
            return _dictionary(data, at + 1, depth)
        case _:
            return _text(data, at)


def _list(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    items: list[Value] = []
    while data[at : at + 1] != b"e":
        item, at = _value(data, at, depth + 1)
        items.append(item)
    return items, at + 1


def _dictionary(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    found: dict[bytes, Value] = {}
    while data[at : at + 1] != b"e":
        key, at = _text(data, at)
        found[key], at = _value(data, at, depth + 1)
    return found, at + 1


def _text(data: bytes, at: int) -> tuple[bytes, int]:
    colon = data.find(b":", at, at + LONGEST_NUMBER)
    length = data[at:colon] if colon > 0 else b""
    if not length.isdigit():
        raise ValueError("neither a number nor a text, list or dictionary")
    end = colon + 1 + int(length)
    if end > len(data):
        raise ValueError("a text is cut short")
    return data[colon + 1 : end], end


def _number(digits: bytes) -> int:
    if not digits.removeprefix(b"-").isdigit():
        raise ValueError("not a number")
    return int(digits)
