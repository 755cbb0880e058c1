"""Settings with fewer farmers than the data need: said at once, by mount and status; nothing is lost."""

import random
import re
import shutil

from .drive import Drive, await_that

CONTENT = random.Random(1).randbytes(1 << 20)


def change(drive: Drive, **settings: str) -> None:
    file = drive.paths().settings_file
    text = file.read_text()
    for name, value in settings.items():
        text, found = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value}", text)
        assert found
    file.write_text(text)


def remount(drive: Drive) -> str:
    """What the mount said."""
    shutil.rmtree(drive.paths().cache_dir)
    return drive.run("mount", str(drive.at)).stdout


def test_fewer_farmers_than_segments_have_shards_is_said_and_undone_by_naming_more(drive: Drive) -> None:
    drive.mount()
    (drive.at / "file").write_bytes(CONTENT)
    drive.umount()
    change(drive, embedded="3")
    said = remount(drive)
    # Up to three: one of the six may have no shard.
    assert re.search("But data cannot move away from .* taken off the settings", said), said
    assert "segments of 3/5 need 5 farmers, and there are 3 others" in said
    assert any("name 5 or more" in problem for problem in drive.status()["problems"])
    assert (drive.at / "file").read_bytes() == CONTENT
    drive.umount()
    change(drive, embedded="5")
    assert "But" not in remount(drive)
    assert not any("cannot move" in problem for problem in drive.status()["problems"])
    assert (drive.at / "file").read_bytes() == CONTENT


def test_one_farmer_is_allowed_and_its_meaning_is_said(drive: Drive) -> None:
    drive.init(embedded="1")
    assert "But there is no redundancy" in drive.run("mount", str(drive.at)).stdout
    (drive.at / "file").write_bytes(CONTENT)
    drive.run("flush")
    shown = drive.run("status").stdout
    assert "no redundancy: every shard of a segment is needed" in shown
    assert "Segments without redundancy, of which every shard is needed: 1" in shown
    drive.umount()
    assert "no redundancy" in drive.run("status").stdout
    change(drive, embedded="6")
    assert "redundancy" not in remount(drive)
    assert any("every shard is needed: 1" in problem for problem in drive.status()["problems"])


def test_one_farmer_at_an_address_is_warned_of_when_the_volume_is_made(drive: Drive) -> None:
    assert "no redundancy" in drive.run("init", "--farmer", "127.0.0.1:9").stderr


def test_a_code_for_more_farmers_than_there_are_is_said_at_mount_and_of_what_waits(drive: Drive) -> None:
    content = 16 * CONTENT  # more than a segment: one of them is closed, with that code
    drive.init(code='"3/10"')
    said = drive.run("mount", str(drive.at)).stdout
    assert "3/10 needs 10 farmers, 7 at the least, and there are 6" in said
    (drive.at / "file").write_bytes(content)
    assert drive.status()["health"] == "degraded"
    # As long as nothing is sent, a segment follows the code of the day.
    await_that(
        lambda: sum(row["shards"] for row in drive.status()["contracts"]) >= 6, "six have a shard each"
    )
    drive.run("umount", "--no-flush", str(drive.at))
    change(drive, code='"auto"')
    drive.mount()
    status = drive.status()
    assert status["health"] == "degraded"
    assert any("prepared with the code 3/10" in problem for problem in status["problems"])
    assert (drive.at / "file").read_bytes() == content
    drive.run("umount", "--no-flush", str(drive.at))
