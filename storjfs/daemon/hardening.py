"""What the mount process asks of the system for itself: privacy of its memory, and enough open files."""

import ctypes
import logging
import resource

log = logging.getLogger(__name__)

PR_SET_DUMPABLE = 4


def keep_memory_private() -> None:
    """No core dump of this process, and no ptrace or /proc/PID/mem by processes of the same user.

    Not fatal where the system refuses. Children that are exec'ed start afresh (prctl(2)), so this must be
    called by each process that holds keys. The process's files in /proc belong to root from then on; opening
    /proc/self/fd and the like fails, so it comes after start-up work that needs them.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as error:
        log.warning("core dumps could not be switched off: %s", error)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        log.warning("the process could not be made undumpable: errno %d", ctypes.get_errno())


def raise_file_limit() -> None:
    """As many open files as the system lets us have: segments and connections take one each."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError) as error:
        log.warning("the limit of open files could not be raised: %s", error)
