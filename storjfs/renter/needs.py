"""Which farmers are used of those that were found, what that costs, and how safe it is. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from storjfs.coding.geometry import FULL_FRAME, SEALED_PIECE
from storjfs.protocol.ids import NodeId
from storjfs.protocol.terms import GIB, MONTH, Offer
from storjfs.renter.durability import YEAR, lost_in_a_year
from storjfs.renter.placement import code_for, stripes
from storjfs.volume import Needs, Spread

AIM: Final = 12
"""Farmers wanted where the code follows their number: as many as 3/10 takes and two to repair onto."""
SPARE: Final = 2
MOST: Final = 64
"""Farmers used at most, however much room is wanted."""
FEWEST: Final = 5
"""Farmers of the smallest code that bears the loss of two."""
ROOM_TO_REPAIR: Final = 1.15
"""Of the space that is needed, so that repair and what is not collected yet have room."""
SMALLEST: Final = 64 << 20
"""Bytes that a farmer must have for sale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a farmer must fit: prices in nanocredits, times in seconds."""

    needs: Needs
    price_max: int
    egress_price_max: int
    settlement: str | None
    """None: any."""
    code: tuple[int, int] | None
    audit_period: int
    now: float

    @property
    def aim(self) -> int:
        """How many farmers are wanted, as far as room is not the reason for more."""
        return AIM if self.code is None else self.code[1] + SPARE

    @property
    def fewest(self) -> int:
        """With how many one can begin."""
        return FEWEST if self.code is None else self.code[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bidder:
    """A farmer as the choice sees it."""

    node_id: NodeId
    offer: Offer | None
    """None: not known, of one that is used already."""
    used: bool = False
    """There is a contract, or a person named it: it stays."""
    preferred: bool = False
    blocked: bool = False
    answers: bool = True
    latency: float = 0.0

    @property
    def group(self) -> str | bytes:
        return (self.offer.group if self.offer is not None else "") or self.node_id


@dataclass(frozen=True, slots=True)
class Choice:
    """Who is used, best first, and why each of the others is not."""

    chosen: tuple[NodeId, ...]
    refused: Mapping[NodeId, str]


def choose(bidders: Iterable[Bidder], wanted: Wanted) -> Choice:
    """Those in use stay unless blocked; of the others as many as are wanted: the preferred ones first, then
    the cheapest, then the nearest. With `Spread.OPERATORS` one of each group."""
    refused: dict[NodeId, str] = {}
    chosen: list[Bidder] = []
    fit: list[Bidder] = []
    for one in bidders:
        if one.blocked:
            refused[one.node_id] = "you blocked it"
        elif one.used:
            chosen.append(one)
        elif reason := objection(one, wanted):
            refused[one.node_id] = reason
        else:
            fit.append(one)
    groups = {one.group for one in chosen}
    fit.sort(key=_rank)
    enough = False
    for one in fit:
        enough = enough or (len(chosen) >= wanted.aim and (len(chosen) >= MOST or _roomy(chosen, wanted)))
        if wanted.needs.spread is Spread.OPERATORS and one.group in groups:
            refused[one.node_id] = "another farmer of its operator is used"
        elif enough:
            refused[one.node_id] = "not needed: enough others are used"
        else:
            chosen.append(one)
            groups.add(one.group)
    return Choice(tuple(one.node_id for one in chosen), refused)


def _rank(one: Bidder) -> tuple[bool, int, float, bytes]:
    assert one.offer is not None
    return not one.preferred, one.offer.price, one.latency, one.node_id


def objection(one: Bidder, wanted: Wanted) -> str:
    """Why a farmer does not fit, empty where it does."""
    offer = one.offer
    if offer is None:
        return "its offer is not known"
    checks: tuple[tuple[bool, str], ...] = (
        (wanted.settlement is None or offer.settlement == wanted.settlement, "it settles in another ledger"),
        (offer.price <= wanted.price_max, "it is dearer than price_max"),
        (offer.egress_price <= wanted.egress_price_max, "its egress is dearer than egress_price_max"),
        (wanted.needs.fits(offer.region), f"it stands in {offer.region or 'a region that it does not say'}"),
        (offer.period_min <= wanted.audit_period, "it does not answer audits that often"),
        (offer.capacity >= SMALLEST, "it has no space left to sell"),
        (one.answers, "it does not answer"),
        (offer.expires > wanted.now, "its offer has ended"),
    )
    return next((reason for holds, reason in checks if not holds), "")


def _roomy(chosen: Sequence[Bidder], wanted: Wanted) -> bool:
    """Whether there is room for what is wanted; no more farmers are taken for it than that takes."""
    if wanted.needs.size is None:
        return True
    k, n = wanted.code or code_for(len(chosen))
    free = [one.offer.capacity for one in chosen if one.offer is not None]
    return room(free, k, n) >= wanted.needs.size


def room(capacities: Iterable[int], k: int, n: int) -> int:
    """Bytes of files for which farmers with so many sealed bytes each have room."""
    return k * stripes(capacities, n) * FULL_FRAME // SEALED_PIECE


def sealed(size: int, k: int, n: int) -> int:
    """Bytes of all shards of so many bytes of files, less rounding."""
    return -(-size * SEALED_PIECE * n // (FULL_FRAME * k))


@dataclass(frozen=True, slots=True)
class Plan:
    """What a volume on these farmers is. Sizes in bytes, money in nanocredits."""

    k: int
    n: int
    farmers: int
    capacity: int
    """To contract with each, sealed bytes."""
    size: int
    """Of files, for which the costs are."""
    month: int
    """What keeping that many costs in 30 days, without reading it back."""
    year: int
    read_back: int
    """What reading all of it once costs."""
    loss: float
    """The probability that a year loses data, where farmers fail independently."""


def plan(offers: Sequence[Offer], wanted: Wanted, default_capacity: int) -> Plan:
    """The plan for the `offers` of those chosen. Without a size: for what is contracted with them."""
    count = len(offers)
    k, n = wanted.code or code_for(count)
    size = wanted.needs.size
    if size is None:
        capacity = default_capacity
        size = room([min(one.capacity, capacity) for one in offers], k, n)
    else:
        each = int(sealed(size, k, n) / max(count, 1) * ROOM_TO_REPAIR)
        capacity = max(-(-each // GIB) * GIB, GIB)
    stored = sealed(size, k, n)
    price = sum(one.price for one in offers) / max(count, 1)
    egress = sum(one.egress_price for one in offers) / max(count, 1)
    month = int(stored * price / GIB)
    return Plan(
        k=k,
        n=n,
        farmers=count,
        capacity=capacity,
        size=size,
        month=month,
        year=int(month * YEAR / MONTH),
        read_back=int(stored * k / n * egress / GIB),
        loss=lost_in_a_year(k, n, count),
    )


def missing(choice: Choice, offers: Collection[Offer], wanted: Wanted) -> str:
    """What keeps one from beginning with the farmers chosen; empty where nothing does."""
    count = len(choice.chosen)
    if count < wanted.fewest:
        k, n = wanted.code or code_for(wanted.fewest)
        return f"{count} farmers that fit were found, and {wanted.fewest} are needed for a {k}/{n} code"
    if wanted.needs.size is not None:
        k, n = wanted.code or code_for(count)
        there = room([one.capacity for one in offers], k, n)
        if there < wanted.needs.size:
            share = there / wanted.needs.size
            return f"the {count} farmers that fit have room for {share:.0%} of what is wanted"
    return ""
