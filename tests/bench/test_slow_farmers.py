"""A slow and a silent farmer among six, as processes: all is uploaded and read back. Rates are not judged."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_uploads_and_cold_reads_end_with_a_slow_and_a_silent_farmer(tmp_path: Path) -> None:
    options: list[str | Path] = ["--at", tmp_path, "--size", "20", "--runs", "1", "--json", "--keep-caches"]
    done = subprocess.run(
        [ROOT / "scripts/bench/run", "slow-farmers", *options],
        env={**os.environ, "STORJFS_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["medians"]
    assert set(found) == {"upload", "read", "read-before"}
    assert all(rate > 0 for row in found.values() for rate in row.values())
    assert not list(tmp_path.iterdir()), "nothing is left behind"
