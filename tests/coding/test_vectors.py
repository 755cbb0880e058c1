"""The committed vectors: what the format is since its first version, checked against the code of today."""

import json
from hashlib import sha256
from typing import Any

import pytest

from storjfs.coding.erasure import ErasureCode
from storjfs.coding.frames import Algorithm, FrameCipher
from storjfs.coding.merkle import LEAF, verify
from tests.coding.make_vectors import PATH, sample_data, vectors

COMMITTED: dict[str, Any] = json.loads(PATH.read_text(encoding="ascii"))


@pytest.mark.parametrize("section", COMMITTED)
def test_the_code_still_makes_the_committed_vectors(section: str) -> None:
    assert json.loads(json.dumps(vectors()[section])) == COMMITTED[section]


def test_each_section_is_committed() -> None:
    assert list(vectors()) == list(COMMITTED)


@pytest.mark.parametrize("frame", COMMITTED["frames"])
def test_committed_frames_open(frame: dict[str, Any]) -> None:
    key, segment_id, sealed = (bytes.fromhex(frame[name]) for name in ("key", "segment_id", "sealed"))
    cipher = FrameCipher(key, segment_id, Algorithm(frame["algorithm"]))
    assert cipher.open(frame["pos"], sealed).hex() == frame["plain"]


@pytest.mark.parametrize("code", COMMITTED["erasure"], ids=lambda code: f"{code['k']}-{code['n']}")
def test_zfec_alone_makes_the_committed_parity(code: dict[str, Any]) -> None:
    k = code["k"]
    data = [sample_data(32 * k)[32 * row : 32 * row + 32] for row in range(k)]
    parity = b"".join(ErasureCode(k, code["n"], accelerate=False).encode(data))
    assert sha256(parity).hexdigest() == code["parity_sha256"]


@pytest.mark.parametrize("tree", COMMITTED["merkle"], ids=lambda tree: str(tree["length"]))
def test_committed_proofs_verify(tree: dict[str, Any]) -> None:
    data = sample_data(tree["length"])
    for index, path in tree["paths"].items():
        leaf = data[int(index) * LEAF : int(index) * LEAF + LEAF]
        assert verify(bytes.fromhex(tree["root"]), len(data), int(index), leaf, bytes.fromhex(path))
