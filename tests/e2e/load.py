"""A program that writes, overwrites, reads, cuts and deletes files, and knows what has to be in them.

Run as `python -m tests.e2e.load FOLDER SEED STEPS`: it works in FOLDER, checks what it reads on the way, and
in the end that all is as it should be. With STEPS 0 it only does the latter, from what the others left in
FOLDER/expected.
"""

import hashlib
import json
import os
import random
import sys
from pathlib import Path

LARGEST = 6 << 20
FILES = 5
CHUNK = 512 << 10


class Load:
    """The files of one program."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.content: dict[str, bytearray] = {}

    def step(self) -> None:
        """One thing that programs do."""
        choice = self.random.random()
        name = f"file{self.random.randrange(FILES)}"
        if name not in self.content or choice < 0.2:
            self.write_whole(name)
        elif choice < 0.55:
            self.overwrite(name)
        elif choice < 0.85:
            self.read(name)
        elif choice < 0.93:
            self.cut(name)
        else:
            os.unlink(self.folder / name)
            del self.content[name]

    def write_whole(self, name: str) -> None:
        content = bytearray(self.random.randbytes(self.random.randrange(1, LARGEST)))
        (self.folder / name).write_bytes(content)
        self.content[name] = content

    def overwrite(self, name: str) -> None:
        content = self.content[name]
        at = self.random.randrange(len(content) + 1)
        data = self.random.randbytes(self.random.randrange(1, CHUNK))
        with open(self.folder / name, "r+b") as file:
            file.seek(at)
            file.write(data)
            file.flush()
            if self.random.random() < 0.5:
                os.fsync(file.fileno())
        content[at : at + len(data)] = data

    def read(self, name: str) -> None:
        content = self.content[name]
        at = self.random.randrange(len(content) + 1)
        with open(self.folder / name, "rb") as file:
            # Else the kernel would answer, and we would not be asked.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(at)
            found = file.read(2 * CHUNK)
        assert found == content[at : at + 2 * CHUNK], f"{name} differs behind {at}"

    def cut(self, name: str) -> None:
        content = self.content[name]
        size = self.random.randrange(len(content) + 1)
        os.truncate(self.folder / name, size)
        del content[size:]

    def leave(self) -> None:
        """Sync everything, and a note of what has to be there."""
        for name in self.content:
            with open(self.folder / name, "rb") as file:
                os.fsync(file.fileno())
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in self.content.items()}
        (self.folder / "expected").write_text(json.dumps(sums))


def verify(folder: Path) -> None:
    """That the files of `folder` are what the program that made them left."""
    expected = json.loads((folder / "expected").read_text())
    for name, digest in expected.items():
        with open(folder / name, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            found = hashlib.sha256(file.read()).hexdigest()
        assert found == digest, f"{folder / name} differs"
    assert set(os.listdir(folder)) == {*expected, "expected"}


def main() -> None:
    folder, seed, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if steps:
        folder.mkdir()
        load = Load(folder, seed)
        for _ in range(steps):
            load.step()
        load.leave()
    verify(folder)


if __name__ == "__main__":
    main()
