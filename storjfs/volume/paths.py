"""Where a volume's files lie: the XDG base directories (specification 0.8), one folder per volume.

What a person may not lose is under data; what may be deleted at any time is under cache.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from storjfs.volume.errors import VolumeNameError
from storjfs.volume.files import make_private, make_runtime

DEFAULT_NAME = "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LONGEST_SOCKET_PATH = 99  # sun_path has 108 bytes; some room for libraries that append


class VolumePaths:
    """The paths of the volume `name`; nothing is created by asking. Raises VolumeNameError.

    `environ` gives HOME and the XDG_* variables; relative ones are ignored, as the specification says.
    """

    __slots__ = ("cache_dir", "config_dir", "control_socket", "data_dir", "name", "runtime_dir", "state_dir")

    def __init__(self, name: str = DEFAULT_NAME, environ: Mapping[str, str] | None = None) -> None:
        if not _NAME.fullmatch(name):
            raise VolumeNameError(
                f"{name!r} cannot be the name of a volume",
                hint="Use up to 64 letters, digits, dots, dashes, underscores; begin with a letter or digit.",
            )
        environ = os.environ if environ is None else environ
        self.name = name
        self.config_dir = _base(environ, "XDG_CONFIG_HOME", ".config") / "volumes" / name
        self.data_dir = data_home(environ) / "volumes" / name
        self.cache_dir = _base(environ, "XDG_CACHE_HOME", ".cache") / "volumes" / name
        self.state_dir = _base(environ, "XDG_STATE_HOME", ".local/state") / "volumes" / name
        self.runtime_dir = _runtime(environ)
        # Two volumes of one name in different data homes may be mounted at once.
        place = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:16]
        self.control_socket = self.runtime_dir / f"{name}-{place[:8]}.sock"
        if len(os.fsencode(self.control_socket)) > _LONGEST_SOCKET_PATH:
            self.control_socket = self.runtime_dir / f"{place}.sock"
        if len(os.fsencode(self.control_socket)) > _LONGEST_SOCKET_PATH:
            self.runtime_dir = _temporary()
            self.control_socket = self.runtime_dir / f"{place}.sock"

    @property
    def settings_file(self) -> Path:
        """VolumeSettings as TOML."""
        return self.config_dir / "settings.toml"

    @property
    def key_file(self) -> Path:
        """The entropy, sealed or plain; the volume exists if this file does."""
        return self.data_dir / "key"

    @property
    def lock_file(self) -> Path:
        """Locked by the one process that uses the volume; holds its process id."""
        return self.data_dir / "lock"

    @property
    def meta_db(self) -> Path:
        """Names, inodes, extents, segments, shards, contracts."""
        return self.data_dir / "meta.db"

    @property
    def ballast(self) -> Path:
        """Space set aside, given up when the disk is full so that deletions can be committed."""
        return self.data_dir / "ballast"

    @property
    def pay_db(self) -> Path:
        """Lanes and vouchers; never rolled back."""
        return self.data_dir / "pay.db"

    @property
    def local_db(self) -> Path:
        """Audit outcomes, scores, cache, queue: this machine only."""
        return self.state_dir / "local.db"

    @property
    def log_file(self) -> Path:
        """What the mount process has to say."""
        return self.state_dir / "mount.log"

    @property
    def journal_dir(self) -> Path:
        """Segments that farmers do not hold yet."""
        return self.data_dir / "journal"

    @property
    def journal_kept_dir(self) -> Path:
        """What was in the journal and newer than a copy of meta.db that was put back."""
        return self.data_dir / "journal-kept"

    @property
    def newest_file(self) -> Path:
        """How far meta.db had come when it was last written here."""
        return self.state_dir / "newest"

    @property
    def mount_note(self) -> Path:
        """Where it was mounted last."""
        return self.state_dir / "mounted-at"

    @property
    def operator_file(self) -> Path:
        """The seed of the embedded ledger's operator."""
        return self.data_dir / "ledger.db.operator"

    @property
    def embedded_file(self) -> Path:
        """Which farmers are embedded ones: their node ids."""
        return self.data_dir / "embedded"

    @property
    def farm_dir(self) -> Path:
        """The embedded farmers, one folder each."""
        return self.data_dir / "farm"

    @property
    def ledger_db(self) -> Path:
        """The embedded settlement ledger."""
        return self.data_dir / "ledger.db"

    @property
    def exists(self) -> bool:
        """Whether there is such a volume on this machine."""
        return self.key_file.exists()

    @property
    def remains(self) -> list[Path]:
        """What is there of a volume that was in use, besides its key file. Empty where one is half made.

        A ledger alone does not count: farmers may have made it before the volume.
        """
        used = [path for path in (self.meta_db, self.pay_db) if path.exists()]
        used += [path for path in (self.farm_dir, self.journal_dir) if _has_entries(path)]
        used += [self.ledger_db] if used and self.ledger_db.exists() else []
        if self.settings_file.exists() and (used or not self.data_dir.exists()):
            used.append(self.settings_file)
        return used

    @property
    def to_begin_anew(self) -> list[Path]:
        """The folders in the way of a new volume of this name, where there are `remains` of another."""
        return [folder for folder in (self.data_dir, self.config_dir) if folder.exists()]

    @property
    def directories(self) -> tuple[Path, ...]:
        """All directories in which the volume keeps something."""
        return (self.config_dir, self.data_dir, self.cache_dir, self.state_dir, self.runtime_dir)

    def make_directories(self) -> None:
        """Make the volume's directories, mode 0700. Idempotent. Raises OSError."""
        for directory in (self.config_dir, self.data_dir, self.cache_dir, self.state_dir, self.journal_dir):
            make_private(directory)

    def make_runtime_dir(self) -> None:
        """Make the directory of the control socket. Raises RuntimeDirectoryUnsafe or OSError."""
        make_runtime(self.runtime_dir)

    def __repr__(self) -> str:
        return f"<VolumePaths of {self.name} at {self.data_dir}>"


def data_home(environ: Mapping[str, str] | None = None) -> Path:
    """Where this user's volumes, farmer and ledger have their folders."""
    return _base(os.environ if environ is None else environ, "XDG_DATA_HOME", ".local/share")


def volume_names(environ: Mapping[str, str] | None = None) -> list[str]:
    """The volumes on this machine, by name, sorted."""
    volumes = data_home(environ) / "volumes"
    return sorted(key.parent.name for key in volumes.glob("*/key") if _NAME.fullmatch(key.parent.name))


def keyless_names(environ: Mapping[str, str] | None = None) -> list[str]:
    """The names under which a volume was in use here whose key file is gone, sorted; see `remains`."""
    environ = os.environ if environ is None else environ
    bases = (data_home(environ), _base(environ, "XDG_CONFIG_HOME", ".config"))
    names = {place.name for base in bases for place in (base / "volumes").glob("*") if place.is_dir()}
    known = (VolumePaths(name, environ) for name in sorted(names) if _NAME.fullmatch(name))
    return [paths.name for paths in known if not paths.exists and paths.remains]


def _has_entries(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except FileNotFoundError:
        return False


def _base(environ: Mapping[str, str], variable: str, under_home: str) -> Path:
    given = environ.get(variable, "")
    if os.path.isabs(given):
        return Path(given) / "storjfs"
    home = environ.get("HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home()) / under_home / "storjfs"


def _runtime(environ: Mapping[str, str]) -> Path:
    given = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(given):
        return Path(given) / "storjfs"
    uid = os.geteuid()
    if uid == 0:
        return Path(f"/run/storjfs-{uid}")
    session = Path(f"/run/user/{uid}")
    return session / "storjfs" if session.is_dir() else _temporary()


def _temporary() -> Path:
    # Not TMPDIR: `storjfs status` from another shell must find the same socket.
    return Path(f"/tmp/storjfs-{os.geteuid()}")
