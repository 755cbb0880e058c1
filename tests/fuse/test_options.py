"""What `-o` accepts and what the kernel is told."""

import pytest

from storjfs.fuse.options import BadMountOption, MountOptions, parse_options


def test_without_options_the_mount_is_writable_and_keeps_access_times_as_local_disks_do() -> None:
    assert parse_options([]) == MountOptions()
    assert MountOptions().words() == ["rw", "relatime", "offline_timeout=30"]


def test_several_o_and_commas_mean_the_same() -> None:
    assert parse_options(["ro,allow_other", "noatime"]) == parse_options(["ro", "allow_other,noatime"])


def test_the_later_word_wins() -> None:
    assert not parse_options(["ro,rw"]).read_only
    assert not parse_options(["sync=network", "sync=local"]).sync_network


def test_what_happens_without_farmers_can_be_chosen() -> None:
    assert parse_options(["offline=wait"]).offline_wait
    assert not parse_options(["offline=wait,offline=fail"]).offline_wait
    chosen = parse_options(["offline=wait", "offline_timeout=600"])
    assert (chosen.offline_wait, chosen.offline_timeout) == (False, 600)
    assert "offline_timeout=600" in chosen.words()
    assert "offline=wait" in parse_options(["offline=wait"]).words()


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "30s", "86401", "\u0663"])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadMountOption, match="is not a time"):
        parse_options([f"offline_timeout={text}"])


def test_what_fstab_adds_is_accepted_without_effect() -> None:
    assert parse_options(["defaults,_netdev,nofail,user"]) == MountOptions()


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(BadMountOption, match="'size=3'") as caught:
        parse_options(["ro,size=3"])
    for word in ("allow_other", "offline=fail", "offline=wait", "sync=local"):
        assert word in caught.value.hint


@pytest.mark.parametrize("word", ["suid", "dev"])
def test_what_a_mount_never_gives_is_refused(word: str) -> None:
    with pytest.raises(BadMountOption, match=word) as caught:
        parse_options([f"ro,{word}"])
    assert caught.value.hint


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
