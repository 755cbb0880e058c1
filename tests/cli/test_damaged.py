"""What is said where a volume's metadata are gone or damaged: never that the program has a defect."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.home import Home, home_in, wait_until_gone

PAGE = 4096


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """One with a volume that was in use."""
    with home_in(tmp_path) as made:
        made.do("mount", str(made.at))
        for number in range(200):
            (made.at / f"file{number}").write_bytes(os.urandom(5000))
        made.do("flush")
        pid = made.pid()
        made.do("umount", str(made.at))
        wait_until_gone(pid)
        yield made


def test_missing_metadata_are_said_by_every_command(home: Home) -> None:
    meta, pay = home.data() / "meta.db", home.data() / "pay.db"
    meta.unlink()
    every = (("mount", str(home.at)), ("status",), ("fsck",), ("flush",), ("scrub",), ("gc",))
    for words in every:
        done = home.run(*words)
        assert done.returncode == 12, (words, done.stderr)
        assert "metadata" in done.stderr
        assert "back-up-metadata" in done.stderr
    pay.unlink()
    for words in every:
        assert home.run(*words).returncode == 12, words
    assert not meta.exists()


def test_a_damaged_page_is_no_defect_of_the_program(home: Home, tmp_path: Path) -> None:
    meta, sound = home.data() / "meta.db", tmp_path / "sound"
    shutil.copy(meta, sound)
    seen = set()
    for page in range(1, sound.stat().st_size // PAGE, 4):
        shutil.copy(sound, meta)
        with meta.open("r+b") as file:
            file.seek(page * PAGE)
            file.write(os.urandom(4 * PAGE))
        done = home.run("status")
        told = done.stderr
        assert done.returncode in (0, 1, 2, 12), told
        seen.add(done.returncode)
        if done.returncode == 12 and len(seen) < 3:
            assert "damaged" in told
            assert "back-up-metadata" in told or "backup" in told
            for words in (("mount", str(home.at)), ("fsck",), ("gc",)):
                done = home.run(*words)
                told = done.stderr
                assert "unexpected" not in told, (words, told)
                assert "defect" not in told, (words, told)
                assert done.returncode in (0, 4, 12), (words, told)
                if words[0] == "mount" and not done.returncode:
                    home.do("umount", str(home.at))
            if len(seen) > 1:
                break
    assert 12 in seen
