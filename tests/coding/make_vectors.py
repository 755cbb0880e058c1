"""Writes tests/vectors/coding.json: `python -m tests.coding.make_vectors`.

Only to be run where the format has changed on purpose; the tests compare the file with what the code does.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from storjfs.coding.erasure import ErasureCode, generator_matrix
from storjfs.coding.frames import Algorithm, FrameCipher
from storjfs.coding.geometry import (
    PIECE,
    frames_covering,
    place_run,
    run_end,
    run_frames,
    segment_capacity,
    shard_length,
)
from storjfs.coding.merkle import LEAF, leaf_hashes, prove, sample_indices, tree_root
from storjfs.coding.shards import ShardCipher

PATH = Path(__file__).parent.parent / "vectors" / "coding.json"


def sample_data(length: int) -> bytes:
    """The first `length` bytes of SHA-256(u32 0) | SHA-256(u32 1) | ..., big-endian."""
    blocks = (sha256(number.to_bytes(4, "big")).digest() for number in range(length // 32 + 1))
    return b"".join(blocks)[:length]


def _runs() -> list[dict[str, Any]]:
    cases = [(0, 1), (0, 65508), (0, 65509), (4124, 4096), (61412, 4096), (61440, 4096), (65500, 200_000)]
    runs = []
    for filled, length in cases:
        pos, fits = place_run(filled, length, 4 * PIECE)
        runs.append(
            {
                "filled": filled,
                "length": length,
                "capacity": 4 * PIECE,
                "pos": pos,
                "fits": fits,
                "frames": list(run_frames(pos, fits)),
                "end": run_end(pos, fits),
                "covering_middle_third": frames_covering(pos, fits, fits // 3, fits - 2 * (fits // 3)),
            }
        )
    return runs


def _frames() -> list[dict[str, Any]]:
    key, segment_id, nonce = (sample_data(32), sample_data(16), sample_data(12))
    return [
        {
            "algorithm": int(algorithm),
            "key": key.hex(),
            "segment_id": segment_id.hex(),
            "pos": pos,
            "nonce": nonce.hex(),
            "plain": plain.hex(),
            "sealed": FrameCipher(key, segment_id, algorithm).seal(pos, plain, nonce).hex(),
        }
        for algorithm in Algorithm
        for pos, plain in [(0, b""), (65536, b"storjfs"), (33_000_000, sample_data(100))]
    ]


def _shard() -> dict[str, Any]:
    key = sample_data(32)
    sealed = bytes(ShardCipher(key).seal(sample_data(2 * PIECE)))
    return {
        "key": key.hex(),
        "plain_length": 2 * PIECE,
        "sealed_length": len(sealed),
        "tags": [sealed[PIECE : PIECE + 16].hex(), sealed[-16:].hex()],
        "sealed_sha256": sha256(sealed).hexdigest(),
    }


def _erasure() -> list[dict[str, Any]]:
    codes = []
    for k, n in [(3, 5), (3, 10), (5, 15), (8, 20), (20, 50)]:
        data = [sample_data(32 * k)[32 * row : 32 * row + 32] for row in range(k)]
        parity = b"".join(ErasureCode(k, n).encode(data))
        codes.append(
            {
                "k": k,
                "n": n,
                "parity_matrix": generator_matrix(k, n)[k * k :].hex(),
                "parity": parity.hex() if n <= 10 else None,
                "parity_sha256": sha256(parity).hexdigest(),
            }
        )
    return codes


def _trees() -> list[dict[str, Any]]:
    trees = []
    for length in [1, LEAF, LEAF + 1, 3 * LEAF, 5 * LEAF + 100, 65552]:
        leaves = leaf_hashes(sample_data(length))
        indices = sorted({0, len(leaves) // 64, len(leaves) // 32 - 1})
        trees.append(
            {
                "length": length,
                "root": tree_root(leaves, length).hex(),
                "paths": {
                    str(i): path.hex() for i, path in zip(indices, prove(leaves, indices), strict=True)
                },
            }
        )
    return trees


def _samples() -> list[dict[str, Any]]:
    nonce, contract_id, root = (sample_data(96)[at : at + 32] for at in (0, 32, 64))
    return [
        {
            "nonce": nonce.hex(),
            "contract_id": contract_id.hex(),
            "root": root.hex(),
            "epoch": epoch,
            "leaf_count": leaves,
            "count": count,
            "indices": sample_indices(nonce, contract_id, root, epoch, leaves, count),
        }
        for epoch, leaves, count in [(0, 1025, 4), (1, 1025, 4), (1, 17, 4), (2, 5, 4), (2, 4, 4), (3, 3, 4)]
    ]


def vectors() -> dict[str, Any]:
    return {
        "sample_data_64": sample_data(64).hex(),
        "capacities": {str(k): segment_capacity(k) for k in (1, 3, 5, 8, 9, 20)},
        "shard_lengths": [
            [size, k, shard_length(size, k)] for size in (0, 1, 196_608, 196_609) for k in (1, 3)
        ],
        "runs": _runs(),
        "frames": _frames(),
        "shard": _shard(),
        "erasure": _erasure(),
        "merkle": _trees(),
        "samples": _samples(),
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(vectors(), indent=1) + "\n", encoding="ascii")
