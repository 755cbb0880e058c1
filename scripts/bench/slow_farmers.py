"""What slow and silent farmers cost: upload and cold reads with one of six farmers on a slow line and one
that takes connections and never answers, beside the same with all six sound; see `--help`.

Figures inform; nothing here passes or fails by time.
"""

import argparse
import contextlib
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import workloads
from lines import Line, Proxy
from places import PATIENCE, VolumePlace
from rich.console import Console
from rich.table import Table
from workloads import MIB

FARMERS = 6
SLOW_RATE = 50_000.0
"""Bytes per second of the slow line."""
ROWS = {
    "upload": "upload, to farmers",
    "read": "cold read of it",
    "read-before": "cold read of what was uploaded before",
}


class FarmedPlace(VolumePlace):
    """A volume with six farmers in processes of their own; the lines of two of them can change."""

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self._farmers: list[subprocess.Popen[bytes]] = []
        self._proxies: list[Proxy] = []

    def _mount(self) -> None:
        if not self._farmers:
            self._start_farmers()
        super()._mount()

    def _start_farmers(self) -> None:
        ledger = self.base / "data/storjfs/volumes" / self._volume / "ledger.db"
        ledger.parent.mkdir(parents=True, mode=0o700)
        for number in range(FARMERS):
            folder = self.base / f"farmer-{number}"
            command = [sys.executable, "-m", "storjfs", "farm", "--at", str(folder), "--share", "20GB"]
            command += ["--ledger", str(ledger), "--new-ledger", "--listen", "local"]
            with folder.with_suffix(".out").open("wb") as said:
                self._farmers.append(
                    subprocess.Popen(command, env=self._env, stdout=said, stderr=subprocess.STDOUT)
                )
        ports = [self._port(number) for number in range(FARMERS)]
        # All go through a proxy, so that what it costs is the same for all.
        self._proxies = [Proxy(("127.0.0.1", port), SLOW_RATE) for port in ports]
        words = [word for one in self._proxies for word in ("--farmer", f"127.0.0.1:{one.port}")]
        self._command("init", "--volume", self._volume, "--no-passphrase", *words)

    def _port(self, number: int) -> int:
        said = self.base / f"farmer-{number}.out"
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self._farmers[number].poll() is None:
            for word in said.read_text(errors="replace").split():
                host, _, port = word.partition("/")[0].rpartition(":")
                if host.endswith("127.0.0.1") and port.isdecimal() and int(port):
                    return int(port)
            time.sleep(0.05)
        raise RuntimeError(f"a farmer did not start: {said.read_text(errors='replace')}")

    def become(self, *, sound: bool) -> None:
        """Both lines sound, or one slow and one dead; the others are not touched."""
        slow, dead = self._proxies[1], self._proxies[4]
        slow.become(Line.SOUND if sound else Line.SLOW)
        dead.become(Line.SOUND if sound else Line.DEAD)

    def __enter__(self) -> Self:
        try:
            return super().__enter__()
        except BaseException:
            self._stop_farmers()
            raise

    def __exit__(self, *raised: object) -> None:
        with contextlib.suppress(IndexError):
            self.become(sound=True)
        try:
            super().__exit__(*raised)
        finally:
            self._stop_farmers()
            shutil.rmtree(self.base, ignore_errors=True)

    def _stop_farmers(self) -> None:
        for one in self._proxies:
            one.close()
        for farmer in self._farmers:
            farmer.send_signal(signal.SIGTERM)
        for farmer in self._farmers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                farmer.wait(30)
            farmer.kill()
            farmer.wait()
        self._farmers, self._proxies = [], []


@dataclass(frozen=True, slots=True)
class Figure:
    sound: bool
    row: str
    rate: float


def measure(place: FarmedPlace, size: int, order: tuple[bool, bool]) -> Iterator[Figure]:
    """One round: a file uploaded with all sound, then both states, in this order."""
    before = place.directory / "before"
    workloads.sequential_write(before, size, place.settle)
    for sound in order:
        place.become(sound=sound)
        now = place.directory / f"{'sound' if sound else 'sick'}"
        _, settled = workloads.sequential_write(now, size, place.settle)
        assert settled is not None
        yield Figure(sound, "upload", settled.rate)
        place.forget()
        yield Figure(sound, "read", workloads.sequential_read(now).rate)
        place.forget()
        yield Figure(sound, "read-before", workloads.sequential_read(before).rate)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(
        prog="scripts/bench/run slow-farmers",
        description="Measure uploads and cold reads with six farmers in processes of their own: all "
        "sound, and with one on a line of 50 KB/s and one that never answers, in turn.",
    )
    parser.add_argument("--size", type=int, default=256, metavar="MiB", help="of each file (256)")
    parser.add_argument("--runs", type=int, default=3, help="rounds (3)")
    parser.add_argument("--at", type=Path, default=Path(tempfile.gettempdir()), help="folder to work in")
    parser.add_argument("--keep-caches", action="store_true", help="leave the kernel's caches alone")
    parser.add_argument("--json", action="store_true", help="all figures, for programs")
    given = parser.parse_args()
    console = Console(stderr=given.json)
    if given.keep_caches:
        workloads.keep_kernel_caches()
    elif not workloads.drop_kernel_caches():
        console.print("not root: the kernel's caches stay, reads may come from them")
    rates: dict[str, dict[bool, list[float]]] = {row: {True: [], False: []} for row in ROWS}
    with tempfile.TemporaryDirectory(prefix="storjfs-bench-", dir=given.at) as base:
        for number in range(given.runs):
            order = (True, False) if number % 2 == 0 else (False, True)
            with FarmedPlace(Path(base) / str(number)) as place:
                for figure in measure(place, given.size * MIB, order):
                    rates[figure.row][figure.sound].append(figure.rate)
                    state = "sound" if figure.sound else "sick"
                    text = (
                        f"{number + 1}/{given.runs} {state}: {ROWS[figure.row]} {figure.rate / 1e6:,.1f} MB/s"
                    )
                    console.print(text, style="dim", highlight=False)
    report(console, rates, as_json=given.json)


def report(console: Console, rates: dict[str, dict[bool, list[float]]], *, as_json: bool) -> None:
    medians = {
        row: {"sound" if sound else "sick": statistics.median(found) for sound, found in of_row.items()}
        for row, of_row in rates.items()
    }
    if as_json:
        print(json.dumps({"medians": medians}, indent=1))
        return
    table = Table(title="medians; one of six farmers at 50 KB/s, one that never answers")
    for column in ("work, MB/s", "six sound", "two sick", "ratio"):
        table.add_column(column, justify="left" if column.startswith("work") else "right")
    for row, label in ROWS.items():
        sound, sick = medians[row]["sound"], medians[row]["sick"]
        table.add_row(label, f"{sound / 1e6:,.1f}", f"{sick / 1e6:,.1f}", f"{sick / sound:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
