"""What to ask where the owner names no price. Reasons: docs/reference/prices.md."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Prices:
    """Nanocredits: per GiB and month of 30 days, and per GiB sent."""

    storage: int
    egress: int
    meant_for: str


TABLE: Final = {
    "home": Prices(5_000_000, 10_000_000, "a disk that runs anyway, on a line without a data cap"),
    "spare": Prices(2_500_000, 10_000_000, "space that nobody needs; what it earns is a present"),
    "disk": Prices(4_000_000, 8_000_000, "a large disk bought to be shared, on a machine that runs anyway"),
    "flash": Prices(9_000_000, 10_000_000, "an SSD: quick to read, several times the cost of a disk"),
    "metered": Prices(5_000_000, 40_000_000, "a line with a data cap or a slow way up"),
}
DEFAULT: Final = TABLE["home"]
