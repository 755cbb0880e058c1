"""scrub and gc of a drive with farmers in a process of their own."""

import os
from typing import Any

import pytest
import trio
import trio.lowlevel

from storjfs.daemon import integrity
from storjfs.daemon.wiring import Drive
from storjfs.integrity import scrub as scrubbing
from storjfs.store import ROOT_INODE
from storjfs.volume import VolumePaths
from tests.integrity.drives import MIB, Told, shard_files, stored
from tests.real_drives import read, running, write
from tests.segments.conftest import until


async def test_scrub_finds_rot_and_rebuilds_and_goes_on_where_it_was(
    paths: VolumePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubbing, "BATCH", 2)
    choice = integrity.scrub_choice({})
    async with running(paths) as drive:
        for number in range(3):
            await write(drive, b"file%d" % number, os.urandom(MIB))
            await stored(drive)
        await until(lambda: drive.segments.report().full == 3, drive.store)
        sql = "SELECT shard_id FROM shard WHERE seg = (SELECT MAX(seg) FROM shard) AND idx = 1"
        ((rotten,),) = drive.store.read(sql)
        file = shard_files(paths)[rotten.hex()]
        data = bytearray(file.read_bytes())
        data[70_000] ^= 1
        file.write_bytes(data)
        with pytest.raises(trio.BrokenResourceError):
            await integrity.scrub(drive, Told(3), **choice)
    async with running(paths) as drive:
        kept = scrubbing.Scrub(
            drive.store, drive.keys, drive.segments, drive.renter.read_back, drive.renter.records
        ).unfinished()
        assert kept is not None
        assert kept.read == 6
        told = Told()
        done = await integrity.scrub(drive, told, **choice)
        assert told.progress[0]["done"] == 6
        assert (done["read"], done["wrong"], done["rebuilt"], done["exit_code"]) == (14, 1, 1, 1)
        assert done["damaged"] == done["broken"] == []
        again = await integrity.scrub(drive, Told(), **choice)
        assert (again["read"], again["wrong"], again["exit_code"]) == (15, 0, 0)
        faults = [one for one in drive.renter.records.outcomes() if one.shard_id == rotten]
        assert len(faults) == 1
        some = await integrity.scrub(drive, Told(), **integrity.scrub_choice({"share": 0.5}))
        assert 0 < some["read"] < 15


async def test_scrub_tells_frames_that_were_damaged_before_they_were_sent(paths: VolumePaths) -> None:
    async with running(paths) as drive:
        await write(drive, b"file", os.urandom(MIB))
        await drive.store.sync()
    (file,) = paths.journal_dir.iterdir()
    data = bytearray(file.read_bytes())
    data[5000] ^= 1
    file.write_bytes(data)
    async with running(paths) as drive:
        await stored(drive)
        done = await integrity.scrub(drive, Told(), **integrity.scrub_choice({}))
        assert (done["wrong"], len(done["damaged"]), done["exit_code"]) == (0, 1, 4)


async def test_gc_frees_now_what_nothing_needs(paths: VolumePaths) -> None:
    async with running(paths) as drive:
        fs = drive.filesystem
        kept = os.urandom(MIB)
        ino = await write(drive, b"kept", kept)
        for number in range(4):
            await write(drive, b"gone%d" % number, os.urandom(MIB))
        await stored(drive)
        before = set(shard_files(paths))
        stray = drive.paths.cache_dir / os.urandom(16).hex()
        for number in range(4):
            found = await fs.lookup(ROOT_INODE, b"gone%d" % number)
            await fs.unlink(ROOT_INODE, b"gone%d" % number)
            fs.forget([(found.ino, 1)])
    stray.write_bytes(bytes(50_000))

    async def work(drive: Drive) -> dict[str, Any]:
        told = Told()
        done = await integrity.collect(drive, told)
        assert told.parts == {"segments", "deletions", "files", "log"}
        assert not stray.exists()
        assert await read(drive, ino) == kept
        return done

    done = await integrity.with_drive(paths, None, work)
    assert (done["compacted"], done["moved"], done["files"]) == (1, MIB, 1)
    assert (done["shards"], done["shards_left"]) == (5, 0)
    assert done["garbage"] == 4 * MIB
    assert done["garbage_left"] == 0
    assert done["log_bytes"] > 0
    assert not before & set(shard_files(paths))
