"""The committed vector: a segment file sealed elsewhere opens here, and its shards are the same bytes."""

import hashlib
import json
import tempfile
from pathlib import Path

import trio

from storjfs.coding.frames import Algorithm, FrameCipher
from storjfs.coding.geometry import FRAME_OVERHEAD, frames_covering, place_run, run_end, run_frames
from storjfs.keys import VolumeKeys
from storjfs.segments.encoder import Buffers, Encoder
from storjfs.segments.files import open_frames

VECTOR = Path(__file__).parent.parent / "vectors" / "segments.json"
LENGTHS = (10, 61000, 4096, 150_000)


def made() -> dict[str, object]:
    """The vector anew; `python -m tests.segments.test_vectors` writes it."""
    entropy, segment_id = bytes(range(32)), bytes(range(100, 116))
    keys = VolumeKeys(entropy)
    cipher = FrameCipher(keys.content_key(segment_id), segment_id, Algorithm.AES_256_GCM)
    file, end, runs = bytearray(), 0, []
    for number, length in enumerate(LENGTHS):
        pos, fits = place_run(end, length, 1 << 20)
        assert fits == length
        plain = bytes([number + 1]) * length
        runs.append([pos, length])
        end = run_end(pos, length)
        file += bytes(end - len(file))
        taken = 0
        for at, size in run_frames(pos, length):
            nonce = hashlib.sha256(b"nonce %d" % at).digest()[:12]
            file[at : at + size + FRAME_OVERHEAD] = cipher.seal(at, plain[taken : taken + size], nonce)
            taken += size
    shard_ids = [hashlib.sha256(b"shard %d" % idx).digest() for idx in range(5)]
    shards = sealed(bytes(file), [keys.shard_key(one) for one in shard_ids])
    return {
        "entropy": entropy.hex(),
        "segment_id": segment_id.hex(),
        "runs": runs,
        "plaintext": "run i consists of the byte i + 1; nonce: start of SHA-256('nonce ' + decimal position)",
        "size": len(file),
        "file_sha256": hashlib.sha256(file).hexdigest(),
        "k": 3,
        "n": 5,
        "shards": [
            {"id": shard_id.hex(), "root": root, "checksum": checksum}
            for shard_id, (root, checksum) in zip(shard_ids, shards, strict=True)
        ],
    }


def sealed(file: bytes, keys: list[bytes]) -> list[tuple[str, str]]:
    """(Merkle root, checksum) of each shard."""
    with tempfile.TemporaryFile() as opened:
        opened.write(file)
        opened.flush()
        return trio.run(seal_all, opened.fileno(), len(file), keys)


async def seal_all(fd: int, size: int, keys: list[bytes]) -> list[tuple[str, str]]:
    encoder = Encoder(fd, size, 3, 5, Buffers(), trio.CapacityLimiter(1))
    await encoder.load(parity=True)
    found = [await encoder.seal(idx, key) for idx, key in enumerate(keys)]
    return [(one.root.hex(), one.checksum.hex()) for one in found]


def test_the_vector_is_made_again_byte_for_byte() -> None:
    assert made() == json.loads(VECTOR.read_text())


def test_runs_are_read_back_from_their_positions_alone() -> None:
    keys, segment_id = VolumeKeys(bytes(range(32))), bytes(range(100, 116))
    cipher = FrameCipher(keys.content_key(segment_id), segment_id, Algorithm.AES_256_GCM)
    pos, length = place_run(5000, 100_000, 1 << 20)
    out = bytearray(run_end(pos, length))
    data = bytes(range(250)) * 400
    taken = 0
    for at, size in run_frames(pos, length):
        cipher.seal_into(at, data[taken : taken + size], memoryview(out)[at:], bytes(11) + bytes([at >> 16]))
        taken += size
    frames = frames_covering(pos, length, 60_000, 5_000)
    start = frames[0][0]
    assert bytes(open_frames(cipher, frames, memoryview(out)[start:], start)) == data[60_000:65_000]


if __name__ == "__main__":
    VECTOR.write_text(json.dumps(made(), indent=1) + "\n")
