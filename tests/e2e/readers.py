"""A program whose threads read one file each, all at once. Run as `python -m tests.e2e.readers FILE...`.

Prints, when all have ended, the sha256 of each file, or the name of the error, one a line in their order.
"""

import errno
import hashlib
import sys
import threading


def read(name: str, found: dict[str, str]) -> None:
    try:
        with open(name, "rb") as file:
            found[name] = hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
        found[name] = errno.errorcode[error.errno or errno.EIO]


def main() -> None:
    names = sys.argv[1:]
    found: dict[str, str] = {}
    threads = [threading.Thread(target=read, args=(name, found)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdout.write("\n".join(found[name] for name in names))


if __name__ == "__main__":
    main()
