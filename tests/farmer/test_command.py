"""`storjfs farm` as a person uses it."""

import json
from pathlib import Path

from click.testing import CliRunner

from storjfs.cli.farm import _settings as settings_of
from storjfs.cli.farm import farm
from storjfs.farmer.settings import FarmerSettings
from storjfs.protocol.ids import NodeId
from storjfs.protocol.terms import Address
from storjfs.settlement import Ledger
from tests.farmer.process import PATIENCE, Running, run
from tests.farmer.renter import MIB, renting


async def test_farmer_runs_tells_where_and_keeps_its_settings(tmp_path: Path) -> None:
    at = tmp_path / "farm"
    with Running(
        *("--share", "64MiB", "--at", str(at), "--listen", "local", "--price", "0.25"),
        *("--ledger", str(tmp_path / "ledger.db"), "--new-ledger"),
    ) as farmer:
        identity = farmer.line().removeprefix("identity  ")
        address, _, named = farmer.line().removeprefix("address   ").partition("/")
        assert named == identity
        assert "0 contracts" in farmer.line()
        ledger = Ledger(tmp_path / "ledger.db")
        node_id = NodeId(bytes.fromhex(identity))
        async with renting(ledger, node_id, Address.parse(address)) as renter:
            assert (await renter.ask_offer()).price == 250_000_000
            start = renter.offer.expires  # type: ignore[union-attr]
            await renter.agree(start=start, end=start + 7200, audit_period=3600)
            await renter.put(MIB)
            await renter.pay(1)
        done = CliRunner().invoke(farm, ["status", "--at", str(at), "--json"])
        seen = json.loads(done.output)
        assert (seen["running"], seen["node_id"], seen["contracts"][0]["shards"]) == (True, identity, 1)
        assert farmer.interrupt() == 0
    settings = FarmerSettings.read(at)
    assert settings is not None
    assert (settings.capacity, settings.price) == (64 * MIB, 250_000_000)
    assert ledger.balance(renter.terms.payee) == 1
    ledger.close_file()
    with Running("--at", str(at)) as again:
        assert again.line() == f"identity  {identity}"
        assert again.interrupt() == 0
    done = CliRunner().invoke(farm, ["status", "--at", str(at)])
    assert "not running" in done.output
    assert renter.key.node_id.hex()[:8] in done.output


def test_mistakes_are_one_clear_line(tmp_path: Path) -> None:
    for words, said in (
        (("--at", str(tmp_path)), "--share"),
        (("--at", str(tmp_path), "--share", "lots"), "lots"),
        (("--at", str(tmp_path), "--share", "1GB", "--listen", "203.0.113.1:1"), "cannot listen"),
        (("--at", str(tmp_path), "--share", "1GB", "--peer", "somebody"), "address of a farmer"),
        (("--at", str(tmp_path), "--share", "1GB", "--listen", "7420"), "127.0.0.1:7420"),
        (("--at", str(tmp_path), "--share", "1GB", "--ledger", str(tmp_path / "no/l.db")), "--new-ledger"),
        (("--at", str(tmp_path / "gone/farm"), "--share", "1GB", "--listen", "local"), "mkdir -p"),
        (("status", "--at", str(tmp_path / "none")), "no farmer"),
        (("--at", str(tmp_path / "none"), "status"), "no farmer"),
    ):
        with Running(*words) as farmer:
            _, errors = farmer.process.communicate(timeout=PATIENCE)
            assert farmer.process.returncode != 0
            assert said in errors.decode()
            assert "Traceback" not in errors.decode()
    assert FarmerSettings.read(tmp_path) is None
    assert not (tmp_path / "no").exists()
    assert not (tmp_path / "gone").exists()


async def test_more_than_the_disk_has_is_said_to_be_so(tmp_path: Path) -> None:
    at = tmp_path / "farm"
    with Running("--at", str(at), "--share", "4000TB", "--listen", "local") as running:
        assert running.line().startswith("identity")
        assert running.interrupt() == 0
        _, told = running.process.communicate()
    assert b"this disk has room for" in told


def test_a_farmer_that_does_not_run_is_not_reloaded(tmp_path: Path) -> None:
    none = run("reload", "--at", str(tmp_path))
    assert (none.returncode, "there is no farmer in" in none.stderr) == (8, True)
    FarmerSettings(capacity=MIB, ledger=tmp_path / "ledger.db").write(tmp_path)
    stopped = run("reload", "--at", str(tmp_path))
    assert (stopped.returncode, "does not run" in stopped.stderr) == (8, True)


def test_a_new_farmer_listens_to_others_unless_it_is_told_otherwise(tmp_path: Path) -> None:
    """What is written to farmer.toml; here nothing listens."""
    everywhere = _settings(tmp_path, None)
    assert everywhere.listen is not None
    assert everywhere.listen.host == "::"
    assert not everywhere.local
    assert _settings(tmp_path, "local").local
    here = Address("127.0.0.1", 7555)
    assert _settings(tmp_path, "127.0.0.1:7555", listen=here).listen == here
    _settings(tmp_path, None, listen=here).write(tmp_path)
    assert _settings(tmp_path, None).listen == here, "what was chosen stays"
    assert _settings(tmp_path, "all").listen == Address("::", 7555), "and so does the port"
    assert _settings(tmp_path, "local").listen is None


def test_one_that_was_made_for_this_machine_only_stays_so(tmp_path: Path) -> None:
    FarmerSettings(capacity=MIB, ledger=tmp_path / "ledger.db").write(tmp_path)
    assert _settings(tmp_path, None).local
    assert not _settings(tmp_path, "all").local


def _settings(folder: Path, where: str | None, listen: Address | None = None) -> FarmerSettings:
    given = {"capacity": MIB, "ledger": folder / "ledger.db", "listen": listen}
    return settings_of(folder, where, unlimited=False, **given)
