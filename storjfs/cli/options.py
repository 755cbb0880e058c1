"""Options that many commands share, and what they stand for."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from storjfs.settlement import ServedAt

Command = TypeVar("Command", bound=Callable[..., Any])


class LedgerPlace(click.ParamType["Path | ServedAt"]):
    """A ledger that is served, or the file of one, as an absolute path."""

    name = "ledger"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """What the help says goes there."""
        return "NODEID@HOST:PORT|FILE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> "Path | ServedAt":
        """The place. Raises SettingsError, and BadParameter for a folder."""
        from storjfs.volume import ledger_named

        place = ledger_named(str(value))
        if not isinstance(place, Path):
            return place
        if place.is_dir():
            self.fail(f"File {str(place)!r} is a directory.", param, ctx)
        return place.absolute()


def folder_option(name: str, explained: str) -> Callable[[Command], Command]:
    """--at DIR: where a farmer or ledger lives, which is `name` among this user's data unless told."""

    def default() -> Path:
        from storjfs.volume import data_home

        return data_home() / name

    return click.option(
        "--at",
        "folder",
        type=click.Path(file_okay=False, path_type=Path),
        default=default,
        show_default=f"~/.local/share/storjfs/{name}",
        help=explained,
    )


def require_parent(folder: Path, name: str) -> None:
    """A new folder in one that is not there is a typing mistake, or its disk is not mounted.

    Raises SettingsError then; but the usual one, `name` among this user's data, is made as a whole.
    """
    from storjfs.volume import data_home
    from storjfs.volume.errors import SettingsError

    if not folder.parent.is_dir() and folder != (data_home() / name).absolute():
        raise SettingsError(
            f"there is no folder {folder.parent}; nothing was made",
            hint=f"Is its disk mounted? If it is meant to be new, make it first: mkdir -p {folder.parent}",
        )


def volume_option(command: Command) -> Command:
    """--volume NAME."""
    return click.option(
        "--volume",
        "-v",
        "volume",
        metavar="NAME",
        default="default",
        show_default=True,
        envvar="STORJFS_VOLUME",
        help="Which volume.",
    )(command)


def passphrase_options(command: Command) -> Command:
    """--passphrase-file and --passphrase-command; the command gets them as one PassphraseChoice."""
    command = click.option(
        "--passphrase-command",
        metavar="COMMAND",
        help="A command that prints the passphrase (no shell is used).",
    )(command)
    return click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path),
        help="A file with the passphrase. Also: the variable STORJFS_PASSPHRASE.",
    )(command)


def no_passphrase_option(command: Command) -> Command:
    """--no-passphrase, where a volume can be made."""
    return click.option(
        "--no-passphrase",
        is_flag=True,
        help="Keep a new volume's keys in a file that only you can read, so that it mounts unattended.",
    )(command)


def split_words(values: Sequence[str]) -> list[str]:
    """Of an option that may be given often, or once with commas."""
    return [word.strip() for value in values for word in value.split(",") if word.strip()]


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """A passphrase that was asked for once already; a PassphraseSource."""

    text: str

    def read(self, *, new: bool = False) -> str:
        """See storjfs.volume.PassphraseSource."""
        return self.text

    def __repr__(self) -> str:
        return "Known(...)"


def passphrase_for(volume: str, file: Path | None, command: str | None) -> Known | None:
    """The passphrase of an existing volume; None if it is kept without one, or none can be had.

    Asks at the terminal where nothing was given. Raises VolumeNotFound, PassphraseUnreadable.
    """
    from storjfs.volume import VolumePaths, is_sealed, passphrase_source

    if not is_sealed(VolumePaths(volume)):
        return None
    source = passphrase_source(volume, file=file, command=command)
    _warn_if_exposed(source)
    return None if source is None else Known(source.read())


def _warn_if_exposed(source: object) -> None:
    from storjfs.volume import FromFile

    if isinstance(source, FromFile) and source.exposed:
        click.echo(
            f"warning: others may read the passphrase file {source.path}: chmod 600 {source.path}", err=True
        )


def new_passphrase_for(
    volume: str, file: Path | None, command: str | None, without: bool, first: str = ""
) -> Known | None:
    """The passphrase for a volume to be made; None for a volume without one.

    Without a terminal and nothing given, that is the way taken, and it is said. `first`: a line that is said
    before a person is asked, else once nothing can go wrong with the passphrase any more.
    """
    from storjfs.volume import FromPrompt, passphrase_source

    def say_first() -> None:
        if first:
            click.echo(first)

    if without:
        if file is not None or command is not None:
            raise click.UsageError("Give either a passphrase or --no-passphrase, not both.")
        say_first()
        return None
    source = passphrase_source(volume, file=file, command=command)
    if isinstance(source, FromPrompt):
        say_first()
        return Known(source.read(new=True))
    if source is not None:
        known = Known(source.read(new=True))
        _warn_if_exposed(source)
        say_first()
        return known
    say_first()
    click.echo(
        "No passphrase was given and there is no terminal to ask at: going on as with --no-passphrase."
    )
    return None
