"""What a farmer's owner is told of its being reached, and what to do."""

import pytest
from msgspec.structs import replace

from storjfs.farmer.reachability import (
    BELIEVED,
    Known,
    MappingFacts,
    RelayFacts,
    State,
    Trial,
    agreed,
    believed,
    explain,
    found_addresses,
    is_at_home,
    is_shared,
    judge,
    renewed,
    wants_relay,
)
from storjfs.protocol.terms import Address

OUTSIDE = Trial("farm.example.org:7420", "IPv4", 7421, 0.0, "silent", "198.51.100.7", "192.168.1.20")
REACHED = replace(OUTSIDE, reached="yes")
NEIGHBOUR = replace(OUTSIDE, asked="192.168.1.9:7420", reached="yes", seen="192.168.1.20")
MUTE = replace(OUTSIDE, reached="", seen="", problem="no answer")
MAPPED = MappingFacts("mapped", "UPnP", "198.51.100.7", 7421)


def known(*trials: Trial, mapping: MappingFacts = MappingFacts(), local_only: bool = False) -> Known:  # noqa: B008
    return Known(7421, local_only, "192.168.1.20", trials, mapping, len(trials))


@pytest.mark.parametrize(
    ("trials", "state"),
    [
        ((), State.UNKNOWN),
        ((MUTE,), State.UNKNOWN),
        ((NEIGHBOUR,), State.UNKNOWN),
        ((OUTSIDE,), State.CLOSED),
        ((OUTSIDE, MUTE), State.CLOSED),
        ((OUTSIDE, NEIGHBOUR), State.CLOSED),
        ((REACHED,), State.OPEN),
        ((OUTSIDE, REACHED), State.OPEN),
    ],
)
def test_one_outside_who_got_through_counts_more_than_any_who_did_not(
    trials: tuple[Trial, ...], state: State
) -> None:
    assert judge(known(*trials)) is state


def test_a_farmer_that_listens_to_itself_only_is_closed() -> None:
    found = known(MUTE, local_only=True)
    assert judge(found) is State.CLOSED
    assert "this machine only" in explain(found)[0]
    assert judge(known(local_only=True)) is State.UNKNOWN


def test_what_is_announced_is_where_others_got_through_those_outside_first() -> None:
    assert found_addresses((OUTSIDE, NEIGHBOUR, REACHED, REACHED)) == (
        Address("198.51.100.7", 7421),
        Address("192.168.1.20", 7421),
    )


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (known(), ["nobody to ask", "peers in farmer.toml"]),
        (known(mapping=MAPPED), ["probably: the router forwards 198.51.100.7:7421 (UPnP)"]),
        (
            known(NEIGHBOUR),
            ["reached from your own network", "forward TCP port 7421 to this computer (192.168.1.20)"],
        ),
        (known(MUTE), ["nobody who was asked could say (farm.example.org:7420: no answer)"]),
        (known(REACHED), ["yes: farm.example.org:7420 reached 198.51.100.7:7421 from outside"]),
        (known(REACHED, mapping=MAPPED), ["which the router forwards (UPnP)"]),
        (
            known(OUTSIDE),
            [
                "no: farm.example.org:7420 tried 198.51.100.7:7421 from outside, and nothing came back",
                "in your router, forward TCP port 7421 to this computer (192.168.1.20)",
            ],
        ),
        (
            known(replace(OUTSIDE, port=443, reached="refused")),
            ["the connection was refused", "forward TCP port 443 to this computer (192.168.1.20, port 7421)"],
        ),
        (known(replace(OUTSIDE, reached="other")), ["something else", "leads to another machine or program"]),
        (
            known(replace(OUTSIDE, own="198.51.100.7")),
            ["let TCP port 7421 through the firewall of this computer"],
        ),
        (
            known(OUTSIDE, mapping=replace(MAPPED, address="100.64.3.4")),
            ["many customers share one address"],
        ),
        (
            known(OUTSIDE, mapping=replace(MAPPED, address="192.168.0.3")),
            ["two routers", "to the inner one (192.168.0.3)"],
        ),
        (
            known(OUTSIDE, mapping=MappingFacts("missing", problem="UPnP needs the extra")),
            ["the router was not asked to open the port: UPnP needs the extra"],
        ),
        (
            known(
                OUTSIDE,
                replace(REACHED, family="IPv6", seen="2001:db8::1", own="2001:db8::1"),
            ),
            ["reached [2001:db8::1]:7421 from outside", "IPv4 no, IPv6 yes", "forward TCP port 7421"],
        ),
    ],
)
def test_the_owner_is_told_what_is_and_what_to_do(found: Known, words: list[str]) -> None:
    said = "\n".join(explain(found))
    for one in words:
        assert one in said


def test_relays_are_named_while_it_is_closed() -> None:
    used = RelayFacts("relay.example.org:7420", True, "", 3)
    lost = RelayFacts("other.example.org:7420", False, "no answer", 0)
    assert explain(known(OUTSIDE), (used, lost))[-1] == (
        "meanwhile it is reached through relay.example.org:7420"
    )
    assert explain(known(OUTSIDE), (lost,))[-1] == "no relay leads to it: other.example.org:7420: no answer"
    asking = RelayFacts("other.example.org:7420", False, "", 0)
    assert not any("relay" in line for line in explain(known(OUTSIDE), (asking,)))
    assert not any("relay" in line for line in explain(known(REACHED), (used,)))


def test_who_says_nothing_this_time_is_believed_for_a_day() -> None:
    """Else a peer that restarts would cost a farmer its address."""
    mute = replace(MUTE, at=BELIEVED / 2)
    assert renewed((REACHED,), (mute,), BELIEVED / 2) == (REACHED,)
    assert renewed((REACHED,), (mute,), BELIEVED * 1.1) == (mute,)
    assert renewed((REACHED,), (OUTSIDE,), 1.0) == (OUTSIDE,)
    assert renewed((REACHED,), (replace(mute, family="IPv6"),), 1.0) == (replace(mute, family="IPv6"),)
    assert renewed((REACHED,), (), 1.0) == (), "no peer any more"


FOUND = replace(REACHED, found=True)


def test_what_strangers_said_last_holds_while_other_strangers_say_nothing() -> None:
    mute, other = replace(MUTE, asked="8.8.1.1:1", found=True), replace(FOUND, asked="8.8.2.1:1")
    assert set(renewed((FOUND,), (mute,), 1.0)) == {FOUND, mute}
    assert renewed((FOUND,), (other,), 1.0) == (other,)
    assert renewed((FOUND,), (mute,), BELIEVED * 1.1) == (mute,)


def test_a_stranger_is_believed_where_it_came_and_sees_what_can_be_seen_from_there() -> None:
    stranger = replace(FOUND, asked="8.8.1.1:7420")
    assert believed(stranger, came=True) == stranger
    assert not believed(stranger, came=False).reached
    assert not believed(replace(stranger, seen="192.168.1.20"), came=True).reached
    neighbour = replace(stranger, asked="192.168.1.9:7420")
    assert not believed(neighbour, came=True).reached, "who is in this network does not see it from outside"
    assert believed(replace(neighbour, seen="192.168.1.20"), came=True).reached
    # One that the owner named, and who says no, need no witness.
    assert believed(REACHED, came=False) == REACHED
    assert believed(replace(stranger, reached="silent"), came=False).reached


def test_an_address_that_one_stranger_alone_names_falls_to_one_that_others_agree_on() -> None:
    one, two = replace(FOUND, asked="8.8.1.1:1"), replace(FOUND, asked="8.8.2.1:1")
    alone = replace(FOUND, asked="8.8.3.1:1", seen="198.51.100.66")
    sixth = replace(alone, family="IPv6", seen="2001:db8::1")
    assert agreed((one, two, alone, sixth)) == (one, two, sixth)
    assert agreed((one, alone)) == (one, alone)
    named = replace(alone, found=False)
    assert agreed((one, two, named)) == (one, two, named)


def test_who_has_met_nobody_is_told_what_happens_and_the_setting_of_the_router() -> None:
    alone = Known(7422, local_only=False, own="192.168.1.20", looks=True)
    said = explain(alone)
    assert "has not met another farmer yet" in said[0]
    assert "forward TCP port 7422 to this computer (192.168.1.20)" in said[1]
    server = Known(7422, local_only=False, own="198.51.100.7", looks=True)
    assert not any("router" in line for line in explain(server))


def test_a_relay_is_wanted_by_who_cannot_be_dialled_by_all() -> None:
    sixth = replace(REACHED, family="IPv6", seen="2001:db8::1")
    assert wants_relay(known(OUTSIDE))
    assert wants_relay(known(OUTSIDE, sixth)), "renters without IPv6"
    assert not wants_relay(known(sixth))
    assert not wants_relay(known(REACHED, replace(sixth, reached="silent")))
    assert not wants_relay(known())
    used = RelayFacts("relay.example.org:7420", True, "", 3)
    assert "meanwhile" in explain(known(OUTSIDE, sixth), (used,))[-1]


def test_addresses_that_mean_nothing_elsewhere() -> None:
    assert all(
        map(is_at_home, ("192.168.1.1", "10.1.2.3", "172.31.0.1", "127.0.0.1", "fe80::1%eth0", "fd00::1"))
    )
    assert not any(map(is_at_home, ("198.51.100.7", "172.32.0.1", "2001:db8::1", "farm.example.org")))
    assert is_shared("100.64.0.1")
    assert not is_shared("100.128.0.1")
    assert not is_shared("")
