"""The shard seal: each shard encrypted once more after erasure coding, piece by piece.

A sealed piece is `ciphertext (65536) | tag (16)`, AES-256-GCM. The nonce of piece `i` is `i` as 12 bytes,
big-endian, which is sound because a shard key seals one shard once: a shard that is made again gets a new id
and so a new key. The nonce is also what binds a piece to its place, so there are no associated data. How many
pieces a shard has is not sealed; the receipt and the Merkle root carry the length.
"""

from collections.abc import Callable

from cryptography.exceptions import InvalidTag

from storjfs.coding.buffers import Buffer
from storjfs.coding.frames import NONCE, Algorithm, aead
from storjfs.coding.geometry import PIECE, SEALED_PIECE, sealed_length
from storjfs.errors import StorjfsError


class ShardCorrupt(StorjfsError):
    """A sealed piece did not prove itself; `piece` is its index in the shard."""

    def __init__(self, piece: int) -> None:
        super().__init__(f"piece {piece} of a shard is corrupt")
        self.piece = piece


class ShardCipher:
    """Seals one shard and opens any run of its pieces.

    `key` is the shard key (32 bytes). Usable from several threads at once; the cipher runs without the GIL.
    """

    __slots__ = ("_decrypt_into", "_encrypt_into")

    def __init__(self, key: Buffer) -> None:
        cipher = aead(Algorithm.AES_256_GCM, key)
        self._encrypt_into: Callable[[Buffer, Buffer, None, Buffer], int] = cipher.encrypt_into
        self._decrypt_into: Callable[[Buffer, Buffer, None, Buffer], int] = cipher.decrypt_into

    def seal(self, plain: Buffer) -> bytearray:
        """The sealed shard; `plain` is a whole number of pieces."""
        out = bytearray(sealed_length(len(plain)))
        self.seal_into(plain, out)
        return out

    def seal_into(self, plain: Buffer, out: bytearray | memoryview) -> int:
        """Seal the whole shard `plain` into the start of `out`; returns the bytes written.

        Raises ValueError where `plain` is no whole number of pieces. `out` must not overlap `plain`.
        """
        if len(plain) % PIECE:
            raise ValueError(f"a shard is a multiple of {PIECE} bytes, not {len(plain)}")
        source, sink = memoryview(plain), memoryview(out)
        encrypt_into = self._encrypt_into
        at = 0
        for start in range(0, len(plain), PIECE):
            nonce = (start // PIECE).to_bytes(NONCE, "big")
            encrypt_into(nonce, source[start : start + PIECE], None, sink[at : at + SEALED_PIECE])
            at += SEALED_PIECE
        return at

    def open_pieces(self, first_piece: int, sealed: Buffer, out: memoryview | None = None) -> memoryview:
        """Open the consecutive sealed pieces in `sealed`, the first of which is piece `first_piece`.

        The plaintext goes to the start of `out`, or to a new buffer; the part written is returned. Raises
        ShardCorrupt at the first piece that fails (`out` is then undefined), also for one that is cut short.
        """
        source = memoryview(sealed)
        pieces, rest = divmod(len(source), SEALED_PIECE)
        if rest:
            raise ShardCorrupt(first_piece + pieces)
        sink = memoryview(bytearray(pieces * PIECE)) if out is None else out[: pieces * PIECE]
        decrypt_into = self._decrypt_into
        at = 0
        for piece in range(first_piece, first_piece + pieces):
            end = at + PIECE
            start = at // PIECE * SEALED_PIECE
            try:
                decrypt_into(
                    piece.to_bytes(NONCE, "big"), source[start : start + SEALED_PIECE], None, sink[at:end]
                )
            except InvalidTag:
                raise ShardCorrupt(piece) from None
            at = end
        return sink
