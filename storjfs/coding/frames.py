"""Frames: file data sealed on its own, the smallest thing that a read opens.

A sealed frame is `nonce (12) | ciphertext | tag (16)`. Associated data are the segment's id, the frame's
position in the segment and its plaintext length, so a frame proves itself only where it was written.
"""

import enum
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from struct import Struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from storjfs.coding.buffers import Buffer
from storjfs.coding.geometry import FRAME_OVERHEAD
from storjfs.errors import StorjfsError

NONCE: Final = 12
TAG: Final = 16
KEY: Final = 32
SEGMENT_ID: Final = 16

_POSITION = Struct(">QI").pack


class FrameCorrupt(StorjfsError):
    """A frame did not prove itself: wrong bytes, wrong key, or not the frame that was asked for."""

    def __init__(self, pos: int) -> None:
        super().__init__(f"the frame at segment position {pos} is corrupt")
        self.pos = pos


class Algorithm(enum.IntEnum):
    """The AEAD of a segment's frames and shard seals; the number is what is recorded."""

    AES_256_GCM = 1
    CHACHA20_POLY1305 = 2


def aead(algorithm: Algorithm, key: Buffer) -> AESGCM | ChaCha20Poly1305:
    """The cipher of `algorithm` with a key of 32 bytes."""
    if len(key) != KEY:
        raise ValueError(f"a key has {KEY} bytes, not {len(key)}")
    return AESGCM(key) if algorithm == Algorithm.AES_256_GCM else ChaCha20Poly1305(key)


@cache
def preferred_algorithm() -> Algorithm:
    """AES-256-GCM where the CPU has AES instructions (by Linux's /proc/cpuinfo), else ChaCha20-Poly1305.

    Where the CPU does not say, AES-256-GCM.
    """
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return Algorithm.AES_256_GCM
    features = re.search(r"^(?:flags|Features)\s*:(.*)$", described, re.MULTILINE)
    if features is None or "aes" in features[1].split():
        return Algorithm.AES_256_GCM
    return Algorithm.CHACHA20_POLY1305


def random_nonces(count: int) -> list[bytes]:
    """`count` fresh random nonces from one call to the system's generator."""
    pool = os.urandom(NONCE * count)
    return [pool[at : at + NONCE] for at in range(0, NONCE * count, NONCE)]


class FrameCipher:
    """Seals and opens the frames of one segment.

    `key` is the segment's content key (32 bytes), `segment_id` its 16 random bytes. Usable from several
    threads at once; the cipher itself runs without the GIL.
    """

    __slots__ = ("_decrypt", "_decrypt_into", "_encrypt_into", "algorithm", "segment_id")

    def __init__(self, key: Buffer, segment_id: Buffer, algorithm: Algorithm) -> None:
        if len(segment_id) != SEGMENT_ID:
            raise ValueError(f"a segment id has {SEGMENT_ID} bytes, not {len(segment_id)}")
        cipher = aead(algorithm, key)
        self.algorithm = algorithm
        self.segment_id = bytes(segment_id)
        self._encrypt_into: Callable[[Buffer, Buffer, Buffer, Buffer], int] = cipher.encrypt_into
        self._decrypt: Callable[[Buffer, Buffer, Buffer], bytes] = cipher.decrypt
        self._decrypt_into: Callable[[Buffer, Buffer, Buffer, Buffer], int] = cipher.decrypt_into

    def seal_into(self, pos: int, plain: Buffer, out: memoryview, nonce: bytes) -> int:
        """Seal `plain` as the frame at segment position `pos` into the start of `out`; returns the length.

        `out` has room for `len(plain) + FRAME_OVERHEAD` bytes. `nonce` is 12 random bytes, never used before.
        """
        length = len(plain)
        end = length + FRAME_OVERHEAD
        out[:NONCE] = nonce
        self._encrypt_into(nonce, plain, self.segment_id + _POSITION(pos, length), out[NONCE:end])
        return end

    def seal(self, pos: int, plain: Buffer, nonce: bytes) -> bytearray:
        """The same into a new buffer."""
        out = bytearray(len(plain) + FRAME_OVERHEAD)
        self.seal_into(pos, plain, memoryview(out), nonce)
        return out

    def open(self, pos: int, sealed: Buffer) -> bytes:
        """The plaintext of the sealed frame (exactly its bytes) that lies at segment position `pos`.

        Raises FrameCorrupt.
        """
        view = memoryview(sealed)
        length = len(view) - FRAME_OVERHEAD
        if length < 0:
            raise FrameCorrupt(pos)
        try:
            return self._decrypt(view[:NONCE], view[NONCE:], self.segment_id + _POSITION(pos, length))
        except InvalidTag:
            raise FrameCorrupt(pos) from None

    def open_into(self, pos: int, sealed: Buffer, out: bytearray | memoryview) -> int:
        """Open the sealed frame at `pos` into `out`, exactly as long as its plaintext; returns that length.

        Raises FrameCorrupt; what `out` holds then is undefined and must not be used.
        """
        view = memoryview(sealed)
        length = len(view) - FRAME_OVERHEAD
        if length < 0:
            raise FrameCorrupt(pos)
        try:
            return self._decrypt_into(
                view[:NONCE], view[NONCE:], self.segment_id + _POSITION(pos, length), out
            )
        except InvalidTag:
            raise FrameCorrupt(pos) from None
