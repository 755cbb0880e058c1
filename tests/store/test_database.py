"""Databases open with their key only, keep their format number, and lie encrypted on the disk."""

from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.store import META_SCHEMA, StoreError, open_database
from storjfs.store.batch import run_rows, widened
from storjfs.store.database import run_script

KEY = bytes(range(32))
SCHEMA = "CREATE TABLE t (a INTEGER NOT NULL PRIMARY KEY, b BLOB); INSERT INTO t VALUES (1, x'00');"


def test_a_schema_of_several_statements_runs_whole(tmp_path: Path) -> None:
    connection = open_database(tmp_path / "a.db", None, SCHEMA)
    assert connection.execute("SELECT a FROM t").fetchall() == [(1,)]


def test_another_key_is_told_apart_from_the_right_one(tmp_path: Path) -> None:
    open_database(tmp_path / "a.db", KEY, SCHEMA).close()
    open_database(tmp_path / "a.db", KEY, SCHEMA).close()
    with pytest.raises(StoreError):
        open_database(tmp_path / "a.db", bytes(32), SCHEMA)
    with pytest.raises(StoreError):
        open_database(tmp_path / "a.db", None, SCHEMA)


def test_neither_database_nor_log_shows_its_content(tmp_path: Path) -> None:
    connection = open_database(tmp_path / "a.db", KEY, SCHEMA)
    secret = b"a name nobody may see" * 300
    connection.execute("INSERT INTO t VALUES (2, ?)", (secret,)).fetchall()
    assert (tmp_path / "a.db-wal").stat().st_size > len(secret)
    for step in range(2):
        for path in tmp_path.iterdir():
            assert secret[:16] not in path.read_bytes()
        if not step:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    connection = open_database(tmp_path / "a.db", None, SCHEMA)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    connection.close()


def test_formats_are_brought_up_to_date_and_never_down(tmp_path: Path) -> None:
    open_database(tmp_path / "a.db", KEY, SCHEMA).close()
    more = {1: "CREATE TABLE u (a); INSERT INTO u VALUES (5)"}
    connection = open_database(tmp_path / "a.db", KEY, SCHEMA, version=2, migrations=more)
    assert connection.execute("SELECT a FROM u").fetchall() == [(5,)]
    connection.close()
    with pytest.raises(StoreError, match="format 2"):
        open_database(tmp_path / "a.db", KEY, SCHEMA)


def test_every_table_of_the_metadata_can_be_recorded_in_a_session(tmp_path: Path) -> None:
    connection = open_database(tmp_path / "a.db", None, META_SCHEMA)
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type='table'")]
    for table in tables:
        keys = [row for row in connection.execute(f"PRAGMA table_info({table})") if row[5]]
        assert keys, table
        assert all(row[3] for row in keys), table


def test_only_plain_statements_are_widened() -> None:
    assert widened("INSERT INTO t VALUES (?, ?)", 2) == "INSERT INTO t VALUES (?, ?), (?, ?)"
    assert widened("DELETE FROM t WHERE (a, b) IN (VALUES (?, ?))", 2) == (
        "DELETE FROM t WHERE (a, b) IN (VALUES (?, ?), (?, ?))"
    )
    assert widened("INSERT INTO t VALUES (?) ON CONFLICT (a) DO NOTHING", 2) == (
        "INSERT INTO t VALUES (?), (?) ON CONFLICT (a) DO NOTHING"
    )
    assert widened("UPDATE t SET a = ? WHERE b = ?", 2) is None
    assert widened("UPDATE t SET a = ? WHERE b IN (VALUES (?))", 2) is None


@given(
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3)), max_size=700),
    st.sets(st.integers(0, 400)),
)
def test_wide_statements_do_what_single_ones_do(rows: list[tuple[int, bytes]], gone: set[int]) -> None:
    connection = apsw.Connection(":memory:")
    run_script(connection, "CREATE TABLE t (a INTEGER NOT NULL PRIMARY KEY, b BLOB)")
    run_rows(connection.cursor(), "REPLACE INTO t VALUES (?, ?)", rows)
    run_rows(connection.cursor(), "DELETE FROM t WHERE (a) IN (VALUES (?))", [(key,) for key in gone])
    expected = {key: value for key, value in dict(rows).items() if key not in gone}
    found = connection.execute("SELECT a, b FROM t ORDER BY a").fetchall()
    assert found == sorted(expected.items())
