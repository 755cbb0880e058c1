"""Closed segments to farmers: encode, seal, put in parallel, note the receipts.

What a crash leaves: shard ids are committed before anything is sent, so a shard that a farmer may hold
without our knowing has a row; at start-up such rows become deletions, and only indices without a receipt
are sent again.
"""

import logging
import math
from collections import deque
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Final

import trio

from storjfs.coding.geometry import sealed_length, shard_length
from storjfs.errors import StorjfsError
from storjfs.keys import VolumeKeys
from storjfs.renter.speed import Way
from storjfs.segments.cache import Cache
from storjfs.segments.catalogue import Catalogue
from storjfs.segments.encoder import Buffers
from storjfs.segments.files import LocalFile, unproven_bytes
from storjfs.segments.placing import Attempt, holders
from storjfs.segments.records import Segment
from storjfs.segments.values import Placement, State
from storjfs.store import MetaStore, StoreError

_LOG = logging.getLogger(__name__)

SEGMENTS_AT_ONCE: Final = 2
PUTS_AT_ONCE: Final = 6
GENTLE_PUTS: Final = 1
BYTES_AT_ONCE: Final = 40 << 20
"""Sealed bytes on their way; one shard may always go."""
FOREGROUND: Final = 0.2
"""Seconds between looks at what programs write."""
MUCH: Final = 256 << 10
"""Bytes appended between two looks for which uploads hold back."""
PATIENCE: Final = 10.0
"""Seconds of much writing after which uploads go on beside it."""
FIRST_RETRY: Final = 1.0
LAST_RETRY: Final = 60.0
URGENT_RETRY: Final = 5.0
"""The longest pause while somebody waits."""
LONGEST_PUT: Final = 240.0
"""Seconds after which a shard on its way is no sign of life any more: the renter gives it up before."""
RUNS_AT_ONCE: Final = 256
FEW_PUTS: Final = 4
"""Puts from which on it is known what they usually take."""
TRAILING: Final = 32 << 20
"""Sealed bytes of stored segments that are still on their way to stragglers while the next ones are sent."""


class Pace:
    """How many puts may be under way: none while programs write much, unless that lasts, and all when they
    pause or wait for us.

    Uploading takes more of the processors than writing does, so that both at once would halve the speed that
    programs see. `appended()` counts bytes appended; `urgent()` tells that somebody waits, or that too much
    is unsent.
    """

    def __init__(self, appended: Callable[[], int], urgent: Callable[[], bool]) -> None:
        self._appended = appended
        self._urgent = urgent
        self._seen = 0
        self._looked = -math.inf
        self._busy_since: float | None = None
        self._unknown = True

    def retry(self, delay: float) -> float:
        """How long to wait before something is tried again that would have waited for `delay` seconds."""
        return min(delay, URGENT_RETRY) if self._urgent() else delay

    def puts(self) -> int:
        now = trio.current_time()
        since = now - self._looked
        if since >= FOREGROUND:
            appended = self._appended()
            busy = appended - self._seen >= MUCH
            self._seen, self._looked = appended, now
            # Nobody asked for a while, so how much of it is of late will show at the next look.
            self._unknown = since >= 2 * FOREGROUND
            if self._unknown or not busy:
                self._busy_since = None
            elif self._busy_since is None:
                self._busy_since = now
        if self._urgent():
            return PUTS_AT_ONCE
        if self._unknown:
            return 0
        if self._busy_since is None:
            return PUTS_AT_ONCE
        return GENTLE_PUTS if now - self._busy_since >= PATIENCE else 0


class Uploader:
    """Works off closed segments in their order. Methods belong to the loop's thread.

    The next segment begins when the last is stored; what is then still on its way to stragglers trails
    (`placing.Attempt`). `sent` is called when a segment is stored and its file may become cache (not yet
    committed). `damaged` is called with what is wrong with a file that is sent all the same. `late` is called
    when a farmer takes so long that `worth_waiting` may have changed.
    """

    def __init__(
        self,
        store: MetaStore,
        catalogue: Catalogue,
        cache: Cache,
        placement: Placement,
        keys: VolumeKeys,
        threads: trio.CapacityLimiter,
        pace: Pace,
        *,
        sent: Callable[[Segment], None],
        failed: Callable[[Segment, str], None],
        damaged: Callable[[Segment, str], None],
        late: Callable[[], None] = lambda: None,
        crash_point: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.store = store
        self.catalogue = catalogue
        self._cache = cache
        self.placement = placement
        self.shard_key = keys.shard_key
        self.threads = threads
        self._pace = pace
        self._sent = sent
        self._failed = failed
        self._damaged = damaged
        self.late = late
        self.crash_point = crash_point
        self.buffers = Buffers()
        self.reloading = trio.Lock()
        """Held while a segment that was let go of is in memory once more."""
        self._offered, self._next = trio.open_memory_channel[Segment](math.inf)
        self._flying_bytes = 0
        self._flying = 0
        self.trailing: dict[int, int] = {}
        """Stored segments with shards still on their way, and how many bytes."""
        self._attempts: dict[int, Attempt] = {}
        """Under way, by segment."""
        self._took: deque[float] = deque(maxlen=32)
        self._landed = trio.Event()
        self.busy = 0
        self.sent_bytes = 0
        """Sealed bytes that farmers confirmed since the start."""
        self.progressed = -math.inf
        """When a farmer last took a shard."""
        self._failing_since: float | None = None
        """Since when attempts end without that."""
        self._next_attempt = -math.inf
        self._delay = FIRST_RETRY
        self._retry_now = trio.Event()
        self._delays: dict[int, float] = {}
        self._nursery: trio.Nursery | None = None

    def offer(self, segment: Segment) -> None:
        """Upload `segment`, which is closed, when its turn comes."""
        self._offered.send_nowait(segment)

    def stalled(self) -> float:
        """Seconds for which nothing has got through although it was tried; 0 while something is on its way.

        An attempt that hangs counts as under way for LONGEST_PUT seconds at most.
        """
        if self._failing_since is None:
            return 0.0
        now = trio.current_time()
        if self._flying and now - max(self.progressed, self._failing_since) < LONGEST_PUT:
            return 0.0
        return now - self._failing_since

    def worth_waiting(self, segment: Segment) -> bool:
        """Whether more shards of it than were promised will soon be placed; see Attempt.worth_waiting."""
        attempt = self._attempts.get(segment.seg)
        return attempt is not None and attempt.worth_waiting

    @property
    def waits_for_farmers(self) -> bool:
        """Whether there is data that could not be placed when it was tried last."""
        return bool(self._delays)

    def hurry(self) -> None:
        """Try again now what could not be placed: something has changed, or somebody waits."""
        self._next_attempt = -math.inf
        self._delay = FIRST_RETRY
        self._retry_now.set()
        self._retry_now = trio.Event()
        self._landed.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Upload until cancelled. What was under way then goes on at the next start."""
        async with trio.open_nursery() as self._nursery:
            for _ in range(SEGMENTS_AT_ONCE):
                self._nursery.start_soon(self._work)
            task_status.started()

    async def _work(self) -> None:
        assert self._nursery is not None
        while True:
            segment = await self._next.receive()
            await self._hold_back()
            enough = trio.Event()
            self._nursery.start_soon(self._carry, segment, enough)
            await enough.wait()

    async def _carry(self, segment: Segment, enough: trio.Event) -> None:
        """All of one segment; sets `enough` when the next one may begin."""
        self.busy += 1
        try:
            with self.buffers.at_work():
                await self._pause()
                await self._upload(segment, enough)
        except StoreError as error:
            self._failed(segment, str(error))
            assert self._nursery is not None
            self._nursery.start_soon(self._later, segment, False)
        finally:
            self.busy -= 1
            enough.set()

    async def _hold_back(self) -> None:
        """While nothing gets through, one segment at a time is tried, after ever longer pauses: each attempt
        costs the processor as much as one that succeeds.
        """
        while self._failing_since is not None:
            if trio.current_time() >= self._next_attempt:
                self._next_attempt = trio.current_time() + self._pace.retry(self._delay)
                self._delay = min(2 * self._delay, LAST_RETRY)
                return
            changed = self._retry_now
            with trio.move_on_at(self._next_attempt):
                await changed.wait()

    async def _upload(self, segment: Segment, enough: trio.Event) -> None:
        if segment.state is State.CLOSED:
            before = len(self.catalogue.held(segment))
            changed = self._retry_now
            with self.catalogue.pinned(segment):
                segment.busy = True
                try:
                    await self._round(segment, enough)
                except (StorjfsError, OSError, EOFError) as error:
                    _LOG.warning("segment %d is not stored yet: %s", segment.seg, error)
                    self._failed(segment, str(error))
                finally:
                    segment.busy = False
            if segment.state is State.CLOSED:
                progressed = len(self.catalogue.held(segment)) > before
                if not progressed and self._failing_since is None:
                    self._failing_since = trio.current_time()
                assert self._nursery is not None
                # What changed meanwhile came too late for this attempt, and nobody waited for it.
                self._nursery.start_soon(self._later, segment, progressed or changed.is_set())
                return
        self._delays.pop(segment.seg, None)
        if not self._delays:
            self._failing_since = None
        if segment.state is State.STORED:
            self._sent(segment)

    async def _later(self, segment: Segment, soon: bool) -> None:
        """Offer the segment again after a while, longer each time, or as soon as `hurry` is called."""
        delay = FIRST_RETRY if soon else self._delays.get(segment.seg, FIRST_RETRY)
        self._delays[segment.seg] = min(2 * delay, LAST_RETRY)
        changed = self._retry_now
        with trio.move_on_after(self._pace.retry(delay)):
            await changed.wait()
        self.offer(segment)

    async def _round(self, segment: Segment, enough: trio.Event) -> None:
        """One attempt at all that is missing of one segment."""
        catalogue = self.catalogue
        if segment.k == 0 or not catalogue.shards(segment):
            # Nothing was sent yet, so the code may still follow the farmers at hand.
            catalogue.set_code(segment, *self.placement.code())
        held = catalogue.held(segment)
        if len(held) >= segment.needed:
            # A farmer that had been given up is back with its shard: nobody else has to take one for that.
            catalogue.stored(segment)
            catalogue.note_missing(segment)
            return
        missing = [idx for idx in range(segment.n) if idx not in held]
        size = sealed_length(shard_length(segment.size, segment.k))
        file = self._cache.find(segment)
        if file is not None and file.written < segment.size:
            await self.store.sync()  # the sealer has not written all of it yet
        if file is None or not self._cache.opened(file):
            raise EOFError("its local file is missing")
        if file.unproven:
            await self._prove(segment, file)
        contracts = self._chosen(segment, len(held), len(missing), size)
        if len(held) + len(contracts) < segment.needed:
            there = len(held) + len(contracts)
            self._failed(segment, f"{segment.needed} farmers with room are needed, {there} are there")
            if not contracts:
                return
        rows = [
            catalogue.add_shard(segment, idx, contract, size)
            for idx, contract in zip(missing, contracts, strict=False)
        ]
        attempt = self._attempts[segment.seg] = Attempt(self, segment, file, rows, enough)
        try:
            await attempt.run(parity=any(idx >= segment.k for idx in missing))
        finally:
            self.trailing.pop(segment.seg, None)
            del self._attempts[segment.seg]
            attempt.clean_up()
            if segment.state is State.STORED:
                # Also where this is cut off while the last shards are on their way.
                catalogue.note_missing(segment)

    def _chosen(self, segment: Segment, held: int, missing: int, size: int) -> list[int]:
        """Who gets the missing shards. Of those that lag only as many as it takes to be stored: what the
        others of them would get is placed later, beside everything else, by the repair."""
        placement = self.placement
        chosen = placement.choose(missing, size, holders(self.catalogue, segment))
        lagging = {contract for contract in chosen if placement.lagging(contract, Way.PUT)}
        chosen.sort(key=lambda contract: contract in lagging)
        return chosen[: max(len(chosen) - len(lagging), segment.needed - held)]

    def took(self, seconds: float) -> None:
        """A put was complete after so long."""
        self._took.append(seconds)

    def usual(self) -> float | None:
        """Seconds that puts take of late; None where that is not known."""
        return median(self._took) if len(self._took) >= FEW_PUTS else None

    def may_trail(self, segment: Segment, size: int) -> bool:
        """Whether the next segment may begin beside `size` bytes of this one that are still on their way."""
        self.trailing[segment.seg] = size
        return size == 0 or sum(self.trailing.values()) <= TRAILING or len(self.trailing) == 1

    def got_through(self) -> None:
        """A farmer took a shard."""
        self.progressed = trio.current_time()
        if self._failing_since is not None:
            self._failing_since = None
            self.hurry()

    async def _pause(self) -> None:
        """Wait while programs go first."""
        while not self._pace.puts():
            await self._wait()

    async def _wait(self) -> None:
        if self._landed.is_set():
            self._landed = trio.Event()
        with trio.move_on_after(FOREGROUND):
            await self._landed.wait()

    async def _prove(self, segment: Segment, file: LocalFile) -> None:
        """Open every frame of a file that an earlier run left, and say so where some are damaged.

        They are sent like the others, which keep their places then: a read of them fails, as it should.
        """
        bad, after = 0, -1
        file.users += 1
        try:
            while runs := self.catalogue.runs_of(segment.seg, after, RUNS_AT_ONCE):
                places = [(pos, length) for pos, length, _, _ in runs]
                prove = partial(unproven_bytes, file, segment.cipher, places)
                bad += await trio.to_thread.run_sync(prove, limiter=self.threads)
                after = runs[-1][0]
        finally:
            file.users -= 1
        file.unproven = False
        if bad:
            self._damaged(
                segment, f"{bad} bytes of its local file were changed while the drive was not mounted"
            )

    async def turn(self, size: int) -> None:
        """Wait until one more put may start, and count it."""
        while self._flying >= self._pace.puts() or (
            self._flying and self._flying_bytes + size > BYTES_AT_ONCE
        ):
            await self._wait()
        self._flying += 1
        self._flying_bytes += size

    def puts_of_a_repair(self) -> int:
        """How many puts of a repair may be under way now: one beside uploads, else as many as they have."""
        return GENTLE_PUTS if self._flying else PUTS_AT_ONCE

    def returned(self, size: int) -> None:
        """The put that was counted is over, or trails."""
        self._flying -= 1
        self._flying_bytes -= size
        self._landed.set()
