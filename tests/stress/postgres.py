"""A PostgreSQL server whose data lies where one wants it, run as a user that is not root."""

import glob
import os
import pwd
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.e2e.drive import await_that

# Safe settings are PostgreSQL's defaults; said all the same, for they are what is tested. Little memory and
# many checkpoints bring data to the disk early.
SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "listen_addresses": "''",
    "unix_socket_permissions": "0777",
    "shared_buffers": "8MB",
    "max_wal_size": "48MB",
    "checkpoint_timeout": "30s",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum_naptime": "2s",
    "jit": "off",
    # A server that lost its disk shall end, not try again until the disk is back.
    "restart_after_crash": "off",
}


class Server:
    """Data in `data` (made by `init`), socket and log in `home`, which is not on the mount."""

    def __init__(self, data: Path, home: Path) -> None:
        self.data = data
        self.home = home
        self.home.mkdir()
        # PostgreSQL refuses to run as root.
        user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        self.user = user.pw_name
        self._as_user: dict[str, object] = {}
        if os.geteuid() == 0:
            os.chown(home, user.pw_uid, user.pw_gid)
            os.chown(data, user.pw_uid, user.pw_gid)
            self._as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        os.chmod(data, 0o700)
        self.bin = programs(home)
        self.env = {
            **os.environ,
            "PGHOST": str(home),
            "PGUSER": self.user,
            "LC_ALL": "C.UTF-8",
            "PGDATA": str(data),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def call(self, program: str, *words: str, cwd: Path | None = None) -> str:
        """Run one of PostgreSQL's programs as the server's user; its output, an error where it fails."""
        done = subprocess.run(
            [self.bin / program, *words],
            env=self.env,
            cwd=cwd or self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            **self._as_user,  # type: ignore[call-overload]
        )
        assert done.returncode == 0, f"{program}: exit {done.returncode}\n{done.stdout}{self.log()}"
        return str(done.stdout)

    def spawn(self, program: str, *words: str, **streams: int) -> subprocess.Popen[str]:
        """Start one of PostgreSQL's programs as the server's user."""
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            [self.bin / program, *words], env=self.env, cwd=self.home, text=True, **streams, **self._as_user
        )

    def init(self) -> None:
        """Make the data directory, with checksums on all pages."""
        self.call("initdb", "--data-checksums", "--auth=trust", "--encoding=UTF8", "--no-instructions")

    def start(self) -> None:
        """Start the server and wait until it answers, its recovery from a crash included."""
        options = [
            word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value.strip(chr(39))}")
        ]
        with open(self.home / "server.log", "ab") as log:
            self._process = subprocess.Popen(  # type: ignore[call-overload]
                [self.bin / "postgres", "-D", self.data, "-k", self.home, *options],
                env=self.env,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._as_user,
            )
        await_that(self._ready, "PostgreSQL answers")

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"PostgreSQL ended while it started\n{self.log()}"
        done = subprocess.run([self.bin / "pg_isready", "-q"], env=self.env, cwd=self.home, check=False)
        return done.returncode == 0

    def stop(self) -> None:
        """An orderly end, with a last checkpoint; all that was written is fsynced."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        assert self._process.wait(300) == 0, self.log()

    def die(self) -> None:
        """The end, in whatever state the server and its disk are."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGQUIT)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def sql(self, statement: str, database: str = "postgres") -> str:
        """What psql prints, unaligned and without headings."""
        return self.call("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", statement).strip()

    def log(self) -> str:
        """The end of the server's log."""
        log = self.home / "server.log"
        return f"--- {log.name}\n{log.read_text(errors='replace')[-6000:]}" if log.exists() else ""


def programs(home: Path) -> Path:
    """The folder of PostgreSQL's programs: installed, or as scripts/prepare has unpacked them.

    Unpacked ones are copied to `home`: the server's user may not be able to reach the checkout. PostgreSQL
    finds its other files from where its programs lie.
    """
    for pattern in ("/usr/lib/postgresql/*/bin", f"{sys.prefix}/postgresql/usr/lib/postgresql/*/bin"):
        for found in sorted(glob.glob(pattern), reverse=True):
            if all(Path(found, name).exists() for name in ("postgres", "pgbench", "pg_amcheck")):
                if found.startswith("/usr/"):
                    return Path(found)
                unpacked = Path(sys.prefix, "postgresql")
                shutil.copytree(unpacked, home / "postgresql", symlinks=True)
                return home / "postgresql" / Path(found).relative_to(unpacked)
    raise AssertionError("PostgreSQL is missing: scripts/prepare unpacks it where it is not installed")
