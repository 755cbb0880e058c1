"""A program that works on a file which others work on too.

Run as `python -m tests.e2e.sharing KIND FILE NUMBER ENOUGH`: it says "ready", begins when a line comes in,
says "enough" when it has done so much, goes on until its standard input is closed, and says how much it did.
"""

import os
import random
import select
import sys

BLOCK = 4096
BLOCKS = 64
PROGRAMS = 6


def stamped(number: int, count: int) -> bytes:
    """A block that says whose it is, all over, and which of theirs."""
    return (b"%03d %011d\n" % (number, count)) * (BLOCK // 16)


def stamp_of(block: bytes) -> tuple[int, int]:
    """Who wrote the block and when; it must be theirs all over."""
    assert block == block[:16] * (BLOCK // 16), f"a block of several writers: {block[:16]!r}"
    return int(block[:3]), int(block[4:15])


def write_own(descriptor: int, number: int, count: int) -> None:
    """Blocks of our own, between those of others; what was written there last is what is read."""
    at = (random.randrange(BLOCKS // PROGRAMS) * PROGRAMS + number) * BLOCK
    os.pwrite(descriptor, stamped(number, count), at)
    if count % 3 == 0:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    assert stamp_of(os.pread(descriptor, BLOCK, at)) == (number, count)
    if count % 16 == 0:
        os.fsync(descriptor)


def write_any(descriptor: int, number: int, count: int) -> None:
    """Blocks that others write as well: in the end each is wholly somebody's."""
    os.pwrite(descriptor, stamped(number, count), random.randrange(BLOCKS) * BLOCK)
    if count % 16 == 0:
        os.fsync(descriptor)


def read_any(descriptor: int, number: int, count: int) -> None:
    """Linux lets a read see a part of a write that is under way, but nothing that nobody wrote."""
    if count % 8 == 0:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    block = os.pread(descriptor, BLOCK, random.randrange(BLOCKS) * BLOCK)
    assert len(block) == BLOCK
    assert all(0 <= int(line[:3]) <= PROGRAMS for line in block.splitlines())


def append(descriptor: int, number: int, count: int) -> None:
    """A line at the end; none is lost, and none is within another."""
    os.write(descriptor, b"%03d %011d\n" % (number, count))
    if count % 64 == 0:
        os.fsync(descriptor)


KINDS = {"own": write_own, "any": write_any, "read": read_any, "append": append}


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main() -> None:
    kind, name, number, enough = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    flags = os.O_WRONLY | os.O_APPEND if kind == "append" else os.O_RDWR
    descriptor = os.open(name, flags)
    act, count = KINDS[kind], 0
    say("ready")
    os.read(0, 16)
    while not select.select([0], [], [], 0)[0]:
        count += 1
        act(descriptor, number, count)
        if count == enough:
            say("enough")
    os.fsync(descriptor)
    os.close(descriptor)
    say(str(count))


if __name__ == "__main__":
    main()
