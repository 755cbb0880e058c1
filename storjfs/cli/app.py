"""The command `storjfs`: finds the subcommand, imports only that one, and turns errors into one line."""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

import click

from storjfs import __version__
from storjfs.daemon.exit_codes import ExitCode, ReportedError, exit_code_of
from storjfs.errors import StorjfsError

TRACEBACK = "STORJFS_TRACEBACK"

# name -> (module, function, one line for the overview)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "mount": ("storjfs.cli.mount", "mount", "Mount the volume on a directory (makes one the first time)."),
    "umount": ("storjfs.cli.mount", "umount", "Send everything to the farmers and unmount."),
    "status": ("storjfs.cli.status", "status", "Show how the volume and its data are."),
    "flush": ("storjfs.cli.upkeep", "flush", "Wait until all data is with the farmers."),
    "init": ("storjfs.cli.volumes", "init", "Make a new volume, or one from a recovery phrase."),
    "backup": ("storjfs.cli.backup", "backup", "Copy key, settings and metadata, also while mounted."),
    "volumes": ("storjfs.cli.volumes", "volumes", "List the volumes on this machine."),
    "passphrase": ("storjfs.cli.volumes", "passphrase", "Change the passphrase of a volume."),
    "contracts": ("storjfs.cli.status", "contracts", "Show the contracts with farmers."),
    "farmers": ("storjfs.cli.farmers", "farmers", "Show which farmers there are; add, block or prefer some."),
    "audit": ("storjfs.cli.upkeep", "audit", "Show the state of audits, or audit all shards now."),
    "repair": ("storjfs.cli.upkeep", "repair", "Rebuild missing shards now."),
    "fsck": ("storjfs.cli.integrity", "fsck", "Check the volume, and mend what can be mended."),
    "scrub": ("storjfs.cli.integrity", "scrub", "Read all data, or a share of it, back and verify it."),
    "gc": ("storjfs.cli.integrity", "gc", "Free now what nothing needs any more."),
    "farm": ("storjfs.cli.farm", "farm", "Be a farmer: share disk space and earn."),
    "ledger": ("storjfs.cli.ledger", "ledger", "Serve a ledger that a group settles in; show and audit it."),
}


# Of commands whose exit code 1 is a result, as that of fsck(8).
FAILED_ELSEWISE = {
    "status": ExitCode.HEALTH_UNKNOWN,
    "fsck": ExitCode.NOT_FOUND,
    "scrub": ExitCode.NOT_FOUND,
}


class Commands(click.Group):
    """A group whose members are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table: what one needs first comes first."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of that command."""
        if cmd_name not in COMMANDS:
            near = difflib.get_close_matches(cmd_name, COMMANDS, n=1)
            if near:
                ctx.fail(f"There is no command {cmd_name!r}. Did you mean {near[0]!r}?")
            return None
        module, function, _ = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), function)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The overview from the table, so that it imports nothing."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="storjfs")
def storjfs() -> None:
    """An encrypted drive kept by farmers: computers that prove they hold your data, and are paid for it.

    \b
    Start with:
      storjfs mount ~/cloud     a directory any program can use
      storjfs status            how it is
      storjfs umount ~/cloud    send the rest to the farmers, unmount

    Your data is encrypted on this machine, spread over several farmers so that some of them may vanish,
    and audited again and again. `storjfs COMMAND --help` tells more.
    """


def complain(error: BaseException) -> None:
    """What happened, and what to do about it: two lines at most, on standard error."""
    click.echo(f"storjfs: {str(error) or type(error).__name__}", err=True)
    hint = getattr(error, "hint", "")
    if hint:
        click.echo(f"         {hint}", err=True)


def complain_of_defect(error: Exception) -> None:
    """An error that nobody made for people: what the system said, or a defect of ours."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        click.echo(f"storjfs: {where}{error.strerror}", err=True)
    else:
        click.echo(f"storjfs: unexpected {type(error).__name__}: {error}", err=True)
        click.echo(f"         a defect; with {TRACEBACK}=1 in the environment it shows where", err=True)


def _damage_in(error: Exception) -> StorjfsError | None:
    from storjfs.store import damage_in

    return damage_in(error)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code (docs/reference/exit-codes.md)."""
    words = sys.argv[1:] if arguments is None else arguments
    # 1 would say something about the volume there.
    failed = FAILED_ELSEWISE.get(words[0] if words else "", ExitCode.FAILED)
    try:
        outcome = storjfs.main(args=arguments, prog_name="storjfs", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("storjfs: interrupted", err=True)
        sys.exit(ExitCode.INTERRUPTED)
    except KeyboardInterrupt:
        click.echo("storjfs: interrupted", err=True)
        sys.exit(ExitCode.INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (StorjfsError, ReportedError) as error:
        complain(error)
        code = exit_code_of(error)
        sys.exit(failed if code == ExitCode.FAILED else code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(ExitCode.OK)
    except Exception as error:
        if TRACEBACK in os.environ:
            raise
        damage = _damage_in(error)
        if damage is not None:
            complain(damage)
            sys.exit(exit_code_of(damage))
        complain_of_defect(error)
        sys.exit(failed)
    sys.exit(outcome if isinstance(outcome, int) else ExitCode.OK)
