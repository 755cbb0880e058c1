"""`storjfs backup`."""

from pathlib import Path

import click

from .options import passphrase_for, passphrase_options, volume_option


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@volume_option
@passphrase_options
def backup(
    directory: Path, volume: str, passphrase_file: Path | None, passphrase_command: str | None
) -> None:
    """Copy what the volume is on this machine into the new folder DIRECTORY: key, settings and metadata.

    Works on a mounted volume too, which sends to the farmers what it can first. Not in it: what farmers hold,
    and data that is not with them yet. docs/how-to/back-up-metadata.md tells how to restore it.
    """
    from storjfs.daemon.backup import back_up
    from storjfs.volume import VolumePaths, wording

    from .progress import FlushBar

    passphrase = passphrase_for(volume, passphrase_file, passphrase_command)
    with FlushBar() as bar:
        made = back_up(VolumePaths(volume), passphrase, directory.absolute(), bar.update)
    click.echo(f"Wrote {', '.join(made.names)} to {directory}.")
    if made.unsent:
        click.echo(
            f"Not in it: {wording.size(made.unsent)} of files that were not with the farmers yet. Once "
            "storjfs flush has sent all, make another backup.",
            err=True,
        )
    click.echo("Whoever has the key file, and the passphrase if there is one, can read everything.")
