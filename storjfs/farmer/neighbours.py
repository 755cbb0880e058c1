"""Other farmers that this one knows, so that it can tell renters of them; and how those nearby hear of it."""

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from storjfs.errors import StorjfsError
from storjfs.farmer.settings import FarmerSettings
from storjfs.network.guests import Allowances
from storjfs.network.identity import Identity
from storjfs.network.lan import EVERYWHERE, Lan, announced, is_at_home, moved
from storjfs.network.meeting import Meeting
from storjfs.network.sources import Found, Given, Source
from storjfs.protocol.directory import Directory, hint_of, peer_source
from storjfs.protocol.failures import ProtocolViolation
from storjfs.protocol.hosts import is_here, is_private
from storjfs.protocol.ids import NodeId
from storjfs.protocol.messages import FarmerList, GetFarmers, Role
from storjfs.protocol.signing import Signed
from storjfs.protocol.terms import Address, open_offer
from storjfs.store.durable import write_atomically

log = logging.getLogger(__name__)

FILE: Final = "known-farmers"
KEEP_EVERY: Final = 60.0
INTRODUCTIONS: Final = 1 / 30
"""Per second from one address of the internet: each has us dial up to four addresses, of whomever ..."""
AT_ONCE: Final = 4.0
"""... and after a pause at once."""
TOLD: Final = 8
"""Farmers that are told of a new address of this one at once; they tell others."""
EAGER: Final = 300.0
"""Seconds between two visits of a farmer ..."""
FEW: Final = 8
"""... while fewer than so many answer."""
ANNOUNCE_AGAIN: Final = 300.0
"""Seconds until it is tried again to announce the farmer in a network that does not let us."""


class Neighbours:
    """A farmer's directory. Empty and silent unless `run` runs.

    `offer()` is the farmer's own, signed; `settings()` those that hold now.
    """

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        settings: Callable[[], FarmerSettings],
        offer: Callable[[], Signed],
        clock: Callable[[], float],
        news: Callable[[], None] = lambda: None,
    ) -> None:
        """`news()` is called when another farmer has answered."""
        self.directory = Directory(identity.node_id)
        self.announced = False
        """Whether the local network hears of this farmer."""
        self._path = folder / FILE
        self._identity, self._settings, self._offer, self._clock = identity, settings, offer, clock
        self._news = news
        self._rng = random.SystemRandom()
        self._meeting: Meeting | None = None
        self._introductions = Allowances(INTRODUCTIONS, AT_ONCE)

    async def answer(
        self, peer: NodeId, request: GetFarmers, where: str = "", *, near: bool = True
    ) -> FarmerList:
        """Those that answered us in the last day. Who says of itself where it is gets a visit, now and then.

        `where`: what counts as the address that it asks from (`network.origin`); empty: behind a relay.
        `near`: that is one of a private network. Who asks from elsewhere hears of none in there, and has none
        visited.
        """
        inside = near and self._inside()
        if request.own is not None and self._meeting is not None:
            self._introduced(self._meeting, request.own, inside, where)
        now = self._clock()
        return FarmerList(
            self.directory.tell(now, request.limit, self._rng, private=inside, besides=_who(request.own))
        )

    def _inside(self) -> bool:
        """Whether we are reached in private networks only: then those who ask us from one are in ours."""
        addresses = open_offer(self._offer()).addresses
        return bool(addresses) and all(is_private(one.host) for one in addresses)

    def _introduced(self, meeting: Meeting, own: Signed, inside: bool, where: str) -> None:
        try:
            offer = open_offer(own)
        except ProtocolViolation:
            return
        here = bool(where) and is_here(where.partition("/")[0])
        usable = [
            one
            for one in offer.addresses
            if not is_private(one.host) or (inside and (here or not is_here(one.host)))
        ]
        if usable and (inside or self._introductions.try_spend(where)):
            # By where it claims to be: nobody fills the share of a network that he does not answer in.
            source = peer_source(usable[0].host)
            meeting.hint(hint_of(source, usable, offer.farmer, private=inside))

    async def run(self, listening: Address) -> None:
        """Know others and be known, until cancelled. What goes wrong is logged: nothing depends on it."""
        await self._load()
        sources: dict[str, Source] = {"settings": Given(self._given)}
        nearby = self._settings().announce_lan and is_at_home(listening.host)
        if nearby:
            sources["lan"] = Lan(None if listening.host in EVERYWHERE else (listening.host,))
        self._meeting = Meeting(
            self.directory,
            sources,
            now=self._clock,
            rng=self._rng,
            identity=lambda: self._identity,
            peers=True,
            own=self._offer,
            role=Role.FARMER,
            news=self._news,
            every=self._patience,
        )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._meeting.run)
                nursery.start_soon(self._keep)
                if nearby:
                    nursery.start_soon(self._announce, listening)
        finally:
            self._meeting = None

    def heard(self, address: Address, *, private: bool) -> None:
        """Strangers name this address in the DHT; `private` where that is a private one."""
        if self._meeting is not None:
            self._meeting.hint(hint_of("dht", (address,), None, private=private))

    def tell_again(self) -> None:
        """This farmer is reached elsewhere now: some of those it knows hear of that soon."""
        if self._meeting is not None:
            self._meeting.visit_again(TOLD)

    def _patience(self) -> float | None:
        """Seconds between two visits of one farmer; None for the usual ones."""
        return EAGER if sum(one.answers for one in self.directory) < FEW else None

    def _given(self) -> list[Found]:
        return [
            Found((one.address,), NodeId(one.node_id) if one.node_id is not None else None)
            for one in self._settings().peers
        ]

    async def _announce(self, listening: Address) -> None:
        said = False
        while True:
            try:
                async with announced(self._identity.node_id, listening.host, listening.port):
                    self.announced = True
                    await moved()
                continue
            except (StorjfsError, OSError) as error:
                log.log(logging.DEBUG if said else logging.WARNING, "%s", error)
                said = True
            finally:
                self.announced = False
            await trio.sleep(ANNOUNCE_AGAIN)

    # --- its file ---

    async def _load(self) -> None:
        def read() -> Directory:
            return Directory.from_bytes(self._path.read_bytes(), self._clock(), self._identity.node_id)

        try:
            self.directory = await trio.to_thread.run_sync(read)
        except FileNotFoundError:
            pass
        except (ProtocolViolation, OSError) as error:
            log.warning("%s is not used: %s", self._path, error)

    async def _keep(self) -> None:
        kept = self.directory.changes
        while True:
            await trio.sleep(KEEP_EVERY)
            if self.directory.changes == kept:
                continue
            kept = self.directory.changes
            data = self.directory.to_bytes()
            try:
                await trio.to_thread.run_sync(write_atomically, self._path, data)
            except OSError as error:
                log.info("what is known of other farmers is not kept: %s", error)


def _who(own: Signed | None) -> tuple[NodeId, ...]:
    """Whoever asks need not be told of itself."""
    try:
        return () if own is None else (open_offer(own).farmer,)
    except ProtocolViolation as error:
        log.debug("a farmer says of itself what it has not signed: %s", error)
        return ()
