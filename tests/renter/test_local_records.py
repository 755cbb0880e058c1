"""Local records: what is remembered of farmers, and challenges that survive until they are answered."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storjfs.protocol.signing import Kind, Signed, SigningKey
from storjfs.protocol.terms import Address
from storjfs.renter.local_records import Challenge, LocalRecords, Outcome, Result, Standing

DAY = 86400.0
NOW = 1.8e9
SIGNED = Signed.make(SigningKey(b"s" * 32), Kind.AUDIT_REQUEST, Address("x", 1))


@pytest.fixture
def records(tmp_path: Path) -> Iterator[LocalRecords]:
    one = LocalRecords(tmp_path / "local.db", None)
    yield one
    one.close()


async def test_a_challenge_is_there_until_it_is_finished(tmp_path: Path, records: LocalRecords) -> None:
    challenge = Challenge(3, b"n" * 32, SIGNED, NOW)
    await records.begin(challenge, 8)
    other = LocalRecords(tmp_path / "local.db", None)
    assert other.challenges == {3: challenge}
    assert other.standing(3).epoch == 8
    other.close()
    records.standing(3).answered(4, 1, NOW, DAY)
    failed = Outcome(NOW, 3, b"i" * 32, Result.FAILED, "leaf 7")
    await records.finish(challenge, [failed])
    other = LocalRecords(tmp_path / "local.db", None)
    assert other.challenges == {}
    assert (other.standing(3).passed, other.standing(3).failed) == (4, 1)
    assert other.outcomes() == [failed]
    other.close()


async def test_there_is_never_a_second_challenge_for_a_contract(records: LocalRecords) -> None:
    await records.begin(Challenge(3, b"n" * 32, SIGNED, NOW), 1)
    with pytest.raises(Exception, match="UNIQUE"):
        await records.begin(Challenge(3, b"m" * 32, SIGNED, NOW), 2)
    assert records.challenges[3].nonce == b"n" * 32


async def test_the_secret_is_made_once(tmp_path: Path, records: LocalRecords) -> None:
    secret = await records.secret()
    other = LocalRecords(tmp_path / "local.db", None)
    assert await other.secret() == secret == await records.secret()
    other.close()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), max_size=40))
def test_scores_stay_between_nothing_and_one(history: list[tuple[int, int, bool]]) -> None:
    standing, now = Standing(1), NOW
    for passed, failed, silent in history:
        now += 100
        before = standing.score
        if silent:
            standing.silent(now, 50)
            assert standing.score < before or before == 0
        else:
            standing.answered(passed, failed, now, DAY)
            assert not failed or standing.integrity <= 0.5
        assert 0 <= standing.score <= 1
        assert (standing.silent_since > 0) == (standing.last_result == Result.OFFLINE)


def test_a_lost_disk_is_one_strike_and_only_a_second_one_makes_a_farmer_rest() -> None:
    standing = Standing(1)
    for batch in range(50):
        standing.answered(0, 32, NOW + batch, DAY)
    assert standing.strikes == 1
    assert not standing.resting(NOW + 60, DAY)
    standing.answered(0, 32, NOW + 2 * DAY, DAY)
    assert standing.strikes == 2
    assert standing.resting(NOW + 2 * DAY + 60, DAY)
    assert not standing.resting(NOW + 3 * DAY, DAY)


def test_strikes_are_forgiven_after_a_long_clean_time() -> None:
    standing = Standing(1)
    standing.answered(0, 1, NOW, DAY)
    standing.answered(9, 0, NOW + DAY, DAY)
    assert standing.strikes == 1
    standing.answered(9, 0, NOW + 3 * DAY, DAY)
    assert standing.strikes == 0


def test_an_answer_ends_a_silence() -> None:
    standing = Standing(1)
    standing.silent(NOW, 0)
    standing.silent(NOW + 10, 10)
    assert (standing.silent_since, standing.silent_for) == (NOW, 10)
    standing.answered(1, 0, NOW + 20, DAY)
    assert (standing.silent_since, standing.silent_for) == (0, 0)


def test_a_share_of_shards_may_be_told_of_each_month_and_what_is_beyond_counts() -> None:
    standing = Standing(1)
    assert [standing.told_of(count, 1000, NOW) for count in (4, 6, 1, 5)] == [0, 0, 1, 5]
    assert standing.told_of(3, 1000, NOW + 30 * DAY - 1) == 3
    assert standing.told_of(12, 1000, NOW + 30 * DAY) == 2
    assert [Standing(1).told_of(count, 0, NOW) for count in (2, 3)] == [0, 1]


@pytest.mark.parametrize("told", [False, True])
async def test_a_fault_that_its_farmer_told_of_leaves_its_standing(records: LocalRecords, told: bool) -> None:
    await records.fault(3, b"i" * 32, "damaged", NOW, DAY, told_of=100 if told else None)
    assert (records.standing(3).integrity == 1.0) == told
    assert [one.result for one in records.outcomes()] == [Result.TOLD if told else Result.FAILED]
    for _ in range(2):
        await records.fault(3, b"i" * 32, "damaged", NOW, DAY, told_of=100 if told else None)
    assert records.standing(3).integrity < 1.0
    assert records.outcomes()[0].result is Result.FAILED


def test_local_records_of_version_1_are_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    LocalRecords(path, None).close()
    with apsw.Connection(str(path)) as database:
        columns = ", ".join("1" for _ in range(len(fields(Standing)) - 1))
        for column in ("told", "told_since"):
            database.execute(f"ALTER TABLE standing DROP COLUMN {column}")
        for column in ("shards", "used"):
            database.execute(f"ALTER TABLE standing ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0")
        database.execute(f"INSERT INTO standing VALUES (7, {columns})")
        database.execute("PRAGMA user_version = 1")
    database.close()
    one = LocalRecords(path, None)
    assert one.standing(7).passed == 1
    assert (one.standing(7).told, one.standing(7).told_since) == (0, 0.0)
    one.close()
