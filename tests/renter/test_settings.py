"""What a volume's settings mean for the renter."""

from storjfs.protocol.terms import Address
from storjfs.renter.placement import code_for
from storjfs.renter.settings import KnownFarmer, RenterSettings, known_farmers
from storjfs.volume import EmbeddedFarm, StaticFarmer, VolumeSettings


def test_embedded_farmers_are_planned_for_before_their_contracts_are_made() -> None:
    """Else what is closed in the first seconds would be stored without redundancy and count as complete."""
    settings = RenterSettings.of_volume(VolumeSettings(volume_id=bytes(16), farmers=EmbeddedFarm(6)))
    assert settings.farmers_planned == 6
    assert code_for(settings.farmers_planned) == (3, 5)


def test_farmers_named_by_address_may_refuse_and_are_not_counted_on() -> None:
    farmer = StaticFarmer(Address("127.0.0.1", 7420))
    assert (
        RenterSettings.of_volume(VolumeSettings(volume_id=bytes(16), farmers=(farmer,))).farmers_planned == 0
    )


def test_a_farmer_that_is_named_twice_has_two_addresses() -> None:
    one, other, who = Address("a.example", 1).through(), Address("b.example", 1).through(), bytes(32)
    stranger = StaticFarmer(Address("c.example", 1))
    named = (StaticFarmer(one, who), stranger, StaticFarmer(other, who))
    assert known_farmers(VolumeSettings(volume_id=bytes(16), farmers=named)) == [
        KnownFarmer(addresses=(Address("c.example", 1),)),
        KnownFarmer(addresses=(one, other), node_id=who),
    ]
