"""Ordinary programs work on the mount as on any directory."""

import mmap
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from .drive import PATIENCE, Drive


def sh(command: str, at: Path) -> str:
    """Run a shell line in a folder; its output, or an error with it."""
    quiet = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=at,
        env=quiet,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def needs(*programs: str) -> None:
    """The programs under test come with the set-up; a missing one is a failure."""
    missing = [program for program in programs if shutil.which(program) is None]
    assert not missing, f"install {missing}: these tests run the real programs"


GIT = "git -c user.name=a -c user.email=a@example.org"


def test_git_clones_commits_and_collects(mounted: Drive, tmp_path: Path) -> None:
    needs("git")
    origin = tmp_path / "origin"
    origin.mkdir()
    sh(
        f"git init -q . && for i in $(seq 300); do echo $i > f$i; done && git add . && {GIT} commit -qm one",
        origin,
    )
    sh(f"git clone -q {origin} work", mounted.at)
    work = mounted.at / "work"
    sh(
        f"for i in $(seq 50); do echo more >> f$i; done && {GIT} commit -qam two && git gc -q",
        work,
    )
    sh("git fsck --strict", work)
    assert sh("git status --porcelain", work) == ""
    sh(f"git pull -q {work} HEAD", origin)


@pytest.mark.parametrize("journal", ["delete", "truncate", "persist", "wal"])
def test_sqlite_keeps_its_promises(mounted: Drive, journal: str) -> None:
    path = mounted.at / "data.sqlite"
    db = sqlite3.connect(path)
    assert db.execute(f"pragma journal_mode={journal}").fetchone()[0] == journal
    db.execute("create table t(id integer primary key, body blob)")
    for batch in range(20):
        with db:
            db.executemany("insert into t(body) values(?)", [(os.urandom(500),) for _ in range(50)])
            db.execute("update t set body=zeroblob(100) where id % 7 = ?", (batch % 7,))
    db.close()
    again = sqlite3.connect(path)
    assert again.execute("pragma integrity_check").fetchall() == [("ok",)]
    assert again.execute("select count(*) from t").fetchone() == (1000,)
    again.close()


def test_rsync_finds_nothing_to_do_the_second_time(mounted: Drive, tmp_path: Path) -> None:
    needs("rsync")
    source = Path(os.__file__).parent / "email"
    sh(f"rsync -aHAX {source}/ copy/", mounted.at)
    again = sh(f"rsync -aHAX --itemize-changes {source}/ copy/", mounted.at)
    assert again == ""
    assert sh(f"rsync -ac --itemize-changes {source}/ copy/", mounted.at) == ""


def test_tar_extracts_twenty_thousand_files(mounted: Drive, tmp_path: Path) -> None:
    tree = tmp_path / "many"
    for folder in range(100):
        (tree / f"d{folder:03}").mkdir(parents=True)
        for number in range(200):
            (tree / f"d{folder:03}" / f"f{number:03}").write_bytes(b"%d/%d\n" % (folder, number) * 20)
    with tarfile.open(tmp_path / "many.tar", "w") as archive:
        archive.add(tree, "many")
    sh(f"tar xf {tmp_path}/many.tar", mounted.at)
    assert sh("find many -type f | wc -l", mounted.at).strip() == "20000"
    assert sh(f"diff -r {tree} many", mounted.at) == ""
    assert int(sh("du -s --apparent-size -B1 many", mounted.at).split()[0]) > 20_000 * 80
    sh("rm -r many", mounted.at)
    assert os.listdir(mounted.at) == []


def test_cp_a_keeps_everything(mounted: Drive, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("content")
    os.link(tree / "file", tree / "hard")
    os.symlink("file", tree / "soft")
    os.mkfifo(tree / "fifo")
    os.chmod(tree / "file", 0o640)
    os.utime(tree / "file", ns=(1_000_000_000_123_456_789, 1_500_000_000_987_654_321))
    os.setxattr(tree / "file", "user.colour", b"blue")
    with open(tree / "sparse", "wb") as sparse:
        sparse.truncate(1 << 30)
        sparse.seek(500 << 20)
        sparse.write(b"island")
    sh(f"cp -a {tree} copy", mounted.at)
    copy = mounted.at / "copy"
    assert os.stat(copy / "file").st_ino == os.stat(copy / "hard").st_ino
    assert os.stat(copy / "file").st_nlink == 2
    assert os.readlink(copy / "soft") == "file"
    assert os.stat(copy / "file").st_mtime_ns == 1_500_000_000_987_654_321
    assert os.stat(copy / "file").st_mode == os.stat(tree / "file").st_mode
    assert os.getxattr(copy / "file", "user.colour") == b"blue"
    assert os.stat(copy / "sparse").st_size == 1 << 30
    assert os.stat(copy / "sparse").st_blocks * 512 < 10 << 20
    with open(copy / "sparse", "rb") as sparse:
        sparse.seek((500 << 20) - 3)
        assert sparse.read(12) == b"\0\0\0island\0\0\0"


def test_vim_saves(mounted: Drive) -> None:
    editor = shutil.which("vim") or shutil.which("vim.tiny") or shutil.which("vi")
    assert editor, "install vim: this test runs the real editor"
    (mounted.at / "note").write_text("hello\n")
    sh(f"{editor} -es -u NONE -c 'normal Goworld' -c wq note </dev/null || true", mounted.at)
    assert (mounted.at / "note").read_text() == "hello\nworld\n"


def test_a_virtual_environment_runs(mounted: Drive) -> None:
    sh(f"{sys.executable} -m venv --without-pip --copies env", mounted.at)
    assert sh("env/bin/python -c 'print(6 * 7)'", mounted.at).strip() == "42"


def test_the_linker_writes_through_mmap(mounted: Drive) -> None:
    needs("gcc")
    (mounted.at / "main.c").write_text('#include <stdio.h>\nint main(void){puts("linked");return 0;}\n')
    assert sh("gcc -o main main.c && ./main", mounted.at).strip() == "linked"


def test_mmap_reads_and_writes(mounted: Drive) -> None:
    path = mounted.at / "mapped"
    path.write_bytes(bytes(1 << 20))
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[123_456:123_462] = b"mapped"
        view.flush()
        assert os.pread(file.fileno(), 6, 123_456) == b"mapped"
    assert path.read_bytes()[123_456:123_462] == b"mapped"


def test_a_hundred_thousand_entries_are_listed_once_each(mounted: Drive) -> None:
    folder = mounted.at / "wide"
    folder.mkdir()
    at = os.open(folder, os.O_RDONLY)
    for number in range(100_000):
        os.mknod(f"{number:06}", 0o600, dir_fd=at)
    os.close(at)
    assert sorted(os.listdir(folder)) == [f"{number:06}" for number in range(100_000)]


def test_names_of_any_bytes(mounted: Drive) -> None:
    names = [bytes([byte]) * 3 for byte in range(1, 256) if byte != ord("/")]
    names = [name for name in names if name != b"..."] + [b"x" * 255, "né ☃".encode()]
    for name in names:
        with open(os.path.join(os.fsencode(mounted.at), name), "wb") as file:
            file.write(name)
    assert sorted(os.listdir(os.fsencode(mounted.at))) == sorted(names)
    with pytest.raises(OSError, match="too long"):
        (mounted.at / ("x" * 256)).touch()


def test_files_to_sixteen_tebibytes(mounted: Drive) -> None:
    with open(mounted.at / "huge", "wb") as file:
        file.truncate(16 << 40)
        file.seek((16 << 40) - 4)
        file.write(b"last")
    assert os.stat(mounted.at / "huge").st_size == 16 << 40
    with open(mounted.at / "huge", "rb") as file:
        file.seek((16 << 40) - 8)
        assert file.read() == b"\0\0\0\0last"
