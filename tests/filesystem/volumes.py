"""A filesystem on a real database and segments in memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from memory_segments import MemorySegments
from storjfs.filesystem import Capacity, Filesystem, Policy
from storjfs.store import MetaStore
