"""The embedded farm: a child process with the farmers of this machine, started again when it dies."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import msgspec
import trio

from storjfs.errors import StorjfsError
from storjfs.protocol.terms import Address
from storjfs.settlement import Place

log = logging.getLogger(__name__)

Moved = Callable[[Mapping[bytes, tuple[Address, ...]]], None]

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 60.0
# Having run for so long, the next death is a new misfortune and not part of a series.
STEADY = 60.0
GOODBYE = 10.0
LARGEST_REPORT = 1 << 20
LARGEST_LOG = 8 * 1024 * 1024


class FarmFailed(StorjfsError):
    """The farm child ended before its farmers served."""


class _Farmer(msgspec.Struct):
    node_id: str
    address: str
    folder: str
    leaving: bool


class FarmChild:
    """The child.

    The child ends when our end of a pipe closes, however we end. It gets no secrets: it is the other side.
    """

    def __init__(
        self, folder: Path, count: int, ledger: Place, capacity: int, keep_free: int, output: Path
    ) -> None:
        self._arguments = [
            *("--dir", str(folder)),
            *("--count", str(count)),
            *("--ledger", str(ledger)),
            *("--capacity", str(capacity)),
            *("--keep-free", str(keep_free)),
        ]
        self._output = output
        self.addresses: Mapping[bytes, tuple[Address, ...]] = {}
        """Where the farmers listen now, by node id; empty before they do."""
        self.leaving: frozenset[bytes] = frozenset()
        """Those of them that are not wanted any more, and run until nobody has a contract with them."""
        self.folders: Mapping[bytes, Path] = {}
        """Where they keep what they hold."""
        self._listener: Moved = lambda addresses: None
        self.ready = trio.Event()
        """Set once the farmers have served for the first time, or have failed to."""

    def listen(self, listener: Moved) -> None:
        """Tell `listener` where the farmers listen, now if they do, and each time the child starts again."""
        self._listener = listener
        if self.addresses:
            listener(self.addresses)

    async def run(self) -> NoReturn:
        """Keep the child running until cancelled; then let it stop in good order."""
        pause = FIRST_PAUSE
        while True:
            began = trio.current_time()
            try:
                await self._once()
            except (StorjfsError, OSError) as error:
                log.error("the embedded farm: %s", error)
            self.ready.set()
            if trio.current_time() - began > STEADY:
                pause = FIRST_PAUSE
            log.warning("the embedded farm has ended; it is started again in %.1f s", pause)
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _once(self) -> None:
        """One life of the child."""
        report_in, report_out = os.pipe()
        alive_in, alive_out = os.pipe()
        try:
            try:
                process = await self._start(report_out, alive_in)
            finally:
                os.close(report_out)
                os.close(alive_in)
            try:
                self.addresses = await self._read_report(os.dup(report_in))
                self._listener(self.addresses)
                self.ready.set()
                await process.wait()
            finally:
                os.close(alive_out)
                alive_out = -1
                with trio.CancelScope(shield=True):
                    await _see_off(process)
        finally:
            os.close(report_in)
            if alive_out >= 0:
                os.close(alive_out)

    async def _start(self, report: int, alive: int) -> trio.Process:
        command = [sys.executable, "-m", "storjfs.farmer.embedded", *self._arguments]
        command += ["--ready-fd", str(report), "--parent-fd", str(alive)]
        output = self._log_file()
        try:
            return await trio.lowlevel.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(report, alive),
                start_new_session=True,
            )
        finally:
            os.close(output)

    def _log_file(self) -> int:
        """The child's log, for its owner only; a full one makes room for the next."""
        if self._output.exists() and self._output.stat().st_size > LARGEST_LOG:
            self._output.replace(self._output.with_suffix(".log.1"))
        return os.open(self._output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    async def _read_report(self, descriptor: int) -> dict[bytes, tuple[Address, ...]]:
        received = bytearray()
        async with trio.lowlevel.FdStream(descriptor) as pipe:
            while b"\n" not in received and len(received) < LARGEST_REPORT:
                part = await pipe.receive_some(65536)
                if not part:
                    raise FarmFailed("the embedded farmers did not start", hint=f"{self._output} says why")
                received += part
        farmers = msgspec.json.decode(bytes(received), type=list[_Farmer])
        self.leaving = frozenset(bytes.fromhex(one.node_id) for one in farmers if one.leaving)
        self.folders = {bytes.fromhex(one.node_id): Path(one.folder) for one in farmers}
        return {bytes.fromhex(one.node_id): (Address.parse(one.address),) for one in farmers}


async def _see_off(process: trio.Process) -> None:
    """Wait for an end in good order, then insist."""
    with trio.move_on_after(GOODBYE):
        await process.wait()
        return
    log.warning("the embedded farm does not end; it is killed")
    process.kill()
    await process.wait()
