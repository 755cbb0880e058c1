"""The exit codes of the command line and of the mount process (docs/reference/exit-codes.md)."""

import enum


class ExitCode(enum.IntEnum):
    """What a script can tell apart.

    `storjfs status` uses 0, 1 and 2 for the health of the volume instead; its failures are 3 and up.
    """

    OK = 0
    FAILED = 1
    USAGE = 2
    PASSPHRASE = 3
    MOUNTPOINT = 4
    IN_USE = 5
    NO_FUSE = 6
    FARMERS_UNREACHABLE = 7
    NOT_FOUND = 8
    EXISTS = 9
    BUSY = 10
    NOT_FLUSHED = 11
    DAMAGED = 12
    HEALTH_UNKNOWN = 13
    DISK_FULL = 14
    WRITES_REFUSED = 15
    INTERRUPTED = 130


# By name of the error class (or of one it derives from), so that looking one up imports no room.
OF_ERROR: dict[str, ExitCode] = {
    "WrongPassphrase": ExitCode.PASSPHRASE,
    "PassphraseNeeded": ExitCode.PASSPHRASE,
    "PassphraseUnreadable": ExitCode.PASSPHRASE,
    "PhraseError": ExitCode.PASSPHRASE,
    "MountpointError": ExitCode.MOUNTPOINT,
    "AlreadyMounted": ExitCode.IN_USE,
    "VolumeLocked": ExitCode.IN_USE,
    "FarmerRunning": ExitCode.IN_USE,
    "LedgerRunning": ExitCode.IN_USE,
    "ScrubRunning": ExitCode.IN_USE,
    "NoFuse": ExitCode.NO_FUSE,
    "MountFailed": ExitCode.NO_FUSE,
    "FarmersUnreachable": ExitCode.FARMERS_UNREACHABLE,
    "TooFewFarmers": ExitCode.FARMERS_UNREACHABLE,
    "NoSuchFarmer": ExitCode.NOT_FOUND,
    "VolumeNotFound": ExitCode.NOT_FOUND,
    "NotMounted": ExitCode.NOT_FOUND,
    "NoFarmer": ExitCode.NOT_FOUND,
    "NoLedger": ExitCode.NOT_FOUND,
    "VolumeExists": ExitCode.EXISTS,
    "WouldOverwrite": ExitCode.EXISTS,
    "BackupExists": ExitCode.EXISTS,
    "MountpointBusy": ExitCode.BUSY,
    "WritesRefused": ExitCode.WRITES_REFUSED,
    "DiskFull": ExitCode.DISK_FULL,
    "SettlementFull": ExitCode.DISK_FULL,
    "StoreError": ExitCode.DAMAGED,
    "VolumeDamaged": ExitCode.DAMAGED,
    "KeyFileDamaged": ExitCode.DAMAGED,
    "SettingsFileError": ExitCode.DAMAGED,
    "SettingsError": ExitCode.USAGE,
    "VolumeNameError": ExitCode.USAGE,
    "BadMountOption": ExitCode.USAGE,
}


class ReportedError(Exception):
    """An error that happened in the mount process, as it was told: one line, a hint, its exit code."""

    def __init__(self, message: str, hint: str = "", exit_code: int = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code


def exit_code_of(error: BaseException) -> int:
    """The exit code that stands for `error`."""
    if isinstance(error, ReportedError):
        return error.exit_code
    for kind in type(error).__mro__:
        code = OF_ERROR.get(kind.__name__)
        if code is not None:
            return int(code)
    return int(ExitCode.FAILED)
