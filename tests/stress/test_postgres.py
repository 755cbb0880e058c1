"""PostgreSQL with its data on the mount: no commit is lost, no page damaged, whenever the mount dies."""

import random
import subprocess
import threading
from collections.abc import Iterator

import pytest

from tests.e2e.drive import Drive

from .conftest import Told
from .length import CRASHES, SECONDS
from .postgres import Server

CLIENTS = 4
SCALE = 2 if SECONDS < 60 else 10


@pytest.fixture
def server(drive: Drive) -> Iterator[Server]:
    """A running server on a mounted drive, with pgbench's tables and one for `Committer`."""
    drive.mount("-o", "allow_other")
    data = drive.at / "postgres"
    data.mkdir()
    made = Server(data, drive.home / "server")
    try:
        made.init()
        made.start()
        made.sql("CREATE TABLE told (number int PRIMARY KEY, body text NOT NULL)")
        made.call("pgbench", "-i", "-q", "-s", str(SCALE), "postgres")
        yield made
    finally:
        made.die()


class Committer:
    """Commits numbered rows one after the other and remembers the last that the server confirmed."""

    def __init__(self, server: Server, first: int) -> None:
        self.confirmed = first - 1
        self._first = first
        self._psql = server.spawn(
            "psql",
            *("-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.busy = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        assert self._psql.stdin is not None
        assert self._psql.stdout is not None
        number = self._first
        while True:
            # A large row goes beside the table (TOAST), and so into more files at once.
            body = f"repeat(md5('{number}'), {1 + number * 7 % 300})"
            try:
                self._psql.stdin.write(f"INSERT INTO told VALUES ({number}, {body});\n\\echo {number}\n")
                self._psql.stdin.flush()
            except BrokenPipeError:
                return
            if self._psql.stdout.readline() != f"{number}\n":
                return
            self.confirmed = number
            number += 1
            if number > self._first + 20:
                self.busy.set()

    def work(self, seconds: float) -> None:
        """Let it go on for so long."""
        self._thread.join(seconds)

    def ended(self) -> int:
        """Wait for the end, which comes with the server's; the last confirmed number."""
        self._thread.join(120)
        assert not self._thread.is_alive()
        self._psql.kill()
        self._psql.communicate()
        return self.confirmed


class Bench:
    """pgbench without end; it logs every transaction whose commit it has seen."""

    def __init__(self, server: Server, number: int) -> None:
        self._prefix = server.home / f"bench{number}"
        self._process = server.spawn(
            "pgbench",
            *(
                "-n",
                "-c",
                str(CLIENTS),
                "-j",
                "2",
                "-T",
                "86400",
                "-l",
                f"--log-prefix={self._prefix}",
                "postgres",
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def ended(self) -> int:
        """Wait for the end, which comes with the server's; how many commits it saw."""
        self._process.wait(120)
        logs = list(self._prefix.parent.glob(f"{self._prefix.name}.*"))
        assert logs
        return sum(len(log.read_text().splitlines()) for log in logs)


def check(server: Server, confirmed: int, seen: int) -> None:
    """No index or page is damaged, what was committed is there, and what belongs together agrees."""
    server.call(
        "pg_amcheck", "--all", "--install-missing", "--heapallindexed", "--parent-check", "--rootdescend"
    )
    found = server.sql("SELECT count(*), coalesce(max(number), 0) FROM told")
    count, last = (int(word) for word in found.split("|"))
    assert count == last, "a row is missing before others"
    assert last in (confirmed, confirmed + 1), f"{confirmed} rows were confirmed, {last} are there"
    wrong = "body <> repeat(md5(number::text), 1 + number * 7 % 300)"
    assert server.sql(f"SELECT count(*) FROM told WHERE {wrong}") == "0"
    sums = server.sql(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches),"
        " (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)"
    )
    assert len(set(sums.split("|"))) == 1, f"accounts, branches, tellers, history differ: {sums}"
    assert int(server.sql("SELECT count(*) FROM pgbench_history")) >= seen


def test_postgres_loses_no_commit_when_the_mount_is_killed(drive: Drive, server: Server, tell: Told) -> None:
    moments = random.Random(15)
    confirmed = seen = 0
    for number in range(CRASHES):
        committer, bench = Committer(server, confirmed + 1), Bench(server, number)
        assert committer.busy.wait(120)
        committer.work(moments.uniform(0, 6))
        drive.kill()
        confirmed = committer.ended()
        seen += bench.ended()
        server.die()
        drive.mount("-o", "allow_other")
        server.start()
        check(server, confirmed, seen)
        confirmed = int(server.sql("SELECT max(number) FROM told"))
    server.stop()
    assert "Bad checksums:  0" in server.call("pg_checksums", "--check")
    drive.umount()
    drive.mount("-o", "allow_other")
    server.start()
    check(server, confirmed, seen)
    server.stop()
    tell(f"{CRASHES} kills, {confirmed} + {seen} confirmed commits, all there")


def test_postgres_under_pgbench(drive: Drive, server: Server, tell: Told) -> None:
    printed = server.call(
        "pgbench", "-n", "-c", str(CLIENTS), "-j", "2", "-T", str(SECONDS), "postgres", cwd=server.home
    )
    assert "number of failed transactions: 0" in printed, printed
    (count,) = [line.split(": ")[1] for line in printed.splitlines() if "actually processed" in line]
    check(server, 0, int(count))
    server.stop()
    assert "Bad checksums:  0" in server.call("pg_checksums", "--check")
    (rate,) = [line for line in printed.splitlines() if line.startswith("tps")]
    tell(f"{CLIENTS} clients, scale {SCALE}: {count} transactions, {rate}")
