"""Local files that belong to no segment."""

import trio

from storjfs.segments.cache import Cache
from storjfs.segments.catalogue import Catalogue
from storjfs.store import MetaStore


async def remove_strays(store: MetaStore, catalogue: Catalogue, cache: Cache) -> tuple[int, int]:
    """Remove local files that belong to no segment; returns how many, and their bytes.

    None of damaged metadata: one of them may be what is lacking.
    """
    files = size = 0
    if catalogue.misses_segments():
        return files, size
    for segment_id in [*cache.cached(), *cache.strays()]:
        await trio.lowlevel.checkpoint()
        if store.read("SELECT 1 FROM segment WHERE segment_id = ?", (segment_id,)):
            continue
        freed = cache.give_up(segment_id)
        if not freed and segment_id in cache.strays():
            path = cache.journal_dir / segment_id.hex()
            freed = path.stat().st_size
            path.unlink()
        files += freed > 0
        size += freed
    return files, size
