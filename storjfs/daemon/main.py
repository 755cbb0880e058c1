"""Where the mount process begins, in the background (`python -m storjfs.daemon FD`) or in the foreground."""

import logging
import os
import sys

import click
import msgspec
import trio

from storjfs.errors import StorjfsError
from storjfs.store import damage_in
from storjfs.volume import VolumePaths

from .control import describe
from .hardening import keep_memory_private, raise_file_limit
from .launch import PASSPHRASE_VARIABLES
from .life import Life
from .logs import TOLD, start_log
from .request import MountRequest, Teller

log = logging.getLogger(__name__)

# A worker thread that computes in Python gives the loop its turn after this many seconds (default: 5 ms).
SWITCH_INTERVAL = 0.0005


def run_in_background(descriptor: int) -> int:
    """The mount process: the request comes on standard input, tellings go to `descriptor`."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=MountRequest)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.set_inheritable(descriptor, False)
    return run(request, Teller(descriptor))


def run_in_foreground(request: MountRequest) -> int:
    """Mount here; returns the exit code after the unmount. Tellings go to the terminal.

    No child gets the passphrase. What the kernel shows of our own first environment is root's only, as soon
    as this process is undumpable.
    """
    for name in PASSPHRASE_VARIABLES:
        os.environ.pop(name, None)
    return run(request, Teller(None, say=lambda text: click.echo(text, err=True)))


def run(request: MountRequest, teller: Teller) -> int:
    """Mount, serve, end; the exit code. Whatever goes wrong is told in one line and logged in full."""
    start_log(VolumePaths(request.volume).log_file, verbose=request.verbose, foreground=request.foreground)
    os.umask(0o077)
    raise_file_limit()
    sys.setswitchinterval(SWITCH_INTERVAL)
    keep_memory_private()
    try:
        trio.run(Life(request, teller).run)
    except (KeyboardInterrupt, SystemExit):
        return 130
    except BaseException as error:
        first = cause_of(error)
        first = damage_in(first) or first
        told = describe(first)
        if isinstance(first, StorjfsError):
            log.error("%s", told["message"], extra={TOLD: True})
            log.debug("in full", exc_info=error)
        else:
            log.critical("the mount process fails", exc_info=error)
        teller.failed(told["message"], told["hint"], told["exit_code"])
        return int(told["exit_code"])
    log.info("ended cleanly")
    return 0


def cause_of(error: BaseException) -> BaseException:
    """What to tell of a group of errors: the first one made for people, else the first defect."""
    flat: list[BaseException] = []

    def collect(part: BaseException) -> None:
        if isinstance(part, BaseExceptionGroup):
            for each in part.exceptions:
                collect(each)
        else:
            flat.append(part)

    collect(error)
    for wanted in (StorjfsError, Exception):
        for part in flat:
            if isinstance(part, wanted):
                return part
    return flat[0]
