"""What is added to libfuse's half of the handshake with the kernel."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.fuse.connection import (
    AUTO_INVAL_DATA,
    CACHE_SYMLINKS,
    CONGESTED,
    DONT_MASK,
    HANDLE_KILLPRIV_V2,
    MOST_BACKGROUND,
    UNWANTED,
    WANTED,
    MountFailed,
    amended,
    open_connection,
)

FLAGS = st.integers(0, 2**32 - 1)


def offered(flags: int) -> bytes:
    """FUSE_INIT as the kernel sends it."""
    return bytes(40) + struct.pack("<IIII", 7, 41, 131072, flags) + bytes(48)


def answer(flags: int) -> bytes:
    """libfuse's answer."""
    return bytes(16) + struct.pack("<IIII", 7, 31, 131072, flags) + bytes(range(48))


@given(FLAGS, FLAGS)
def test_only_our_flags_change_and_none_is_set_that_was_not_offered(on_offer: int, chosen: int) -> None:
    before = answer(chosen)
    after = amended(offered(on_offer), before)
    (flags,) = struct.unpack_from("<I", after, 28)
    assert after[:28] + after[36:] == before[:28] + before[36:]
    assert struct.unpack_from("<HH", after, 32) == (MOST_BACKGROUND, CONGESTED)
    assert flags & ~(WANTED | UNWANTED) == chosen & ~(WANTED | UNWANTED)
    assert flags & WANTED & ~(on_offer | chosen) == 0
    assert flags & AUTO_INVAL_DATA == 0


def test_what_we_want_is_set_where_it_is_offered() -> None:
    (flags,) = struct.unpack_from("<I", amended(offered(0xFFFFFFFF), answer(0)), 28)
    assert flags == HANDLE_KILLPRIV_V2 | CACHE_SYMLINKS | DONT_MASK


def test_an_answer_that_is_an_error_stays_as_it_is() -> None:
    refusal = struct.pack("<IiQ", 16, -71, 1)
    assert amended(offered(0xFFFFFFFF), refusal) == refusal


def test_why_a_mount_failed_is_said(tmp_path: Path) -> None:
    with pytest.raises(MountFailed, match="none"):
        open_connection(tmp_path / "none", {"fsname=test", "subtype=storjfs"})
