"""Farmers at home, behind routers, and the relays and renters that they have to do with."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storjfs.protocol.ids import NodeId
from tests.e2e.drive import await_that
from tests.farmer.process import Running, run, status

from .lab import Host, Router

PORT = 7420


@dataclass
class FarmerAt:
    """`storjfs farm` on a host."""

    host: Host
    folder: Path
    words: tuple[str, ...]
    process: Running
    node_id: NodeId

    @property
    def where(self) -> str:
        """As `--peer` and `--farmer` take it."""
        return f"{self.host.address}:{PORT}/{self.node_id.hex()}"

    def through(self, relay: "FarmerAt") -> str:
        """The same by way of a relay."""
        return f"relay+{relay.host.address}:{PORT}/{self.node_id.hex()}"

    def status(self) -> Any:
        """What `farm status --json` says."""
        return status(self.folder)

    def look_again(self) -> None:
        """Have it ask whether it can be dialled."""
        assert run("reload", "--at", str(self.folder)).returncode == 0

    def kill(self) -> None:
        """As a power cut would end it."""
        self.process.process.kill()
        self.process.process.wait()

    def start_again(self) -> None:
        """With the same words."""
        with self.process:
            pass
        with self.host.entered():
            self.process = Running("--at", str(self.folder), *self.words)
        self.process.until("address ")

    def until_reached(self, how: str) -> Any:
        """Wait until its status says so; the status."""
        await_that(lambda: self.status()["reachable"] == how, f"{self.folder.name} is reachable: {how}")
        return self.status()

    def until_attached(self, relays: int) -> None:
        """Wait until so many relays lead to it."""
        await_that(
            lambda: sum(one["attached"] for one in self.status()["live"]["reach"]["relays"]) == relays,
            f"{self.folder.name} is attached to {relays} relays",
        )


@contextlib.contextmanager
def farmer_at(host: Host, folder: Path, *words: str, share: str = "2GB") -> Iterator[FarmerAt]:
    """A farmer there that listens to all, until the end of the block."""
    given = ("--share", share, "--listen", f"0.0.0.0:{PORT}", "--no-dht", *words)
    with host.entered():
        process = Running("--at", str(folder), *given)
    made = FarmerAt(host, folder, given, process, NodeId(b""))
    try:
        made.node_id = NodeId(bytes.fromhex(process.until("identity ")))
        process.until("status ")
        yield made
    finally:
        with made.process:
            pass


@contextlib.contextmanager
def relay_at(host: Host, folder: Path, *words: str) -> Iterator[FarmerAt]:
    """A farmer of the internet that relays others."""
    with farmer_at(host, folder, "--announce", f"{host.address}:{PORT}", "--relay", *words) as made:
        yield made


def open_ports_by(router: Router, how: str, folder: Path) -> None:
    """Have the router open ports for those behind it who ask: miniupnpd, as routers at home have it.

    It refuses to where the router's outer address is one for documentation.
    """
    router.nft(_MINIUPNPD_TABLE)
    settings = folder / "miniupnpd.conf"
    settings.write_text(
        "ext_ifname=eth0\nlistening_ip=lan\nsecure_mode=yes\nuuid=00000000-0000-0000-0000-000000000001\n"
        f"enable_upnp={_YES[how == 'UPnP']}\nenable_natpmp={_YES[how == 'NAT-PMP']}\n"
        "allow 1024-65535 0.0.0.0/0 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n"
    )
    log = folder / "miniupnpd.log"
    words = ["/usr/sbin/miniupnpd", "-d", "-f", str(settings), "-P", str(folder / "miniupnpd.pid")]
    with log.open("w") as output:
        process = router.popen(words, stdout=output, stderr=output)
    await_that(lambda: "istening" in log.read_text() or process.poll() is not None, "miniupnpd listens")
    assert process.poll() is None, log.read_text()


def forwards(router: Router) -> str:
    """The ports that miniupnpd forwards, as rules."""
    return router.run(["nft", "list", "chain", "inet", "filter", "prerouting_miniupnpd"]).stdout


_YES = {True: "yes", False: "no"}
_MINIUPNPD_TABLE = """table inet filter {
chain forward { type filter hook forward priority -1; jump miniupnpd; }
chain miniupnpd { }
chain prerouting { type nat hook prerouting priority dstnat; jump prerouting_miniupnpd; }
chain prerouting_miniupnpd { }
chain postrouting { type nat hook postrouting priority srcnat; jump postrouting_miniupnpd; }
chain postrouting_miniupnpd { }
}
"""
