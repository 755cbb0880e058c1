"""How a mount ends, where ending it does not go as asked."""

from pathlib import Path

import pytest
import trio

from storjfs.daemon import life
from storjfs.daemon.life import Life
from storjfs.daemon.mountpoint import MountpointBusy, MountpointError
from storjfs.daemon.request import MountRequest, Teller
from storjfs.errors import StorjfsError


async def nobody(progress: object) -> None:
    pass


@pytest.mark.parametrize("error", [MountpointBusy("in use"), MountpointError("not allowed")])
async def test_a_mount_that_could_not_be_taken_off_still_sends_the_rest_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: StorjfsError
) -> None:
    def refused(target: Path, *, lazy: bool) -> None:
        raise error

    monkeypatch.setattr(life, "detach", refused)
    request = MountRequest(volume="default", mountpoint=str(tmp_path / "cloud"))
    mount = Life(request, Teller(None))
    mount._state = "mounted"
    with pytest.raises(type(error)):
        await mount._umount_asked({"flush": False}, nobody)
    assert not mount._last_flush.cancel_called


async def test_a_mount_that_was_taken_off_as_asked_does_not_wait_for_the_farmers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Drive:
        def waiting(self) -> int:
            return 7

    monkeypatch.setattr(life, "detach", lambda target, *, lazy: None)
    mount = Life(MountRequest(volume="default", mountpoint=str(tmp_path / "cloud")), Teller(None))
    mount._drive = Drive()  # type: ignore[assignment]
    mount._state = "mounted"
    mount._flushed.set()
    with trio.fail_after(5):
        assert await mount._umount_asked({"flush": False}, nobody) == {"waiting": 7}
    assert mount._last_flush.cancel_called
