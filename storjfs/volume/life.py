"""Making a volume, unlocking it, changing its passphrase and settings.

The key file is written last when a volume is made, so a volume either exists whole or not at all.
"""

import contextlib
import difflib
from collections.abc import Mapping, Sequence

from storjfs.errors import StorjfsError
from storjfs.keys import (
    MODERATE,
    Hardness,
    PhraseError,
    VolumeKeys,
    needs_passphrase,
    open_sealed,
    plain_entropy,
    seal_entropy,
)
from storjfs.store.durable import write_atomically
from storjfs.volume.errors import (
    KeyFileMissing,
    SettingsError,
    SettingsFileError,
    VolumeDamaged,
    VolumeExists,
    VolumeNotFound,
)
from storjfs.volume.lock import lock_volume
from storjfs.volume.passphrase import PassphraseSource
from storjfs.volume.paths import DEFAULT_NAME, VolumePaths, volume_names
from storjfs.volume.settings import VolumeSettings, edit_farmers


def create_volume(
    paths: VolumePaths,
    entropy: bytes,
    settings: VolumeSettings,
    passphrase: PassphraseSource | None,
    hardness: Hardness = MODERATE,
) -> VolumeKeys:
    """Make a volume from `entropy` (new, or from a recovery phrase); on disk when this returns.

    `passphrase` None leaves the key file plain, mode 0600. `settings.volume_id` must be that of the entropy.
    Blocks for about a second with a passphrase. Raises VolumeExists, VolumeLocked, PassphraseUnreadable, and
    KeyFileMissing where a volume was in use whose key file is gone: a new one would take its place.
    """
    keys = VolumeKeys(entropy)
    if settings.volume_id != keys.volume_id:
        raise ValueError("the settings are those of another volume")
    if paths.exists:
        raise _exists(paths)
    if paths.remains:
        raise _key_file_missing(paths)
    sealed = _key_file(entropy, passphrase, hardness)
    paths.make_directories()
    with lock_volume(paths):
        if paths.exists:
            raise _exists(paths)
        write_settings(paths, settings)
        write_atomically(paths.key_file, sealed)
    return keys


def restore_volume(
    paths: VolumePaths,
    entropy: bytes,
    settings: VolumeSettings,
    passphrase: PassphraseSource | None,
    hardness: Hardness = MODERATE,
) -> VolumeKeys:
    """Write the key file anew beside what is there of the volume; `settings` only where it has none.

    Raises PhraseError, and changes nothing, where the settings there are another volume's; and as
    `create_volume` does.
    """
    keys = VolumeKeys(entropy)
    if paths.exists:
        raise _exists(paths)
    there = paths.settings_file.exists()
    if there and read_settings(paths).volume_id != keys.volume_id:
        raise PhraseError(
            f"{paths.settings_file} belongs to another volume than this recovery phrase",
            hint="Nothing was changed. Give the phrase of that volume, or another name with --volume.",
        )
    sealed = _key_file(entropy, passphrase, hardness)
    paths.make_directories()
    with lock_volume(paths):
        if paths.exists:
            raise _exists(paths)
        if not there:
            write_settings(paths, settings)
        write_atomically(paths.key_file, sealed)
    return keys


def same_phrase(volume_id: bytes, environ: Mapping[str, str] | None = None) -> list[str]:
    """The names of the volumes on this machine with that id: those of one recovery phrase."""
    found = []
    for name in volume_names(environ):
        with contextlib.suppress(StorjfsError):
            if read_settings(VolumePaths(name, environ)).volume_id == volume_id:
                found.append(name)
    return found


def unlock_volume(volume: VolumePaths | str, passphrase: PassphraseSource | None = None) -> VolumeKeys:
    """The keys of a volume, by its paths or name. The source is asked only if the key file is sealed.

    Blocks for about a second then. Raises VolumeNotFound, VolumeDamaged, PassphraseNeeded, WrongPassphrase,
    PassphraseUnreadable, KeyFileDamaged, SettingsFileError.
    """
    paths = VolumePaths(volume) if isinstance(volume, str) else volume
    keys = VolumeKeys(_entropy(paths, passphrase))
    if read_settings(paths).volume_id != keys.volume_id:
        raise VolumeDamaged(
            f"{paths.key_file} and {paths.settings_file} belong to different volumes",
            hint="Restore the one that was replaced from a backup.",
        )
    return keys


def has_metadata(paths: VolumePaths) -> bool:
    """Whether the volume was ever mounted on this machine.

    Raises VolumeDamaged where it was and its metadata is gone: a new, empty database in its place would have
    unsent data thrown away as belonging to nothing.
    """
    try:
        size: int | None = paths.meta_db.stat().st_size
    except FileNotFoundError:
        size = None
    if size:
        return True
    unsent = paths.journal_dir.is_dir() and any(paths.journal_dir.iterdir())
    if not unsent and not paths.pay_db.exists() and not _farm_holds_shards(paths):
        return False
    raise VolumeDamaged(
        f"the metadata of the volume {paths.name} {'are gone' if size is None else 'were emptied'}: "
        f"{paths.meta_db}",
        hint="Nothing was changed; what farmers and the journal hold is still there. Restore that file from "
        "a backup as docs/how-to/back-up-metadata.md says.",
    )


def _farm_holds_shards(paths: VolumePaths) -> bool:
    """Whether an embedded farmer keeps anything: those of a first mount that failed have empty shelves."""
    return any(len(path.name) == 64 for path in paths.farm_dir.glob("farmer-*/shelf/**/*"))


def change_passphrase(
    paths: VolumePaths,
    old: PassphraseSource | None,
    new: PassphraseSource | None,
    hardness: Hardness = MODERATE,
) -> None:
    """Seal the key file anew, or leave it plain if `new` is None; no data changes. A mount may be running.

    After a crash either the old or the new passphrase holds. Raises as `unlock_volume` does.
    """
    entropy = _entropy(paths, old)
    write_atomically(paths.key_file, _key_file(entropy, new, hardness))


def reset_passphrase(
    paths: VolumePaths, entropy: bytes, new: PassphraseSource | None, hardness: Hardness = MODERATE
) -> None:
    """Write the key file anew from the recovery phrase's entropy, for who forgot the passphrase.

    Raises PhraseError, and changes nothing, if the phrase is another volume's; PassphraseUnreadable.
    """
    if read_settings(paths).volume_id != VolumeKeys(entropy).volume_id:
        raise PhraseError(
            f"this is the recovery phrase of another volume than {paths.name}",
            hint="`storjfs init --volume NAME --phrase-file FILE` makes a volume from it.",
        )
    write_atomically(paths.key_file, _key_file(entropy, new, hardness))


def read_settings(paths: VolumePaths) -> VolumeSettings:
    """The settings as they stand on disk. Raises VolumeNotFound or SettingsFileError."""
    try:
        return VolumeSettings.from_toml(paths.settings_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not paths.exists:
            raise volume_not_found(paths) from None
        raise SettingsFileError(
            f"the settings file {paths.settings_file} is missing", hint="Restore it from a backup."
        ) from None
    except UnicodeDecodeError:
        raise SettingsFileError(f"{paths.settings_file} is not UTF-8 text") from None
    except SettingsError as error:
        raise SettingsFileError(f"{paths.settings_file}: {error}", hint=error.hint) from None


def write_settings(paths: VolumePaths, settings: VolumeSettings) -> None:
    """Replace the settings file, atomically; what a person wrote into its comments is lost."""
    write_atomically(paths.settings_file, settings.to_toml().encode())


def change_farmers(paths: VolumePaths, changes: Mapping[str, Sequence[str]]) -> VolumeSettings:
    """Put other lists under [farmers] in the settings file, atomically and in this order, and leave all else.

    Returns the settings as they are then. Raises as `read_settings`, and SettingsError where the list makes
    no sense.
    """
    read_settings(paths)
    text = paths.settings_file.read_text(encoding="utf-8")
    for key, values in changes.items():
        text = edit_farmers(text, key, values)
    write_atomically(paths.settings_file, text.encode())
    return read_settings(paths)


def is_sealed(paths: VolumePaths) -> bool:
    """Whether unlocking needs a passphrase. Raises VolumeNotFound or KeyFileDamaged."""
    return needs_passphrase(_read_key_file(paths))


def _entropy(paths: VolumePaths, passphrase: PassphraseSource | None) -> bytes:
    key_file = _read_key_file(paths)
    if not needs_passphrase(key_file) or passphrase is None:
        return open_sealed(key_file)
    return open_sealed(key_file, passphrase.read())


def _key_file(entropy: bytes, passphrase: PassphraseSource | None, hardness: Hardness) -> bytes:
    if passphrase is None:
        return plain_entropy(entropy)
    return seal_entropy(entropy, passphrase.read(new=True), hardness)


def _read_key_file(paths: VolumePaths) -> bytes:
    try:
        return paths.key_file.read_bytes()
    except FileNotFoundError:
        raise volume_not_found(paths) from None


def _key_file_missing(paths: VolumePaths) -> KeyFileMissing:
    which = "" if paths.name == DEFAULT_NAME else f" --volume {paths.name}"
    return KeyFileMissing(
        f"the key file of the volume {paths.name} is missing: {paths.key_file}; the rest of it is there "
        f"({', '.join(str(path) for path in paths.remains)})",
        hint=f"Nothing was changed. Restore the key file from a backup, or make it again from the recovery "
        f"phrase: `storjfs init{which} --phrase-file FILE`. To begin anew, move away first: "
        f"{' and '.join(map(str, paths.to_begin_anew))}.",
    )


def volume_not_found(paths: VolumePaths) -> VolumeNotFound | KeyFileMissing:
    """What to raise where a volume was asked for that is not there, or not without its key file."""
    if paths.remains:
        return _key_file_missing(paths)
    names = volume_names()
    which = f" --volume {paths.name}" if paths.name != DEFAULT_NAME else ""
    make = f"`storjfs init{which}` makes one, `storjfs mount{which} DIR` makes one and mounts it."
    near = difflib.get_close_matches(paths.name, names, n=3, cutoff=0.6)
    hint = make
    if near:
        hint = f"Did you mean --volume {' or --volume '.join(near)}? Else: {make}"
    elif names:
        hint = f"`storjfs volumes` lists those that are here. {make}"
    return VolumeNotFound(f"there is no volume {paths.name} on this machine", hint=hint)


def _exists(paths: VolumePaths) -> VolumeExists:
    return VolumeExists(
        f"there is a volume {paths.name} on this machine already",
        hint=f"Choose another name with --volume. The existing one lies in {paths.data_dir}.",
    )
