"""Other processes and other users."""

import faulthandler
import os
import pickle
import signal
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import pytest

T = TypeVar("T")

# Nobody has to exist in /etc/passwd to own a file; one of them does not fit into 16 bits.
NOBODY = 65_534
FAR = 3_000_000_000


class Child(Generic[T]):
    """A forked process that runs `action`. Its result, or the exception it ended with, is `result()`."""

    def __init__(self, action: Callable[[], T]) -> None:
        self._from_child, to_parent = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(to_parent)
            return
        try:
            os.close(self._from_child)
            faulthandler.disable()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            try:
                answer: tuple[bool, Any] = (True, action())
            except BaseException as failure:
                answer = (False, failure)
            with os.fdopen(to_parent, "wb") as pipe:
                pickle.dump(answer, pipe)
        finally:
            os._exit(0)

    def result(self) -> T:
        """Wait for the end."""
        with os.fdopen(self._from_child, "rb") as pipe:
            said = pipe.read()
        os.waitpid(self.pid, 0)
        assert said, "the process ended without an answer"
        fine, value = pickle.loads(said)  # noqa: S301 (from our own child)
        if not fine:
            raise value
        return value  # type: ignore[no-any-return]


def together(actions: list[Callable[[], T]]) -> list[T]:
    """The results of actions, each in a process of its own, all at once."""
    children = [Child(action) for action in actions]
    return [child.result() for child in children]


def needs_other_users() -> None:
    """Only root can become somebody else; where tests run as another user, this is reported."""
    if os.getuid() != 0:
        pytest.skip("needs root, to become another user")


def as_user(action: Callable[[], T], uid: int = NOBODY, gid: int = NOBODY, groups: tuple[int, ...] = ()) -> T:
    """Run something as another user, in another process."""

    def other() -> T:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        return action()

    return Child(other).result()
