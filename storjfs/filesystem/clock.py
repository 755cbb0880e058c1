"""The clock that stamps files: the kernel's own, asked for through a file."""

import os
import weakref


class FileClock:
    """Nanoseconds since 1970, as the kernel would stamp a file now.

    With the writeback cache the kernel gives a written file its times, and we give them to one that is made
    or linked and to directories. The kernel's clock for that ticks every few milliseconds, and since Linux
    6.13 jumps ahead whenever somebody looks at a time; no clock of clock_gettime(2) follows that, and with
    two clocks what was done later could look older. So the kernel stamps a file in memory for us, which takes
    a microsecond.
    """

    def __init__(self) -> None:
        self._file = os.memfd_create("storjfs clock")
        weakref.finalize(self, os.close, self._file)

    def __call__(self) -> int:
        os.fchmod(self._file, 0o600)
        return os.fstat(self._file).st_ctime_ns
