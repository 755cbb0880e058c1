import dataclasses
import shutil
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.protocol.terms import Address
from storjfs.volume import EmbeddedFarm, SettingsError, StaticFarmer, VolumeSettings, default_cache_size

PLAIN = VolumeSettings(volume_id=bytes(range(16)))

hosts = st.one_of(
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}\.[a-z]{2,5})?", fullmatch=True),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
)
static_farmers = st.builds(
    StaticFarmer,
    st.builds(Address, hosts, st.integers(1, 65535)),
    st.none() | st.binary(min_size=32, max_size=32),
)


@st.composite
def settings(draw: st.DrawFn) -> VolumeSettings:
    period = draw(st.integers(1, 8 * 7 * 86400))
    k = draw(st.integers(1, 255))
    n = draw(st.integers(k + 1, 256))
    return VolumeSettings(
        volume_id=draw(st.binary(min_size=16, max_size=16)),
        farmers=draw(
            st.builds(EmbeddedFarm, st.integers(1, 64))
            | st.lists(static_farmers, min_size=1, max_size=5).map(tuple)
        ),
        code=draw(st.none() | st.just((k, n))),
        cache_size=draw(st.integers(1 << 28, 1 << 45)),
        capacity=draw(st.integers(1 << 30, 1 << 45)),
        audit_period=period,
        term=draw(st.integers(2 * period, 10**9)),
        price_max=draw(st.integers(0, 10**15)),
        egress_price_max=draw(st.integers(0, 10**15)),
        play_balance=draw(st.integers(0, 10**17)),
    )


@given(settings())
def test_settings_survive_the_file(value: VolumeSettings) -> None:
    assert VolumeSettings.from_toml(value.to_toml()) == value


def test_every_setting_stands_in_the_file() -> None:
    written = tomllib.loads(PLAIN.to_toml())
    assert set(written) == {
        *(field.name for field in dataclasses.fields(VolumeSettings)),
        "version",
    } - {"find", "blocked", "preferred"}


def test_what_is_left_out_has_its_default() -> None:
    assert VolumeSettings.from_toml(f'version = 1\nvolume_id = "{PLAIN.volume_id.hex()}"') == PLAIN


def test_farmers_can_be_given_by_address() -> None:
    node_id = "ab" * 32
    read = VolumeSettings.from_toml(
        f'version = 1\nvolume_id = "{PLAIN.volume_id.hex()}"\n'
        f'farmers.addresses = ["farm.example.org:7420", "[2001:db8::1]:7000/{node_id}", '
        f'"relay+[2001:db8::1]:7000/{node_id}"]'
    )
    assert read.farmers == (
        StaticFarmer(Address("farm.example.org", 7420)),
        StaticFarmer(Address("2001:db8::1", 7000), bytes.fromhex(node_id)),
        StaticFarmer(Address("2001:db8::1", 7000).through(), bytes.fromhex(node_id)),
    )
    assert all(StaticFarmer.parse(str(one)) == one for one in read.farmers)


def test_a_relay_alone_is_no_farmer() -> None:
    with pytest.raises(SettingsError, match="behind the relay"):
        StaticFarmer.parse("relay+relay.example.org:7420")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("cachesize = 1", "cachesize"),
        ('cache_size = "much"', "cache_size"),
        ('cache_size = "1 MiB"', "cache_size"),
        ("cache_size = true", "cache_size"),
        ("cache_size = []", "cache_size"),
        ('code = "5/3"', "5/3"),
        ('code = "5"', "code"),
        ("code = 3", "code"),
        ('code = "3/257"', "3/257"),
        ('audit_period = "0 s"', "audit_period"),
        ('audit_period = "9 weeks"', "audit_period"),
        ('term = "1 h"', "term"),
        ('capacity = "1 MiB"', "capacity"),
        ('price_max = "-1"', "price_max"),
        ("farmers.embedded = 0", "embedded"),
        ("farmers.embedded = true", "farmers"),
        ("farmers.addresses = []", "farmers"),
        ("farmers.addresses = [1]", "farmers"),
        ('farmers.addresses = ["host"]', "'host'"),
        ('farmers.addresses = ["host:1/abcd"]', "'host:1/abcd'"),
        ('farmers.addresses = ["ho\\"st:1"]', "st:1"),
        ("farmers.other = 1", "farmers"),
        ("farmers = 6", "farmers"),
        ('farmers.embedded = 6\nfarmers.addresses = ["host:1"]', "farmers"),
        ("this is no TOML", "TOML"),
    ],
)
def test_a_mistake_is_named(line: str, named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        VolumeSettings.from_toml(f'version = 1\nvolume_id = "{PLAIN.volume_id.hex()}"\n{line}\n')
    assert named in str(caught.value)
    assert caught.value.hint


def test_a_setting_that_is_misspelt_has_a_suggestion() -> None:
    with pytest.raises(SettingsError) as caught:
        VolumeSettings.from_toml(f'version = 1\nvolume_id = "{PLAIN.volume_id.hex()}"\ncachesize = 1\n')
    assert "cache_size" in caught.value.hint


def test_a_misspelt_setting_of_the_farmers_is_named() -> None:
    text = f'version = 1\nvolume_id = "{PLAIN.volume_id.hex()}"\n[farmers]\nembeded = 6\n'
    with pytest.raises(SettingsError, match="no setting 'embeded'") as caught:
        VolumeSettings.from_toml(text)
    assert caught.value.hint == "Did you mean embedded?"


@pytest.mark.parametrize("size", [0, 1, 20, 100])
def test_a_cache_of_some_bytes_is_refused(size: int) -> None:
    with pytest.raises(SettingsError, match="too small") as caught:
        VolumeSettings.from_toml(f'version = 1\nvolume_id = "{PLAIN.volume_id.hex()}"\ncache_size = {size}\n')
    assert "without a unit is bytes" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "version"),
        ('version = 2\nvolume_id = "00"', "version 2"),
        ("version = 1", "volume_id"),
        ('version = 1\nvolume_id = "xyz"', "volume_id"),
        ('version = 1\nvolume_id = "0000"', "volume_id"),
    ],
)
def test_settings_without_a_proper_head_are_refused(text: str, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        VolumeSettings.from_toml(text)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.parametrize(
    ("free", "size"), [(1 << 45, 10 << 30), (40 << 30, 4 << 30), (1 << 30, 256 << 20), (0, 256 << 20)]
)
def test_the_cache_is_a_tenth_of_the_free_disk_within_bounds(
    free: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def usage(path: Path) -> Usage:
        asked.append(path)
        return Usage(1 << 50, 0, free)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert default_cache_size(tmp_path / "not" / "there" / "yet") == size
    assert asked == [tmp_path]
