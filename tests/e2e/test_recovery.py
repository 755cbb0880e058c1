"""Farmers lose, forget and corrupt; the drive gives every byte back, says who it was, stops paying, heals."""

import os
import shutil
from pathlib import Path
from typing import Any

from storjfs.farmer.identity import load_identity
from storjfs.network.identity import Identity
from storjfs.store import MetaStore

from .drive import Drive, await_that, shards_in

SOURCE = Path(os.__file__).parent


def files_of(tree: Path) -> dict[str, bytes]:
    """Every regular file below `tree`, by its relative name."""
    return {
        str(path.relative_to(tree)): path.read_bytes()
        for path in sorted(tree.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def farmer_in(folder: Path) -> str:
    """The node id of the embedded farmer in a folder."""
    identity: Identity = load_identity(folder)
    return bytes(identity.node_id).hex()


def copy_library(drive: Drive) -> dict[str, bytes]:
    """Copy the standard library (without third parties and tests) onto the mount; what it must give back."""
    kept = shutil.ignore_patterns("site-packages", "__pycache__", "test", "idlelib", "lib2to3", "config-*")
    shutil.copytree(SOURCE, drive.at / "library", symlinks=True, ignore=kept)
    # Enough segments that some lie on neither of two farmers.
    (drive.at / "library" / "pictures").write_bytes(os.urandom(120 << 20))
    return files_of(drive.at / "library")


def shards_that_may_fail(drive: Drive, folder: Path, lost: set[str]) -> list[Path]:
    """Shards in `folder` of segments that lost at most one other shard: a 3/5 code stands both faults."""
    store = MetaStore.open(drive.paths().meta_db, drive.keys().metadata_key)
    by_segment: dict[int, list[str]] = {}
    for seg, shard_id in store.read("SELECT seg, shard_id FROM shard"):
        by_segment.setdefault(seg, []).append(bytes(shard_id).hex())
    here = shards_in(folder)
    spared = [shards for shards in by_segment.values() if len(lost.intersection(shards)) <= 1]
    return [here[shard] for shards in spared for shard in shards if shard in here]


def flip_a_bit_in_each_piece(path: Path) -> None:
    """Rot that every read and nearly every audit runs into."""
    with open(path, "r+b") as file:
        for at in range(1000, path.stat().st_size, 4096):
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))


def row_of(drive: Drive, farmer: str) -> dict[str, Any]:
    """The contract with a farmer, as `storjfs status` shows it."""
    rows: list[dict[str, Any]] = drive.status()["contracts"]
    (row,) = [row for row in rows if row["farmer"] == farmer]
    return row


def test_two_farmers_wiped_and_a_third_corrupt(drive: Drive) -> None:
    drive.init(audit_period='"5 s"')
    drive.mount()
    expected = copy_library(drive)
    drive.umount()
    shutil.rmtree(drive.paths().cache_dir)
    first, second, third = drive.farmer_folders()[:3]
    wiped = {**shards_in(first), **shards_in(second)}
    assert wiped
    rotten = shards_that_may_fail(drive, third, set(wiped))
    assert rotten
    for path in wiped.values():
        path.unlink()
    for path in rotten:
        flip_a_bit_in_each_piece(path)
    at_fault = [farmer_in(first), farmer_in(second), farmer_in(third)]
    drive.mount()
    paid = {farmer: row_of(drive, farmer)["paid"] for farmer in at_fault}

    assert files_of(drive.at / "library") == expected

    for farmer in at_fault:
        await_that(lambda f=farmer: row_of(drive, f)["failed"] > 0, "the fault is seen in the status")
    for farmer, folder in zip(at_fault, (first, second), strict=False):
        # What a wiped farmer earns from now on is for shards that repair gave it anew.
        if not shards_in(folder):
            assert row_of(drive, farmer)["paid"] == paid[farmer]
    drive.run("repair", timeout=300)
    await_that(lambda: drive.status()["health"] == "healthy", "all shards are whole again")
    segments = drive.status()["segments"]
    assert segments["full"] == segments["total"] > 0
    drive.umount()
    shutil.rmtree(drive.paths().cache_dir)
    drive.mount()
    assert files_of(drive.at / "library") == expected


def test_a_farmer_that_is_gone_for_good_is_replaced_unasked(drive: Drive) -> None:
    """With `without` the farm runs all farmers but one; the others take over its shards."""
    drive.init(audit_period='"2 s"')
    drive.mount()
    content = os.urandom(40 << 20)
    (drive.at / "file").write_bytes(content)
    drive.umount()
    gone = drive.farmer_folders()[0]
    farmer = farmer_in(gone)
    held = len(shards_in(gone))
    assert held
    shutil.rmtree(gone)
    drive.mount()
    await_that(lambda: row_of(drive, farmer)["condition"] == "gone", "the farmer counts as gone")
    await_that(
        lambda: drive.status()["segments"]["full"] == drive.status()["segments"]["total"],
        "its shards are rebuilt",
    )
    assert (drive.at / "file").read_bytes() == content


def test_nothing_readable_reaches_farmers_journal_or_cache(drive: Drive) -> None:
    drive.mount()
    secret = b"the-secret-content-" * 4
    names = ["the-secret-name", "the-secret-folder", "the-secret-target", "user.the-secret-key"]
    folder = drive.at / names[1]
    folder.mkdir()
    (folder / names[0]).write_bytes(secret * 5000)
    (folder / "small").write_bytes(secret)
    os.symlink(names[2], folder / "link")
    os.setxattr(folder / "small", names[3], secret)
    drive.run("flush")
    looked_at = 0
    for _ in range(2):  # mounted, with all databases open, and after
        for path in drive.home.rglob("*"):
            if path.is_file() and not path.is_relative_to(drive.at):
                content = path.read_bytes()
                looked_at += len(content)
                for secret_part in [b"the-secret-content", *(name.encode() for name in names)]:
                    assert secret_part not in content, f"{secret_part!r} in {path}"
        if os.path.ismount(drive.at):
            drive.umount()
    assert looked_at > 5000 * len(secret)
