"""The status report judges what it is told, and keeps to its schema."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from storjfs.daemon.status import ContractFacts, Facts, health_of, problems_of, report

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "reference" / "status.md"


def contract(**changes: Any) -> ContractFacts:
    """A good contract, but for the changes."""
    good = ContractFacts(
        contract="c0ffee",
        farmer="ab" * 32,
        addresses=["127.0.0.1:1"],
        state="active",
        condition="good",
        shards=3,
        used=1000,
        capacity=10_000,
        last_audit=1000.0,
        last_outcome="passed",
        passed=5,
        failed=0,
        offline=0,
        paid=70,
        deposit_left=30,
        ends_at=1e12,
    )
    return dataclasses.replace(good, **changes)


def facts(**changes: Any) -> Facts:
    """A healthy volume, but for the changes."""
    healthy = Facts(
        volume="default",
        k=3,
        n=5,
        all_on_this_machine=True,
        stored=10,
        waiting=0,
        cached=5,
        cache_limit=100,
        room=95,
        segments_waiting=0,
        segments_full=7,
        segments_degraded=0,
        segments_at_risk=0,
        segments_lost=0,
        segments_by_spare={2: 7},
        contracts=[contract()],
        balance=1,
        audit_period=86400,
    )
    return dataclasses.replace(healthy, **changes)


def test_a_volume_with_nothing_wrong_is_healthy_and_says_nothing() -> None:
    made = report(facts(segment_problems=["once something was wrong"]), None)
    assert (made["health"], made["problems"]) == ("healthy", [])


@pytest.mark.parametrize("what", ["segments_at_risk", "segments_lost"])
def test_data_that_one_more_loss_could_take_is_at_risk(what: str) -> None:
    assert health_of(facts(**{what: 1, "segments_degraded": 3})) == "at_risk"


def test_missing_spare_shards_degrade() -> None:
    made = report(facts(segments_degraded=2, segment_problems=["no farmer took it"]), None)
    assert made["health"] == "degraded"
    assert "miss spare shards, all data is there: 2" in made["problems"][0]
    assert "no farmer took it" in made["problems"]


@pytest.mark.parametrize("condition", ["offline", "contained", "failing"])
def test_a_farmer_that_holds_shards_and_misbehaves_degrades(condition: str) -> None:
    made = report(facts(contracts=[contract(), contract(condition=condition)]), None)
    assert made["health"] == "degraded"
    assert "abababab" in made["problems"][0]


def test_a_farmer_whose_shards_are_elsewhere_by_now_does_no_harm() -> None:
    assert health_of(facts(contracts=[contract(condition="failing", shards=0)])) == "healthy"
    assert health_of(facts(contracts=[contract(condition="gone", state="breached", shards=4)])) == "healthy"


def test_before_the_first_audit_there_is_none() -> None:
    made = report(facts(contracts=[contract(last_audit=0.0, last_outcome="")]), None)
    assert made["contracts"][0]["last_audit"] is None
    assert made["audits"]["last"] is None


def test_totals_are_sums_over_the_contracts() -> None:
    made = report(
        facts(contracts=[contract(paid=1, deposit_left=2), contract(paid=10, deposit_left=20)]), None
    )
    assert (made["money"]["paid"], made["money"]["deposit_left"]) == (11, 22)
    assert made["segments"]["total"] == 7


def test_a_term_that_is_over_ends_in_no_time() -> None:
    assert report(facts(contracts=[contract(ends_at=1.0)]), None)["contracts"][0]["ends_in"] == 0


def test_the_report_is_json_and_every_member_is_documented() -> None:
    mount = {"mountpoint": "/m", "pid": 1, "since": 0.0, "options": ["rw"], "state": "mounted"}
    made = json.loads(json.dumps(report(facts(), mount)))
    text = SCHEMA.read_text()
    for member, value in made.items():
        inner = value if isinstance(value, dict) else {}
        inner = value[0] if member == "contracts" else inner
        for name in {member, *inner}:
            assert re.search(rf"[`.…]{name}\b", text), f"{member}: {name} is not in {SCHEMA.name}"


def test_data_that_waits_without_any_contract_is_not_healthy() -> None:
    alone = facts(contracts=[], waiting=1000, segments_full=0)
    assert health_of(alone) == "degraded"
    assert "There is no contract" in report(alone, None)["problems"][0]
    assert health_of(facts(contracts=[], waiting=0)) == "healthy"


def test_data_damaged_on_this_machine_is_at_risk() -> None:
    damaged = facts(segments_damaged=1)
    assert health_of(damaged) == "at_risk"
    assert "damaged on this machine" in report(damaged, None)["problems"][0]


def test_data_is_at_risk_where_too_few_farmers_answer_to_read_it() -> None:
    good = facts().contracts[0]
    silent = dataclasses.replace(good, condition="offline")
    two_left = facts(contracts=[good, good, silent, silent, silent])
    assert health_of(two_left) == "at_risk"
    assert any("Fewer than 3 farmers answer" in problem for problem in problems_of(two_left))
    three_left = facts(contracts=[good, good, good, silent, silent])
    assert health_of(three_left) == "degraded"


def test_what_is_only_here_while_farmers_are_away_is_said_with_the_room_that_is_left() -> None:
    good = facts().contracts[0]
    silent = dataclasses.replace(good, condition="offline")
    away = facts(contracts=[good, good, good, silent, silent], waiting=5 << 20, room=3 << 30)
    (said,) = [one for one in problems_of(away) if "only" in one]
    assert (
        said
        == "5.00 MiB are on this machine only, until more farmers answer; there is room for 3.00 GiB more."
    )
    little = dataclasses.replace(away, waiting=700, room=40 << 10)
    (said,) = [one for one in problems_of(little) if "only" in one]
    assert said.startswith("700 B are on this machine only")
    assert said.endswith("there is room for 40.0 KiB more.")
    full = dataclasses.replace(away, room=0)
    assert any("there is no room for more" in problem for problem in problems_of(full))
    enough = dataclasses.replace(away, contracts=[good] * 4 + [silent])
    assert not any("only" in problem for problem in problems_of(enough))


def test_segments_that_too_few_answering_farmers_hold_are_counted_and_at_risk() -> None:
    good = facts().contracts[0]
    silent = dataclasses.replace(good, farmer="cd" * 32, condition="offline")
    some = facts(contracts=[good] * 3 + [silent] * 4, segments_unreadable=6)
    made = report(some, None)
    assert made["health"] == "at_risk"
    assert made["segments"]["unreadable"] == 6
    (said,) = [problem for problem in made["problems"] if "cannot be read now" in problem]
    assert "6" in said
    assert "cdcdcdcd" in said


def test_a_code_that_needs_more_farmers_than_there_are_degrades_and_says_what_to_do() -> None:
    few = facts(k=3, n=10, usable=6)
    made = report(few, None)
    assert made["health"] == "degraded"
    assert "3/10 needs 10 farmers, 7 at the least, and there are 6" in made["problems"][0]
    assert "stays on this machine" in made["problems"][0]
    assert 'code = "auto"' in made["problems"][0]
    some = report(facts(usable=4), None)
    assert (some["health"], "spare shards" in some["problems"][0]) == ("healthy", True)
    prepared = report(facts(usable=6, waiting_code=(3, 10)), None)
    assert (prepared["health"], "prepared with the code 3/10" in prepared["problems"][0]) == (
        "degraded",
        True,
    )
    assert report(facts(usable=7, waiting_code=(3, 10)), None)["problems"] == []


def test_segments_without_redundancy_are_said_but_are_what_was_asked_for() -> None:
    made = report(facts(k=1, n=1, usable=1, segments_bare=3), None)
    assert made["health"] == "healthy"
    assert "every shard is needed: 3" in made["problems"][0]


def test_what_waits_because_farmers_have_no_room_is_said_with_their_names() -> None:
    rows = [contract(farmer=f"{i:02x}" * 32, full=i < 3) for i in range(5)]
    waits = facts(contracts=rows, waiting=5 << 20)
    assert health_of(waits) == "degraded"
    (said,) = problems_of(waits)
    assert "5.00 MiB" in said
    assert "3 farmers have no room for more: 00000000, 01010101, 02020202" in said
    assert health_of(facts(contracts=rows)) == "healthy"
    others = [contract(farmer=f"{i:02x}" * 32) for i in range(5, 10)]
    assert problems_of(facts(contracts=rows + others, waiting=5 << 20)) == []
