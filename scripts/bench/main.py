"""Measures a volume against the bare disk and a pyfuse3 passthrough; see `scripts/bench/run --help`.

Figures inform; nothing here passes or fails by time.
"""

import argparse
import json
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import workloads
from places import PassthroughPlace, Place, VolumePlace
from rich.console import Console
from rich.table import Table
from workloads import MIB

PLACES: dict[str, type[Place]] = {place.name: place for place in (Place, PassthroughPlace, VolumePlace)}


@dataclass(frozen=True, slots=True)
class Measure:
    """One row: `unit` is what a rate is shown in, `per_unit` how much of the amount makes one of it."""

    name: str
    label: str
    unit: str
    per_unit: float = 1.0


MEASURES = [
    Measure("write", "sequential write, to fsync", "MB/s", 1e6),
    Measure("write-network", "sequential write, to farmers", "MB/s", 1e6),
    Measure("read-warm", "sequential read, local data", "MB/s", 1e6),
    Measure("read-cold", "sequential read, caches removed", "MB/s", 1e6),
    Measure("random-read", "4 KiB random read, local data", "/s"),
    Measure("random-write", "4 KiB random write, fsync per 64", "/s"),
    Measure("create", "create 4 KiB files", "/s"),
    Measure("stat", "walk and stat them", "/s"),
    Measure("unlink", "unlink them", "/s"),
    Measure("memory", "peak memory", "MiB", MIB),
]
GROUPS = {
    "write": ("write", "write-network"),
    "read": ("read-warm", "read-cold"),
    "random": ("random-read", "random-write"),
    "files": ("create", "stat", "unlink"),
}


@dataclass(frozen=True, slots=True)
class Load:
    """How much of each."""

    size: int
    files: int
    operations: int
    groups: frozenset[str]


def measure(place: Place, load: Load) -> Iterator[tuple[str, float]]:
    """Do all the work once at an entered place; yields (name of the measure, rate)."""
    if load.groups & {"write", "read", "random"}:
        yield from _measure_one_large_file(place, load)
    if "files" in load.groups:
        tree = place.directory / "tree"
        yield "create", workloads.create_files(tree, load.files).rate
        workloads.drop_kernel_caches()
        yield "stat", workloads.walk(tree).rate
        yield "unlink", workloads.unlink_files(tree).rate
    memory = place.peak_memory()
    if memory:
        yield "memory", float(next(iter(memory.values())))


def _measure_one_large_file(place: Place, load: Load) -> Iterator[tuple[str, float]]:
    large = place.directory / "large"
    synced, settled = workloads.sequential_write(large, load.size, place.settle)
    yield "write", synced.rate
    assert settled is not None
    yield "write-network", settled.rate
    if "read" in load.groups:
        workloads.drop_kernel_caches()
        yield "read-warm", workloads.sequential_read(large).rate
    if "random" in load.groups:
        workloads.drop_kernel_caches()
        yield "random-read", workloads.random_read(large, load.operations).rate
    if "read" in load.groups:
        place.forget()
        yield "read-cold", workloads.sequential_read(large).rate
    if "random" in load.groups:
        yield "random-write", workloads.random_write(large, load.operations).rate
    large.unlink()


def show(console: Console, results: dict[str, dict[str, float]]) -> None:
    """The table: rows are measures, columns places, then storjfs in relation to the others."""
    table = Table(title="medians; ratios are storjfs / the other")
    table.add_column("work", no_wrap=True)
    for name in results:
        table.add_column(name, justify="right")
    others = [name for name in results if name != VolumePlace.name] if VolumePlace.name in results else []
    for name in others:
        table.add_column(f"/{name}", justify="right")
    for row in MEASURES:
        values = {name: of_place.get(row.name) for name, of_place in results.items()}
        if not any(values.values()):
            continue
        cells = [f"{row.label}, {row.unit}"]
        cells += [f"{value / row.per_unit:,.0f}" if value else "-" for value in values.values()]
        for name in others:
            ours, theirs = values[VolumePlace.name], values[name]
            cells.append(f"{ours / theirs:.2f}" if ours and theirs else "-")
        table.add_row(*cells)
    console.print(table)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench/run",
        description="Measure a new volume with embedded farmers on this machine, beside the bare disk and a "
        "pyfuse3 passthrough. All is made in a temporary folder and removed again; it takes up to six times "
        "--size. Dropping the kernel's caches takes root; without it reads may come from the page cache.",
    )
    option = parser.add_argument
    option("--size", type=int, default=1024, metavar="MIB", help="of the large file (default 1024)")
    option("--files", type=int, default=10_000, metavar="N", help="small files (default 10000)")
    option("--operations", type=int, default=16_384, metavar="N", help="random pages (default 16384)")
    option(
        "--runs", type=int, default=1, metavar="N", help="rounds, of which the median is shown (default 1)"
    )
    option("--only", action="append", choices=[*GROUPS, *PLACES], help="only this work or place; repeatable")
    option("--at", type=Path, default=Path("/var/tmp"), help="where to make the folder (default /var/tmp)")
    option("--keep-caches", action="store_true", help="do not drop the kernel's caches before reading")
    option("--mount-option", action="append", default=[], metavar="O", help="for storjfs mount -o")
    option("--json", action="store_true", help="print all rounds and medians as JSON")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    # What was started is stopped on the way out, also when somebody ends this early.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    only = set(given.only or ())
    load = Load(
        size=given.size * MIB,
        files=given.files,
        operations=given.operations,
        groups=frozenset(only & GROUPS.keys() or GROUPS.keys()),
    )
    chosen = [name for name in PLACES if name in only] or list(PLACES)
    if shutil.disk_usage(given.at).free < 6 * load.size:
        sys.exit(f"{given.at} has less than six times {given.size} MiB of free space")
    console = Console(stderr=given.json)
    if given.keep_caches:
        workloads.keep_kernel_caches()
    elif not workloads.drop_kernel_caches():
        console.print("not root: the kernel's caches stay, reads may come from them")
    rounds: dict[str, dict[str, list[float]]] = {name: {} for name in chosen}
    with tempfile.TemporaryDirectory(prefix="storjfs-bench-", dir=given.at) as base:
        for number in range(1, given.runs + 1):
            for name in chosen:
                with make_place(name, Path(base) / f"{name}-{number}", given.mount_option) as place:
                    for what, rate in measure(place, load):
                        rounds[name].setdefault(what, []).append(rate)
                        tell(console, f"{number}/{given.runs} {name}", what, rate)
                    complaints = place.complaints()
                    if complaints:
                        console.print(f"{name}: {len(complaints)} warnings in its log, the last ones:")
                        console.print("\n".join(complaints[-3:]), highlight=False, markup=False)
    medians = {
        name: {what: statistics.median(rates) for what, rates in of_place.items()}
        for name, of_place in rounds.items()
    }
    if given.json:
        print(json.dumps({"rounds": rounds, "medians": medians}, indent=1))
    else:
        show(console, medians)


def tell(console: Console, where: str, what: str, rate: float) -> None:
    """One figure, as soon as it is known."""
    row = next(row for row in MEASURES if row.name == what)
    text = f"{where}: {row.label} {rate / row.per_unit:,.0f} {row.unit}"
    console.print(text, style="dim", highlight=False)


def make_place(name: str, base: Path, mount_options: list[str]) -> Place:
    if name == VolumePlace.name:
        return VolumePlace(base, tuple(word for option in mount_options for word in ("-o", option)))
    return PLACES[name](base)


if __name__ == "__main__":
    main()
