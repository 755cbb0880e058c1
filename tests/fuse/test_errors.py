"""Whatever goes wrong in a request, the program gets one errno and the mount lives on."""

import errno
import logging

import pyfuse3
import pytest
import trio

from storjfs.errors import FilesystemError
from storjfs.fuse.errors import answered


async def errno_after(error: BaseException) -> int:
    @answered
    async def handler() -> None:
        raise error

    with pytest.raises(pyfuse3.FUSEError) as caught:
        await handler()
    return int(caught.value.errno)


async def test_a_filesystem_error_reaches_the_program_as_it_is() -> None:
    assert await errno_after(FilesystemError(errno.ENOTEMPTY)) == errno.ENOTEMPTY


async def test_a_full_disk_is_told_as_such() -> None:
    assert await errno_after(OSError(errno.ENOSPC, "no space")) == errno.ENOSPC


async def test_an_error_inside_a_nursery_counts_as_itself() -> None:
    assert (
        await errno_after(ExceptionGroup("", [ExceptionGroup("", [FilesystemError(errno.EDQUOT)])]))
        == errno.EDQUOT
    )


@pytest.mark.parametrize(
    "error",
    [KeyError(3), ConnectionRefusedError(errno.ECONNREFUSED, "no"), ExceptionGroup("", [ValueError()])],
)
async def test_a_defect_is_logged_with_its_traceback_and_becomes_eio(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        assert await errno_after(error) == errno.EIO
    assert caplog.records[0].exc_info is not None


async def test_cancellation_passes_through() -> None:
    @answered
    async def handler() -> None:
        await trio.sleep_forever()

    with trio.CancelScope() as scope:
        scope.cancel()
        await handler()
    assert scope.cancelled_caught


async def test_what_was_answered_is_returned() -> None:
    @answered
    async def handler(number: int) -> int:
        return number + 1

    assert await handler(1) == 2
