"""What systemd hears, over a real datagram socket."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from storjfs.daemon.notify import LONGEST_STATUS, Notifier


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1))
        self.socket.settimeout(30)
        self.environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "6000000", "HOME": "/"}

    def heard(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.socket.recv(65536).decode().split("\n"))


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "n") if request.param == "path" else f"@storjfs-{os.getpid()}")
    yield manager
    manager.socket.close()


def test_every_message_arrives_as_systemd_reads_it(manager: Manager) -> None:
    notifier = Notifier(manager.environment)
    assert notifier.wanted
    notifier.ready("3 contracts")
    assert manager.heard() == {"READY": "1", "STATUS": "3 contracts"}
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    heard = manager.heard()
    assert heard["RELOADING"] == "1"
    assert before <= int(heard["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.alive()
    assert manager.heard() == {"WATCHDOG": "1"}
    notifier.status("one\nline" + "x" * 1000)
    said = manager.heard()["STATUS"]
    assert said.startswith("one linexx")
    assert len(said) == LONGEST_STATUS
    notifier.patience(2.5)
    assert manager.heard() == {"EXTEND_TIMEOUT_USEC": "2500000"}
    notifier.stopping("goodbye")
    assert manager.heard() == {"STOPPING": "1", "STATUS": "goodbye"}


def test_children_do_not_inherit_what_is_ours(manager: Manager) -> None:
    Notifier(manager.environment)
    assert manager.environment == {"HOME": "/"}


def test_watchdog_is_the_one_of_this_process() -> None:
    assert Notifier({"WATCHDOG_USEC": "6000000"}).watchdog == 6.0
    assert Notifier({"WATCHDOG_USEC": "6000000", "WATCHDOG_PID": str(os.getpid())}).watchdog == 6.0
    assert Notifier({"WATCHDOG_USEC": "6000000", "WATCHDOG_PID": "1"}).watchdog is None
    assert Notifier({"WATCHDOG_USEC": "0"}).watchdog is None
    assert Notifier({}).watchdog is None


def test_without_a_manager_nothing_is_said_and_a_lost_one_is_no_error(tmp_path: Path) -> None:
    nobody = Notifier({})
    assert not nobody.wanted
    nobody.ready("x")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("x")


def test_manager_that_does_not_listen_holds_nothing_up(manager: Manager) -> None:
    notifier = Notifier(manager.environment)
    for _ in range(10_000):
        notifier.alive()  # far more than a socket holds
