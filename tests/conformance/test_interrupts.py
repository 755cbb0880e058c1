"""A program that waits in the mount gets a signal: it ends cleanly, and the mount goes on.

A local filesystem never lets anybody wait like this, so these tests run on a mount only, whose farmers do not
answer until they are told to (tests.conformance.gated_mount).
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from .calls import opened

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0
CONTENT = bytes(range(256)) * 4096


class GatedMount:
    """`file` lies on it and is not in the page cache; the gate is open until `close`."""

    def __init__(self, home: Path) -> None:
        self.at = home / "mount"
        self.at.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.conformance.gated_mount", str(self.at), str(home / "meta.db")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.await_line("ready")
        (self.at / "file").write_bytes(CONTENT)
        with opened(self.at / "file", os.O_RDWR) as file:
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)

    def await_line(self, line: str) -> None:
        """Until the mount says that something waits (or "closed"). After PATIENCE ends it, and fails."""
        assert self._process.stdout is not None
        impatient = threading.Timer(PATIENCE, self.kill)
        impatient.start()
        try:
            while (said := self._process.stdout.readline()) != line + "\n":
                assert said, f"the mount ended, or said nothing for long, instead of saying {line}"
        finally:
            impatient.cancel()

    def close(self) -> None:
        self._process.send_signal(signal.SIGUSR2)
        self.await_line("closed")

    def open(self) -> None:
        self._process.send_signal(signal.SIGUSR1)

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        """Unmount; the process must end well and without a complaint."""
        self.open()
        subprocess.run(["fusermount3", "-u", str(self.at)], check=True)
        _, errors = self._process.communicate(timeout=PATIENCE)
        assert (self._process.returncode, errors) == (0, "")

    def goes_on(self) -> None:
        """What needs no farmer works for everybody else."""
        assert (self.at / "file").stat().st_size == len(CONTENT)
        os.rename(self.at / "file", self.at / "moved")
        assert os.listdir(self.at) == ["moved"]
        os.rename(self.at / "moved", self.at / "file")


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[GatedMount]:
    made = GatedMount(tmp_path)
    try:
        yield made
    finally:
        made.end()


@contextlib.contextmanager
def start(mount: GatedMount, code: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program in the mount; `direct()` reads past the page cache. At the end the gate is opened, so
    that it can end in any case."""
    lines = [
        "import mmap, os, signal, sys",
        "def direct(file):",
        "    buffer = mmap.mmap(-1, 4096)",
        "    os.preadv(file, [buffer], 4096)",
        code,
    ]
    with subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=mount.at,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as program:
        try:
            yield program
        finally:
            mount.open()
            program.kill()


READ = "os.pread(os.open('file', os.O_RDONLY), 100_000, 300_000)"
FSYNC = "os.fsync(os.open('file', os.O_RDONLY))"
FSYNC_OF_DIRECTORY = "os.fsync(os.open('.', os.O_RDONLY))"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(("code", "word"), [(READ, "read"), (FSYNC, "flush"), (FSYNC_OF_DIRECTORY, "flush")])
def test_a_fatal_signal_ends_a_program_though_no_farmer_answers(
    mount: GatedMount, code: str, word: str, number: signal.Signals
) -> None:
    mount.close()
    with start(mount, code) as program:
        mount.await_line(word)
        program.send_signal(number)
        assert program.wait(PATIENCE) == -number
        mount.goes_on()
    assert (mount.at / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("direct(os.open('file', os.O_RDONLY | os.O_DIRECT))", "read"),
        ("os.open('new', os.O_WRONLY | os.O_CREAT)", "room"),
        ("os.mkdir('new')", "room"),
    ],
)
def test_other_requests_end_with_their_answer(mount: GatedMount, code: str, word: str) -> None:
    """Nobody tells us that their program was killed; the segments room bounds how long they wait. A directory
    in which something is being made cannot be listed meanwhile, as on any filesystem of Linux."""
    mount.close()
    with start(mount, code) as program:
        mount.await_line(word)
        program.kill()
        assert (mount.at / "file").stat().st_size == len(CONTENT)
        mount.open()
        assert program.wait(PATIENCE) == -signal.SIGKILL
    assert (mount.at / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(("code", "word"), [(READ, "read"), (FSYNC, "flush")])
def test_a_signal_that_is_handled_waits_for_the_answer(mount: GatedMount, code: str, word: str) -> None:
    """As on a disk: neither read(2) of a file nor fsync(2) returns early."""
    mount.close()
    handler = "signal.signal(signal.SIGINT, lambda *_: print('handled', flush=True))"
    with start(mount, f"{handler}\n{code}\nprint('done')") as program:
        mount.await_line(word)
        program.send_signal(signal.SIGINT)
        mount.open()
        output, _ = program.communicate(timeout=PATIENCE)
    assert (program.returncode, sorted(output.split())) == (0, ["done", "handled"])


def test_one_of_two_that_wait_is_killed_and_the_other_gets_its_answer(mount: GatedMount) -> None:
    """Of two files: the kernel lets only one at a time sync a file."""
    mount.close()
    with start(mount, FSYNC) as first:
        mount.await_line("flush")  # the other, when it starts, lists the directory, which waits for a sync
        with start(mount, f"{FSYNC_OF_DIRECTORY}\nprint('safe')") as second:
            mount.await_line("flush")
            first.kill()
            assert first.wait(PATIENCE) == -signal.SIGKILL
            mount.open()
            output, _ = second.communicate(timeout=PATIENCE)
    assert output == "safe\n"


def test_a_child_that_waits_is_not_interrupted_by_its_killed_parent(mount: GatedMount) -> None:
    """The parent opened the file, and ends; what the child is told is the truth."""
    mount.close()
    code = """
file = os.open('file', os.O_RDONLY)
if os.fork():
    signal.pause()
os.fsync(file)
print('safe')
"""
    with start(mount, code) as parent:
        mount.await_line("flush")
        parent.kill()
        parent.wait(PATIENCE)
        mount.open()
        assert parent.stdout is not None
        assert parent.stdout.read() == "safe\n"


def test_a_hundred_killed_readers_leave_nothing_behind(mount: GatedMount) -> None:
    """More than pyfuse3 has workers for."""
    mount.close()
    code = """
for number in range(100):
    if not os.fork():
        os.pread(os.open('file', os.O_RDONLY), 10, number * 9000)
        os._exit(0)
signal.pause()
"""
    with start(mount, f"os.setpgid(0, 0)\n{code}") as program:
        mount.await_line("read")
        os.killpg(program.pid, signal.SIGKILL)
        program.wait(PATIENCE)
        mount.goes_on()
    assert (mount.at / "file").read_bytes() == CONTENT


MANY = """
import threading
file = os.open('file', os.O_RDONLY | os.O_DIRECT)
threads = [threading.Thread(target=direct, args=(file,)) for _ in range(200)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_many_programs_that_wait_keep_nobody_else_from_working(mount: GatedMount) -> None:
    mount.close()
    rescue = threading.Timer(PATIENCE, mount.kill)  # else a failure would be a test that never ends
    rescue.start()
    try:
        with start(mount, MANY) as program:
            for _ in range(200):
                mount.await_line("read")
            mount.goes_on()
            mount.open()
            assert program.wait(PATIENCE) == 0
    finally:
        rescue.cancel()
