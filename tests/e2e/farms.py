"""Farmers in processes of their own, which come and go."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from .drive import Drive, await_that

COUNT = 3
CODE = '"1/2"'
"""Any one of two shards is enough; farmers have to take both before a segment counts as stored."""


class Farms:
    """`count` farmers beside a drive that is not made yet; `kill` in any case in the end."""

    def __init__(self, drive: Drive, count: int = COUNT, code: str = CODE) -> None:
        self._drive = drive
        self._code = code
        self.ports = _free_ports(count)
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def make_volume(self) -> None:
        """Start, and make the drive's volume with them."""
        self.start()
        self._drive.init(
            *(word for port in self.ports for word in ("--farmer", f"127.0.0.1:{port}")), code=self._code
        )

    def start(self) -> None:
        """Have them (again), at the same addresses; they listen when this returns."""
        for number, port in enumerate(self.ports):
            if number in self._running:
                continue
            log = self.folder(number).with_suffix(".log")
            command = [
                *(sys.executable, "-m", "storjfs", "farm", "--at", str(self.folder(number))),
                *("--share", "20GB", "--listen", f"127.0.0.1:{port}"),
                *("--ledger", str(self._drive.paths().ledger_db), "--new-ledger"),
            ]
            with log.open("ab") as output:
                self._running[number] = subprocess.Popen(
                    command, env=self._drive.env, stdout=output, stderr=output
                )
        for port in self.ports:
            await_that(lambda port=port: listens(port), f"a farmer listens on port {port}")

    def folder(self, number: int) -> Path:
        """Where a farmer keeps all that is its own."""
        return self._drive.home / f"farmer{number}"

    def kill(self, *numbers: int) -> None:
        """These, or all, as a power cut would end them."""
        ended = [self._running.pop(number) for number in numbers or list(self._running)]
        for one in ended:
            one.kill()
        for one in ended:
            one.wait()

    def freeze(self) -> None:
        """They accept connections and never answer."""
        for one in self._running.values():
            os.kill(one.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """They go on."""
        for one in self._running.values():
            os.kill(one.pid, signal.SIGCONT)

    def leave(self, how: str) -> None:
        """Become `killed` or `frozen`."""
        self.kill() if how == "killed" else self.freeze()

    def come_back(self, how: str) -> None:
        """From either."""
        self.start() if how == "killed" else self.thaw()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def listens(port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
