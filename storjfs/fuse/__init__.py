"""The mount as the kernel sees it: requests become calls on a Filesystem, its errors become errnos.

The only room that imports pyfuse3.
"""

from .adapter import Adapter
from .connection import MountFailed
from .options import FILESYSTEM_TYPE, BadMountOption, MountOptions, parse_options
from .session import serve

__all__ = [
    "FILESYSTEM_TYPE",
    "Adapter",
    "BadMountOption",
    "MountFailed",
    "MountOptions",
    "parse_options",
    "serve",
]
