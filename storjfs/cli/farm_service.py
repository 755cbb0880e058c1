"""`storjfs farm service`: the systemd unit of a farmer, printed or installed."""

import importlib.resources
import os
import pwd
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import click

import storjfs
from storjfs.errors import StorjfsError
from storjfs.farmer.settings import FarmerSettings
from storjfs.store.durable import write_atomically
from storjfs.volume.errors import SettingsError

TEMPLATE: Final = "storjfs-farm.service"
BOOTED: Final = Path("/run/systemd/system")
"""There where systemd runs the machine (sd_booted(3))."""
SYSTEM_UNITS: Final = Path("/etc/systemd/system")
# Needs mount namespaces and capabilities, which a user's own systemd may not have.
SYSTEM_SERVICE: Final = """\
User=@USER@
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths=@WRITABLE@
PrivateTmp=yes
PrivateDevices=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RemoveIPC=yes"""


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.-]{0,245}")
"""What systemd.unit(5) allows, less what it gives a meaning (@ and the backslash), and 255 bytes in all."""


class NotInstalled(StorjfsError):
    """systemd did not take the unit."""


def unit_name(text: str) -> str:
    """The name of a unit without its ending, which may have been given. Raises SettingsError."""
    name = text.removesuffix(".service")
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{text!r} cannot be the name of a systemd unit; nothing was written",
            hint="Use letters, digits and : _ . - without spaces, as in --name storjfs-farm-disk2",
        )
    return name


def unit_text(folder: Path, *, system: bool) -> str:
    """The unit of the farmer in `folder`. Raises SettingsError where there is none, for a system's unit."""
    found = importlib.resources.files("storjfs.cli").joinpath(TEMPLATE).read_text(encoding="utf-8")
    command, environment = _command()
    values = {
        "SYSTEM_UNIT": f"RequiresMountsFor={_quoted(folder)}" if system else "",
        "SYSTEM_SERVICE": SYSTEM_SERVICE if system else "",
        "TARGET": "multi-user.target" if system else "default.target",
        "COMMAND": command,
        "ENVIRONMENT": environment,
        "FOLDER": _quoted(folder, command=True),
        "PLAIN_FOLDER": str(folder).replace("%", "%%"),
    }
    if system:
        values |= {"USER": _owner(folder), "WRITABLE": " ".join(_writable(folder))}
    for name, value in values.items():
        found = found.replace(f"@{name}@" if value else f"@{name}@\n", value)
    return found


def install_unit(folder: Path, name: str, *, system: bool) -> None:
    """Write the unit, and have systemd start it now and at every boot.

    Raises SettingsError where the farmer has no settings yet, NotInstalled, OSError.
    """
    if FarmerSettings.read(folder) is None:
        raise SettingsError(
            f"there is no farmer in {folder} yet",
            hint="Say what it shares: storjfs farm --share 500GB service --install",
        )
    where = SYSTEM_UNITS if system else _user_units()
    where.mkdir(parents=True, exist_ok=True)
    path = where / f"{name}.service"
    write_atomically(path, unit_text(folder, system=system).encode())
    path.chmod(0o644)
    click.echo(f"unit      {path}")
    if system:
        owner = _owner(folder)
        advice = f"; better a user of its own: chown -R USER {folder}, then again" if owner == "root" else ""
        click.echo(f"runs as   {owner}{advice}")
    manager = ["systemctl"] if system else ["systemctl", "--user"]
    commands = [[*manager, "daemon-reload"], [*manager, "enable", "--now", f"{name}.service"]]
    if not system:
        # Else it would end when its owner logs out.
        commands.append(["loginctl", "enable-linger", pwd.getpwuid(os.geteuid()).pw_name])
    if not BOOTED.is_dir():
        click.echo("systemd does not run here; where it does:")
        for words in commands:
            click.echo(f"          {' '.join(words)}")
        return
    for words in commands:
        _run(words)
    click.echo(f"started   see it with: storjfs farm status --at {folder}")


def _run(words: list[str]) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NotInstalled(f"cannot run {words[0]}: {error}", hint=f"Run it: {' '.join(words)}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise NotInstalled(
            f"`{' '.join(words)}` failed: {said[-1] if said else done.returncode}",
            hint="The unit is written; the journal says why it does not start.",
        )


def _user_units() -> Path:
    given = os.environ.get("XDG_CONFIG_HOME", "")
    base = Path(given) if os.path.isabs(given) else Path.home() / ".config"
    return base / "systemd" / "user"


def _owner(folder: Path) -> str:
    """Whose the farmer is: who its service runs as."""
    try:
        number = folder.stat().st_uid
    except FileNotFoundError:
        raise SettingsError(
            f"there is no {folder} yet", hint="Make the farmer as the user that its service is to run as."
        ) from None
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _writable(folder: Path) -> list[str]:
    """The farmer's folder, those on its other disks, and that of its ledger if it is another one (all of
    these if they are there: the minus)."""
    settings = FarmerSettings.read(folder)
    if settings is None:
        return [_quoted(folder)]
    others = [one.folder for one in settings.disks]
    if isinstance(settings.ledger, Path) and folder not in settings.ledger.parents:
        others.append(settings.ledger.parent)
    return [_quoted(folder), *(_quoted(f"-{one}") for one in others)]


def _command() -> tuple[str, str]:
    """How this storjfs is started, and the line that this needs in the unit, if any."""
    program = Path(sys.argv[0])
    if program.name == "storjfs" and program.is_file() and os.access(program, os.X_OK):
        return _quoted(program.absolute(), command=True), ""
    root = Path(storjfs.__file__).resolve().parents[1]
    installed = Path(sys.prefix).resolve() in root.parents
    environment = "" if installed else f"Environment={_quoted(f'PYTHONPATH={root}')}"
    return f"{_quoted(Path(sys.executable), command=True)} -P -m storjfs", environment


def _quoted(path: Path | str, *, command: bool = False) -> str:
    """A path as units want it (systemd.syntax(7)); in a command line, dollars are special too.

    Raises SettingsError for one that would go on in a line of its own: root may install what another wrote.
    """
    if not str(path).isprintable():
        raise SettingsError(
            f"the path {str(path)!r} cannot stand in a systemd unit; nothing was written",
            hint="Rename it: without line breaks and other unprintable characters.",
        )
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    if command:
        text = text.replace("$", "$$")
    return f'"{text}"'
