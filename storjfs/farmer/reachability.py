"""Whether renters elsewhere can dial a farmer, what that is known from, and what its owner can do. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

import msgspec
from msgspec.structs import replace

from storjfs.protocol.messages import Reached
from storjfs.protocol.terms import Address

_AT_HOME: Final[tuple[IPv4Network | IPv6Network, ...]] = tuple(
    map(
        ip_network,
        (
            *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),
            *("::1/128", "fc00::/7", "fe80::/10"),
        ),
    )
)
_PROVIDER: Final = ip_network("100.64.0.0/10")
"""RFC 6598: addresses between a provider and its customers' routers."""


BELIEVED: Final = 86400.0
"""Seconds for which a word counts, where its giver says nothing any more."""


class State(StrEnum):
    """docs/decisions/0013-reachability.md."""

    UNKNOWN = "unknown"
    OPEN = "open"
    CLOSED = "closed"


class Trial(msgspec.Struct, frozen=True):
    """What one other farmer said when it was asked to dial back."""

    asked: str
    """Its address."""
    family: str
    """`IPv4` or `IPv6`."""
    port: int
    """That was dialled, at the address that it saw."""
    at: float
    """Seconds since 1970."""
    reached: str = ""
    """A `messages.Reached`; empty where it did not say."""
    seen: str = ""
    """The address from which it was asked, and which it dialled."""
    own: str = ""
    """The address of this machine that the question left from."""
    problem: str = ""
    """Why it did not say."""
    found: bool = False
    """It was not named by the owner: this farmer only got to know it."""

    @property
    def outside(self) -> bool:
        """Whether it stands outside of the network at home, as far as the address tells that it saw."""
        return bool(self.seen) and not is_at_home(self.seen)


class MappingFacts(msgspec.Struct, frozen=True):
    """What became of asking the router for a port."""

    state: str = "off"
    """`off`, `asking`, `mapped`, `none` (no router answers), `refused` or `missing` (the extra)."""
    how: str = ""
    """`UPnP` or `NAT-PMP`."""
    address: str = ""
    """The router's address outside, as it says itself."""
    port: int = 0
    """The port outside that it forwards."""
    problem: str = ""

    @property
    def leads_outside(self) -> bool:
        """Whether a port of the internet is forwarded, as far as the router knows."""
        if self.state != "mapped" or is_at_home(self.address) or is_shared(self.address):
            return False
        try:
            return not ip_address(self.address).is_unspecified
        except ValueError:  # routers without a line say all sorts of things
            return False


NOT_ASKED: Final = MappingFacts()


class RelayFacts(msgspec.Struct, frozen=True):
    """One relay that is used."""

    address: str
    attached: bool
    problem: str
    streams: int
    found: bool = False
    """It was not named by the owner."""


class ReachFacts(msgspec.Struct, frozen=True):
    """All of it."""

    state: str
    """A `State`."""
    words: tuple[str, ...]
    """For a person: what is, then what to do."""
    port: int
    """That this farmer listens on."""
    own: str
    """The address of this machine in its own network; empty where it listens to itself only."""
    trials: tuple[Trial, ...]
    mapping: MappingFacts
    relays: tuple[RelayFacts, ...]

    @property
    def relayed(self) -> bool:
        """Whether a relay leads to it now."""
        return any(relay.attached for relay in self.relays)


@dataclass(frozen=True, slots=True)
class Known:
    """What there is to judge by."""

    port: int
    local_only: bool
    """It listens on this machine only."""
    own: str
    trials: tuple[Trial, ...] = ()
    mapping: MappingFacts = NOT_ASKED
    peers: int = 0
    """Farmers that could be asked."""
    looks: bool = False
    """Whether others are looked for."""


def is_at_home(host: str) -> bool:
    """Whether this is an address of a network at home, which means nothing elsewhere."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return any(address in network for network in _AT_HOME)


def is_shared(host: str) -> bool:
    """Whether this is an address that a provider gives to many: behind it no port can be forwarded."""
    try:
        return ip_address(host) in _PROVIDER
    except ValueError:
        return False


def judge(known: Known) -> State:
    """Whether somebody outside can dial it: one who could counts more than any who could not."""
    if known.local_only:
        return State.CLOSED if known.peers else State.UNKNOWN
    said = [trial for trial in known.trials if trial.reached]
    if any(trial.reached == Reached.YES and trial.outside for trial in said):
        return State.OPEN
    if any(trial.reached != Reached.YES for trial in said):
        return State.CLOSED
    return State.UNKNOWN


def renewed(before: Sequence[Trial], new: Sequence[Trial], now: float) -> tuple[Trial, ...]:
    """What is known after one more round: who does not say this time is believed for a day, and so are the
    strangers of the last round where those of this one say nothing."""
    kept = {
        (trial.asked, trial.family): trial for trial in before if trial.reached and now - trial.at < BELIEVED
    }
    found = {(one.asked, one.family): one for one in new}
    found = {key: one if one.reached else kept.get(key, one) for key, one in found.items()}
    if not any(one.found and one.reached for one in found.values()):
        found = {key: one for key, one in kept.items() if one.found} | found
    return tuple(sorted(found.values(), key=lambda one: (one.asked, one.family)))


def believed(trial: Trial, *, came: bool) -> Trial:
    """What a stranger said, as far as it can be true: nobody has got through who has not come (`came`), and
    who is in this network at home does not see an address outside, nor the other way round."""
    if trial.found and trial.reached == Reached.YES:
        asked_at = Address.parse(trial.asked).host
        if not came or is_at_home(asked_at) != is_at_home(trial.seen):
            return replace(trial, reached="", problem="it says what cannot be")
    return trial


def wants_relay(known: Known) -> bool:
    """Whether some renters cannot dial it: all, or those who have no IPv6."""
    if judge(known) is not State.OPEN:
        return judge(known) is State.CLOSED
    said = [trial for trial in known.trials if trial.reached and trial.family == "IPv4"]
    return bool(said) and all(trial.reached != Reached.YES for trial in said)


def found_addresses(trials: Sequence[Trial]) -> tuple[Address, ...]:
    """Where others reached it, those outside first."""
    reached = list(agreed(trials))
    reached.sort(key=lambda trial: not trial.outside)
    return tuple(dict.fromkeys(Address(trial.seen, trial.port) for trial in reached))


def agreed(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Those that say where this farmer was reached, without strangers that stand alone: of one that names an
    address nobody else does nothing is believed where others agree on another one of that kind."""
    reached = [one for one in trials if one.reached == Reached.YES]
    votes = Counter((one.family, one.outside, one.seen, one.port) for one in reached)
    settled = {(family, outside) for (family, outside, *_), count in votes.items() if count > 1}
    return tuple(
        one
        for one in reached
        if not one.found
        or votes[one.family, one.outside, one.seen, one.port] > 1
        or (one.family, one.outside) not in settled
    )


# --- in words ---


def explain(known: Known, relays: Sequence[RelayFacts] = ()) -> tuple[str, ...]:
    """Lines for the farmer's owner: what is, how that is known, what to do."""
    state = judge(known)
    lines = [*_state_words(known, state), *_family_words(known, state)]
    if wants_relay(known) and not known.local_only:
        lines += _advice(known)
    if known.mapping.state in ("refused", "missing"):
        lines.append(f"the router was not asked to open the port: {known.mapping.problem}")
    if relays and (state is not State.OPEN or wants_relay(known)):
        lines += _relay_words(relays)
    return tuple(lines)


def _state_words(known: Known, state: State) -> list[str]:
    if known.local_only:
        here = "it listens on this machine only, so nobody elsewhere can dial it"
        return [here, "to be dialled: storjfs farm --listen all"]
    trials = [trial for trial in known.trials if trial.reached]
    if state is State.OPEN:
        one = next(trial for trial in trials if trial.reached == Reached.YES and trial.outside)
        how = f", which the router forwards ({known.mapping.how})" if known.mapping.state == "mapped" else ""
        return [f"yes: {one.asked} reached {Address(one.seen, one.port)} from outside{how}"]
    if state is State.CLOSED:
        one = next(trial for trial in trials if trial.reached != Reached.YES)
        where = "from outside" if one.outside else "from your own network"
        return [f"no: {one.asked} tried {Address(one.seen, one.port)} {where}, and {_OUTCOMES[one.reached]}"]
    if any(trial.reached for trial in trials):
        here = "unknown: it is reached from your own network, and nobody outside was asked"
        return [here, *_until_it_is_known(known)]
    if known.peers:
        reasons = "; ".join(sorted({f"{one.asked}: {one.problem}" for one in known.trials if one.problem}))
        return [f"unknown: nobody who was asked could say ({reasons or 'no answer yet'})"]
    if known.mapping.leads_outside:
        forwarded = Address(known.mapping.address, known.mapping.port)
        return [
            f"probably: the router forwards {forwarded} ({known.mapping.how}), and there is nobody to ask"
        ]
    return _nobody_to_ask(known)


def _nobody_to_ask(known: Known) -> list[str]:
    """What to do until there is somebody."""
    if not known.looks:
        return [
            "unknown: there is nobody to ask",
            "name another farmer under peers in farmer.toml, and it is asked to dial back",
        ]
    alone = "unknown: it has not met another farmer yet that it could ask to dial back; it looks for some"
    return [alone, *_until_it_is_known(known)]


def _until_it_is_known(known: Known) -> list[str]:
    """What helps whether it can be dialled or not."""
    lines = []
    if is_at_home(known.own) and known.mapping.state not in ("asking", "mapped"):
        lines.append(
            f"to be sure, in your router, forward TCP port {known.port} to this computer ({known.own})"
        )
    if known.looks:
        lines.append("or name a farmer elsewhere that you know: storjfs farm --peer HOST:PORT")
    return lines


_OUTCOMES: Final[dict[str, str]] = {
    Reached.OTHER: "something else answers there",
    Reached.REFUSED: "the connection was refused",
    Reached.SILENT: "nothing came back",
}


def _family_words(known: Known, state: State) -> list[str]:
    """What holds for the other family where it differs."""
    said = {
        family: any(one.reached == Reached.YES for one in known.trials if one.family == family)
        for family in sorted({one.family for one in known.trials if one.reached})
    }
    if len(set(said.values())) < 2:
        return []
    parts = (f"{family} {'yes' if reached else 'no'}" for family, reached in said.items())
    return [f"by kind of address: {', '.join(parts)}"]


def _advice(known: Known) -> list[str]:
    """What the owner can do about a closed port."""
    trial = next(trial for trial in known.trials if trial.reached and trial.reached != Reached.YES)
    if is_shared(known.mapping.address) or is_shared(trial.own):
        return [
            "your provider has many customers share one address: no setting of your router helps; ask it for "
            "an address of your own (IPv4) or for IPv6"
        ]
    if trial.reached == Reached.OTHER:
        return [f"port {trial.port} leads to another machine or program: {_forward(known, trial)}"]
    if trial.seen == trial.own:
        return [f"let TCP port {known.port} through the firewall of this computer and of your router"]
    if known.mapping.state == "mapped" and is_at_home(known.mapping.address):
        return [
            "there are two routers, one behind the other: in the outer one too, forward TCP port "
            f"{trial.port}, to the inner one ({known.mapping.address})"
        ]
    return [f"in your router, {_forward(known, trial)}"]


def _forward(known: Known, trial: Trial) -> str:
    port = f", port {known.port}" if trial.port != known.port else ""
    own = trial.own or known.own
    return f"forward TCP port {trial.port} to this computer ({own}{port})"


def _relay_words(relays: Sequence[RelayFacts]) -> list[str]:
    used = [relay.address for relay in relays if relay.attached]
    if used:
        return [f"meanwhile it is reached through {' and '.join(used)}"]
    problems = [f"{one.address}: {one.problem}" for one in relays if one.problem]
    return [f"no relay leads to it: {'; '.join(problems)}"] if problems else []
