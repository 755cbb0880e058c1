"""Where a passphrase comes from: a file, a command, the environment, or a person at the terminal."""

import getpass
import os
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from storjfs.volume.errors import PassphraseUnreadable

VARIABLE = "STORJFS_PASSPHRASE"
_NOTHING_DONE = "Nothing was made or changed. Give one that can be read, then try again."


class PassphraseSource(Protocol):
    """Something that gives a passphrase; may block on a person or a program."""

    def read(self, *, new: bool = False) -> str:
        """The passphrase, not empty; `new` if one is being chosen. Raises PassphraseUnreadable."""


@dataclass(frozen=True, slots=True)
class FromFile:
    """The content of a file, without the newline at its end."""

    path: Path

    def read(self, *, new: bool = False) -> str:
        """See PassphraseSource."""
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise PassphraseUnreadable(
                f"the passphrase file {self.path} cannot be read: {error.strerror}", hint=_NOTHING_DONE
            ) from None
        return _usable(data, f"the passphrase file {self.path}", new=new)

    @property
    def exposed(self) -> bool:
        """Whether others than its owner may read the file (False where that cannot be told)."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and bool(found.st_mode & (stat.S_IRGRP | stat.S_IROTH))


@dataclass(frozen=True, slots=True)
class FromCommand:
    """What a command prints, without the newline at its end. It is split like a shell line, without a shell.

    The command has our standard input and terminal, so it may ask the person itself.
    """

    command: str

    def read(self, *, new: bool = False) -> str:
        """See PassphraseSource."""
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise PassphraseUnreadable(f"the passphrase command cannot be understood: {error}") from None
        if not words:
            raise PassphraseUnreadable("the passphrase command is empty")
        try:
            done = subprocess.run(words, stdout=subprocess.PIPE, check=False)
        except OSError as error:
            raise PassphraseUnreadable(
                f"the passphrase command cannot be run: {words[0]}: {error.strerror}", hint=_NOTHING_DONE
            ) from None
        if done.returncode != 0:
            raise PassphraseUnreadable(
                f"the passphrase command {_ended(done.returncode)}",
                hint="run it by hand: it must print the passphrase and end with exit code 0",
            )
        return _usable(done.stdout, "the passphrase command", new=new)


@dataclass(frozen=True, slots=True)
class FromEnvironment:
    """The value of an environment variable."""

    value: str

    def read(self, *, new: bool = False) -> str:
        """See PassphraseSource."""
        return _usable(os.fsencode(self.value), f"the environment variable {VARIABLE}", new=new)

    def __repr__(self) -> str:
        return "FromEnvironment(...)"


@dataclass(frozen=True, slots=True)
class FromPrompt:
    """A person at the terminal; a new passphrase is asked for twice."""

    volume: str

    def read(self, *, new: bool = False) -> str:
        """See PassphraseSource."""
        word = "New passphrase" if new else "Passphrase"
        try:
            first = getpass.getpass(f"{word} for the volume {self.volume}: ")
            if new and getpass.getpass("The same once more: ") != first:
                raise PassphraseUnreadable("the two passphrases differ; nothing was changed")
        except (EOFError, KeyboardInterrupt):
            raise PassphraseUnreadable("no passphrase was typed") from None
        return _usable(os.fsencode(first), "the prompt", new=new)


def passphrase_source(
    volume: str,
    *,
    file: Path | None = None,
    command: str | None = None,
    environ: Mapping[str, str] | None = None,
    terminal: bool | None = None,
) -> PassphraseSource | None:
    """The source to use: file, command, STORJFS_PASSPHRASE, prompt, in this order; None without a terminal.

    Raises PassphraseUnreadable if both a file and a command are given.
    """
    environ = os.environ if environ is None else environ
    if file is not None and command is not None:
        raise PassphraseUnreadable("give either a passphrase file or a passphrase command, not both")
    if file is not None:
        return FromFile(file)
    if command is not None:
        return FromCommand(command)
    if VARIABLE in environ:
        return FromEnvironment(environ[VARIABLE])
    if sys.stdin.isatty() if terminal is None else terminal:
        return FromPrompt(volume)
    return None


def _ended(code: int) -> str:
    """How a program ended, in words; `code` as subprocess gives it."""
    if code >= 0:
        return f"failed with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _usable(data: bytes, whence: str, *, new: bool) -> str:
    data = data.removesuffix(b"\n").removesuffix(b"\r")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise PassphraseUnreadable(f"{whence} gave a passphrase that is not UTF-8 text") from None
    if not text:
        raise PassphraseUnreadable(
            f"{whence} gave an empty passphrase",
            hint="To do without a passphrase, say --no-passphrase."
            if new
            else "Give the passphrase of this volume; if it is forgotten: "
            "storjfs passphrase change --phrase-file FILE, with the recovery phrase.",
        )
    return text
