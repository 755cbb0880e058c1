"""What a person may choose about farmers, contracts, audits and money; everything has a default."""

from dataclasses import dataclass, field
from typing import Self

from storjfs.protocol.terms import CREDIT, Address
from storjfs.volume import EmbeddedFarm, Needs, VolumeSettings

GIB = 1 << 30
DAY = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFarmer:
    """Where a farmer may be found. Without a `node_id` whoever answers there is taken."""

    addresses: tuple[Address, ...]
    node_id: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RenterSettings:
    """Sizes in bytes of sealed shards, times in seconds, money in nanocredits."""

    code: tuple[int, int] | None = None
    """(k, n), or None: by the number of usable farmers (placement.code_for)."""
    farmers_planned: int = 0
    """How many farmers there are going to be, as far as that is known before their contracts are made."""
    capacity: int = 64 * GIB
    """To contract with each farmer at first."""
    capacity_max: int = 4096 * GIB
    """How far a contract may grow by itself when it is over 80 % full."""
    audit_period: int = 86400
    term: int = 90 * 86400
    price_max: int = CREDIT // 100
    """Per GiB and month."""
    egress_price_max: int = CREDIT // 20
    """Per GiB fetched."""
    budget: int | None = None
    """The sum of all deposits at most; None: as far as the balance reaches."""
    samples: int = 4
    answer_deadline: int = 120
    """How long an audit waits for its answer; cut to the audit period."""
    payment_grace: int = 7 * 86400
    end_grace: int = 7 * 86400
    offline_grace: float = 4 * DAY
    """A farmer that is silent for longer is given up: all its shards count as lost."""
    needs: Needs = field(default_factory=Needs)
    """What is wanted of farmers that are looked for."""
    read_back_share: float = 0.01
    """The share of all shards that is read back whole each week."""

    @classmethod
    def of_volume(cls, settings: VolumeSettings) -> Self:
        """The part of a volume's settings that concerns this room."""
        return cls(
            code=settings.code,
            farmers_planned=settings.farmers.count if isinstance(settings.farmers, EmbeddedFarm) else 0,
            capacity=settings.capacity,
            audit_period=int(settings.audit_period),
            term=int(settings.term),
            price_max=settings.price_max,
            egress_price_max=settings.egress_price_max,
            needs=settings.needs,
        )

    @property
    def deadline(self) -> int:
        """Seconds an audit answer may take: never so long that a period passes meanwhile."""
        return max(1, min(self.answer_deadline, self.audit_period))


def known_farmers(settings: VolumeSettings) -> list[KnownFarmer]:
    """The farmers that a volume's settings name by address; embedded ones are told at each start instead."""
    if not isinstance(settings.farmers, tuple):
        return []
    found: list[KnownFarmer] = []
    by_id: dict[bytes, tuple[Address, ...]] = {}
    for one in settings.farmers:
        if one.node_id is None:
            found.append(KnownFarmer(addresses=(one.address,)))
        else:
            # One that is named twice has two addresses: two relays, say.
            by_id[one.node_id] = (*by_id.get(one.node_id, ()), one.address)
    return found + [KnownFarmer(addresses=where, node_id=node_id) for node_id, where in by_id.items()]
