"""`storjfs init`, `volumes` and `passphrase`: volumes on this machine."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import (
    LedgerPlace,
    new_passphrase_for,
    no_passphrase_option,
    passphrase_for,
    passphrase_options,
    split_words,
    volume_option,
)

if TYPE_CHECKING:
    from storjfs.settlement import Place
    from storjfs.volume import StaticFarmer, VolumePaths


@click.command()
@volume_option
@click.option(
    "--phrase-file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Make the volume from the recovery phrase in this file (or a recovery kit; - reads standard input).",
)
@click.option(
    "--kit", type=click.Path(path_type=Path), help="Also write a recovery kit to this file, to print."
)
@click.option(
    "--farmer", "farmers", multiple=True, metavar="HOST:PORT", help="A farmer to use; may be given often."
)
@click.option(
    "--cache-size",
    metavar="SIZE",
    help="Most local disk space for file data (as 20G), what waits for farmers included; at least 16M.",
)
@click.option(
    "--find",
    multiple=True,
    metavar="WAY",
    help="Look for farmers: lan (the local network), peers (ask those known), dht (BitTorrent's). "
    "May be given often.",
)
@click.option("--size", metavar="SIZE", help="Room wanted for files, as in 1TB.")
@click.option(
    "--max-price",
    metavar="PRICE",
    help="The most to pay, as in 4/TiB-month; without a unit per GiB and month.",
)
@click.option("--regions", multiple=True, metavar="REGION", help="Where farmers may stand, as in EU.")
@click.option(
    "--spread", metavar="OVER", help="operators: one farmer of each (as usual); farmers: all that are good."
)
@click.option(
    "--ledger",
    type=LedgerPlace(),
    help="The ledger in which farmers are paid: one that is served, or a file; else the volume's own.",
)
@click.option("--yes", is_flag=True, help="Agree to the farmers that are found without being asked.")
@no_passphrase_option
@passphrase_options
def init(
    volume: str,
    phrase_file: Path | None,
    kit: Path | None,
    farmers: tuple[str, ...],
    cache_size: str | None,
    find: tuple[str, ...],
    size: str | None,
    max_price: str | None,
    regions: tuple[str, ...],
    spread: str | None,
    ledger: "Place | None",
    yes: bool,
    no_passphrase: bool,
    passphrase_file: Path | None,
    passphrase_command: str | None,
) -> None:
    """Make a new volume, and show its recovery phrase once.

    `storjfs mount` does this by itself the first time; use init to choose farmers, to keep a recovery kit, or
    to make the volume from a phrase that you have. With --find it looks around, shows which farmers it would
    use, what they cost and how safe that is, and asks once.
    """
    from storjfs.keys import phrase_to_entropy
    from storjfs.volume import StaticFarmer, VolumeExists, VolumePaths, check_cache_size, parse_size

    from .making import make_volume

    paths = VolumePaths(volume)
    if paths.exists:
        raise VolumeExists(f"there is a volume {volume} already", hint="give another name with --volume")
    chosen = tuple(StaticFarmer.parse(text) for text in farmers)
    cache = None if cache_size is None else check_cache_size(parse_size(cache_size))
    chosen, choices = _farmers_for(paths, chosen, find, size, max_price, regions, spread, yes, ledger)
    entropy = None
    if phrase_file is not None:
        entropy = phrase_to_entropy(_phrase_text(phrase_file))
    passphrase = new_passphrase_for(volume, passphrase_file, passphrase_command, no_passphrase)
    if kit is None and phrase_file is None and sys.stdin.isatty() and sys.stdout.isatty():
        kit = _ask_for_kit()
    make_volume(paths, passphrase, entropy=entropy, farmers=chosen, cache_size=cache, kit=kit, **choices)
    click.echo(f"Mount it with: storjfs mount {'' if volume == 'default' else f'--volume {volume} '}DIR")


def _farmers_for(
    paths: "VolumePaths",
    farmers: tuple["StaticFarmer", ...],
    find: tuple[str, ...],
    size: str | None,
    max_price: str | None,
    regions: tuple[str, ...],
    spread: str | None,
    yes: bool,
    ledger: "Place | None",
) -> tuple[tuple["StaticFarmer", ...], dict[str, Any]]:
    """The farmers of a new volume, and its settings other than the usual ones."""
    from storjfs.volume import (
        Needs,
        VolumeSettings,
        parse_price,
        parse_regions,
        parse_size,
        parse_spread,
        parse_ways,
    )

    needs = Needs(
        size=None if size is None else parse_size(size),
        regions=parse_regions(split_words(regions)),
        spread=Needs().spread if spread is None else parse_spread(spread),
    )
    choices: dict[str, Any] = {"needs": needs, "ledger": ledger}
    if max_price is not None:
        choices["price_max"] = parse_price(max_price)
    ways = parse_ways(split_words(find))
    if not ways:
        if size is not None or regions or spread is not None or yes:
            raise click.UsageError("--size, --regions, --spread and --yes belong to --find.")
        return farmers, choices
    from storjfs.daemon.farmers import sources_of

    from .looking import choose_farmers

    draft = VolumeSettings(volume_id=bytes(16), farmers=farmers, find=ways, **choices)
    chosen, capacity = choose_farmers(paths, draft, sources_of(draft) or {}, confirmed=yes)
    return chosen, {**choices, "find": ways, "capacity": capacity}


def _ask_for_kit() -> Path | None:
    """The name of a file, or None. An answer to a yes-or-no question is none, and it is asked again."""
    while True:
        answer = click.prompt(
            "Name of a file for a recovery kit to print (empty: none)", default="", show_default=False
        ).strip()
        if answer.lower() not in ("y", "n", "yes", "no"):
            return Path(answer).expanduser() if answer else None
        click.echo("That is not taken for a file's name. Give one, as kit.txt, or just press Enter for none.")


def _phrase_text(path: Path) -> str:
    from storjfs.keys import PhraseError

    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text()
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        reason = "is not text"
    raise PhraseError(
        f"the phrase file {path} {reason}",
        hint="Nothing was made or changed. Give the file with the 24 words, or a recovery kit.",
    )


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON: a list of objects.")
def volumes(as_json: bool) -> None:
    """List the volumes on this machine, and where they are mounted."""
    from storjfs.volume import VolumePaths, is_sealed, keyless_names, volume_names

    found = []
    for name in volume_names():
        paths = VolumePaths(name)
        state, mountpoint = _mount_of(paths)
        found.append(
            {
                "name": name,
                "state": state,
                "mountpoint": mountpoint,
                "passphrase": is_sealed(paths),
                "data": str(paths.data_dir),
            }
        )
    for name in keyless_names():
        paths = VolumePaths(name)
        found.append(
            {
                "name": name,
                "state": "key-missing",
                "mountpoint": _mount_of(paths)[1],
                "passphrase": None,
                "data": str(paths.data_dir),
            }
        )
    found.sort(key=lambda row: str(row["name"]))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if not found:
        click.echo("There is no volume on this machine. `storjfs mount DIR` makes one.")
    for row in found:
        click.echo(f"{row['name']:<20} {_STATES[str(row['state'])].format(row['mountpoint'])}; {row['data']}")


_STATES = {
    "mounted": "mounted on {}",
    "stopping": "unmounted from {}, sends the rest to the farmers",
    "detached": "unmounted from {}, where programs still have files open",
    "died": "its mount process on {} has died; mounting again goes on where it was",
    "unmounted": "not mounted",
    "key-missing": "its key file is missing (`storjfs init --phrase-file FILE` makes it again)",
}


def _mount_of(paths: "VolumePaths") -> tuple[str, str | None]:
    """One of _STATES, and where."""
    from storjfs.daemon.client import request
    from storjfs.daemon.exit_codes import ReportedError
    from storjfs.daemon.mountpoint import dead_mount, mounted_at

    try:
        answer = request(paths.control_socket, "ping")
    except ReportedError:
        died = dead_mount(paths.name, paths.control_socket, paths.mount_note)
        return ("unmounted", None) if died is None else ("died", str(died))
    state, where = str(answer["state"]), str(answer["mountpoint"])
    if state == "mounted" and mounted_at(Path(where)) is None:
        state = "detached"
    return state, where


@click.group()
def passphrase() -> None:
    """The passphrase that protects a volume's keys on this machine."""


@passphrase.command()
@volume_option
@passphrase_options
@click.option(
    "--new-passphrase-file", type=click.Path(path_type=Path), help="A file with the new passphrase."
)
@click.option("--no-passphrase", is_flag=True, help="From now on keep the keys without a passphrase.")
@click.option(
    "--phrase-file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="The passphrase is forgotten: prove by this recovery phrase instead.",
)
def change(
    volume: str,
    passphrase_file: Path | None,
    passphrase_command: str | None,
    new_passphrase_file: Path | None,
    no_passphrase: bool,
    phrase_file: Path | None,
) -> None:
    """Change the passphrase. No data is touched; a running mount goes on."""
    from storjfs.keys import PassphraseNeeded, phrase_to_entropy
    from storjfs.volume import (
        FromFile,
        FromPrompt,
        PassphraseSource,
        VolumePaths,
        change_passphrase,
        reset_passphrase,
        unlock_volume,
    )

    if no_passphrase and new_passphrase_file is not None:
        raise click.UsageError("Give either a new passphrase or --no-passphrase, not both.")
    if phrase_file is not None and (passphrase_file is not None or passphrase_command is not None):
        raise click.UsageError("Give either the old passphrase or the recovery phrase, not both.")
    paths = VolumePaths(volume)
    entropy = None if phrase_file is None else phrase_to_entropy(_phrase_text(phrase_file))
    old = None if entropy is not None else passphrase_for(volume, passphrase_file, passphrase_command)
    if entropy is None:
        unlock_volume(paths, old)  # a wrong one is said before a new one is asked for
    new: PassphraseSource | None
    if no_passphrase:
        new = None
    elif new_passphrase_file is not None:
        new = FromFile(new_passphrase_file)
    elif sys.stdin.isatty():
        new = FromPrompt(volume)
    else:
        raise PassphraseNeeded(
            "no new passphrase was given", hint="give --new-passphrase-file or --no-passphrase"
        )
    if entropy is not None:
        reset_passphrase(paths, entropy, new)
    else:
        change_passphrase(paths, old, new)
    kept = "without a passphrase" if new is None else "under the new passphrase"
    click.echo(f"The volume {volume} is now kept {kept}.")
