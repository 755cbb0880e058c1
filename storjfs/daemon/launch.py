"""Starting the mount process: in a session of its own, its output in a log, watched until it is ready."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import msgspec

from .exit_codes import ExitCode, ReportedError
from .request import MountRequest, Telling

# Variables that say a passphrase, or where to get one; the mount process has it from the pipe.
PASSPHRASE_VARIABLES = ("STORJFS_PASSPHRASE", "STORJFS_PASSPHRASE_FILE", "STORJFS_PASSPHRASE_COMMAND")


def start_in_background(request: MountRequest, output: Path, note: Callable[[str], None]) -> str:
    """Start a mount process; returns once its mount is usable, with a warning for the person, if any.

    output: file that receives what libraries print. note: gets each line meant for the person. Raises
    ReportedError with the one line that says why there is no mount; the process has ended then.
    """
    output.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    reading, writing = os.pipe()
    with open(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "storjfs.daemon", str(writing)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=(writing,),
            cwd="/",
            env=_environment(),
            start_new_session=True,
        )
    os.close(writing)
    try:
        assert process.stdin is not None
        with process.stdin:
            process.stdin.write(msgspec.json.encode(request))
        with open(reading, "rb") as tellings:
            warning = _listen(process, tellings, note)
    except KeyboardInterrupt:
        process.terminate()
        raise
    if process.returncode is not None:
        return warning
    raise ReportedError(
        f"the mount process ended while it was starting (status {process.wait()})",
        f"its last words are in {output}",
        ExitCode.FAILED,
    )


def _listen(process: subprocess.Popen[bytes], tellings: IO[bytes], note: Callable[[str], None]) -> str:
    """Until the mount is ready, which sets `process.returncode`: nobody is to wait for it any more."""
    for line in tellings:
        telling = msgspec.json.decode(line, type=Telling)
        if telling.event == "note":
            note(telling.text)
        elif telling.event == "ready":
            process.returncode = 0
            return telling.text
        else:
            process.wait()
            raise ReportedError(telling.text, telling.hint, telling.exit_code)
    return ""


def _environment() -> dict[str, str]:
    """Ours without passphrases; the package is found where this one was, whatever the directory is."""
    environment = {name: value for name, value in os.environ.items() if name not in PASSPHRASE_VARIABLES}
    package = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (package, environment.get("PYTHONPATH", ""))))
    return environment
