"""What goes wrong in the mount process is one line and one number for who started it."""

import re
from pathlib import Path

import pytest

from storjfs.daemon.control import describe
from storjfs.daemon.exit_codes import OF_ERROR, ExitCode, ReportedError, exit_code_of
from storjfs.daemon.main import cause_of
from storjfs.daemon.mountpoint import MountpointBusy, MountpointError
from storjfs.keys import WrongPassphrase
from storjfs.volume import VolumeExists

ROOT = Path(__file__).resolve().parents[2]


def test_every_code_is_documented() -> None:
    text = (ROOT / "docs/reference/exit-codes.md").read_text()
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert documented == {int(code) for code in ExitCode}


def test_every_error_with_a_code_exists() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "storjfs").rglob("*.py"))
    for name in OF_ERROR:
        assert re.search(rf"^class {name}\(", source, re.MULTILINE), name


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WrongPassphrase("no"), ExitCode.PASSPHRASE),
        (VolumeExists("there"), ExitCode.EXISTS),
        (MountpointBusy("busy"), ExitCode.BUSY),
        (ReportedError("as told", "", 7), ExitCode.FARMERS_UNREACHABLE),
        (KeyError("x"), ExitCode.FAILED),
    ],
)
def test_errors_have_their_code(error: Exception, code: ExitCode) -> None:
    assert exit_code_of(error) == code


def test_of_a_group_the_error_made_for_people_is_told() -> None:
    wanted = MountpointError("not a directory", hint="give a directory")
    group = ExceptionGroup("", [KeyError("x"), ExceptionGroup("", [wanted])])
    assert cause_of(group) is wanted
    assert describe(cause_of(group)) == {
        "message": "not a directory",
        "hint": "give a directory",
        "exit_code": ExitCode.MOUNTPOINT,
    }


def test_a_defect_says_that_it_is_one() -> None:
    assert describe(cause_of(ExceptionGroup("", [KeyError("x")])))["message"] == "unexpected: KeyError: 'x'"
