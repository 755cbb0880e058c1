"""What `-o` accepts and what the kernel is told."""

import pytest

from storjfs.fuse.options import BadMountOption, MountOptions, parse_options


def test_without_options_the_mount_is_writable_and_keeps_access_times_as_local_disks_do() -> None:
    assert parse_options([]) == MountOptions()
    assert MountOptions().words() == ["rw", "relatime"]


def test_several_o_and_commas_mean_the_same() -> None:
    assert parse_options(["ro,allow_other", "noatime"]) == parse_options(["ro", "allow_other,noatime"])


def test_the_later_word_wins() -> None:
    assert not parse_options(["ro,rw"]).read_only
    assert not parse_options(["sync=network", "sync=local"]).sync_network


def test_what_fstab_adds_is_accepted_without_effect() -> None:
    assert parse_options(["defaults,_netdev,nofail,user"]) == MountOptions()


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(BadMountOption, match="'size=3'") as caught:
        parse_options(["ro,size=3"])
    assert "allow_other" in caught.value.hint


def test_the_kernel_checks_permissions_and_knows_volume_and_type() -> None:
    told = parse_options(["ro,noatime,nodev,allow_other,sync=network"]).for_kernel("photos")
    assert told == {
        "default_permissions",
        "fsname=storjfs:photos",
        "subtype=storjfs",
        "ro",
        "noatime",
        "nodev",
        "allow_other",
    }
