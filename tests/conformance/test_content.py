"""Reading and writing: mappings, appending from several processes, O_DIRECT, holes, vectors, sizes."""

import faulthandler
import mmap
import os
import subprocess
from pathlib import Path

import pytest

from .calls import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, fails, fallocate, opened
from .conftest import Place
from .processes import Child, together

MIB = 1 << 20
PAGE = mmap.PAGESIZE


def test_a_mapping_and_reads_and_writes_see_each_other_at_once(at: Path) -> None:
    with opened(at / "file", os.O_RDWR | os.O_CREAT) as file:
        os.ftruncate(file, 10 * PAGE)
        with mmap.mmap(file, 10 * PAGE) as memory:
            memory[5000:5005] = b"mmap!"
            assert os.pread(file, 5, 5000) == b"mmap!"
            os.pwrite(file, b"write", 9000)
            assert memory[9000:9005] == b"write"
            memory.flush()
            os.ftruncate(file, 3 * PAGE)
            assert memory[9000:9005] == b"write"
        assert os.fstat(file).st_size == 3 * PAGE
        os.fsync(file)
    assert (at / "file").read_bytes()[5000:5005] == b"mmap!"


def test_a_shared_mapping_connects_processes(at: Path) -> None:
    with opened(at / "file", os.O_RDWR | os.O_CREAT) as file:
        os.ftruncate(file, PAGE)

    def put(number: int) -> bool:
        with opened(at / "file", os.O_RDWR) as file, mmap.mmap(file, PAGE) as memory:
            memory[number] = 65 + number
            while bytes(memory[:4]) != b"ABCD":
                pass
            return True

    assert together([lambda number=number: put(number) for number in range(4)]) == [True] * 4  # type: ignore[misc]
    assert (at / "file").read_bytes()[:4] == b"ABCD"


def test_a_private_mapping_changes_nothing(at: Path) -> None:
    (at / "file").write_bytes(b"x" * PAGE)
    with opened(at / "file", os.O_RDWR) as file, mmap.mmap(file, PAGE, mmap.MAP_PRIVATE) as memory:
        memory[0:4] = b"mine"
        os.fsync(file)
        assert os.pread(file, 4, 0) == b"xxxx"


def test_beyond_the_end_a_mapping_has_zeros_and_then_nothing(at: Path) -> None:
    (at / "file").write_bytes(b"x" * 100)
    with opened(at / "file", os.O_RDWR) as file:
        os.ftruncate(file, 2 * PAGE)
        with mmap.mmap(file, 2 * PAGE) as memory:
            os.ftruncate(file, 100)
            assert memory[100:PAGE] == bytes(PAGE - 100)
            child = os.fork()
            if not child:
                faulthandler.disable()
                memory[PAGE]  # SIGBUS
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -7


def test_processes_that_append_never_overwrite_each_other(at: Path) -> None:
    def append(number: int) -> None:
        line = bytes([65 + number]) * 99 + b"\n"
        with opened(at / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT) as file:
            for _ in range(200):
                assert os.write(file, line) == 100

    together([lambda number=number: append(number) for number in range(4)])  # type: ignore[misc]
    lines = (at / "log").read_bytes().splitlines()
    assert len(lines) == 800
    assert all(len(line) == 99 and len(set(line)) == 1 for line in lines)
    assert {line[:1]: lines.count(line) for line in lines} == dict.fromkeys([b"A", b"B", b"C", b"D"], 200)


def test_appending_ignores_where_the_descriptor_stands(at: Path) -> None:
    (at / "file").write_bytes(b"0123456789")
    with opened(at / "file", os.O_RDWR | os.O_APPEND) as file:
        os.lseek(file, 3, os.SEEK_SET)
        os.write(file, b"end")
        assert os.lseek(file, 0, os.SEEK_CUR) == 13
        os.pwrite(file, b"!", 0)  # Linux appends here as well, see pwrite(2)
    assert (at / "file").read_bytes() == b"0123456789end!"


def test_writers_of_different_parts_do_not_disturb_each_other(at: Path) -> None:
    size = 300_001

    def write(number: int) -> None:
        with opened(at / "file", os.O_WRONLY | os.O_CREAT) as file:
            for start in range(0, size, 10_007):
                os.pwrite(file, bytes([65 + number]) * min(10_007, size - start), number * size + start)

    together([lambda number=number: write(number) for number in range(4)])  # type: ignore[misc]
    assert (at / "file").read_bytes() == b"".join(bytes([65 + number]) * size for number in range(4))


def test_direct_reads_and_writes_agree_with_the_page_cache(at: Path) -> None:
    buffer = mmap.mmap(-1, 2 * PAGE)
    buffer[:] = b"d" * 2 * PAGE
    with opened(at / "file", os.O_RDWR | os.O_CREAT) as cached:
        os.write(cached, b"c" * 5 * PAGE)
        with opened(at / "file", os.O_RDWR | os.O_DIRECT) as direct:
            os.preadv(direct, [buffer], 0)
            assert buffer[:] == b"c" * 2 * PAGE
            buffer[:] = b"d" * 2 * PAGE
            os.pwritev(direct, [buffer], PAGE)
            assert os.pread(cached, 5 * PAGE, 0) == b"c" * PAGE + b"d" * 2 * PAGE + b"c" * 2 * PAGE
            os.pwrite(cached, b"after", PAGE)
            os.preadv(direct, [buffer], PAGE)
            assert buffer[:5] == b"after"
            os.lseek(direct, 5 * PAGE, os.SEEK_SET)
            os.writev(direct, [buffer])
        assert os.fstat(cached).st_size == 7 * PAGE


def test_direct_access_that_is_not_aligned(place: Place) -> None:
    """Nothing has to be aligned on the drive; ext4 on a disk of 512-byte sectors says EINVAL."""
    (place.at / "file").write_bytes(b"x" * 100)
    with opened(place.at / "file", os.O_RDWR | os.O_DIRECT) as direct:
        found = fails(os.pwrite, direct, b"odd", 7)
    assert found == ("nothing" if place.mounted else "EINVAL")


def test_a_hole_takes_no_space_and_reads_as_zeros(at: Path) -> None:
    with opened(at / "file", os.O_RDWR | os.O_CREAT) as file:
        os.pwrite(file, b"start", 0)
        os.pwrite(file, b"end", 100 * MIB)
        os.fsync(file)
        found = os.fstat(file)
        assert found.st_size == 100 * MIB + 3
        assert found.st_blocks <= 4 * PAGE // 512
        assert os.pread(file, 10, 100 * MIB - 7) == bytes(7) + b"end"
        os.ftruncate(file, 3)
        os.fsync(file)
        assert os.fstat(file).st_blocks <= PAGE // 512


def space(path: Path) -> int:
    """In bytes, once everything is written back. On the drive the kernel asks for it again after a close."""
    with opened(path) as file:
        os.fsync(file)
    return path.stat().st_blocks * 512


def test_the_space_of_a_file_is_what_was_written(at: Path) -> None:
    slack = 64 * 1024
    (at / "file").write_bytes(os.urandom(MIB))
    assert MIB <= space(at / "file") <= MIB + slack
    with opened(at / "file", os.O_RDWR) as file:
        os.pwrite(file, os.urandom(1000), 500)
    assert MIB <= space(at / "file") <= MIB + slack
    os.truncate(at / "file", MIB // 2)
    assert MIB // 2 <= space(at / "file") <= MIB // 2 + slack
    os.truncate(at / "file", 0)
    assert space(at / "file") == 0


def test_a_file_that_is_being_written_never_looks_like_a_hole(at: Path) -> None:
    """tar -S stores nothing of a file that takes no space."""
    (at / "empty").touch()
    for name in ("new", "empty"):
        with opened(at / name, os.O_RDWR | os.O_CREAT) as file:
            os.write(file, b"x" * 10_000)
            assert os.fstat(file).st_blocks > 0
            subprocess.run(["tar", "-cSf", f"{name}.tar", name], cwd=at, check=True)
    with opened(at / "new", os.O_RDWR | os.O_TRUNC) as file:
        os.write(file, b"y" * 10_000)
        assert os.fstat(file).st_blocks > 0
    for name in ("new", "empty"):
        found = subprocess.run(["tar", "-xOf", f"{name}.tar"], cwd=at, check=True, capture_output=True).stdout
        assert found == b"x" * 10_000


def sparse(path: Path) -> bytes:
    """A file of 8 MiB with two islands of data."""
    with opened(path, os.O_RDWR | os.O_CREAT) as file:
        os.ftruncate(file, 8 * MIB)
        os.pwrite(file, os.urandom(100_000), MIB)
        os.pwrite(file, os.urandom(5), 6 * MIB + 10)
        os.fsync(file)
    return path.read_bytes()


@pytest.mark.parametrize(
    "command", ["cp", "cp --sparse=always", "cp --reflink=never", "rsync -S", "tar", "dd conv=sparse"]
)
def test_copies_of_sparse_files_are_sparse(at: Path, command: str) -> None:
    """From one place of the filesystem to another, though on the drive SEEK_HOLE finds none: these programs
    look for zeros where a file takes less space than its size."""
    content = sparse(at / "old")
    if command == "tar":
        (at / "to").mkdir()
        subprocess.run(["tar", "-cSf", "tar", "old"], cwd=at, check=True)
        subprocess.run(["tar", "-xSf", "tar", "-C", "to"], cwd=at, check=True)
        os.rename(at / "to" / "old", at / "new")
    elif command.startswith("dd"):
        subprocess.run(["dd", "if=old", "of=new", "bs=64K", "conv=sparse", "status=none"], cwd=at, check=True)
    else:
        subprocess.run([*command.split(), "old", "new"], cwd=at, check=True)
    assert (at / "new").read_bytes() == content
    assert space(at / "new") <= 512 * 1024


def test_where_data_and_holes_are(place: Place) -> None:
    """SEEK_DATA and SEEK_HOLE: libfuse 3.14 and pyfuse3 know no such request, and the kernel then takes the
    whole file for data, which is always correct."""
    sparse(place.at / "file")
    with opened(place.at / "file") as file:
        first = os.lseek(file, 0, os.SEEK_DATA)
        hole = os.lseek(file, first, os.SEEK_HOLE)
        assert (first, hole) == ((0, 8 * MIB) if place.mounted else (MIB, MIB + 25 * PAGE))
        assert os.lseek(file, 8 * MIB - 1, os.SEEK_HOLE) == (8 * MIB if place.mounted else 8 * MIB - 1)
        assert fails(os.lseek, file, 8 * MIB, os.SEEK_DATA) == "ENXIO"
        assert fails(os.lseek, file, 8 * MIB, os.SEEK_HOLE) == "ENXIO"


def test_fallocate(place: Place) -> None:
    """EOPNOTSUPP on the drive: pyfuse3 has no such request. posix_fallocate(3) then writes."""
    with opened(place.at / "file", os.O_RDWR | os.O_CREAT) as file:
        os.write(file, b"x" * 100_000)
        expected = "EOPNOTSUPP" if place.mounted else "nothing"
        assert fails(fallocate, file, 0, 0, 200_000) == expected
        assert fails(fallocate, file, FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE, 0, PAGE) == expected
        os.posix_fallocate(file, 0, 300_000)
        assert os.fstat(file).st_size == 300_000
        assert os.pread(file, 10, 99_995) == b"xxxxx" + bytes(5)


def test_copying_between_descriptors(at: Path) -> None:
    content = os.urandom(300_000)
    (at / "old").write_bytes(content)
    with opened(at / "old") as old, opened(at / "new", os.O_RDWR | os.O_CREAT) as new:
        left = len(content)
        while left:
            left -= os.copy_file_range(old, new, left)
        assert os.pread(new, 400_000, 0) == content
        os.lseek(old, 0, os.SEEK_SET)
        assert os.sendfile(new, old, 0, 1000) == 1000
        assert fails(os.copy_file_range, new, new, 1000, 0, 500) == "EINVAL"  # they overlap


def test_vectors_are_written_and_read_in_order(at: Path) -> None:
    with opened(at / "file", os.O_RDWR | os.O_CREAT) as file:
        assert os.pwritev(file, [b"one", b"", b"two" * 10_000, b"three"], 70_000) == 30_008
        parts = [bytearray(70_003), bytearray(30_000), bytearray(10)]
        assert os.preadv(file, parts, 0) == 100_008
        assert bytes(parts[0]) == bytes(70_000) + b"one"
        assert bytes(parts[2]) == b"three" + bytes(5)


def test_what_reading_and_writing_refuse(at: Path) -> None:
    with opened(at / "file", os.O_RDWR | os.O_CREAT) as file:
        assert os.pread(file, 10, 0) == b""
        assert os.pread(file, 10, 1 << 40) == b""
        assert os.write(file, b"") == 0
        assert os.pwrite(file, b"", 1000) == 0
        assert os.fstat(file).st_size == 0
        assert fails(os.pread, file, 10, -1) == "EINVAL"
        assert fails(os.pwrite, file, b"x", -1) == "EINVAL"
        assert fails(os.lseek, file, -1, os.SEEK_SET) == "EINVAL"
        assert os.lseek(file, 1000, os.SEEK_END) == 1000


def test_size_and_mtime_are_right_before_anything_is_written_back(at: Path) -> None:
    """With the writeback cache the kernel alone knows them at first; all see the same."""
    with opened(at / "file", os.O_RDWR | os.O_CREAT) as file:
        os.write(file, b"x" * 12_345)
        inside = os.fstat(file)

        def look() -> tuple[int, int, int]:
            found = (at / "file").stat()
            return found.st_size, found.st_mtime_ns, len((at / "file").read_bytes())

        assert Child(look).result() == (12_345, inside.st_mtime_ns, 12_345)
        os.fsync(file)
        assert Child(look).result() == (12_345, inside.st_mtime_ns, 12_345)
    assert (at / "file").stat().st_mtime_ns == inside.st_mtime_ns
