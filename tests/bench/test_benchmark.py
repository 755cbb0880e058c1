"""The benchmark runs and reports every figure; which figures is not judged here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SMALL = ["--size", "1", "--files", "30", "--operations", "70", "--keep-caches", "--json"]


def medians(tmp_path: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [ROOT / "scripts/bench/run", "--at", tmp_path, *SMALL, *words],
        env={**os.environ, "STORJFS_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)["medians"]
    assert not list(tmp_path.iterdir()), "nothing is left behind"
    return answer


EVERY_WORK = {
    "write",
    "write-network",
    "read-warm",
    "read-cold",
    "random-read",
    "random-write",
    "create",
    "stat",
    "unlink",
}


def test_all_work_is_done_on_the_bare_disk(tmp_path: Path) -> None:
    found = medians(tmp_path, "--only", "disk", "--runs", "2")
    assert list(found) == ["disk"]
    assert set(found["disk"]) == EVERY_WORK
    assert all(rate > 0 for rate in found["disk"].values())


def test_all_work_is_done_on_the_passthrough(tmp_path: Path) -> None:
    found = medians(tmp_path, "--only", "passthrough")
    assert set(found["passthrough"]) == EVERY_WORK | {"memory"}
    assert all(rate > 0 for rate in found["passthrough"].values())


def test_only_the_chosen_work_is_done(tmp_path: Path) -> None:
    assert set(medians(tmp_path, "--only", "disk", "--only", "files")["disk"]) == {"create", "stat", "unlink"}
