"""Many programs that read and write one file: correct, and none is kept from its work by the others."""

import os
import select
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .drive import PATIENCE, Drive
from .sharing import BLOCKS, PROGRAMS, stamp_of, stamped

TOP = Path(__file__).parents[2]
ENOUGH = 50
"""Operations that every program gets done while all the others go on without end."""


class Sharing:
    """Programs of some kinds on one file."""

    def __init__(self, path: Path, kinds: list[str]) -> None:
        self.kinds = kinds
        self._programs = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.e2e.sharing", kind, str(path), str(number), str(ENOUGH)],
                cwd=TOP,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number, kind in enumerate(kinds)
        ]

    def work(self) -> list[int]:
        """What each has done by the time that the slowest has done ENOUGH: nobody stops before, so that a
        program that others keep from its work never gets there. Whom the kernel lets at the file's lock first
        is not ours to say, so how the counts compare is not looked at."""
        try:
            for program in self._programs:
                assert program.stdout is not None
                assert program.stdout.readline() == "ready\n", program.communicate()[1]
            for program in self._programs:
                assert program.stdin is not None
                program.stdin.write("go\n")
                program.stdin.flush()
            for program in self._programs:
                assert program.stdout is not None
                assert select.select([program.stdout], [], [], PATIENCE)[0], "kept from its work"
                assert program.stdout.readline() == "enough\n", program.communicate()[1]
            for program in self._programs:
                assert program.stdin is not None
                program.stdin.close()
                program.stdin = None
            done = []
            for program in self._programs:
                said, complained = program.communicate(timeout=PATIENCE)
                assert program.returncode == 0, complained
                done.append(int(said.split()[-1]))
            return done
        finally:
            for program in self._programs:
                program.kill()
                program.wait()


@pytest.mark.parametrize("kind", ["own", "any"])
def test_writers_and_readers_of_one_file_get_along(mounted: Drive, kind: str) -> None:
    path = mounted.at / "file"
    path.write_bytes(stamped(PROGRAMS, 0) * BLOCKS)
    kinds = [kind] * PROGRAMS + ["read"] * 3
    Sharing(path, kinds).work()
    before = path.read_bytes()
    blocks = [before[at : at + len(before) // BLOCKS] for at in range(0, len(before), len(before) // BLOCKS)]
    assert len(blocks) == BLOCKS
    for at, block in enumerate(blocks):
        who, _ = stamp_of(block)
        assert kind == "any" or who in (at % PROGRAMS, PROGRAMS)
    mounted.umount()
    mounted.mount()
    assert path.read_bytes() == before


def test_appends_of_many_programs_are_whole_in_order_and_all_there(mounted: Drive) -> None:
    path = mounted.at / "log"
    path.touch()
    kinds = ["append"] * PROGRAMS
    done = Sharing(path, kinds).work()
    seen: Counter[int] = Counter()
    for line in path.read_bytes().splitlines():
        who, number = map(int, line.split())
        seen[who] += 1
        assert number == seen[who]
    assert [seen[who] for who in range(PROGRAMS)] == done
    mounted.umount()
    mounted.mount()
    assert os.path.getsize(path) == 16 * sum(done)
