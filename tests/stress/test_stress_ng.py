"""stress-ng's filesystem stressors, with their own checks on."""

import re

from tests.e2e.drive import Drive, await_that

from .conftest import Told
from .length import SECONDS
from .programs import run

STRESSORS = (
    "access chdir chmod chown copy-file dentry dir dirdeep dirmany dup fallocate fcntl fiemap file-ioctl "
    "filename flock fpunch fsize fstat getdent handle hdd inode-flags inotify io iomix lease link locka lockf "
    "lockmix lockofd metamix mknod mmap mmapfork mmapshared msync open rename seek sendfile splice symlink "
    "sync-file touch utime verity xattr"
).split()
