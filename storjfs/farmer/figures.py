"""The figures of a farmer, as `storjfs farm status --json` gives them (docs/reference/farm-status.md).

Sizes in bytes, money in nanocredits, times in seconds since 1970 and lengths of time in seconds.
"""

import msgspec

from storjfs.farmer.live import Live

SCHEMA = 1


class Warn(msgspec.Struct, frozen=True):
    """Something that costs money or contracts if nothing is done."""

    code: str
    """Stable, for programs."""
    level: str
    """`critical`, `warning`, or `notice` for what only wants to be known."""
    message: str
    """What is, and what it means."""
    hint: str
    """What to do."""
    due: float | None = None
    """When the penalty comes, where that is known."""


class Suggestion(msgspec.Struct, frozen=True):
    """What would earn more."""

    code: str
    message: str


class Space(msgspec.Struct, frozen=True):
    """What is shared."""

    share: int
    sold: int
    """Reserved by contracts, whether filled or not."""
    stored: int
    """Bytes of shard files, as they lie on the disk."""
    left: int
    """Of the share, neither sold nor taken nor kept for the farmer itself."""
    keep_free: int
    """Bytes of the disk that are never used."""
    disk_free: int
    disk_size: int
    own: int = 0
    """Bytes of the farmer's other files and of folders: these count against the share, too."""
    own_most: int = 0
    """What of the share is kept for these: they grow with contracts, audits and shards."""

    @property
    def used(self) -> int:
        """Bytes of all that is there."""
        return self.stored + self.own


class DiskFigures(msgspec.Struct, frozen=True):
    """One disk."""

    number: int
    """1: that of the farmer's own folder."""
    folder: str
    share: int
    """0: it is being emptied."""
    used: int
    """Bytes of all that the farmer has there."""
    stored: int
    """Bytes of shard files."""
    shards: int
    free: int
    """Bytes of the disk; 0 where it is not there."""
    size: int
    state: str
    """`working`, `leaving` (being emptied), `failing` (or not there), `not answering`, `lost` (told)."""
    failing_since: int | None = None


class Prices(msgspec.Struct, frozen=True):
    """Per GiB and month, and per GiB sent."""

    storage: int
    egress: int


class Money(msgspec.Struct, frozen=True):
    """Since the first day, but for the last four."""

    earned: int
    """By proofs and egress."""
    promised: int
    """Of that, by vouchers."""
    claimable: int
    """Of that, still to be claimed at the settlement."""
    claimed: int
    today: int
    """Earned today (UTC)."""
    this_month: int
    month_estimate: int
    """What this calendar month will have earned if all goes on as it does."""
    per_day: int
    """The same for a whole day."""


class Day(msgspec.Struct, frozen=True):
    """One UTC day."""

    day: str
    """As in `2026-11-25`."""
    earned: int
    promised: int
    claimed: int
    audits: int
    """Batches answered."""
    late: int
    lost: int
    """Challenged shards that were damaged or not here."""
    received: int
    sent: int
    up: int
    """Seconds that the farmer ran; 0 in the days of one contract."""


class LaneFigures(msgspec.Struct, frozen=True):
    """The lane that a contract is paid through; contracts of one renter may share it."""

    lane: str
    deposit: int
    promised: int
    claimed: int
    claimable: int
    expiry: int
    open: bool


class ContractFigures(msgspec.Struct, frozen=True):
    """One contract that is not over."""

    number: int
    """Its number in farmer.db."""
    contract: str
    renter: str
    state: str
    served: bool
    """Whether shards are proved and paid under it at all."""
    paying: bool
    """False: the renter must pay before it is served again."""
    capacity: int
    used: int
    shards: int
    price: int
    egress_price: int
    ends_at: int
    audit_period: int
    offline_grace: int
    """Without an answer for so long, the renter gives this farmer up."""
    unpaid_audits: int
    breach_at: int | None
    """When the contract is given up unless the renter pays."""
    last_audit: int | None
    audits: int
    late: int
    lost: int
    earned: int
    promised: int
    """By vouchers that name this contract."""
    claimed: int
    """At the settlement, where the lane is this contract's alone; else 0."""
    per_day: int
    """What its shards earn in a day by proofs alone."""
    lane: LaneFigures
    days: tuple[Day, ...]


class Run(msgspec.Struct, frozen=True):
    """One run of the farmer."""

    started: int
    seen: int
    stopped: int | None
    """None: it runs still, or did not stop in good order."""


class ScrubFigures(msgspec.Struct, frozen=True):
    """The farmer's own reading of all it stores."""

    began: int
    """The pass under way, or the last one."""
    ended: int | None
    """None: it is under way."""
    shards: int
    """Read in it."""
    size: int
    """Bytes of these."""
    damaged: int
    """Of these, found to be."""


class Report(msgspec.Struct, frozen=True):
    """All of it."""

    schema: int
    at: float
    health: str
    """`good`, `attention` or `critical`: the worst of the warnings."""
    warnings: tuple[Warn, ...]
    suggestions: tuple[Suggestion, ...]
    node_id: str
    folder: str
    running: bool
    answers: bool
    """Whether the running process answered; `live` is what it said."""
    reachable: str
    """`yes`, `through a relay`, `this machine only`, `unknown` or `no`."""
    listen: str
    limit: str
    schedule: str
    space: Space
    prices: Prices
    money: Money
    contracts: tuple[ContractFigures, ...]
    days: tuple[Day, ...]
    """The last 31, oldest first."""
    runs: tuple[Run, ...]
    """Newest first."""
    live: Live | None
    damaged: int = 0
    """Shards that are known to be damaged and that their renters have not deleted yet."""
    disks: tuple[DiskFigures, ...] = ()
    """The first one first."""
    scrub: ScrubFigures | None = None
    """None: none was ever begun."""
