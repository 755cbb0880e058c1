"""What a service tells systemd: sd_notify(3) and sd_watchdog_enabled(3), one datagram each.

Written here because the protocol is a line of text to a socket, and the packages that offer it are either no
longer kept or want libsystemd.
"""

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final

LONGEST_STATUS: Final = 512


class Notifier:
    """Tells whoever started this process with NOTIFY_SOCKET; nobody, silently, where there is none.

    Taken from the environment once and removed there, so that children do not speak for us.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        path = environment.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        self.watchdog: float | None = None
        """Seconds within which `alive` is expected; None if it is not."""
        interval = environment.pop("WATCHDOG_USEC", "")
        if environment.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()) and interval.isdigit():
            self.watchdog = int(interval) / 1e6 or None

    @property
    def wanted(self) -> bool:
        """Whether anybody listens."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """Started, or done with reloading."""
        self._tell("READY=1", f"STATUS={_line(status)}")

    def reloading(self) -> None:
        """The settings are read again; `ready` must follow, whether they are good or not."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._tell(f"STATUS={_line(status)}")

    def alive(self) -> None:
        """All is well: the watchdog's time begins anew."""
        self._tell("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        """The end has begun."""
        self._tell("STOPPING=1", f"STATUS={_line(status)}")

    def patience(self, seconds: float) -> None:
        """Starting or stopping takes so long, counted from now."""
        self._tell(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        # A manager that is gone or busy must not end or stop a farmer.
        with contextlib.suppress(OSError):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto("\n".join(lines).encode(), self._address)


def _line(text: str) -> str:
    return " ".join(text.split())[:LONGEST_STATUS]
