"""Speed of frames, shard seal, erasure code and Merkle trees here: one thread, medians of many repetitions.

`scripts/bench/run coding`; `--busy` lets a second thread run Python meanwhile, as the loop does in a mount
process.
"""

import argparse
import contextlib
import functools
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.table import Table

from storjfs.coding.buffers import Buffer
from storjfs.coding.erasure import ErasureCode
from storjfs.coding.frames import Algorithm, FrameCipher, random_nonces
from storjfs.coding.geometry import FRAME_OVERHEAD, FULL_FRAME, PIECE, sealed_length
from storjfs.coding.merkle import leaf_hashes, prove, tree_root, verify
from storjfs.coding.shards import ShardCipher

SHARD = 4 << 20
SECONDS = 0.3


def typical(work: Callable[[], object]) -> float:
    """Seconds of one repetition: the median of those that fit into a bounded time."""
    taken: list[float] = []
    end = time.perf_counter() + SECONDS
    while True:
        start = time.perf_counter()
        work()
        now = time.perf_counter()
        taken.append(now - start)
        if now > end:
            return statistics.median(taken)


@contextlib.contextmanager
def busy_thread() -> Iterator[None]:
    """A thread that works in Python for some 30 us and then lets go of the GIL for one system call."""
    over = threading.Event()

    def work() -> None:
        source, sink = os.pipe()
        while not over.is_set():
            sum(range(1500))
            os.write(sink, b"x")
            os.read(source, 1)
        os.close(source)
        os.close(sink)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def frames() -> Iterator[tuple[str, int, float]]:
    out = bytearray(PIECE)
    view = memoryview(out)
    (nonce,) = random_nonces(1)
    for algorithm in Algorithm:
        cipher = FrameCipher(bytes(32), bytes(16), algorithm)
        for size in (4096, FULL_FRAME):
            plain = os.urandom(size)
            sealed = view[: size + FRAME_OVERHEAD]
            into = bytearray(size)
            name = f"{algorithm.name} frame of {size}"
            seal = functools.partial(cipher.seal_into, 0, plain, view, nonce)
            yield f"{name}: seal_into", size, _of_many(seal)
            yield f"{name}: open", size, _of_many(functools.partial(cipher.open, 0, sealed))
            yield f"{name}: open_into", size, _of_many(functools.partial(cipher.open_into, 0, sealed, into))


def _of_many(work: Callable[[], object]) -> float:
    def repeated() -> None:
        for _ in range(200):
            work()

    return typical(repeated) / 200


def shards() -> Iterator[tuple[str, int, float]]:
    plain, sealed = os.urandom(SHARD), bytearray(sealed_length(SHARD))
    opened = memoryview(bytearray(SHARD))
    cipher = ShardCipher(bytes(32))
    yield "shard: seal_into", SHARD, typical(lambda: cipher.seal_into(plain, sealed))
    yield "shard: open_pieces", SHARD, typical(lambda: cipher.open_pieces(0, sealed, opened))


def codes() -> Iterator[tuple[str, int, float]]:
    for k, n in [(3, 5), (3, 10), (5, 15), (8, 20), (20, 50)]:
        blocks = [os.urandom(1 << 20) for _ in range(k)]
        parity = [bytearray(1 << 20) for _ in range(n - k)]
        code, plain = ErasureCode(k, n), ErasureCode(k, n, accelerate=False)
        whole: list[Buffer] = [*blocks, *code.encode(blocks)]
        last_k = {index: whole[index] for index in range(n - k, n)}
        size = k << 20
        note = "" if code.accelerated else " (not accelerated)"
        yield f"{k}/{n} encode{note}", size, typical(functools.partial(code.encode_into, blocks, parity))
        lost = functools.partial(code.reconstruct, last_k, [0])
        yield f"{k}/{n} one lost block{note}", 1 << 20, typical(lost)
        yield f"{k}/{n} encode by zfec", size, typical(functools.partial(plain.encode, blocks))


def trees() -> Iterator[tuple[str, int, float]]:
    data = os.urandom(SHARD)
    leaves = leaf_hashes(data)
    root = tree_root(leaves, SHARD)
    (path,) = prove(leaves, [77])
    leaf = data[77 * 4096 : 78 * 4096]
    yield "Merkle leaves", SHARD, typical(lambda: leaf_hashes(data))
    yield "Merkle root of leaves", SHARD, typical(lambda: tree_root(leaves, SHARD))
    yield "Merkle paths of 4 leaves", SHARD, typical(lambda: prove(leaves, [1, 77, 500, 1000]))
    yield "verify a leaf", len(leaf), typical(lambda: verify(root, SHARD, 77, leaf, path))


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench/run coding", description=__doc__)
    parser.add_argument("--busy", action="store_true", help="with a second thread at work")
    given = parser.parse_args()
    table = Table("work", "us", "MB/s")
    with busy_thread() if given.busy else contextlib.nullcontext():
        for group in (frames, shards, codes, trees):
            for name, size, seconds in group():
                table.add_row(name, f"{seconds * 1e6:,.1f}", f"{size / seconds / 1e6:,.0f}")
            table.add_section()
    Console().print(table)


if __name__ == "__main__":
    main()
