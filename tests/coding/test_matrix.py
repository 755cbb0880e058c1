"""The matrix read off zfec is the one that docs/formats/coding.md constructs, built from the text alone."""

import pytest

from storjfs.coding.erasure import generator_matrix

POWERS = [1]
for _ in range(254):
    doubled = POWERS[-1] << 1
    POWERS.append(doubled ^ 0x11D if doubled & 0x100 else doubled)
LOGARITHMS = {value: exponent for exponent, value in enumerate(POWERS)}


def product(a: int, b: int) -> int:
    return POWERS[(LOGARITHMS[a] + LOGARITHMS[b]) % 255] if a and b else 0


def vandermonde(k: int, n: int) -> list[list[int]]:
    first = [1] + [0] * (k - 1)
    return [first] + [[POWERS[(row - 1) * column % 255] for column in range(k)] for row in range(1, n)]


def inverse(matrix: list[list[int]]) -> list[list[int]]:
    """Gauss and Jordan over GF(2^8)."""
    size = len(matrix)
    rows = [[*row, *(int(i == j) for j in range(size))] for i, row in enumerate(matrix)]
    for column in range(size):
        pivot = next(row for row in range(column, size) if rows[row][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        factor = POWERS[-LOGARITHMS[rows[column][column]] % 255]
        rows[column] = [product(factor, value) for value in rows[column]]
        for row in range(size):
            if row != column and (factor := rows[row][column]):
                rows[row] = [a ^ product(factor, b) for a, b in zip(rows[row], rows[column], strict=True)]
    return [row[size:] for row in rows]


@pytest.mark.parametrize(("k", "n"), [(1, 3), (3, 5), (3, 10), (5, 15), (8, 20), (20, 50)])
def test_the_matrix_is_the_documented_one(k: int, n: int) -> None:
    tall = vandermonde(k, n)
    right = inverse(tall[:k])
    expected = bytearray()
    for row in tall:
        for column in range(k):
            total = 0
            for inner in range(k):
                total ^= product(row[inner], right[inner][column])
            expected.append(total)
    assert generator_matrix(k, n) == expected
