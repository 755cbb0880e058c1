"""The ledger in the settings of volumes and farmers."""

from dataclasses import replace
from pathlib import Path

import pytest

from storjfs.farmer.settings import FarmerSettings
from storjfs.protocol.ids import NodeId
from storjfs.protocol.terms import Address
from storjfs.settlement import Place, ServedAt
from storjfs.volume import SettingsError, VolumeSettings

HEAD = f'version = 1\nvolume_id = "{"00" * 16}"\n'
SERVED = ServedAt(NodeId(b"n" * 32), Address("ledger.example.org", 7430))
PLACES: list[Place] = [SERVED, Path("/a place/ledger.db")]


def test_a_volume_has_its_own_ledger_unless_it_names_another() -> None:
    settings = VolumeSettings.from_toml(HEAD)
    assert settings.ledger is None
    assert VolumeSettings.from_toml(settings.to_toml()) == settings
    assert VolumeSettings.from_toml(HEAD + "[ledger]\n").ledger is None


@pytest.mark.parametrize("place", PLACES)
def test_a_volume_keeps_the_ledger_that_it_is_told(place: Place) -> None:
    settings = replace(VolumeSettings.from_toml(HEAD), ledger=place)
    assert VolumeSettings.from_toml(settings.to_toml()) == settings


@pytest.mark.parametrize("place", PLACES)
def test_a_farmer_keeps_it_too(place: Place) -> None:
    settings = FarmerSettings(capacity=1 << 30, ledger=place)
    assert FarmerSettings.from_toml(settings.to_toml()) == settings


@pytest.mark.parametrize(
    "lines",
    [
        "address = 7",
        'addres = "/ledger.db"',
        'address = "ledger.db"',
        'address = ""',
        f'address = "{"ab" * 31}@ledger.example.org:7430"',
        f'address = "{"ab" * 32}@ledger.example.org:0"',
        f'address = "{"ab" * 32}@"',
    ],
)
def test_what_is_wrong_is_named(lines: str) -> None:
    with pytest.raises(SettingsError, match="setting ledger") as caught:
        VolumeSettings.from_toml(f"{HEAD}[ledger]\n{lines}\n")
    assert caught.value.hint
