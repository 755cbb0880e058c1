import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storjfs.keys import Hardness, KeyFileDamaged, PassphraseNeeded, PhraseError, VolumeKeys, WrongPassphrase
from storjfs.volume import (
    PassphraseUnreadable,
    SettingsError,
    VolumeDamaged,
    VolumeExists,
    VolumeLocked,
    VolumeNotFound,
    VolumePaths,
    VolumeSettings,
    change_passphrase,
    create_volume,
    is_sealed,
    lock_volume,
    read_settings,
    reset_passphrase,
    unlock_volume,
    write_settings,
)

ENTROPY = bytes(range(32))
KEYS = VolumeKeys(ENTROPY)
SETTINGS = VolumeSettings(volume_id=KEYS.volume_id)
EASY = Hardness(ops=1, mem_kib=8)


@dataclass(frozen=True)
class Saying:
    """A source that says always the same; counts nothing, asks nobody."""

    words: str

    def read(self, *, new: bool = False) -> str:
        if not self.words:
            raise PassphraseUnreadable("nothing to say")
        return self.words


class Silent:
    """A source that must not be asked."""

    def read(self, *, new: bool = False) -> str:
        raise AssertionError("asked for a passphrase that nobody needs")


def made(paths: VolumePaths, words: str | None = None) -> None:
    create_volume(paths, ENTROPY, SETTINGS, Saying(words) if words else None, EASY)


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
@settings(deadline=None, max_examples=20)
def test_a_volume_opens_with_the_passphrase_it_was_made_with(
    tmp_path_factory: pytest.TempPathFactory, words: str
) -> None:
    paths = VolumePaths("default", {"HOME": str(tmp_path_factory.mktemp("home"))})
    create_volume(paths, ENTROPY, SETTINGS, Saying(words), EASY)
    assert is_sealed(paths)
    assert unlock_volume(paths, Saying(words)).metadata_key == KEYS.metadata_key
    assert read_settings(paths) == SETTINGS


def test_wrong_or_missing_passphrases_are_told(paths: VolumePaths) -> None:
    made(paths, "open sesame")
    with pytest.raises(WrongPassphrase):
        unlock_volume(paths, Saying("open barley"))
    with pytest.raises(PassphraseNeeded):
        unlock_volume(paths)


def test_without_a_passphrase_nobody_is_asked(paths: VolumePaths) -> None:
    made(paths)
    assert not is_sealed(paths)
    assert unlock_volume(paths, Silent()).metadata_key == KEYS.metadata_key


def test_key_and_settings_are_private(paths: VolumePaths) -> None:
    before = os.umask(0)
    try:
        made(paths)
    finally:
        os.umask(before)
    assert paths.key_file.stat().st_mode & 0o777 == 0o600
    assert paths.settings_file.stat().st_mode & 0o777 == 0o600
    assert paths.data_dir.stat().st_mode & 0o777 == 0o700


def test_a_volume_is_found_by_name_in_the_environment(
    paths: VolumePaths, home: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made(paths)
    for variable in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", home["HOME"])
    assert unlock_volume("default").volume_id == KEYS.volume_id


def test_an_existing_volume_is_never_overwritten(paths: VolumePaths) -> None:
    made(paths)
    with pytest.raises(VolumeExists):
        create_volume(paths, bytes(32), VolumeSettings(volume_id=VolumeKeys(bytes(32)).volume_id), None)
    assert unlock_volume(paths).volume_id == KEYS.volume_id


def test_making_waits_for_no_other_process(paths: VolumePaths) -> None:
    with lock_volume(paths), pytest.raises(VolumeLocked):
        made(paths)
    assert not paths.exists


def test_a_volume_half_made_is_none_and_can_be_made_again(
    paths: VolumePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(_source: object, target: Path) -> None:
        raise OSError("the machine stops here")

    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda a, b: stopped(a, b) if b == paths.key_file else rename(a, b))
    with pytest.raises(OSError, match="stops here"):
        made(paths)
    monkeypatch.undo()
    with pytest.raises(VolumeNotFound):
        unlock_volume(paths)
    made(paths)
    assert unlock_volume(paths).volume_id == KEYS.volume_id


def test_a_refused_passphrase_leaves_nothing_behind(paths: VolumePaths) -> None:
    with pytest.raises(PassphraseUnreadable):
        create_volume(paths, ENTROPY, SETTINGS, Saying(""), EASY)
    assert not paths.data_dir.exists()


def test_settings_of_another_volume_are_refused(paths: VolumePaths) -> None:
    with pytest.raises(ValueError, match="another volume"):
        create_volume(paths, bytes(32), SETTINGS, None)


@pytest.mark.parametrize(("old", "new"), [("one", "two"), (None, "two"), ("one", None)])
def test_the_passphrase_changes_and_the_keys_stay(
    paths: VolumePaths, old: str | None, new: str | None
) -> None:
    made(paths, old)
    change_passphrase(paths, Saying(old) if old else None, Saying(new) if new else None, EASY)
    assert is_sealed(paths) == (new is not None)
    assert unlock_volume(paths, Saying(new) if new else Silent()).metadata_key == KEYS.metadata_key
    if new and old:
        with pytest.raises(WrongPassphrase):
            unlock_volume(paths, Saying(old))
    assert sorted(path.name for path in paths.data_dir.iterdir()) == ["journal", "key", "lock"]


def test_a_change_that_fails_leaves_the_old_passphrase(paths: VolumePaths) -> None:
    made(paths, "one")
    with pytest.raises(WrongPassphrase):
        change_passphrase(paths, Saying("wrong"), Saying("two"), EASY)
    with pytest.raises(PassphraseUnreadable):
        change_passphrase(paths, Saying("one"), Saying(""), EASY)
    assert unlock_volume(paths, Saying("one")).volume_id == KEYS.volume_id


def test_the_recovery_phrase_makes_a_new_passphrase(paths: VolumePaths) -> None:
    made(paths, "forgotten")
    reset_passphrase(paths, ENTROPY, Saying("two"), EASY)
    assert unlock_volume(paths, Saying("two")).volume_id == KEYS.volume_id


def test_the_phrase_of_another_volume_changes_nothing(paths: VolumePaths) -> None:
    made(paths, "one")
    with pytest.raises(PhraseError, match="another volume"):
        reset_passphrase(paths, bytes(32), Saying("two"), EASY)
    assert unlock_volume(paths, Saying("one")).volume_id == KEYS.volume_id


def test_no_volume_is_said_in_words(paths: VolumePaths) -> None:
    for ask in (unlock_volume, read_settings, is_sealed):
        with pytest.raises(VolumeNotFound, match="no volume default"):
            ask(paths)


def test_a_swapped_key_file_is_noticed(paths: VolumePaths, home: dict[str, str]) -> None:
    made(paths)
    other = VolumePaths("other", home)
    create_volume(other, bytes(32), VolumeSettings(volume_id=VolumeKeys(bytes(32)).volume_id), None)
    paths.key_file.write_bytes(other.key_file.read_bytes())
    with pytest.raises(VolumeDamaged):
        unlock_volume(paths)


def test_a_damaged_key_file_is_told(paths: VolumePaths) -> None:
    made(paths)
    paths.key_file.write_bytes(b"nonsense")
    with pytest.raises(KeyFileDamaged):
        unlock_volume(paths)


def test_wrong_settings_name_their_file(paths: VolumePaths) -> None:
    made(paths)
    paths.settings_file.write_text("version = 1\nnonsense = 2\n")
    with pytest.raises(SettingsError, match=r"settings\.toml: there is no setting 'nonsense'"):
        unlock_volume(paths)
    paths.settings_file.unlink()
    with pytest.raises(SettingsError, match=r"settings\.toml is missing"):
        unlock_volume(paths)


def test_settings_can_be_replaced(paths: VolumePaths) -> None:
    made(paths)
    changed = VolumeSettings(volume_id=KEYS.volume_id, code=(3, 10), audit_period=60)
    write_settings(paths, changed)
    assert read_settings(paths) == changed
