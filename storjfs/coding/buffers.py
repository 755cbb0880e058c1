"""The one type of "bytes of somebody else" that this room accepts."""

from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
