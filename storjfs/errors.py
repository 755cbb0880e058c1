"""The one tree of errors: those that reach a person say what happened, what it means and what to do."""


class StorjfsError(Exception):
    """Base of all errors raised on purpose.

    `hint` says in one sentence what the person can do about it; empty where nothing can be done.
    """

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class FilesystemError(StorjfsError, OSError):
    """An error that reaches a program through the mount; `errno` is what the system call returns."""

    def __init__(self, errno: int, message: str = "") -> None:
        OSError.__init__(self, errno, message)
        self.hint = ""
