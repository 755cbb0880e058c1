"""A drive on farmers that run as services do: limited, reloaded, restarted under load, asked how they are."""

import contextlib
import hashlib
import random
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from storjfs.farmer.settings import FILE
from tests.farmer.process import Running, run, status

from .drive import Drive, await_that

MIB = 1 << 20
FARMERS = 6


class Service:
    """One farmer, stopped and started again at the same address."""

    def __init__(self, at: Path, ledger: Path) -> None:
        self.at = at
        self.process = Running(
            *(
                "--at",
                str(at),
                "--share",
                "512MiB",
                "--listen",
                "local",
                "--ledger",
                str(ledger),
                "--new-ledger",
                "--limit",
                "200Mbit",
            )
        )
        node_id, self.address = self.process.where()
        self.name = f"{self.address}/{node_id.hex()}"

    def restart(self) -> None:
        """As `systemctl restart` does."""
        self.process.send(signal.SIGTERM)
        with self.process:
            assert self.process.ended() == 0
        self.process = Running("--at", str(self.at), "--listen", str(self.address))
        self.process.where()

    def limit(self, rate: str) -> None:
        """As an edited farmer.toml and `systemctl reload` do."""
        text = (self.at / FILE).read_text()
        (self.at / FILE).write_text(re.sub("(?m)^limit = .*$", f'limit = "{rate}"', text))
        assert run("reload", "--at", str(self.at)).stdout.endswith(f"-> {rate}\n")


@pytest.fixture
def services(drive: Drive, tmp_path: Path) -> Iterator[list[Service]]:
    """Farmers with the ledger of a volume that is made and uses them."""
    drive.run("init", "--no-passphrase")
    ledger = drive.paths().data_dir / "ledger.db"
    made = [Service(tmp_path / f"farmer-{number}", ledger) for number in range(FARMERS)]
    file = drive.paths().settings_file
    names = "".join(f'    "{one.name}",\n' for one in made)
    text, found = re.subn(r"(?m)^embedded = .*$", f"addresses = [\n{names}]", file.read_text(), count=1)
    assert found
    file.write_text(text)
    yield made
    drive.stop()
    for one in made:
        with one.process, contextlib.suppress(ProcessLookupError):
            one.process.interrupt()


def test_farmers_are_limited_reloaded_and_restarted_while_a_drive_writes(
    drive: Drive, services: list[Service]
) -> None:
    drive.mount()
    sums: dict[str, str] = {}

    def write() -> None:
        for number in range(8):
            content = random.Random(number).randbytes(4 * MIB)
            (drive.at / f"file{number}").write_bytes(content)
            sums[f"file{number}"] = hashlib.sha256(content).hexdigest()

    writer = threading.Thread(target=write)
    writer.start()
    for one in services:
        one.limit("100Mbit")
    services[0].restart()
    services[1].restart()
    for one in services:
        one.limit("400Mbit")
    writer.join(120)
    assert len(sums) == 8
    drive.run("flush", timeout=300)
    drive.umount()
    shutil.rmtree(drive.paths().cache_dir)
    drive.mount()
    for name, expected in sums.items():
        assert hashlib.sha256((drive.at / name).read_bytes()).hexdigest() == expected
    await_that(lambda: drive.status()["health"] == "healthy", "no trace of it is left")
    drive.run("audit", "--now")
    for one in services:
        report = status(one.at)
        codes = {warn["code"] for warn in report["warnings"]}
        assert not codes & {"audits_failing", "restarts", "settlement", "silent", "disk_failing"}, codes
        assert len(report["contracts"]) >= 1
        assert report["space"]["stored"] > 0
        assert report["contracts"][0]["audits"] >= 1
        assert report["money"]["earned"] > 0
