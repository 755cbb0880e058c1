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

    Works on a mounted volume too. Not in it: what farmers hold, and data that is not with them yet; flush
    before. docs/how-to/back-up-metadata.md tells how to restore it.
    """
    from storjfs.daemon.backup import back_up
    from storjfs.volume import VolumePaths

    names = back_up(
        VolumePaths(volume), passphrase_for(volume, passphrase_file, passphrase_command), directory.absolute()
    )
    click.echo(f"Wrote {', '.join(names)} to {directory}.")
    click.echo("Whoever has the key file, and the passphrase if there is one, can read everything.")
