"""Farmers that accept and never answer: whoever needs nothing of them is not delayed by those who do."""

import hashlib
import os
import shutil

from .drive import PATIENCE, Drive, await_that
from .silence import Readers, forget_pages, stopped

KIB = 1 << 10
READERS = 100


def test_many_stuck_readers_delay_nobody_who_needs_no_farmer(drive: Drive) -> None:
    drive.mount()
    warm, warm_content = drive.at / "warm", os.urandom(3 << 20)
    cold = [drive.at / f"cold{number}" for number in range(READERS)]
    content = {path: os.urandom(300 * KIB) for path in cold}
    for path, data in {**content, warm: warm_content}.items():
        path.write_bytes(data)
    drive.umount()
    shutil.rmtree(drive.paths().cache_dir)
    # Far longer than all that follows: whoever is kept waiting finds the stuck readers gone.
    drive.mount("-o", "offline_timeout=300")
    assert warm.read_bytes() == warm_content
    with stopped(drive.farm_pid()):
        readers = Readers(cold)
        try:
            await_that(lambda: readers.stuck() >= READERS, "all readers are stuck")
            forget_pages(warm)
            assert warm.read_bytes() == warm_content
            with open(drive.at / "new", "wb") as file:
                file.write(warm_content)
                os.fsync(file.fileno())
            forget_pages(drive.at / "new")
            assert (drive.at / "new").read_bytes() == warm_content
            assert len(os.listdir(drive.at)) == READERS + 2
            assert readers.stuck() >= READERS
        except BaseException:
            readers.stop()
            raise
    found = readers.results(2 * PATIENCE)
    assert found == [hashlib.sha256(content[path]).hexdigest() for path in cold]
    drive.umount()
