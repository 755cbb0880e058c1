"""The farmer as a process: its signals, what systemd and `storjfs farm status` hear of it, and its end.

    SIGTERM, SIGINT   stop: transfers under way may end, earnings are claimed; a second one does not wait
    SIGHUP            read farmer.toml again; from a terminal that goes away: stop

Decision: docs/decisions/0010-farm-daemon.md.
"""

import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec
import trio

from storjfs.errors import StorjfsError
from storjfs.farmer.announcing import Announcer, dht_settings, takes_part
from storjfs.farmer.farmer import LAST_WORDS, Farmer
from storjfs.farmer.live import Live, facts
from storjfs.farmer.pulse import ClockWatch, Pulse, is_synchronised
from storjfs.farmer.report import brief, newest_moment
from storjfs.farmer.settings import FILE, FarmerSettings
from storjfs.protocol.messages import CANCEL_CAPABILITY
from storjfs.protocol.terms import Address
from storjfs.volume import wording
from storjfs.volume.errors import SettingsError

from .client import NotMounted, request
from .control import ControlServer, Tell
from .notify import Notifier

log = logging.getLogger(__name__)

SOCKET: Final = "control"
LONGEST_ADDRESS: Final = 100
"""Bytes of a Unix socket's path that every system takes."""
DRAIN: Final = 10.0
"""Seconds that transfers under way have to end in."""
TELL_EVERY: Final = 60.0
PULSE_EVERY: Final = 60.0
ANSWER_PATIENCE: Final = 10.0
"""Seconds that a command waits for the running farmer."""
BEATS: Final = 3
"""Heartbeats within the time of the watchdog."""

Say = Callable[[str], None]


class FarmProcess:
    """One farmer, from its first connection to its last claim. `say` is for who watches the process."""

    def __init__(self, farmer: Farmer, notifier: Notifier, say: Say, *, at_terminal: bool) -> None:
        self._farmer = farmer
        self._notifier = notifier
        self._say = say
        self._at_terminal = at_terminal
        self._since = 0.0
        self._pulse = Pulse(farmer.book.history, farmer.shelf, farmer.book.clock)
        self._clock = ClockWatch(newest_moment(farmer.records))
        self._refused = ""
        self._at_next_start: tuple[str, ...] = ()
        self._announcer: Announcer | None = None
        if takes_part(farmer.settings):
            self._announcer = Announcer(
                farmer.folder,
                farmer.identity.signing,
                dht_settings(farmer.settings),
                farmer.settings.network,
                lambda: farmer.addresses,
                capabilities=(CANCEL_CAPABILITY,),
                heard=farmer.neighbours.heard,
            )
        self._addresses: tuple[Address, ...] = ()

    async def run(self) -> None:
        """Serve until a signal ends it. Raises what keeps it from starting."""
        async with trio.open_nursery() as nursery:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
                await nursery.start(self._farmer.serve)
                await self._served(nursery)
                async for number in signals:
                    if number != signal.SIGHUP or self._at_terminal:
                        break
                    with contextlib.suppress(StorjfsError, OSError):
                        self.reload()
                await self._stop(signals)
            nursery.cancel_scope.cancel()

    async def _served(self, nursery: trio.Nursery) -> None:
        """It serves: keep the settings, say where, and begin to watch."""
        farmer = self._farmer
        self._since = time.time()
        if not _written(farmer.folder, farmer.settings):
            farmer.settings.write(farmer.folder)  # only what works is kept
        await self._listen(nursery)
        self._say(f"identity  {farmer.node_id.hex()}")
        self._addresses = farmer.addresses
        for address in self._addresses:
            self._say(f"address   {address}/{farmer.node_id.hex()}")
        if not farmer.settings.local:
            self._say(f"open      {self._openly()}")
        if self._announcer is not None:
            nursery.start_soon(self._announcer.run)
        nursery.start_soon(farmer.neighbours.run, farmer.listening[0])
        nursery.start_soon(self._watch)
        nursery.start_soon(self._tell_of_reach)
        nursery.start_soon(self._tell)
        self._notifier.ready(self._line())

    def _openly(self) -> str:
        """To whom it is open, and how it is found, for a person."""
        settings = self._farmer.settings
        ways = ["farmers that it meets"]
        ways += ["the local network"] if settings.announce_lan else []
        ways += ["BitTorrent's DHT"] if self._announcer is not None else []
        return (
            f"TCP port {self._farmer.listening[0].port}, to all who can dial this computer; found through "
            f"{', '.join(ways)}; for this computer only: --listen local"
        )

    async def _listen(self, nursery: trio.Nursery) -> None:
        actions = {"facts": self._facts, "reload": self._reload}
        server = ControlServer(socket_address(self._farmer.folder), actions)
        try:
            await nursery.start(server.run)
        except OSError as error:
            # A disk without sockets (exFAT) farms as well as any; status then comes from the database.
            log.warning("no control socket in %s: %s", self._farmer.folder, error)

    async def _stop(self, signals: AsyncIterator[int]) -> None:
        self._notifier.stopping("stopping: waiting for transfers under way, claiming what was earned")
        self._notifier.patience(DRAIN + LAST_WORDS + DRAIN)
        self._say("stopping: claiming what was earned")

        async def insisted() -> None:
            async for number in signals:
                if number != signal.SIGHUP:
                    ending.cancel_scope.cancel()

        async with trio.open_nursery() as ending:
            ending.start_soon(insisted)
            await self._farmer.drain(DRAIN)
            ending.cancel_scope.cancel()

    # --- settings ---

    def reload(self) -> list[str]:
        """Read farmer.toml and go on with it; lines that say what changed.

        Raises SettingsError or OSError: then nothing has.
        """
        self._notifier.reloading()
        try:
            settings = self._read()
            before = self._farmer.settings
            self._farmer.check(settings)
            changed, waiting = self._farmer.apply(settings)
        except (StorjfsError, OSError) as error:
            self._refused = str(error)
            log.error("%s was refused, and the old settings hold: %s", FILE, error)
            self._notifier.ready(f"{FILE} was refused, the old settings hold: {error}")
            raise
        self._refused = ""
        self._at_next_start = tuple(waiting)
        if self._announcer is not None and "announce" in changed:
            self._announcer.again()
        lines = [_changed(name, before, settings) for name in changed]
        lines += [f"{_changed(name, before, settings)}, from the next start on" for name in waiting]
        lines += self._shrunk()
        for line in lines or ["nothing has changed"]:
            self._say(f"settings  {line}")
        self._notifier.ready(self._line())
        return lines

    def _read(self) -> FarmerSettings:
        try:
            settings = FarmerSettings.read(self._farmer.folder)
        except UnicodeDecodeError as error:
            raise SettingsError(f"{FILE} is not UTF-8 text: {error}") from None
        if settings is None:
            raise SettingsError(f"there is no {FILE} in {self._farmer.folder}", hint="Put it back.")
        return settings

    def _shrunk(self) -> list[str]:
        """What a share means that is less than what is stored or sold."""
        settings, used = self._farmer.settings, self._farmer.used
        share, sold = settings.capacity, self._farmer.book.reserved
        if used > share:
            return [
                f"{wording.size(used - share)} more than that are there: nothing new is taken or offered "
                "until renters delete or contracts end; nothing is dropped"
            ]
        total = settings.in_all
        if sold > total:
            return [
                f"{wording.size(sold - total)} more than that are sold: nothing more is offered, and renters "
                "are refused once the share is full"
            ]
        return []

    # --- what others hear ---

    async def _facts(self, request: Mapping[str, Any], tell: Tell) -> Any:
        found = facts(
            self._farmer,
            since=self._since,
            heartbeat=self._pulse.last,
            clock=self._clock,
            synchronised=is_synchronised(),
            refused_settings=self._refused,
            at_next_start=self._at_next_start,
            dht=self._announcer.facts if self._announcer is not None else None,
        )
        return msgspec.to_builtins(found)

    async def _reload(self, request: Mapping[str, Any], tell: Tell) -> Any:
        return {"changed": self.reload()}

    async def _watch(self) -> None:
        """See whether all works, or is read-only in good order, and only then tell the watchdog."""
        within = self._notifier.watchdog
        interval = within / BEATS if within is not None else PULSE_EVERY
        problem = ""
        while True:
            beat = await self._pulse.beat()
            self._clock.look()
            # Who answers that the disk fails does not hang.
            if beat.works or beat.read_only:
                self._notifier.alive()
            if beat.problem:
                self._notifier.status(f"read-only: {beat.problem}" if beat.read_only else beat.problem)
            elif problem:
                self._notifier.status(self._line())
            problem = beat.problem
            await trio.sleep(interval)

    async def _tell(self) -> None:
        """Say the status line when it has changed, once a minute at most."""
        before = ""
        while True:
            line = self._line()
            if line != before:
                self._say(f"status    {line}")
                self._notifier.status(line)
                before = line
            await trio.sleep(TELL_EVERY)

    async def _tell_of_reach(self) -> None:
        """Say where and how renters reach it, each time that this has changed."""
        reach = self._farmer.reach
        before: tuple[str, ...] = ("",)
        while True:
            changed = reach.changed
            found = reach.facts()
            if found.words != before and (found.trials or found.mapping.state not in ("off", "asking")):
                for line in found.words:
                    self._say(f"reachable {line}")
                before = found.words
            for address in reach.addresses:
                if address not in self._addresses:
                    self._say(f"address   {address}/{self._farmer.node_id.hex()}")
            if self._addresses != reach.addresses:
                self._farmer.neighbours.tell_again()
                if self._announcer is not None:
                    self._announcer.again()
            self._addresses = reach.addresses
            await changed.wait()

    def _line(self) -> str:
        try:
            return brief(self._farmer.book, self._farmer.settings.in_all)
        except apsw.Error as error:
            self._farmer.shelf.failed(error)
            return f"farmer.db cannot be read: {error}"


@cache
def socket_address(folder: Path) -> Path:
    """Where the control socket of the farmer in `folder` is bound or found.

    Folders may be deeper than a socket's address is long; then it goes by a descriptor, which stays open.
    """
    path = folder / SOCKET
    if len(os.fsencode(path)) <= LONGEST_ADDRESS:
        return path
    return Path(f"/proc/self/fd/{os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)}/{SOCKET}")


def ask_facts(folder: Path) -> Live | None:
    """What the running farmer says of itself, None where none listens. Blocking.

    Raises TimeoutError where it does not answer, ReportedError.
    """
    try:
        return msgspec.convert(request(socket_address(folder), "facts", patience=ANSWER_PATIENCE), Live)
    except NotMounted:
        return None


def _written(folder: Path, settings: FarmerSettings) -> bool:
    """Whether these settings stand in the folder, as a person may have written them."""
    with contextlib.suppress(StorjfsError):
        return FarmerSettings.read(folder) == settings
    return False


def _changed(name: str, before: FarmerSettings, after: FarmerSettings) -> str:
    word = "share" if name == "capacity" else name
    old, new = before.shown(name) or "none", after.shown(name) or "none"
    return f"{word}: {old} -> {new}"
