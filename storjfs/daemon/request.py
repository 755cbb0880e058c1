"""What a mount process is told by the command that starts it, and what it tells back."""

import os
from collections.abc import Callable
from typing import Literal

import msgspec


class MountRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the mount process needs. Travels over a pipe, never as arguments or in the environment.

    passphrase: None for a volume kept without one. options: as given after -o. cache_size: bytes, None for
    the volume's setting. nonempty: mount over existing files. new_farmers: go on with new ones where all
    embedded farmers are gone.
    """

    volume: str
    mountpoint: str
    options: tuple[str, ...] = ()
    cache_size: int | None = None
    passphrase: str | None = None
    foreground: bool = False
    verbose: bool = False
    nonempty: bool = False
    new_farmers: bool = False


class Telling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line from a starting mount process: a step it took, or how the start ended."""

    event: Literal["note", "ready", "failed"]
    text: str = ""
    hint: str = ""
    exit_code: int = 0


class Teller:
    """Writes tellings to a pipe (if any) and says them; a reader that went away is no reason to stop."""

    def __init__(self, descriptor: int | None, say: Callable[[str], None] = lambda text: None) -> None:
        self._descriptor = descriptor
        self._say = say

    def note(self, text: str) -> None:
        """A line the person should read."""
        self._say(text)
        self._write(Telling(event="note", text=text))

    def ready(self, warning: str = "") -> None:
        """The mount is usable; the last telling. `warning`: one line about it, if there is something."""
        self._say(f"ready\n{warning}" if warning else "ready")
        self._write(Telling(event="ready", text=warning))
        self.close()

    def failed(self, text: str, hint: str, exit_code: int) -> None:
        """The mount process ends; the last telling."""
        self._say(f"storjfs: {text}\n         {hint}" if hint else f"storjfs: {text}")
        self._write(Telling(event="failed", text=text, hint=hint, exit_code=exit_code))
        self.close()

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _write(self, telling: Telling) -> None:
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, msgspec.json.encode(telling) + b"\n")
        except OSError:
            self.close()
