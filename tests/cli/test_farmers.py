"""`storjfs farmers` and `storjfs init --find` as a person uses them, without any farmer."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from storjfs.cli.farmers import farmers_table
from storjfs.daemon.exit_codes import ExitCode
from storjfs.daemon.farmers import Mark, NoSuchFarmer, find_farmer, mark_named
from storjfs.volume import SettingsError, VolumeSettings
from tests.farmer.process import Running

from .home import Home, home_in

ONE, OTHER = "3e81b8e3" + "a" * 56, "3e81b8e4" + "b" * 56


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with home_in(tmp_path) as made:
        yield made


def settings(home: Home) -> VolumeSettings:
    return VolumeSettings.from_toml(settings_text(home))


def settings_text(home: Home) -> str:
    return (home.folder / ".config/storjfs/volumes/default/settings.toml").read_text()


def test_what_is_said_of_farmers_stands_in_the_settings(home: Home) -> None:
    home.do("init", "--no-passphrase", "--farmer", "192.0.2.1:7420")
    home.do("farmers", "add", f"192.0.2.2:7420/{OTHER}")
    home.do("farmers", "block", ONE)
    assert "is preferred" in home.do("farmers", "prefer", OTHER)
    assert [str(one) for one in settings(home).farmers] == [  # type: ignore[union-attr]
        "192.0.2.1:7420",
        f"192.0.2.2:7420/{OTHER}",
    ]
    assert settings(home).blocked == (bytes.fromhex(ONE),)
    assert settings(home).preferred == (bytes.fromhex(OTHER),)
    home.do("farmers", "prefer", ONE[:8])
    assert settings(home).blocked == ()
    home.do("farmers", "unprefer", ONE[:8])
    home.do("farmers", "unprefer", OTHER[:8])
    assert settings(home).preferred == ()
    assert "No farmer is known yet" in home.do("farmers")
    assert home.do("farmers", "list", "--json") == "[]\n"


def test_mistakes_about_farmers_are_one_clear_line(home: Home) -> None:
    home.do("init", "--no-passphrase")
    for words, code, said in (
        (("farmers", "block", "3e81b8e3"), ExitCode.NOT_FOUND, "no farmer of that id"),
        (("farmers", "block", "3e"), ExitCode.NOT_FOUND, "too short"),
        (("farmers", "block", "z" * 64), ExitCode.USAGE, "64 hex digits"),
        (("farmers", "add", "nowhere"), ExitCode.USAGE, "host:port"),
        (("farmers", "add", "192.0.2.1:7"), ExitCode.USAGE, "embedded"),
        (("farmers", "--volume", "none", "block", ONE), ExitCode.NOT_FOUND, "none"),
        (("init", "-v", "b", "--size", "1TB"), ExitCode.USAGE, "--find"),
        (("init", "-v", "b", "--find", "lann"), ExitCode.USAGE, "lan?"),
        (("init", "-v", "b", "--find", "lan", "--max-price", "4/month"), ExitCode.USAGE, "4/TiB-month"),
        (("init", "-v", "b", "--find", "lan", "--spread", "thin"), ExitCode.USAGE, "operators"),
    ):
        done = home.run(*words)
        assert done.returncode == code, (words, done.stderr)
        assert said in done.stderr, (words, done.stderr)
        assert "Traceback" not in done.stderr


def test_with_nobody_to_be_found_no_volume_is_made(home: Home) -> None:
    done = home.run("init", "--no-passphrase", "--find", "peers", "--farmer", "127.0.0.1:1", "--yes")
    assert done.returncode == ExitCode.FARMERS_UNREACHABLE
    assert "0 farmers that fit were found, and 5 are needed for a 3/5 code; no volume was made" in done.stderr
    assert "--farmer HOST:PORT --find peers" in done.stderr
    assert home.do("volumes", "--json") == "[]\n"


def test_farmers_that_settle_elsewhere_are_told_of_with_what_to_do(home: Home) -> None:
    at = home.folder / "farmer"
    with Running("--at", str(at), "--share", "1GB", "--listen", "local", HOME=str(home.folder)) as farmer:
        _, address = farmer.where()
        done = home.run("init", "--no-passphrase", "--find", "peers", "--farmer", str(address), "--yes")
        assert done.returncode == ExitCode.FARMERS_UNREACHABLE
        assert "not used: 1 farmer: it settles in another ledger" in done.stdout
        assert f"storjfs farm --ledger {home.data() / 'ledger.db'} --new-ledger" in done.stderr
        assert farmer.interrupt() == 0


def test_a_farmer_is_named_by_the_beginning_of_its_id() -> None:
    assert find_farmer("3e81b8e3", [ONE, OTHER]) == bytes.fromhex(ONE)
    assert find_farmer("3E81B8E4", [ONE, OTHER]) == bytes.fromhex(OTHER)
    assert find_farmer("c" * 64, []) == bytes.fromhex("c" * 64)
    for text in ("3e81b8e", "3e81b", "ffffffff", ""):
        with pytest.raises(NoSuchFarmer):
            find_farmer(text, [ONE, OTHER])
    assert mark_named("blocked") is Mark.BLOCKED
    with pytest.raises(SettingsError):
        mark_named("adored")


def test_the_table_says_who_is_used_and_why_others_are_not() -> None:
    base = {
        "node_id": ONE,
        "addresses": ["192.0.2.1:7420"],
        "price": 5_000_000,
        "egress_price": 1,
        "free": 1 << 40,
        "region": "EU-DE",
        "group": "",
        "latency": 0.0214,
        "score": 0.98,
        "contract": "active",
        "used": True,
        "why_not": "",
        "mark": "preferred",
    }
    stranger = {"price": None, "free": None, "latency": None, "score": None, "contract": "", "used": False}
    rows = [
        base,
        base | stranger | {"node_id": OTHER, "why_not": "it is dearer than price_max", "mark": ""},
        base | {"used": False, "why_not": "you blocked it", "mark": "blocked"},
    ]
    out = io.StringIO()
    Console(file=out, width=140).print(farmers_table(rows))
    text = out.getvalue()
    for said in ("3e81b8e3", "0.005", "21 ms", "1.00 TiB", "EU-DE", "0.98", "active", "used, preferred"):
        assert said in text
    assert "it is dearer than price_max" in text
    assert "you blocked it; its shards move to others" in text
