"""Which local files are open: a bounded number, those used longest ago are closed first."""

from collections import OrderedDict
from typing import Final

from storjfs.segments.files import LocalFile

MOST_DESCRIPTORS: Final = 128
_CLOSED_AT_ONCE: Final = 16


class Descriptors:
    """Opens and closes local files. Methods belong to the loop's thread.

    A file with users, or with bytes that are not known to be on disk, stays open.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = MOST_DESCRIPTORS if most is None else most
        self._open: OrderedDict[LocalFile, None] = OrderedDict()
        self._closing: list[LocalFile] = []

    def __len__(self) -> int:
        return len(self._open)

    def note(self, file: LocalFile) -> None:
        """The file is open, or its writer opens it."""
        self._open[file] = None
        self._close_some()

    def retire(self, file: LocalFile) -> None:
        """The file is gone: close it as soon as nobody uses it."""
        self._open.pop(file, None)
        self._closing.append(file)
        self._close_some()

    def _close_some(self) -> None:
        if self._closing:
            for file in self._closing:
                if not file.users:
                    file.close()
            self._closing = [file for file in self._closing if file.users]
        for _ in range(min(len(self._open) - self._most, _CLOSED_AT_ONCE)):
            file, _none = self._open.popitem(last=False)
            if file.users or file.touched:
                self._open[file] = None
            else:
                file.close()

    def close(self) -> None:
        """Close every descriptor but those that the last commit may need."""
        for file in [*self._open, *self._closing]:
            if not file.users and not file.touched:
                file.close()


__all__ = ["Descriptors"]
