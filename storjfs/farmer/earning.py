"""What would earn a farmer more, from its figures. Pure; built as `advice` is."""

from collections.abc import Callable, Iterator
from typing import Final

from storjfs.farmer.advice import DAY, time_away
from storjfs.farmer.figures import Report, Suggestion
from storjfs.farmer.prices import DEFAULT
from storjfs.volume.wording import count, duration, money, size


def suggestions(report: Report) -> tuple[Suggestion, ...]:
    """What would earn more, most certain first."""
    return tuple(found for rule in IDEAS for found in rule(report))


def _sold_out(report: Report) -> Iterator[Suggestion]:
    space = report.space
    spare = space.disk_free - space.keep_free - max(space.share - space.stored, 0)
    if space.left < space.share // 20 and spare > space.share // 10 and space.stored <= space.share:
        yield Suggestion(
            "share_more",
            f"nearly all is sold, and the disk has {size(spare)} more: raise the share "
            f"(capacity in farmer.toml, then storjfs farm reload)",
        )


def _unsold(report: Report) -> Iterator[Suggestion]:
    if report.contracts or not report.running:
        return
    if report.prices.storage > DEFAULT.storage or report.prices.egress > DEFAULT.egress:
        yield Suggestion(
            "price",
            f"nobody has a contract, and the prices are above the usual {money(DEFAULT.storage)} per GiB "
            f"and month and {money(DEFAULT.egress)} per GiB sent: ask less",
        )


def _steady(report: Report) -> Iterator[Suggestion]:
    away = time_away(report)
    if away is not None and report.money.per_day and away > DAY // 10:
        worth = money(away * report.money.per_day // DAY)
        yield Suggestion(
            "stay_up", f"it was away for {duration(away)} of the last week, worth about {worth} credits"
        )


def _line(report: Report) -> Iterator[Suggestion]:
    live = report.live
    if live is not None and live.sent.limit is not None and live.sent.waiting:
        yield Suggestion(
            "limit",
            f"{count(live.sent.waiting, 'renter')} wait for data they would pay for: a higher limit would "
            "earn more",
        )


def _listen(report: Report) -> Iterator[Suggestion]:
    if report.running and report.reachable == "this machine only":
        yield Suggestion("listen", "renters on other machines cannot reach it: let it listen and announce it")


IDEAS: Final[tuple[Callable[[Report], Iterator[Suggestion]], ...]] = (
    _listen,
    _sold_out,
    _unsold,
    _steady,
    _line,
)
