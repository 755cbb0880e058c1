"""The one place where an exception becomes an errno for a program.

pyfuse3 lets a handler raise `FUSEError` only; anything else ends the main loop and with it the mount. So each
handler is wrapped by `answered`.
"""

import errno
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pyfuse3 import FUSEError

from storjfs.errors import FilesystemError, StorjfsError

log = logging.getLogger(__name__)

Handler = TypeVar("Handler", bound=Callable[..., Awaitable[Any]])

# What the system itself may tell us about local space and memory and what a program understands as such. Any
# other OSError (a refused connection, a missing file of ours) says nothing about the file the program uses.
PASSED_ON = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
)


def errno_of(error: BaseException) -> int | None:
    """The errno a program shall see for `error`, or None where it is a defect of ours that needs a traceback.

    Looks into exception groups (a nursery wraps what its tasks raise): the first known errno counts.
    """
    if isinstance(error, FilesystemError):
        return error.errno or errno.EIO
    if isinstance(error, OSError) and error.errno in PASSED_ON:
        return error.errno
    if isinstance(error, StorjfsError) and isinstance(number := getattr(error, "errno", None), int):
        return number
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            found = errno_of(part)
            if found is not None:
                return found
    return None


def answered(handler: Handler) -> Handler:
    """Wrap a request handler so that it raises nothing but `FUSEError` (and lets cancellation through)."""

    @functools.wraps(handler)
    async def answer(*arguments: Any) -> Any:
        try:
            return await handler(*arguments)
        except FilesystemError as error:
            raise FUSEError(error.errno or errno.EIO) from None
        except FUSEError:
            raise
        except Exception as error:
            found = errno_of(error)
            if found is None:
                log.exception("request %s failed; the program gets EIO", handler.__name__)
                found = errno.EIO
            raise FUSEError(found) from None

    return answer  # type: ignore[return-value]
