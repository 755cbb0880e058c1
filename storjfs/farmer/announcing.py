"""Letting strangers find this farmer: it announces itself in the DHT and keeps its record there alive.

Crash points: the record is on disk before a node gets it, and is put there again as it is; so its number
never falls, whatever the clock or a restart does.
"""

import logging
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final, Protocol

import msgspec
import trio

from storjfs.errors import StorjfsError
from storjfs.farmer.listening import FAMILIES, dht_port
from storjfs.farmer.live import MeetingFacts
from storjfs.farmer.settings import FarmerSettings
from storjfs.network.dht import Dht, DhtSettings, FarmerRecord, Item, Outdated, next_number
from storjfs.network.dht.node import BOOTSTRAP, LARGEST_STATE
from storjfs.network.dht.reachable import may_be_dialled
from storjfs.network.dht.records import record_salt
from storjfs.protocol.directory import WAITING
from storjfs.protocol.encoding import decode, encode
from storjfs.protocol.failures import BadSignature, ProtocolViolation
from storjfs.protocol.ids import PublicKeyField, SignatureField, Unsigned
from storjfs.protocol.signing import SigningKey
from storjfs.protocol.terms import Address
from storjfs.store.durable import write_atomically

log = logging.getLogger(__name__)

RECORD: Final = "dht.record"
STATE: Final = "dht.state"
EVERY: Final = 20 * 60.0
"""Seconds between two announcements: nodes forget one after half an hour, and a record after two hours."""
RETRY: Final = 60.0
_LARGEST_RECORD: Final = 4096
_CHANGES: Final = 3
"""How often in a row another number is tried, where others have put a newer one meanwhile."""


def takes_part(settings: FarmerSettings) -> bool:
    """Whether a farmer with these settings has a node of the DHT: if nothing is said, where others can dial
    it and libtorrent is installed."""
    if settings.dht is not None:
        return settings.dht
    return not settings.local and find_spec("libtorrent") is not None


def dht_settings(settings: FarmerSettings) -> DhtSettings:
    """What the farmer's settings say of its node."""
    port = dht_port(settings.listen)
    usual = tuple(Address(host, port) for host in FAMILIES.values())
    return DhtSettings(settings.dht_listen or usual, settings.dht_bootstrap or BOOTSTRAP)


class Heard(Protocol):
    """Told of an address where a farmer may be; `private` where that may be a private one."""

    def __call__(self, address: Address, *, private: bool) -> None: ...


class _Kept(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An item as it lies in dht.record."""

    key: PublicKeyField
    salt: Annotated[bytes, msgspec.Meta(max_length=64)]
    number: Unsigned
    value: bytes
    signature: SignatureField


class Announcer:
    """Announces a farmer until it is cancelled."""

    def __init__(
        self,
        folder: Path,
        key: SigningKey,
        settings: DhtSettings,
        network: str,
        addresses: Callable[[], tuple[Address, ...]],
        *,
        capabilities: tuple[str, ...] = (),
        heard: Heard | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`folder`: where the record and what is known of the DHT are kept. `heard`: told of addresses where
        other farmers of the network may be; None: they are not looked for."""
        self._folder = folder
        self._key = key
        self._settings = settings
        self._network = network
        self._addresses = addresses
        self._capabilities = capabilities
        self._heard = heard
        self._clock = clock
        self._wake = trio.Event()
        self._announced: float | None = None
        self._nodes = 0
        self._problem = "it is looking for nodes of the DHT"
        self.rounds = 0
        """Attempts that have ended, well or not."""
        self._round_over = trio.Event()

    @property
    def facts(self) -> MeetingFacts:
        """Whether it is announced."""
        return MeetingFacts(self._network, self._announced, self._nodes, self._problem)

    def again(self) -> None:
        """Announce now: the addresses may have changed."""
        self._wake.set()

    async def next_round(self) -> None:
        """Wait for the end of the attempt under way, or of the next one."""
        await self._round_over.wait()

    async def run(self) -> None:
        """Announce until cancelled. What goes wrong is logged, in `facts`, and tried again."""
        while True:
            try:
                await self._take_part()
            except Exception as error:  # whatever it is, the farmer has contracts to serve
                cause = _first(error)
                if not isinstance(cause, StorjfsError | OSError):
                    log.exception("announcing in the DHT failed")
                self._failed(_words(cause))
            await trio.sleep(RETRY)

    async def _take_part(self) -> None:
        dht = Dht(self._settings, await trio.to_thread.run_sync(_read, self._folder / STATE, LARGEST_STATE))
        async with trio.open_nursery() as nursery:
            await nursery.start(dht.run)
            if self._heard is not None:
                nursery.start_soon(self._listen, dht, self._heard)
            try:
                while True:
                    worked = await self._announce(dht)
                    await self._save(dht)
                    with trio.move_on_after(EVERY if worked else RETRY):
                        await self._wake.wait()
                    self._wake = trio.Event()
            finally:
                with trio.CancelScope(shield=True):
                    await self._save(dht)

    async def _listen(self, dht: Dht, heard: Heard) -> None:
        """Look for other farmers, as often as they announce themselves; sooner if there are none."""
        pause = RETRY
        while True:
            found = [one async for one in dht.find(self._network, most=WAITING)]
            others = [one for one in found if one not in self._addresses()]
            for address in others:
                heard(address, private=dht.private)
            pause = EVERY if others else min(2 * pause, EVERY)
            await trio.sleep(pause)

    async def _announce(self, dht: Dht) -> bool:
        addresses = tuple(one for one in self._addresses() if may_be_dialled(one, private=dht.private))
        if not addresses:
            self._failed("it has no address that others could dial; say one: --announce HOST:PORT")
            return False
        stored = await self._publish(dht, FarmerRecord(addresses, self._capabilities))
        if addresses[0].relay is not None:
            # Who asks for farmers hears of the address that nodes have seen us at, and nobody answers there.
            self._nodes = stored
            self._failed("only a relay leads to it, and strangers find whom they can dial")
            return stored > 0
        noted = await dht.announce(self._network, addresses[0].port)
        if not stored or not noted:
            self._nodes = stored
            self._failed("no node of the DHT answers; is UDP let through?")
            return False
        self._announced, self._nodes, self._problem = self._clock(), stored, ""
        self._over()
        return True

    async def _publish(self, dht: Dht, record: FarmerRecord) -> int:
        """Put the record there; how many nodes took it."""
        value = record.to_value()
        item = await trio.to_thread.run_sync(self._kept)
        if item is None or item.value != value:
            item = await self._make(value, item)
        for _ in range(_CHANGES):
            try:
                return await dht.put(item)
            except Outdated as error:  # of this very key: the folder was restored from a backup
                item = await self._make(value, error.newest)
        return 0

    async def _make(self, value: bytes, before: Item | None) -> Item:
        """A new record, above all that is known, on disk when this returns."""
        kept_before = await trio.to_thread.run_sync(self._kept)
        known = [one.number for one in (before, kept_before) if one is not None]
        number = next_number(*known, now=self._clock())
        item = Item.make(self._key, record_salt(self._network), number, value)
        kept = encode(_Kept(item.key, item.salt, item.number, item.value, item.signature))
        await trio.to_thread.run_sync(write_atomically, self._folder / RECORD, kept)
        return item

    def _kept(self) -> Item | None:
        """The last record, where it is of this farmer and network."""
        data = _read(self._folder / RECORD, _LARGEST_RECORD)
        if not data:
            return None
        try:
            kept = decode(data, _Kept)
            item = Item(kept.key, kept.salt, kept.number, kept.value, kept.signature).checked()
        except (ProtocolViolation, BadSignature) as error:
            log.warning("%s is damaged; a new record is made: %s", self._folder / RECORD, error)
            return None
        ours = item.key == self._key.public and item.salt == record_salt(self._network)
        return item if ours else None

    async def _save(self, dht: Dht) -> None:
        """Keep what is known of the DHT. That it cannot be kept makes the next start slower, nothing more."""
        try:
            if state := await dht.state():
                await trio.to_thread.run_sync(write_atomically, self._folder / STATE, state)
        except OSError as error:
            log.info("what is known of the DHT could not be kept: %s", error)

    def _failed(self, problem: str) -> None:
        if problem != self._problem:
            log.warning("strangers do not find this farmer: %s", problem)
        self._problem = problem
        self._over()

    def _over(self) -> None:
        self.rounds += 1
        self._round_over.set()
        self._round_over = trio.Event()


def _read(path: Path, largest: int) -> bytes:
    """The content of a file; empty where there is none, it is larger, or cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(largest + 1)
    except OSError:
        return b""
    return data if len(data) <= largest else b""


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _words(error: Exception) -> str:
    hint = error.hint if isinstance(error, StorjfsError) else ""
    return f"{error}. {hint}" if hint else str(error)
