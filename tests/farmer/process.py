"""`storjfs farm` in a process of its own, with what it prints and what it tells systemd."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storjfs.daemon.farm import ask_facts
from storjfs.farmer.live import Live
from storjfs.protocol.ids import NodeId
from storjfs.protocol.terms import Address

PATIENCE = 30


class Manager:
    """Who listens at NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(PATIENCE)

    def heard(self) -> dict[str, str]:
        """The next message."""
        return dict(line.split("=", 1) for line in self.socket.recv(65536).decode().split("\n"))

    def until(self, name: str) -> dict[str, str]:
        """The next message that has this variable; those before are dropped."""
        while name not in (heard := self.heard()):
            pass
        return heard

    def drain(self) -> None:
        """Drop what is there."""
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.recv(65536)
        self.socket.settimeout(PATIENCE)


class Running:
    """A farmer in a process of its own, whose output is read line by line."""

    def __init__(
        self,
        *words: str,
        stdin: int = subprocess.DEVNULL,
        within: Callable[[list[str]], list[str]] = list,
        **environment: str,
    ) -> None:
        """`within` says what to run instead of a command, for instance to have it on another host."""
        self.process = subprocess.Popen(
            within([sys.executable, "-m", "storjfs", "farm", *words]),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        )

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def line(self) -> str:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], PATIENCE)[0]
        # Byte by byte: a buffered reader would hide from select what it has read already.
        line = b""
        while not line.endswith(b"\n"):
            byte = os.read(self.process.stdout.fileno(), 1)
            assert byte, self.process.communicate()[1]
            line += byte
        return line.decode().rstrip()

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE)

    def until(self, start: str) -> str:
        """The rest of the next line that begins so; those before are dropped."""
        while not (line := self.line()).startswith(start):
            pass
        return line.removeprefix(start).strip()

    def where(self) -> tuple[NodeId, Address]:
        """Its identity and address, once it serves."""
        address, _, identity = self.until("address ").partition("/")
        return NodeId(bytes.fromhex(identity)), Address.parse(address)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def errors(self) -> str:
        """What it wrote to standard error, after its end."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def ended(self) -> int:
        """Its exit code."""
        return self.process.wait(PATIENCE)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """One command `storjfs farm ...` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "storjfs", "farm", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def status(folder: Path) -> Any:
    """What `farm status --json` says."""
    done = run("status", "--at", str(folder), "--json")
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def live(folder: Path) -> Live:
    """What the running farmer says of itself."""
    found = ask_facts(folder)
    assert found is not None
    return found
