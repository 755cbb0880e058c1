"""What can be wrong with a volume's files on this machine."""

from storjfs.errors import StorjfsError


class VolumeNameError(StorjfsError):
    """The name cannot be a volume's name."""


class VolumeNotFound(StorjfsError):
    """There is no volume of that name on this machine."""


class VolumeExists(StorjfsError):
    """There is a volume of that name already; it is never overwritten."""


class VolumeLocked(StorjfsError):
    """Another process uses the volume. `pid` is its process id, None where it could not be read."""

    def __init__(self, message: str, *, hint: str = "", pid: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.pid = pid


class VolumeDamaged(StorjfsError):
    """The volume's files contradict each other."""


class KeyFileMissing(VolumeDamaged):
    """The volume's files are there without its key file."""


class SettingsError(StorjfsError):
    """A setting is missing, unknown or makes no sense; the message names it."""


class SettingsFileError(SettingsError):
    """The same in the settings file of a volume, which the message names too."""


class PassphraseUnreadable(StorjfsError):
    """The file, command, variable or prompt gave no usable passphrase."""


class RuntimeDirectoryUnsafe(StorjfsError):
    """The directory for the control socket belongs to somebody else or is open to others."""
