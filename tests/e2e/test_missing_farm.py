"""The folder of the embedded farmers is gone, or never was: what a mount does then."""

import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from storjfs.farmer.settings import FarmerSettings
from tests.farmer.process import Running

from .drive import Drive, await_that

MIB = 1 << 20
GIB = 1 << 30
CONTENT = random.Random(1).randbytes(4 * MIB)


def test_a_mount_without_the_farmers_of_before_is_refused_until_they_are_back(drive: Drive) -> None:
    drive.mount()
    (drive.at / "file").write_bytes(CONTENT)
    drive.umount()
    farm, away = drive.paths().farm_dir, drive.home / "away"
    farm.rename(away)
    shutil.rmtree(drive.paths().cache_dir)
    for words in (("mount", str(drive.at)), ("scrub",), ("gc",), ("fsck", "--repair")):
        refused = drive.run(*words, check=False)
        assert refused.returncode == 12, (words, refused.stderr)
        *_, what, what_to_do = refused.stderr.splitlines()
        assert f"is in {farm}" in what
        assert "Put that folder back" in what_to_do
        assert "is lost" in what_to_do
        assert "storjfs mount --new-farmers DIR" in what_to_do
    assert not farm.exists()
    assert drive.run("fsck", "--no-farmers").returncode == 0
    away.rename(farm)
    drive.mount()
    assert (drive.at / "file").read_bytes() == CONTENT
    assert drive.status()["health"] == "healthy"


def test_with_new_farmers_the_drive_goes_on_and_says_what_is_missing(drive: Drive) -> None:
    drive.mount()
    (drive.at / "file").write_bytes(CONTENT)
    drive.umount()
    shutil.rmtree(drive.paths().farm_dir)
    drive.mount("--new-farmers")
    assert (drive.at / "file").read_bytes() == CONTENT, "what is cached is there"
    (drive.at / "new").write_bytes(CONTENT)
    drive.run("flush")
    said = drive.status()
    assert (said["health"], said["segments"]["unreadable"]) == ("at_risk", 1)
    assert (said["volume"]["k"], said["volume"]["n"]) == (3, 5)
    drive.umount()
    drive.mount()
    assert (drive.at / "new").read_bytes() == CONTENT


@pytest.fixture
def others(drive: Drive, tmp_path: Path) -> Iterator[list[str]]:
    """Addresses of six farmers in processes of their own, with the ledger of the volume."""
    ledger = drive.paths().ledger_db
    running: list[Running] = []
    try:
        for number in range(6):
            at = tmp_path / f"farmer{number}"
            at.mkdir()
            FarmerSettings(capacity=GIB, ledger=ledger, period_min=1).write(at)
            running.append(Running("--at", str(at), "--new-ledger"))
        where = [one.where() for one in running]
        yield [f"{address}/{node_id.hex()}" for node_id, address in where]
        drive.stop()
    finally:
        for one in running:
            with one:
                one.interrupt()


def name_farmers(drive: Drive, farmers: str) -> None:
    """What stands under [farmers] from now on; audits, and with them looks at contracts, are frequent."""
    file = drive.paths().settings_file
    text = file.read_text().partition("[farmers]")[0] + f"[farmers]\n{farmers}\n"
    file.write_text(re.sub("(?m)^audit_period = .*$", 'audit_period = "1 s"', text))


def test_going_over_from_others_to_embedded_farmers_is_not_taken_for_a_loss(
    drive: Drive, others: list[str]
) -> None:
    drive.init(*(word for one in others for word in ("--farmer", one)))
    drive.mount()
    (drive.at / "file").write_bytes(CONTENT)
    drive.umount()
    shutil.rmtree(drive.paths().cache_dir)
    name_farmers(drive, "embedded = 6")
    drive.mount()
    assert (drive.at / "file").read_bytes() == CONTENT
    assert len(drive.farmer_folders()) == 6


def test_what_embedded_farmers_hold_moves_to_others_that_are_named_instead(
    drive: Drive, others: list[str]
) -> None:
    """As the page on farmers of one's own choice has it."""
    drive.run("init")
    name_farmers(drive, "embedded = 6")
    drive.mount()
    (drive.at / "file").write_bytes(CONTENT)
    drive.umount()
    name_farmers(drive, f"addresses = {others}".replace("'", '"'))
    drive.mount()

    def moved() -> bool:
        states = [row["state"] for row in drive.status()["contracts"]]
        return states.count("ended") == len(others) == states.count("active")

    await_that(moved, "the contracts with embedded farmers have ended")
    drive.umount()
    shutil.rmtree(drive.paths().farm_dir)
    shutil.rmtree(drive.paths().cache_dir)
    drive.mount()
    assert (drive.at / "file").read_bytes() == CONTENT
    assert drive.status()["health"] == "healthy"
