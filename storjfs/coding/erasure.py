"""The erasure code: any k of n shards give the rest back. zfec defines the bytes, ISA-L makes them fast.

The code is systematic Reed-Solomon over GF(2^8) with the polynomial 0x11d. Row `i < k` is data block `i`
itself; the coefficients of the others are read off zfec by encoding unit vectors. All blocks of one call have
the same length, and since each byte of a block depends only on the same byte of the others, a byte range of
shards is coded as if it were the whole.

Both paths run without the GIL. ISA-L is loaded once per code and checked against zfec; where it is missing or
differs, that is logged and zfec alone is used.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, Final

import zfec
from cffi import FFI  # type: ignore[import-untyped]

from storjfs.coding.buffers import Buffer

_LOG = logging.getLogger(__name__)
_ISAL: Final = "libisal.so.2"
_CHECKED_BYTES: Final = 1031
"""Long enough for ISA-L's vector loops and, being prime, for their tails."""

_FFI = FFI()
_FFI.cdef(
    """
    void ec_init_tables(int k, int rows, unsigned char *a, unsigned char *tables);
    void ec_encode_data(int len, int k, int rows, unsigned char *tables, unsigned char **data,
                        unsigned char **coded);
    int gf_invert_matrix(unsigned char *in, unsigned char *out, const int n);
    """
)


@cache
def _library() -> Any:
    """ISA-L, or None where it cannot be loaded (said once)."""
    try:
        return _FFI.dlopen(_ISAL)
    except OSError as error:
        _LOG.warning("erasure coding runs without its accelerator: %s", error)
        return None


class _Accelerator:
    """ISA-L with the matrix of one (k, n) code; knows nothing of zfec.

    `matrix` has n rows of k bytes. Its objects are immutable after construction but for a bounded,
    thread-safe memory of prepared tables: one per set of (rows at hand, rows wanted), as failures give few
    such sets.
    """

    def __init__(self, library: Any, k: int, matrix: bytes) -> None:
        self._library = library
        self._k = k
        self._matrix = matrix
        self._tables_for = lru_cache(maxsize=64)(self._make_tables)
        self._parity_tables = self._prepare(matrix[k * k :])

    def encode(self, data: Sequence[Buffer], out: Sequence[Buffer], length: int) -> None:
        self._apply(self._parity_tables, data, out, length)

    def reconstruct(
        self, rows: tuple[int, ...], blocks: Sequence[Buffer], wanted: tuple[int, ...], length: int
    ) -> list[bytearray]:
        out = [bytearray(length) for _ in wanted]
        self._apply(self._tables_for(rows, wanted), blocks, out, length)
        return out

    def _prepare(self, coefficients: bytes) -> Any:
        tables = _FFI.new("unsigned char[]", 32 * max(1, len(coefficients)))
        self._library.ec_init_tables(self._k, len(coefficients) // self._k, coefficients, tables)
        return tables

    def _make_tables(self, rows: tuple[int, ...], wanted: tuple[int, ...]) -> Any:
        k, matrix = self._k, self._matrix
        at_hand = _FFI.new("unsigned char[]", b"".join(matrix[row * k : row * k + k] for row in rows))
        inverse = _FFI.new("unsigned char[]", k * k)
        if self._library.gf_invert_matrix(at_hand, inverse, k):
            raise ArithmeticError(f"rows {rows} do not determine the data")
        inverted = bytes(_FFI.buffer(inverse))
        # A product of matrices is an encoding of the right one's rows.
        left = self._prepare(b"".join(matrix[row * k : row * k + k] for row in wanted))
        product = [bytearray(k) for _ in wanted]
        self._apply(left, [inverted[at : at + k] for at in range(0, k * k, k)], product, k)
        return self._prepare(b"".join(product))

    def _apply(self, tables: Any, sources: Sequence[Buffer], out: Sequence[Buffer], length: int) -> None:
        if not out or not length:
            return
        # The views keep the memory in place (a bytearray cannot be resized meanwhile) until the call is over.
        views = [_FFI.from_buffer("unsigned char[]", block) for block in sources]
        sinks = [_FFI.from_buffer("unsigned char[]", block, require_writable=True) for block in out]
        self._library.ec_encode_data(
            length,
            self._k,
            len(out),
            tables,
            _FFI.new("unsigned char *[]", views),
            _FFI.new("unsigned char *[]", sinks),
        )
        for view in sinks:
            _FFI.release(view)
        for view in views:
            _FFI.release(view)


class ErasureCode:
    """The code with `k` data blocks and `n - k` parity blocks (1 <= k <= n <= 255).

    `accelerated` says whether ISA-L is in use. Thread-safe. Blocks are any buffers of one length.
    """

    def __init__(self, k: int, n: int, *, accelerate: bool = True) -> None:
        if not 1 <= k <= n <= 255:
            raise ValueError(f"no such code: {k} of {n}")
        self.k = k
        self.n = n
        self._encoder = zfec.Encoder(k, n)
        self._decoder = zfec.Decoder(k, n)
        self._accelerator = _checked_accelerator(k, n) if accelerate else None

    @property
    def accelerated(self) -> bool:
        return self._accelerator is not None

    def encode(self, data: Sequence[Buffer]) -> list[bytearray]:
        """The n - k parity blocks of the k blocks of `data`. Raises ValueError for wrong lengths."""
        out = [bytearray(len(data[0]) if data else 0) for _ in range(self.n - self.k)]
        self.encode_into(data, out)
        return out

    def encode_into(self, data: Sequence[Buffer], out: Sequence[bytearray | memoryview]) -> None:
        """The same into n - k writable blocks of the same length, which overlap nothing."""
        length = _common_length(data, self.k)
        if len(out) != self.n - self.k or any(len(block) != length for block in out):
            raise ValueError(f"{self.n - self.k} blocks of {length} bytes are needed for parity")
        if self._accelerator is not None:
            self._accelerator.encode(data, out, length)
            return
        for block, made in zip(out, self._zfec_encode(data, range(self.k, self.n)), strict=True):
            block[:] = made

    def reconstruct(self, available: Mapping[int, Buffer], wanted: Sequence[int]) -> dict[int, bytearray]:
        """The blocks `wanted`, data or parity, by index, from at least k of those `available`.

        Always new buffers, also for indices that are available. Raises ValueError where there are too few
        blocks, lengths differ, or an index is not in [0, n).
        """
        if any(not 0 <= index < self.n for index in (*available, *wanted)):
            raise ValueError(f"an index is not below {self.n}")
        # Data blocks first: the more of them, the less there is to compute.
        rows = tuple(sorted(available))[: self.k]
        blocks = [available[row] for row in rows]
        length = _common_length(blocks, self.k)
        made = {index: bytearray(available[index]) for index in wanted if index in available}
        missing = tuple(dict.fromkeys(index for index in wanted if index not in made))
        if not missing:
            return made
        if self._accelerator is not None:
            found = self._accelerator.reconstruct(rows, blocks, missing, length)
        else:
            found = self._zfec_reconstruct(rows, blocks, missing)
        made.update(zip(missing, found, strict=True))
        return made

    def _zfec_encode(self, data: Sequence[Buffer], rows: Sequence[int]) -> list[bytes]:
        return [bytes(block) for block in self._encoder.encode(tuple(data), tuple(rows))]

    def _zfec_reconstruct(
        self, rows: tuple[int, ...], blocks: Sequence[Buffer], wanted: tuple[int, ...]
    ) -> list[bytearray]:
        data = self._decoder.decode(tuple(blocks), rows)
        parity = tuple(index for index in wanted if index >= self.k)
        made = dict(zip(parity, self._zfec_encode(data, parity), strict=True)) if parity else {}
        return [bytearray(made[index] if index >= self.k else data[index]) for index in wanted]


@cache
def erasure_code(k: int, n: int) -> ErasureCode:
    """The code, checked once per process."""
    return ErasureCode(k, n)


def _common_length(blocks: Sequence[Buffer], k: int) -> int:
    if len(blocks) != k:
        raise ValueError(f"{k} blocks are needed, not {len(blocks)}")
    length = len(blocks[0])
    if any(len(block) != length for block in blocks):
        raise ValueError("the blocks differ in length")
    return length


def generator_matrix(k: int, n: int) -> bytes:
    """The n rows of k coefficients of zfec's code, found by encoding the k unit vectors."""
    units = tuple(bytes(column == row for column in range(k)) for row in range(k))
    return b"".join(zfec.Encoder(k, n).encode(units))


@cache
def _checked_accelerator(k: int, n: int) -> _Accelerator | None:
    """ISA-L for this code if it is there and makes zfec's bytes of random data; else None, logged."""
    library = _library()
    if library is None:
        return None
    accelerator = _Accelerator(library, k, generator_matrix(k, n))
    data = tuple(os.urandom(_CHECKED_BYTES) for _ in range(k))
    shards: list[Any] = list(zfec.Encoder(k, n).encode(data))
    rows = tuple(range(n - k, n))
    missing = tuple(row for row in range(n) if row not in rows)
    parity = [bytearray(_CHECKED_BYTES) for _ in range(n - k)]
    accelerator.encode(data, parity, _CHECKED_BYTES)
    found = accelerator.reconstruct(rows, [shards[row] for row in rows], missing, _CHECKED_BYTES)
    if parity != shards[k:] or found != [shards[row] for row in missing]:
        _LOG.warning("%s does not make zfec's bytes for the %d/%d code; it is not used", _ISAL, k, n)
        return None
    return accelerator
