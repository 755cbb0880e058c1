"""A drive and farmers that have no file in common: they settle in a ledger that is served."""

import hashlib
import os
import random
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storjfs.farmer.settings import FILE
from tests.farmer.process import Running, run, status
from tests.ledger.process import Served

from .drive import Drive, await_that

MIB = 1 << 20
COUNT = 3


class Farmer:
    """One farmer with a home of its own, stopped or killed and started again at its address."""

    def __init__(self, home: Path, ledger: Served) -> None:
        home.mkdir()
        self.at = home / "farm"
        self._home = home
        self.process = self._run("--share", "512MiB", "--ledger", str(ledger.at), "--listen", "local")
        node_id, self.address = self.process.where()
        self.node_id = node_id.hex()
        text, found = re.subn(
            "(?m)^claim_every = .*$", 'claim_every = "1s"', (self.at / FILE).read_text(), count=1
        )
        assert found
        (self.at / FILE).write_text(text)
        assert run("reload", "--at", str(self.at)).returncode == 0

    def _run(self, *words: str) -> Running:
        return Running("--at", str(self.at), *words, HOME=str(self._home), XDG_DATA_HOME=str(self._home))

    def start(self) -> None:
        self.process = self._run("--listen", str(self.address))
        self.process.where()

    def end(self, number: signal.Signals) -> None:
        with self.process:
            self.process.send(number)
            self.process.ended()

    def warnings(self) -> set[str]:
        return {one["code"] for one in status(self.at)["warnings"]}

    def money(self) -> Any:
        return status(self.at)["money"]


@pytest.fixture
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    ledger = Served(tmp_path_factory.mktemp("operator") / "ledger")
    yield ledger
    ledger.kill()


@pytest.fixture
def farmers(ledger: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Farmer]]:
    made: list[Farmer] = []
    try:
        folder = tmp_path_factory.mktemp("farmers")
        made.extend(Farmer(folder / str(number), ledger) for number in range(COUNT))
        yield made
    finally:
        for one in made:
            if one.process.process.poll() is None:
                one.end(signal.SIGKILL)


@pytest.fixture
def paying(drive: Drive, ledger: Served, farmers: list[Farmer]) -> Drive:
    """A mounted drive whose account the operator has given credits."""
    words = [word for one in farmers for word in ("--farmer", str(one.address))]
    drive.init("--ledger", str(ledger.at), *words, code='"1/2"')
    account = bytes.fromhex(drive.run("ledger", "account").stdout.split()[1])
    ledger.issue(account, 1000 * 10**9)
    await_that(
        lambda: "balance   1000 credits" in drive.run("ledger", "account", check=False).stdout,
        "the volume sees what it was given",
    )
    drive.mount()
    return drive


def write(drive: Drive, name: str) -> str:
    content = random.Random(name).randbytes(2 * MIB)
    (drive.at / name).write_bytes(content)
    drive.run("flush", timeout=300)
    return hashlib.sha256(content).hexdigest()


def audit(drive: Drive) -> None:
    """Every shard is proved and paid for."""
    drive.run("audit", "--now")


def claimed(ledger: Served) -> dict[str, int]:
    """By farmer, what it has claimed."""
    return {one["payee"]: one["claimed"] for one in ledger.shown()["lanes"]}


def owed_nothing(farmers: list[Farmer]) -> bool:
    return all(one.money()["claimable"] == 0 for one in farmers)


def all_is_settled(drive: Drive, ledger: Served, farmers: list[Farmer]) -> None:
    """What the renter has promised is what the farmers have claimed."""

    def settled() -> bool:
        promised = {one["farmer"]: one["paid"] for one in drive.status()["contracts"]}
        return owed_nothing(farmers) and promised == claimed(ledger)

    await_that(settled, "all is claimed", told=ledger.errors)
    assert ledger.audited() == ""


def test_farmers_are_paid_where_nobody_shares_a_file(
    paying: Drive, ledger: Served, farmers: list[Farmer]
) -> None:
    write(paying, "one")
    audit(paying)
    await_that(lambda: sum(amount > 0 for amount in claimed(ledger).values()) >= 2, "farmers claim")
    all_is_settled(paying, ledger, farmers)
    await_that(lambda: set(claimed(ledger)) == {one.node_id for one in farmers}, "all have lanes")
    assert not paying.paths().ledger_db.exists()
    homes = [ledger.folder.parent, paying.home, *(one.at.parent for one in farmers)]
    books = [path for home in homes for path in home.rglob("ledger.db*")]
    assert {path.parent for path in books} == {ledger.folder}


def test_a_ledger_that_is_away_stops_nobody_and_is_caught_up_with(
    paying: Drive, ledger: Served, farmers: list[Farmer]
) -> None:
    write(paying, "before")
    audit(paying)
    all_is_settled(paying, ledger, farmers)
    before = claimed(ledger)
    ledger.kill()
    expected = write(paying, "meanwhile")
    audit(paying)
    await_that(
        lambda: any("settlement" in one.warnings() for one in farmers), "a farmer says what it waits for"
    )
    report = paying.status()
    assert any("ledger does not answer" in one for one in report["problems"]), report["problems"]
    assert report["money"]["balance"] is None
    await_that(lambda: paying.status()["health"] == "healthy", "nothing else is wrong")
    assert sum(one.money()["claimable"] for one in farmers) > 0
    # Nobody forgets anything, whoever is killed meanwhile, and everybody starts without the ledger.
    farmers[0].end(signal.SIGKILL)
    farmers[0].start()
    paying.kill()
    paying.mount()
    assert hashlib.sha256((paying.at / "meanwhile").read_bytes()).hexdigest() == expected
    write(paying, "after the crash")
    audit(paying)
    ledger.start()
    await_that(lambda: owed_nothing(farmers), "the farmers catch up", told=ledger.errors)
    after = claimed(ledger)
    assert sum(after.values()) > sum(before.values())
    all_is_settled(paying, ledger, farmers)
    await_that(lambda: not any("settlement" in one.warnings() for one in farmers), "the farmers are content")
    await_that(
        lambda: not any("ledger" in one for one in paying.status()["problems"]), "the renter is content"
    )


def test_embedded_farmers_are_paid_in_it_too(drive: Drive, ledger: Served) -> None:
    drive.init("--ledger", str(ledger.at))
    account = bytes.fromhex(drive.run("ledger", "account").stdout.split()[1])
    ledger.issue(account, 1000 * 10**9)
    drive.mount()
    write(drive, "one")
    audit(drive)
    drive.umount()  # farmers that stop claim what they have earned
    await_that(lambda: sum(claimed(ledger).values()) > 0, "farmers claim")
    assert not drive.paths().ledger_db.exists()
    assert ledger.audited() == ""


def test_a_mount_finds_its_account_empty_and_says_whom_to_ask(
    drive: Drive, ledger: Served, farmers: list[Farmer]
) -> None:
    words = [word for one in farmers for word in ("--farmer", str(one.address))]
    drive.init("--ledger", str(ledger.at), *words, code='"1/2"')
    done = drive.run("mount", str(drive.at), check=False)
    assert done.returncode == 7, done.stderr
    assert "account holds too few credits" in done.stderr
    assert f"storjfs ledger issue {drive.run('ledger', 'account').stdout.split()[1]} " in done.stderr
    assert not os.path.ismount(drive.at)
    assert drive.run("status", check=False).returncode in (0, 1, 2)
