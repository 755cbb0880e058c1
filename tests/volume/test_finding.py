"""What a person says about farmers in the settings, and how a command changes it there."""

import dataclasses
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.protocol.terms import CREDIT, Address
from storjfs.volume import Needs, SettingsError, Spread, VolumeSettings, parse_price
from storjfs.volume.dht import DhtNeeds
from storjfs.volume.finding import parse_ways
from storjfs.volume.settings import StaticFarmer, edit_farmers
from storjfs.volume.units import parse_region

BASE = VolumeSettings(volume_id=bytes(16))
WRITTEN = """\
# My drive. Do not touch!
version = 1
volume_id = "00000000000000000000000000000000"   # mine

[farmers]  # theirs
addresses = [
    "[::1]:7420",   # the one below the stairs
    "farm.example.org:7420",
]
find = ["lan"]

[needs]
# as said by K.
regions = ["EU"]
"""
ONE, OTHER = "aa" * 32, "bb" * 32


def test_only_the_list_in_question_is_changed_in_a_file() -> None:
    made = edit_farmers(WRITTEN, "blocked", [ONE])
    assert made == WRITTEN.replace("# theirs\n", f'# theirs\nblocked = ["{ONE}"]\n')
    more = edit_farmers(made, "blocked", [ONE, OTHER])
    assert VolumeSettings.from_toml(more).blocked == (bytes.fromhex(ONE), bytes.fromhex(OTHER))
    assert edit_farmers(more, "blocked", []) == WRITTEN


def test_an_address_is_added_where_several_stand_over_lines() -> None:
    made = edit_farmers(WRITTEN, "addresses", ["[::1]:7420", "farm.example.org:7420", "192.0.2.7:1"])
    settings = VolumeSettings.from_toml(made)
    assert settings.farmers == tuple(
        map(StaticFarmer.parse, ("[::1]:7420", "farm.example.org:7420", "192.0.2.7:1"))
    )
    assert "Do not touch!" in made
    assert "as said by K." in made


def test_a_file_of_another_shape_is_written_anew() -> None:
    text = 'version = 1\nvolume_id = "00000000000000000000000000000000"\nfarmers.embedded = 4\n'
    made = edit_farmers(text, "preferred", [ONE])
    assert VolumeSettings.from_toml(made).preferred == (bytes.fromhex(ONE),)
    assert VolumeSettings.from_toml(made).farmers == VolumeSettings.from_toml(text).farmers


@given(
    st.lists(st.sampled_from([ONE, OTHER, "cc" * 32]), max_size=3, unique=True),
    st.lists(st.sampled_from([ONE, OTHER, "cc" * 32]), max_size=3, unique=True),
)
def test_whatever_is_marked_and_unmarked_the_rest_stays(first: list[str], second: list[str]) -> None:
    made = edit_farmers(edit_farmers(WRITTEN, "blocked", first), "blocked", second)
    expected, found = tomllib.loads(WRITTEN), tomllib.loads(made)
    assert found["farmers"].pop("blocked", []) == second
    assert found == expected


def test_what_makes_no_sense_is_refused() -> None:
    for line, said in (
        ('farmers.find = ["lann"]', "lann"),
        ('farmers.find = "lan"', "list"),
        ('farmers.find = ["lan"]\nfarmers.embedded = 6', "embedded"),
        ('farmers.blocked = ["aa"]', "id of a farmer"),
        (f'farmers.blocked = ["{ONE}"]\nfarmers.preferred = ["{ONE}"]', "blocked and preferred"),
        ("needs = 5", "table"),
        ('needs.sizes = "1 TB"', "sizes"),
        ('needs.spread = "thin"', "thin"),
        ('needs.regions = "EU"', "list"),
        ('needs.regions = ["E U"]', "region"),
        ("needs.size = true", "size"),
        ("dht = 5", "table"),
        ("dht.port = 7421", "port"),
        ("dht.network = 5", "name"),
        ('dht.network = ""', "1 to 128"),
        ('dht.listen = "127.0.0.1:7421"', "list"),
        ('dht.bootstrap = ["here"]', "here"),
    ):
        with pytest.raises(SettingsError) as caught:
            VolumeSettings.from_toml(f'version = 1\nvolume_id = "{"00" * 16}"\n{line}\n')
        assert said in str(caught.value)
        assert caught.value.hint


def test_farmers_may_only_be_looked_for() -> None:
    settings = VolumeSettings.from_toml(
        f'version = 1\nvolume_id = "{"00" * 16}"\n[farmers]\nfind = ["lan", "peers", "lan"]\n'
    )
    assert settings.farmers == ()
    assert settings.find == ("lan", "peers")
    assert VolumeSettings.from_toml(settings.to_toml()) == settings


def test_what_is_said_of_the_dht_is_written_and_read() -> None:
    dht = DhtNeeds(
        network="ours",
        listen=(Address("127.0.0.1", 7421), Address("::1", 7421)),
        bootstrap=(Address("node.example.org", 6881),),
    )
    settings = dataclasses.replace(BASE, farmers=(), find=("dht",), dht=dht)
    assert VolumeSettings.from_toml(settings.to_toml()) == settings
    assert VolumeSettings.from_toml(BASE.to_toml()).dht == DhtNeeds()


def test_needs_are_written_and_read() -> None:
    needs = Needs(size=10**12, regions=("EU", "US-NY"), spread=Spread.FARMERS)
    settings = VolumeSettings(volume_id=bytes(16), farmers=(), find=parse_ways(["lan"]), needs=needs)
    assert VolumeSettings.from_toml(settings.to_toml()) == settings


def test_a_region_holds_its_parts() -> None:
    assert Needs(regions=("EU",)).fits("EU-DE")
    assert Needs(regions=("EU",)).fits("eu")
    assert not Needs(regions=("EU",)).fits("EURASIA")
    assert not Needs(regions=("EU",)).fits("")
    assert Needs().fits("")
    assert parse_region("eu-de") == "EU-DE"


def test_prices_may_be_said_for_other_amounts() -> None:
    assert parse_price("0.005") == CREDIT // 200
    assert parse_price("4/TiB-month") == 4 * CREDIT // 1024
    assert parse_price("1/GiB-year") == CREDIT * 30 // 365
    assert parse_price("1/GB-month") == CREDIT * (1 << 30) // 10**9
    for wrong in ("4/month", "4/TiB", "x/TiB-month", "4/TiB-week"):
        with pytest.raises(SettingsError):
            parse_price(wrong)
