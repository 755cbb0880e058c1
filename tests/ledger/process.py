"""`storjfs ledger serve` in a process of its own, which can be killed and started again at its address."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from storjfs.ledger.serve import open_books
from storjfs.protocol.ids import PublicKey
from storjfs.settlement import ServedAt, parse_place

PATIENCE = 120.0


class Served:
    """A ledger in `folder` that serves on loopback; `stop` or `kill` it in any case in the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._listen = "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        """Serve (again), at the same address; it does when this returns."""
        command = [
            *(sys.executable, "-m", "storjfs", "ledger", "serve"),
            *("--at", str(self.folder), "--listen", self._listen),
        ]
        errors = self.folder.with_name(self.folder.name + ".log").open("ab")
        with errors:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        place = parse_place(self._until("ledger "))
        assert isinstance(place, ServedAt)
        self.at = place
        self._listen = str(place.address)

    def _until(self, start: str) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        line = ""
        while not line.startswith(start):
            assert select.select([self._process.stdout], [], [], PATIENCE)[0], "the ledger says nothing"
            line = ""
            while not line.endswith("\n"):
                byte = os.read(self._process.stdout.fileno(), 1)
                assert byte, self.errors()
                line += byte.decode()
        return line.removeprefix(start).strip()

    def errors(self) -> str:
        """What it wrote to its log."""
        return self.folder.with_name(self.folder.name + ".log").read_text()

    def stop(self) -> int:
        """As a service manager ends it; its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As a power cut would end it."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        code = process.wait(PATIENCE)
        process.communicate()
        return code

    def send(self, number: signal.Signals) -> None:
        """A signal to the process that serves."""
        assert self._process is not None
        self._process.send_signal(number)

    def issue(self, account: bytes, amount: int) -> None:
        """As the operator does, while it serves or not."""
        _, books = open_books(self.folder)
        books.issue(PublicKey(account), amount)
        books.close_file()

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`storjfs ledger WORDS` for its folder."""
        return subprocess.run(
            [sys.executable, "-m", "storjfs", "ledger", *words, "--at", str(self.folder)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def shown(self) -> Any:
        """What `storjfs ledger show --json` says."""
        done = self.command("show", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def audited(self) -> str:
        """What `storjfs ledger audit` says; empty if all is right."""
        done = self.command("audit")
        return "" if done.returncode == 0 else done.stdout + done.stderr
