"""A mount of damaged books goes on, and costs nothing that was not damaged."""

import pytest
import trio

from storjfs.errors import FilesystemError
from storjfs.segments import Segments
from storjfs.store import ROOT_INODE
from tests.integrity.damages import OPEN, OTHER, STORED, one, read_everything
from tests.integrity.volume import Sample


async def test_a_file_of_which_nothing_can_be_read_can_be_deleted(sample: Sample) -> None:
    sample.damage(
        f"UPDATE extent SET seg = 555 WHERE ino = {OTHER}",
        "UPDATE counters SET value = 600 WHERE key = 'next_seg'",
    )
    sample.mend()
    async with sample.running() as fs:
        ino = sample.inodes["other"]
        with pytest.raises(FilesystemError):
            await sample.read_back(fs, "other")
        await fs.unlink(ROOT_INODE, b"other")
        fs.forget([(ino, 1)])
        await fs._store.sync()
        await fs._store.sync()
    assert sample.check().problems() == {}


async def test_a_mount_survives_an_unlinked_inode_that_is_gone(sample: Sample) -> None:
    sample.damage("INSERT INTO orphan VALUES (77)")
    async with sample.running() as fs:
        assert await sample.read_back(fs, "small") == sample.content["small"]
        await fs._store.sync()
    assert sample.check().counts == {}


async def test_unsent_data_that_is_gone_is_told_and_the_rest_is_well(sample: Sample) -> None:
    (file,) = sample.journal.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[:1000])
    assert sample.check().codes == {"journal-short"}
    file.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    assert sample.check().codes == {"journal-damaged"}
    file.unlink()
    done = sample.mend()
    assert (done.found.codes, done.left.codes) == ({"journal-missing"}, {"journal-missing"})
    file.write_bytes(content)
    assert sample.check().codes == set()


@pytest.mark.parametrize("said", ["live = 0", "live = 0, state = 3"])
async def test_a_mount_deletes_no_segment_that_files_need_whatever_its_sum_says(
    sample: Sample, said: str
) -> None:
    sample.damage(f"UPDATE segment SET {said} WHERE seg = {STORED}")
    sample.drop_cache()
    async with sample.running() as fs:
        segments = fs._segments
        assert isinstance(segments, Segments)
        await fs.compact()
        await segments.delete_now()
        await fs._store.sync()
        assert any("fsck" in problem for problem in segments.report().problems)
    sample.drop_cache()
    done = sample.mend()
    assert done.found.codes >= {"segment-doomed", "live-wrong"}
    assert done.left.problems() == {}
    await read_everything(sample, one("none"))


@pytest.mark.parametrize("segment", [STORED, OPEN], ids=["stored", "unsent"])
@pytest.mark.parametrize(
    "change",
    ["segment_id = x'00'", "segment_id = 'text'", "size = 'text'", "size = -1", "k = 1 << 40, n = 1 << 41",
     "algorithm = 9", "state = 17", "live = 'text'"],
)  # fmt: skip
async def test_a_segment_whose_row_makes_no_sense_costs_no_more_than_its_own_content(
    sample: Sample, segment: str, change: str
) -> None:
    well = ["unsent"] if segment == STORED else ["small", "large", "docs/old/draft"]
    hurt = "small" if segment == STORED else "unsent"
    sample.damage(f"UPDATE segment SET {change} WHERE seg = {segment}")
    sample.drop_cache()
    with trio.fail_after(30):
        async with sample.running() as fs:
            segments = fs._segments
            assert isinstance(segments, Segments)
            await fs.compact()
            await segments.delete_now()
            await segments.repair_all()
            for path in well:
                assert await sample.read_back(fs, path) == sample.content[path]
            if "live" not in change:
                with pytest.raises(FilesystemError):
                    await sample.read_back(fs, hurt)
            await sample.write(fs, "new", b"goes on")
            await fs._store.sync()
    assert sample.check().problems()


async def test_content_behind_the_end_of_its_segment_is_an_error_for_its_readers_only(
    sample: Sample,
) -> None:
    sample.damage(f"UPDATE extent SET pos = 9223372036854775807 WHERE ino = {OTHER}")
    async with sample.running() as fs:
        with pytest.raises(FilesystemError):
            await sample.read_back(fs, "other")
        assert await sample.read_back(fs, "small") == sample.content["small"]
