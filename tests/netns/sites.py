"""Twelve farmers on three sites, each a process on a host with a line of its own, and a renter at home."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.drive import Drive
from tests.farmer.process import Running

from .lab import Host, Lab, Network, Router

SITES = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")
HOME = "100.64.7.0/24"
PORT = 7420


@dataclass(frozen=True)
class Cable:
    """What a farmer's line is like, as `Lab.host` has it."""

    down: str = "200mbit"
    up: str = "100mbit"
    delay: float = 0.0
    loss: float = 0.0


FAST = Cable()
FAR = Cable(delay=0.05)
NEAR = Cable("400mbit", "400mbit", delay=0.01)
LOSSY = Cable("200mbit", "100mbit", loss=0.01)
POOR = Cable("60mbit", "40mbit", delay=0.02, loss=0.02)
CABLES = ((FAST, FAR, LOSSY, POOR), (FAST, NEAR, LOSSY, POOR), (FAST, FAR, FAR))
"""Of the farmers of each site; the third has one more, behind a router with a forwarded port."""


@dataclass
class Farmer:
    """One farmer, which is stopped and started again at the same address."""

    host: Host
    at: Path
    announced: str
    process: Running | None = field(default=None)
    name: str = ""
    """Its address and identity, once it ran."""

    def start(self, *words: str) -> None:
        """It serves when this returns."""
        self.process = Running(
            *("--at", str(self.at), "--listen", f"0.0.0.0:{PORT}", "--announce", f"{self.announced}:{PORT}"),
            *("--no-dht", *words),
            within=self.host.command,
        )
        node_id, address = self.process.where()
        self.name = f"{address}/{node_id.hex()}"

    def stop(self, how: signal.Signals) -> None:
        """With SIGTERM, or SIGKILL as a power cut would."""
        assert self.process is not None
        self.process.send(how)
        with self.process:
            self.process.ended()
        self.process = None


@dataclass
class Sites:
    """All of them; the drive is not mounted yet."""

    drive: Drive
    networks: list[Network]
    farmers: list[list[Farmer]]
    """Of each site."""
    router: Router
    """The one with a farmer behind it."""

    def all(self) -> list[Farmer]:
        """Farmers of all sites."""
        return [one for site in self.farmers for one in site]


@contextlib.contextmanager
def sites(net: Lab, drive: Drive, folder: Path, code: str = '"auto"') -> Iterator[Sites]:
    """Hosts, farmers that run, and a volume on them; all stopped in the end."""
    home = net.router("home", net.network(HOME), "192.168.7.0/24")
    drive.within = net.host("renter", home.lan, delay=0.005).command
    drive.run("init", "--no-passphrase")
    networks = [net.network(site) for site in SITES]
    farmers: list[list[Farmer]] = []
    for number, (network, cables) in enumerate(zip(networks, CABLES, strict=True)):
        hosts = [
            net.host(
                f"farmer{number}-{place}", network, down=one.down, up=one.up, delay=one.delay, loss=one.loss
            )
            for place, one in enumerate(cables)
        ]
        farmers.append([Farmer(one, folder / one.name.rsplit(".", 1)[1], str(one.address)) for one in hosts])
    router = net.router("router", networks[-1], "192.168.1.0/24")
    behind = net.host("behind", router.lan, down="100mbit", up="100mbit", delay=0.01)
    router.forward(PORT, behind)
    farmers[-1].append(Farmer(behind, folder / "behind", str(router.address)))
    made = Sites(drive, networks, farmers, router)
    ledger = drive.paths().data_dir / "ledger.db"
    try:
        for one in made.all():
            one.start("--share", "2GB", "--ledger", str(ledger), "--new-ledger")
        choose(drive, [one.name for one in made.all()], code)
        yield made
    finally:
        drive.stop()
        for one in made.all():
            if one.process is not None:
                one.stop(signal.SIGKILL)


def choose(drive: Drive, names: list[str], code: str) -> None:
    """Have the volume, which was never mounted, use these farmers."""
    file = drive.paths().settings_file
    addresses = "".join(f'    "{name}",\n' for name in names)
    text = file.read_text()
    for before, after in (
        ("embedded = 6", f"addresses = [\n{addresses}]"),
        ('code = "auto"', f"code = {code}"),
    ):
        assert before in text, text
        text = text.replace(before, after)
    file.write_text(text)
