"""The mount process's log: a rotating file in the state directory; in the foreground, the terminal as well.

Nothing secret goes there: no keys, no passphrases, no names or contents of files.
"""

import logging
import logging.handlers
import sys
from pathlib import Path

LOG_SIZE = 4 * 1024 * 1024
KEPT_LOGS = 4
TOLD = "told"  # a record with this attribute is for the file: the terminal has it in better words
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def start_log(path: Path, *, verbose: bool, foreground: bool) -> None:
    """Send all log records there. The file is readable by its owner only.

    In the background, standard error has already been pointed at a file of its own by who started us, and
    shows what a library prints on its own (libfuse does).
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    file = logging.handlers.RotatingFileHandler(
        path, maxBytes=LOG_SIZE, backupCount=KEPT_LOGS, encoding="utf-8"
    )
    handlers: list[logging.Handler] = [file]
    if foreground:
        terminal = logging.StreamHandler(sys.stderr)
        terminal.addFilter(lambda record: not hasattr(record, TOLD))
        handlers.append(terminal)
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format=FORMAT, handlers=handlers, force=True
    )
    logging.getLogger("pyfuse3").setLevel(logging.WARNING)
    logging.captureWarnings(True)
