"""git and rsync while the mount process is killed: what was fsynced is there, the rest can be made again."""

import hashlib
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.e2e.drive import Drive

from .conftest import Told
from .length import CRASHES
from .programs import run

GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "gc.autoDetach=false")
# Times are compared to the nanosecond: files here change more than once a second.
RSYNC = ("rsync", "-a", "--modify-window=-1", "--itemize-changes")


class Work:
    """Does `step` again and again in a thread until the mount dies under it; `warm` steps make it busy."""

    def __init__(self, step: Callable[[], None], warm: int) -> None:
        self._step = step
        self._warm = warm
        self.steps = 0
        self.busy = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while True:
                self._step()
                self.steps += 1
                if self.steps >= self._warm:
                    self.busy.set()
        except (OSError, AssertionError, subprocess.SubprocessError):
            return

    def die_with(self, drive: Drive, after: float) -> None:
        """Kill the mount process `after` seconds after it became busy."""
        assert self.busy.wait(120)
        self._thread.join(after)
        assert self._thread.is_alive(), "the work ended before the mount did"
        drive.kill()
        self._thread.join(120)
        assert not self._thread.is_alive()


def sync_folders(top: Path) -> None:
    """fsync each directory: what fsync of files does not promise is which names they have."""
    for folder, _, _ in os.walk(top):
        at = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(at)
        finally:
            os.close(at)


class Repository:
    """Commits to a repository whose git fsyncs everything; `sure` is the last commit that has to survive."""

    def __init__(self, at: Path, seed: int) -> None:
        self.at = at
        self._random = random.Random(seed)
        self.sure = ""
        self.commits = 0

    def git(self, *words: str) -> str:
        """Run git in it."""
        return run([*GIT, *words], self.at).strip()

    def make(self) -> None:
        """A repository with one commit."""
        self.at.mkdir()
        self.git("init", "-q", "-b", "main")
        for name, value in (("core.fsync", "all"), ("core.fsyncMethod", "fsync"), ("gc.auto", "150")):
            self.git("config", name, value)
        self.commit()

    def commit(self) -> None:
        """Change some files and commit them; now and then a branch, a merge, a clone, a collection."""
        for _ in range(self._random.randrange(1, 12)):
            file = self.at / f"d{self._random.randrange(8)}" / f"f{self._random.randrange(30)}"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(self._random.randbytes(self._random.choice([10, 3000, 70_000])))
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", str(self.commits))
        self.commits += 1
        if self.commits % 5 == 0:
            self.git("checkout", "-q", "-B", "side", "HEAD~1")
            (self.at / f"side{self.commits}").write_text("side\n")
            self.git("add", "-A")
            self.git("commit", "-q", "-m", "side")
            self.git("checkout", "-q", "main")
            self.git("merge", "-q", "--no-edit", "side")
        made = self.git("rev-parse", "main")
        sync_folders(self.at / ".git")
        self.sure = made

    def recover(self) -> None:
        """What a person does after a crash, and the checks."""
        for lock in [*(self.at / ".git").rglob("*.lock"), *(self.at / ".git").glob("gc.pid")]:
            lock.unlink()
        printed = self.git("fsck", "--strict", "--full")
        for sign in ("error", "missing", "corrupt", "broken"):
            assert sign not in printed, printed
        self.git("merge-base", "--is-ancestor", self.sure, "main")
        self.git("symbolic-ref", "HEAD", "refs/heads/main")
        self.git("reset", "-q", "--hard")
        self.git("clean", "-qfd")
        assert self.git("status", "--porcelain") == ""


def test_git_loses_no_commit_when_the_mount_is_killed(mounted: Drive, tell: Told) -> None:
    moments = random.Random(7)
    repository = Repository(mounted.at / "work", 1)
    repository.make()
    for number in range(CRASHES):
        Work(repository.commit, warm=3).die_with(mounted, moments.uniform(0, 3))
        mounted.mount()
        repository.recover()
        clone = mounted.at / f"clone{number}"
        run([*GIT, "clone", "-q", "--no-local", repository.at, clone], mounted.home)
        run([*GIT, "fsck", "--strict"], clone)
        shutil.rmtree(clone)
    tell(f"{CRASHES} kills, {repository.commits} commits, git fsck --strict clean each time")


class Tree:
    """A tree on a local disk, and rsync of it to the mount."""

    def __init__(self, at: Path, copy: Path, seed: int) -> None:
        self.at = at
        self.copy = copy
        self._random = random.Random(seed)
        self.versions: dict[str, set[bytes]] = {}

    def change(self, folders: range) -> None:
        """New content for every third file of these folders, all where there are none yet."""
        for folder in folders:
            (self.at / f"d{folder}").mkdir(parents=True, exist_ok=True)
            for number in range(20):
                file = self.at / f"d{folder}" / f"f{number}"
                if not file.exists() or self._random.random() < 0.3:
                    size = self._random.choice([0, 100, 5000, 66_000, 300_000])
                    file.write_bytes(self._random.randbytes(size))
                    name = str(file.relative_to(self.at))
                    self.versions.setdefault(name, set()).add(digest(file))

    def rsync(self, *options: str) -> list[str]:
        """Copy; what rsync changed, one line each."""
        printed = run([*RSYNC, *options, f"{self.at}/", self.copy], self.at)
        return printed.splitlines()

    def differing(self) -> list[str]:
        """Names whose content or attributes rsync would change, deletions included, by content."""
        return [line.split(maxsplit=1)[1] for line in self.rsync("-c", "-n", "--delete")]

    def torn(self) -> Iterator[str]:
        """Files of the copy that have a content which the source never had (temporary ones left out)."""
        for path in self.copy.rglob("*"):
            name = str(path.relative_to(self.copy))
            whole = path.is_file() and not path.name.startswith(".")
            if whole and digest(path) not in self.versions.get(name, set()):
                yield name


def digest(file: Path) -> bytes:
    """Of its content."""
    return hashlib.sha256(file.read_bytes()).digest()


def test_rsync_after_a_crash_finds_only_what_was_not_synced(mounted: Drive, tell: Told) -> None:
    moments = random.Random(3)
    tree = Tree(mounted.home / "tree", mounted.at / "copy", 2)
    found = 0
    synced, unsynced = range(6), range(6, 18)
    for _ in range(CRASHES):
        tree.change(synced)
        tree.rsync("--fsync", *(f"--include=/d{folder}/***" for folder in synced), "--exclude=*")
        sync_folders(tree.copy)

        def copy_more() -> None:
            tree.change(unsynced)
            tree.rsync("--delete")

        Work(copy_more, warm=1).die_with(mounted, moments.uniform(0, 2))
        mounted.mount()
        differing = tree.differing()
        found += len(differing)
        for name in differing:
            assert not name.startswith(tuple(f"d{folder}/f" for folder in synced)), f"{name} was fsynced"
        assert list(tree.torn()) == []
        tree.rsync("-c", "--delete")
        assert tree.differing() == []
        assert contents(tree.at) == contents(tree.copy)
    tell(f"{CRASHES} kills of rsync, {found} files or folders to do again, none of what was fsynced")


def contents(top: Path) -> dict[str, bytes]:
    """Every file of a tree with its content's digest."""
    return {str(path.relative_to(top)): digest(path) for path in top.rglob("*") if path.is_file()}
