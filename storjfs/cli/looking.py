"""`storjfs init --find`: look around, choose farmers for what is wanted, show what that means, and ask."""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import click
import trio

from storjfs.errors import StorjfsError
from storjfs.network.identity import Identity
from storjfs.network.meeting import Meeting
from storjfs.network.sources import Source
from storjfs.protocol.directory import Directory, Known
from storjfs.protocol.terms import Offer
from storjfs.renter.durability import in_words
from storjfs.renter.needs import Bidder, Choice, Plan, Wanted, choose, missing, plan
from storjfs.settlement import Ledger, Place, ServedAt
from storjfs.volume import StaticFarmer, VolumePaths, VolumeSettings, wording
from storjfs.volume.units import show_credits

PATIENCE: Final = 20.0
"""Seconds to look around at most, besides those that a search takes."""
QUIET: Final = 4.0
"""Seconds in which nobody new is found, after which that is taken for all."""
STEP: Final = 0.25
RELAYS: Final = 2
"""Relays of one farmer that are named in the settings."""


class TooFewFarmers(StorjfsError):
    """Those that were found do not do for what is wanted."""


class NotConfirmed(StorjfsError):
    """The choice was not agreed to."""


@dataclass(frozen=True, slots=True)
class Found:
    """What looking around brought."""

    directory: Directory
    choice: Choice
    wanted: Wanted
    problems: Mapping[str, str]
    """By way of looking: why it does not work now."""

    def known(self) -> list[Known]:
        """Those chosen, best first."""
        return [known for who in self.choice.chosen if (known := self.directory.get(who)) is not None]

    def offers(self) -> list[Offer]:
        return [one.offer for one in self.known()]

    def lacks(self) -> str:
        """What keeps one from beginning with those chosen; empty where nothing does."""
        return missing(self.choice, self.offers(), self.wanted)


def choose_farmers(
    paths: VolumePaths, settings: VolumeSettings, sources: Mapping[str, Source], *, confirmed: bool
) -> tuple[tuple[StaticFarmer, ...], int]:
    """Farmers for a new volume with these settings, and what to contract with each of them, in bytes.

    Shows what was found, what it costs and how safe it is, and asks unless that is `confirmed` beforehand.
    Raises TooFewFarmers, NotConfirmed.
    """
    wanted = wanted_of(settings, _ledger_name(paths, settings.ledger))
    click.echo("Looking for farmers ...")
    found = trio.run(look, sources, wanted, "peers" in settings.find)
    offers = found.offers()
    _show(found)
    lacking = found.lacks()
    if lacking:
        raise TooFewFarmers(f"{lacking}; no volume was made", hint=_advice(found, paths, settings.ledger))
    planned = plan(offers, wanted, settings.capacity)
    _tell(planned, wanted)
    if not confirmed:
        _ask()
    return tuple(named for one in found.known() for named in _named(one)), planned.capacity


def wanted_of(settings: VolumeSettings, settlement: str) -> Wanted:
    """What farmers must fit for a volume with these settings."""
    return Wanted(
        needs=settings.needs,
        price_max=settings.price_max,
        egress_price_max=settings.egress_price_max,
        settlement=settlement,
        code=settings.code,
        audit_period=settings.audit_period,
        now=time.time(),
    )


async def look(sources: Mapping[str, Source], wanted: Wanted, peers: bool) -> Found:
    """Look around until enough are there that fit, or nobody new comes for QUIET seconds though no search is
    under way, or for PATIENCE seconds and those of the longest search."""
    directory = Directory()
    rng = random.SystemRandom()
    meeting = Meeting(
        directory,
        sources,
        now=time.time,
        rng=rng,
        # Each farmer is asked under a key that nobody has seen or will see.
        identity=lambda: Identity(rng.randbytes(32)),
        peers=peers,
        every=lambda: QUIET,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(meeting.run)
        searches = {name: source.longest for name, source in sources.items() if source.longest}
        with trio.move_on_after(PATIENCE + max(searches.values(), default=0)):
            seen, since = 0, trio.current_time()
            while trio.current_time() - since < QUIET:
                await trio.sleep(STEP)
                answering = sum(one.answers for one in directory)
                if answering != seen or not meeting.asked.issuperset(searches):
                    seen, since = answering, trio.current_time()
                found = Found(directory, _choose(directory, wanted), wanted, {})
                if len(found.choice.chosen) >= wanted.aim and not found.lacks():
                    break
        nursery.cancel_scope.cancel()
    return Found(directory, _choose(directory, wanted), wanted, meeting.problems)


def _choose(directory: Directory, wanted: Wanted) -> Choice:
    bidders = [
        Bidder(node_id=one.node_id, offer=one.offer, answers=one.answers, latency=one.latency)
        for one in directory
    ]
    return choose(bidders, wanted)


def _ledger_name(paths: VolumePaths, place: Place | None) -> str:
    """The name of the ledger that the volume is going to have; empty, which is nobody's, where there is none
    yet: the mount makes one then, in which no farmer settles so far."""
    if isinstance(place, ServedAt):
        return place.name
    file = place or paths.ledger_db
    if not file.is_file():
        return ""
    ledger = Ledger(file)
    try:
        return ledger.name
    finally:
        ledger.close_file()


def _named(known: Known) -> list[StaticFarmer]:
    """Where it answered; behind a relay also its other ones, since any of them may go."""
    first, *others = known.addresses
    more = [one for one in others if one.relay is not None] if first.relay is not None else []
    return [StaticFarmer(one, known.node_id) for one in (first, *more[: RELAYS - 1])]


# --- telling ---


def _show(found: Found) -> None:
    """A table of those chosen, and why others are not."""
    from rich.table import Table
    from rich.text import Text

    from .tables import console

    out = console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("farmer", "address", "region", "group"):
        table.add_column(column, no_wrap=True)
    for column in ("latency", "free", "price", "egress"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in found.known():
        offer = one.offer
        table.add_row(
            wording.short_id(one.node_id.hex()),
            Text(str(one.addresses[0])),
            Text(offer.region or "-"),
            Text(offer.group or "-"),
            f"{one.latency * 1000:.0f} ms",
            wording.size(offer.capacity),
            wording.money(offer.price),
            wording.money(offer.egress_price),
        )
    if found.choice.chosen:
        out.print(table)
    for way, problem in found.problems.items():
        click.echo(f"not found by {way}: {problem}")
    for reason, count in sorted(_reasons(found).items()):
        click.echo(f"not used: {wording.count(count, 'farmer')}: {reason}")


def _reasons(found: Found) -> dict[str, int]:
    counted: dict[str, int] = {}
    for reason in found.choice.refused.values():
        counted[reason] = counted.get(reason, 0) + 1
    return counted


def _tell(planned: Plan, wanted: Wanted) -> None:
    """What it costs and how safe it is."""
    click.echo(
        f"\nAny {planned.k} of {planned.n} shards give a segment back; {planned.farmers} farmers, "
        f"{wording.size(planned.capacity)} contracted with each."
    )
    click.echo(
        f"Keeping {wording.size(planned.size)} costs {wording.money(planned.month)} credits a month, "
        f"{wording.money(planned.year)} a year; less of it costs less.\n"
        f"Reading all of it back once costs {wording.money(planned.read_back)}."
    )
    click.echo(
        f"At most {show_credits(wanted.price_max)} credits per GiB and month are paid "
        f"({wording.money(wanted.price_max * 1024)} per TiB)."
    )
    click.echo(
        f"Chance that a year loses data: {in_words(planned.loss)}, if farmers fail independently, 5 %\n"
        "of them a year, and repair takes a week. What hits many at once (one operator, one flood, one bad\n"
        "release) comes on top."
    )
    if planned.n - planned.k < 2:
        click.echo("Warning: that code bears the loss of one farmer at most. More farmers make it safer.")


def _ask() -> None:
    try:
        agreed = click.confirm("Make the volume with these farmers?", default=True)
    except click.Abort:
        raise NotConfirmed(
            "nobody was there to agree; no volume was made", hint="--yes agrees beforehand"
        ) from None
    if not agreed:
        raise NotConfirmed("no volume was made", hint="change what is wanted, and run it again")


def _advice(found: Found, paths: VolumePaths, ledger: Place | None) -> str:
    """What helps, by what kept most farmers out."""
    reasons = _reasons(found)
    most = max(reasons, key=lambda one: reasons[one], default="")
    if "ledger" in most:
        where = ledger or f"{paths.ledger_db} --new-ledger"
        return f"Start them with this volume's ledger: storjfs farm --ledger {where}"
    if "price_max" in most:
        cheapest = min(one.offer.price for one in found.directory)
        return f"Raise --max-price: the cheapest asks {show_credits(cheapest)} per GiB and month."
    if "stands in" in most:
        return "Add regions: --regions EU,US; or leave it out."
    if "operator" in most:
        return "Use several farmers of one operator, which may fail together: --spread farmers"
    if "room" in found.lacks():
        return "Ask for less (--size), or find more farmers."
    words = "Name a farmer that knows others (--farmer HOST:PORT --find peers), or have more farmers start."
    if len(found.directory) > 1:
        words += " Without --find fewer do: --farmer HOST:PORT for each."
    return words
