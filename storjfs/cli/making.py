"""Making a volume, and what a person is told then."""

import datetime
import os
import sys
from pathlib import Path
from typing import Any

import click

from storjfs.errors import StorjfsError
from storjfs.keys import PHRASE_IS_NOT_ENOUGH, VolumeKeys, entropy_to_phrase, new_entropy, recovery_kit
from storjfs.settlement import ServedAt
from storjfs.store import open_meta
from storjfs.volume import (
    DEFAULT_NAME,
    EmbeddedFarm,
    KeyFileMissing,
    StaticFarmer,
    VolumeExists,
    VolumePaths,
    VolumeSettings,
    create_volume,
    default_cache_size,
    keyless_names,
    read_settings,
    restore_volume,
    same_phrase,
    volume_not_found,
)

from .options import Known

WORDS_PER_LINE = 4


class WouldOverwrite(StorjfsError):
    """A file that would have been overwritten."""


class KitUnwritable(StorjfsError):
    """The recovery kit cannot be written."""


def make_volume(
    paths: VolumePaths,
    passphrase: Known | None,
    *,
    entropy: bytes | None = None,
    farmers: tuple[StaticFarmer, ...] = (),
    cache_size: int | None = None,
    kit: Path | None = None,
    **choices: Any,
) -> VolumeKeys:
    """Make the volume and say what was done; with `entropy` (from a phrase) the words are not shown again.

    Where the rest of the volume of that phrase is there, only its key file is made. `choices`
    are further settings. Raises VolumeExists;
    KeyFileMissing where the rest is there and no phrase was given; PhraseError and StoreError where it is
    another volume's; WouldOverwrite, KitUnwritable for the kit.
    """
    if kit is not None and kit.exists():
        raise WouldOverwrite(
            f"{kit} exists already; it is not overwritten", hint="give another name for the kit"
        )
    if kit is not None and not kit.absolute().parent.is_dir():
        raise KitUnwritable(
            f"{kit} cannot be written: there is no such folder", hint="give a folder that exists"
        )
    fresh = entropy is None
    entropy = new_entropy() if entropy is None else entropy
    keys = VolumeKeys(entropy)
    remains = paths.remains
    if fresh and remains:
        raise volume_not_found(paths)
    if not fresh:
        _check_phrase(paths, keys)
    settings = VolumeSettings(
        volume_id=keys.volume_id,
        farmers=farmers or EmbeddedFarm(),
        cache_size=cache_size or default_cache_size(paths.cache_dir),
        **choices,
    )
    if remains:
        restore_volume(paths, entropy, settings, passphrase)
        settings = read_settings(paths)
        click.echo(f"Made the key file of the volume {paths.name} again, beside what is in {paths.data_dir}.")
    else:
        create_volume(paths, entropy, settings, passphrase)
        click.echo(f"Made the volume {paths.name} in {paths.data_dir}.")
    phrase = entropy_to_phrase(entropy)
    _tell_about_keys(paths, passphrase)
    _tell_about_farmers(settings)
    _tell_about_ledger(settings, keys)
    if fresh:
        _tell_phrase(phrase)
    elif not paths.meta_db.exists():
        click.echo("It is empty. " + PHRASE_IS_NOT_ENOUGH)
    if kit is not None:
        write_kit(kit, phrase, paths.name, settings)
    return keys


def _check_phrase(paths: VolumePaths, keys: VolumeKeys) -> None:
    """That nobody on this machine uses the phrase, and that what is there of the volume opens with it."""
    for name in same_phrase(keys.volume_id):
        raise VolumeExists(
            f"the volume {name} on this machine is that of this recovery phrase already",
            hint="Use that one; two volumes of one phrase would spend the same deposits and take each "
            "other's shards for waste.",
        )
    for name in keyless_names():
        if name != paths.name:
            _check_keyless(VolumePaths(name), keys)
    if paths.meta_db.exists():
        open_meta(paths.meta_db, keys.metadata_key, read_only=True).close()


def _check_keyless(other: VolumePaths, keys: VolumeKeys) -> None:
    """That the phrase is not of a volume under another name that only lacks its key file."""
    which = "" if other.name == DEFAULT_NAME else f" --volume {other.name}"
    again = f"`storjfs init{which} --phrase-file FILE` makes its key file again from its phrase"
    try:
        same = read_settings(other).volume_id == keys.volume_id
    except StorjfsError:
        raise KeyFileMissing(
            f"the key file of the volume {other.name} is missing, and without its settings it cannot be told "
            "whether it is the volume of this recovery phrase",
            hint=f"Nothing was changed. {again}. If it is of another phrase and no longer needed, move away "
            f"first: {' and '.join(map(str, other.to_begin_anew))}.",
        ) from None
    if same:
        raise KeyFileMissing(
            f"this recovery phrase is that of the volume {other.name}, whose key file is missing; the rest "
            f"of it is in {other.data_dir}",
            hint=f"Nothing was changed. {again}.",
        )


def write_kit(path: Path, phrase: str, volume: str, settings: VolumeSettings) -> None:
    """A recovery kit file, mode 0600, never over another file."""
    addresses = (
        []
        if isinstance(settings.farmers, EmbeddedFarm)
        # A relay alone does not tell whom it leads to.
        else [str(farmer if farmer.address.relay else farmer.address) for farmer in settings.farmers]
    )
    made = datetime.date.today().isoformat()
    text = recovery_kit(
        phrase,
        volume=volume,
        volume_id=settings.volume_id,
        made=made,
        farmers=addresses,
        ledger=str(settings.ledger or ""),
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise WouldOverwrite(
            f"{path} exists already; it is not overwritten", hint="give another name"
        ) from None
    except OSError as error:
        raise KitUnwritable(
            f"the recovery kit {path} cannot be written: {error.strerror}",
            hint="the volume is made; write down its recovery phrase",
        ) from None
    with open(descriptor, "w") as file:
        file.write(text)
    click.echo(f"Wrote the recovery kit to {path}. Print it, then delete the file.")


def _tell_about_keys(paths: VolumePaths, passphrase: Known | None) -> None:
    if passphrase is None:
        click.echo(f"Its keys lie without a passphrase in {paths.key_file}, which only you can read.")
    else:
        click.echo("Its keys are sealed under your passphrase.")


def _tell_about_farmers(settings: VolumeSettings) -> None:
    if isinstance(settings.farmers, EmbeddedFarm):
        click.echo(
            f"Its {settings.farmers.count} farmers all run on this machine: privacy yes, protection against\n"
            "the loss of this disk no. A volume made with `storjfs init --farmer HOST:PORT` uses others."
        )
    else:
        click.echo(f"Its farmers: {', '.join(str(farmer.address) for farmer in settings.farmers)}.")
        if len({one.node_id or one.address for one in settings.farmers}) == 1:
            click.echo(
                "warning: one farmer is no redundancy: what it loses is lost. Name more in the settings;\n"
                "from two on one may fail, from five on any two.",
                err=True,
            )


def _tell_about_ledger(settings: VolumeSettings, keys: VolumeKeys) -> None:
    if not isinstance(settings.ledger, ServedAt):
        return
    from storjfs.daemon.parts import issuing

    click.echo(
        f"It pays farmers through the ledger at {settings.ledger.address}. Whoever runs that vouches for\n"
        f"its credits, and gives some to this volume's account with:\n"
        f"    {issuing(keys)}"
    )


def _tell_phrase(phrase: str) -> None:
    """The words, once."""
    words = phrase.split()
    if not sys.stdout.isatty():
        click.echo(
            "warning: the recovery phrase goes to standard output, which is no terminal; "
            "whoever can read that can read the volume",
            err=True,
        )
    click.echo(
        "\nThis is its recovery phrase. Write it down: it is shown only now. With it, and with nothing else,"
    )
    click.echo("the keys can be made again; whoever has it can read everything.")
    click.echo(PHRASE_IS_NOT_ENOUGH + "\n")
    for first in range(0, len(words), WORDS_PER_LINE):
        row = enumerate(words[first : first + WORDS_PER_LINE], first + 1)
        click.echo("    " + "".join(f"{place:>2}. {word:<12}" for place, word in row).rstrip())
    click.echo("")
