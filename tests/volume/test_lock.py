import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from storjfs.volume import VolumeLocked, VolumePaths, lock_volume

HOLDER = """
import sys
from storjfs.volume import VolumePaths, lock_volume
with lock_volume(VolumePaths("default")):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holding(home: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """A process that has the lock until its standard input ends."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        env={**os.environ, "XDG_DATA_HOME": "", **home},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "held\n"
        yield holder


def test_a_second_process_is_told_who_holds_the_volume(paths: VolumePaths, home: dict[str, str]) -> None:
    with holding(home) as holder:
        with pytest.raises(VolumeLocked) as caught:
            lock_volume(paths)
        assert caught.value.pid == holder.pid
        assert str(holder.pid) in str(caught.value)
        assert holder.stdin is not None
        holder.stdin.close()
        holder.wait()
    lock_volume(paths).close()


def test_the_lock_dies_with_its_holder(paths: VolumePaths, home: dict[str, str]) -> None:
    with holding(home) as holder:
        holder.kill()
    with lock_volume(paths):
        pass


def test_the_lock_excludes_within_one_process_too(paths: VolumePaths) -> None:
    with lock_volume(paths), pytest.raises(VolumeLocked):
        lock_volume(paths)
    lock_volume(paths).close()


def test_closing_twice_is_harmless(paths: VolumePaths) -> None:
    lock = lock_volume(paths)
    lock.close()
    lock.close()


def test_a_forked_child_keeps_the_lock_and_signs_it(paths: VolumePaths) -> None:
    lock = lock_volume(paths)
    release, hold = os.pipe()
    signed, told = os.pipe()
    child = os.fork()
    if child == 0:
        lock.sign()
        os.close(hold)
        os.write(told, b".")
        os.read(release, 1)
        os._exit(0)
    os.read(signed, 1)
    lock.close()
    try:
        with pytest.raises(VolumeLocked) as caught:
            lock_volume(paths)
        assert caught.value.pid == child
    finally:
        os.close(hold)
        os.waitpid(child, 0)
    lock_volume(paths).close()
    for fd in (release, signed, told):
        os.close(fd)
