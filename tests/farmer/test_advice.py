"""Each warning comes with its cause, before its penalty, and not without it."""

from typing import Any

import pytest
from msgspec.structs import replace

from storjfs.farmer.advice import DAY, HOUR, LEVELS, health_of, utc_date, warnings
from storjfs.farmer.earning import suggestions
from storjfs.farmer.figures import (
    ContractFigures,
    Day,
    LaneFigures,
    Money,
    Prices,
    Report,
    Run,
    Space,
    Warn,
)
from storjfs.farmer.live import LineFacts, Live, PeerFacts, Selling
from storjfs.farmer.prices import DEFAULT, TABLE
from storjfs.farmer.pulse import Heartbeat
from storjfs.farmer.reachability import NOT_ASKED, ReachFacts, RelayFacts
from storjfs.protocol.terms import CREDIT

NOW = 1_790_000_000.0
GIB = 1 << 30


CLOSED = ReachFacts(
    "closed", ("no: farm.example.org:7420 tried", "forward the port"), 7420, "192.168.1.20", (), NOT_ASKED, ()
)


def day(ago: int, **changes: Any) -> Day:
    values: dict[str, Any] = dict.fromkeys(
        ("earned", "promised", "claimed", "audits", "late", "lost", "received", "sent"), 0
    )
    return Day(day=utc_date(NOW - ago * DAY), **{**values, "up": DAY, **changes})


LANE = LaneFigures(
    lane="aa" * 32,
    deposit=100 * CREDIT,
    promised=10 * CREDIT,
    claimed=9 * CREDIT,
    claimable=CREDIT,
    expiry=int(NOW) + 40 * DAY,
    open=True,
)
CONTRACT = ContractFigures(
    number=1,
    contract="cc" * 32,
    renter="0123456789abcdef",
    state="active",
    served=True,
    paying=True,
    capacity=10 * GIB,
    used=4 * GIB,
    shards=1000,
    price=DEFAULT.storage,
    egress_price=DEFAULT.egress,
    ends_at=int(NOW) + 30 * DAY,
    audit_period=DAY,
    offline_grace=7 * DAY,
    unpaid_audits=0,
    breach_at=None,
    last_audit=int(NOW) - 3 * HOUR,
    audits=30,
    late=0,
    lost=0,
    earned=10 * CREDIT,
    promised=10 * CREDIT,
    claimed=9 * CREDIT,
    per_day=CREDIT,
    lane=LANE,
    days=(),
)
LINE = LineFacts(limit=None, rate=0.0, total=0, under_way=0, waiting=0)
LIVE = Live(
    pid=1,
    version="0",
    since=NOW - 20 * DAY,
    addresses=("farm.example.org:7420",),
    listening=("0.0.0.0:7420",),
    last_contact=NOW - HOUR,
    connections=2,
    renters=(PeerFacts("0123456789abcdef", 2, 0),),
    sent=LINE,
    received=LINE,
    arriving=0,
    heartbeat=Heartbeat(NOW - 30, 0.01, True),
    synchronised=True,
    clock_set_back=0.0,
    clock_step=0.0,
    slept=0.0,
    settlement_trouble="",
    settlement_trouble_since=0,
    selling=Selling(500 * GIB, DEFAULT.storage, DEFAULT.egress, "0.0.0.0:7420", "", "", 64 << 20),
    refused_settings="",
    at_next_start=(),
)
GOOD = Report(
    schema=1,
    at=NOW,
    health="",
    warnings=(),
    suggestions=(),
    node_id="ee" * 32,
    folder="/srv/farm",
    running=True,
    answers=True,
    reachable="yes",
    listen="0.0.0.0:7420",
    limit="",
    schedule="",
    space=Space(
        share=500 * GIB,
        sold=100 * GIB,
        stored=40 * GIB,
        left=400 * GIB,
        keep_free=64 << 20,
        disk_free=600 * GIB,
        disk_size=900 * GIB,
    ),
    prices=Prices(DEFAULT.storage, DEFAULT.egress),
    money=Money(
        earned=CREDIT,
        promised=CREDIT,
        claimable=0,
        claimed=CREDIT,
        today=0,
        this_month=0,
        month_estimate=0,
        per_day=CREDIT,
    ),
    contracts=(CONTRACT,),
    days=tuple(day(ago) for ago in range(10, -1, -1)),
    runs=(Run(int(NOW) - 20 * DAY, int(NOW) - 60, None), Run(0, 100, 100)),
    live=LIVE,
)


def report(**changes: Any) -> Report:
    """GOOD with changes; `live_*`, `space_*`, `one_*` and `lane_*` go to these parts."""
    parts: dict[str, dict[str, Any]] = {"live": {}, "space": {}, "one": {}, "lane": {}}
    whole: dict[str, Any] = {}
    for name, value in changes.items():
        part, _, member = name.partition("_")
        if part in parts and member:
            parts[part][member] = value
        else:
            whole[name] = value
    one = replace(CONTRACT, lane=replace(LANE, **parts["lane"]), **parts["one"])
    made = replace(
        GOOD,
        live=replace(LIVE, **parts["live"]),
        space=replace(GOOD.space, **parts["space"]),
        contracts=(one,),
    )
    return replace(made, **whole)


def test_a_good_farmer_has_no_warnings() -> None:
    assert warnings(GOOD) == ()
    assert suggestions(GOOD) == ()
    assert health_of(()) == "good"


STOPPED = (Run(int(NOW) - 9 * DAY, int(NOW) - 2 * DAY, int(NOW) - 2 * DAY),)
CASES: list[tuple[str, str, dict[str, Any], str]] = [
    (
        "not_running",
        "critical",
        {"running": False, "live": None, "runs": STOPPED},
        "5 d the first renter gives it up",
    ),
    ("not_running", "warning", {"running": False, "live": None, "runs": STOPPED, "contracts": ()}, "2 d"),
    ("silent", "critical", {"answers": False, "live": None}, "does not answer"),
    ("restarts", "warning", {"runs": (GOOD.runs[0], Run(0, int(NOW) - DAY, None))}, "1 time without"),
    ("settings_refused", "warning", {"live_refused_settings": "no setting 'colour'"}, "colour"),
    ("settings_waiting", "notice", {"live_at_next_start": ("listen",)}, "listen"),
    (
        "disk_failing",
        "critical",
        {"live_heartbeat": Heartbeat(NOW, 0, False, problem="I/O error")},
        "I/O error",
    ),
    (
        "read_only",
        "critical",
        {"live_heartbeat": Heartbeat(NOW, 0, False, problem="Input/output error", read_only=True)},
        "takes nothing new",
    ),
    ("disk_failing", "critical", {"live_heartbeat": Heartbeat(NOW - HOUR, 0, True)}, "not answered for 1 h"),
    ("disk_full", "critical", {"live_heartbeat": Heartbeat(NOW, 0, True, True, "no space")}, "full"),
    ("disk_slow", "warning", {"live_heartbeat": Heartbeat(NOW, 7.5, True)}, "7.5 s"),
    ("disk_nearly_full", "warning", {"space_disk_free": 50 * GIB}, "49.9 GiB left of 60.0 GiB"),
    ("disk_nearly_full", "critical", {"space_disk_free": GIB}, "left of 60.0 GiB"),
    ("over_share", "warning", {"space_share": 30 * GIB}, "10.0 GiB more than are shared"),
    ("over_share", "warning", {"space_own": 461 * GIB}, "1.00 GiB more than are shared"),
    ("share_too_small", "warning", {"space_own_most": 501 * GIB}, "no shard has room"),
    ("clock_wrong", "critical", {"live_clock_set_back": 90_000.0}, "1 d 1 h behind"),
    ("clock_stepped", "warning", {"live_clock_step": -70.0}, "-70 s"),
    ("clock_unsynchronised", "notice", {"live_synchronised": False}, "drifts"),
    ("slept", "warning", {"live_slept": 8.0 * HOUR}, "8 h"),
    ("local_only", "notice", {"reachable": "this machine only"}, "this machine only"),
    ("local_only", "warning", {"reachable": "this machine only", "contracts": ()}, "this machine only"),
    ("no_contact", "warning", {"reachable": "unknown", "live_last_contact": None}, "20 d"),
    ("unreachable", "critical", {"live_reach": CLOSED}, "farm.example.org:7420 tried"),
    (
        "relayed",
        "notice",
        {"live_reach": replace(CLOSED, relays=(RelayFacts("relay.example.org:7420", True, "", 1),))},
        "come through a relay",
    ),
    ("uptime", "warning", {"days": tuple(day(ago, up=DAY // 2) for ago in range(10, -1, -1))}, "50%"),
    ("uptime", "warning", {"days": (day(10), day(2), day(1), day(0))}, "29%"),
    ("audits_failing", "critical", {"days": (day(3, lost=2), day(0))}, "2 challenged shards"),
    ("damaged", "critical", {"damaged": 1}, "1 shard on the disk is damaged"),
    ("damaged", "critical", {"damaged": 3}, "3 shards on the disk are damaged"),
    ("audits_late", "warning", {"days": (day(3, late=1), day(0))}, "1 audit came"),
    ("not_audited", "warning", {"one_last_audit": int(NOW) - 3 * DAY}, "01234567 has not audited for 3 d"),
    (
        "not_paying",
        "warning",
        {"one_paying": False, "one_unpaid_audits": 2, "one_breach_at": int(NOW) + 2 * DAY},
        "2 d",
    ),
    ("audit_unpaid", "warning", {"one_unpaid_audits": 1}, "3 h ago"),
    ("lane_expiring", "critical", {"lane_expiry": int(NOW) + 600}, "1.000 credits unclaimed"),
    ("lane_short", "warning", {"lane_expiry": int(NOW) + 29 * DAY}, "before its contract ends"),
    ("deposit_low", "warning", {"lane_promised": 99 * CREDIT}, "two days"),
    (
        "settlement",
        "warning",
        {"live_settlement_trouble": "the file is gone", "live_settlement_trouble_since": int(NOW) - HOUR},
        "file is gone",
    ),
    (
        "settlement",
        "critical",
        {"live_settlement_trouble": "the file is gone", "live_settlement_trouble_since": int(NOW) - 2 * DAY},
        "2 d ago",
    ),
]


@pytest.mark.parametrize(
    ("code", "level", "changes", "said"), CASES, ids=[f"{one[0]}-{one[1]}" for one in CASES]
)
def test_each_cause_has_its_warning_and_no_other(
    code: str, level: str, changes: dict[str, Any], said: str
) -> None:
    found = warnings(report(**changes))
    assert [(warn.code, warn.level) for warn in found] == [(code, level)]
    assert said in found[0].message


def test_lane_that_expires_is_told_long_before_where_nobody_can_claim() -> None:
    away = {"live": None, "running": False, "runs": STOPPED}
    trouble = {"live_settlement_trouble": "gone", "live_settlement_trouble_since": int(NOW) - HOUR}
    for why in (away, trouble):
        for left, level in ((DAY, "warning"), (HOUR, "critical")):
            found = warnings(report(lane_expiry=int(NOW) + left, **why))
            (lane,) = (warn for warn in found if warn.code == "lane_expiring")
            assert (lane.level, lane.due) == (level, NOW + left)
    assert "lane_expiring" not in [warn.code for warn in warnings(report(lane_expiry=int(NOW) + HOUR))]


def test_penalties_have_their_date_where_it_is_known() -> None:
    (warn,) = warnings(report(running=False, live=None, runs=STOPPED))
    assert warn.due == STOPPED[0].seen + CONTRACT.offline_grace
    (warn,) = warnings(report(one_paying=False, one_unpaid_audits=2, one_breach_at=int(NOW) + 99))
    assert warn.due == NOW + 99


@pytest.mark.parametrize(
    "changes",
    [
        {"live": None, "running": True},
        {"contracts": ()},
        {"days": (), "runs": ()},
        {"days": (day(20, lost=5), *GOOD.days)},  # long ago
        {"runs": (GOOD.runs[0], Run(0, int(NOW) - 9 * DAY, None))},
        {"one_last_audit": None, "live_since": NOW - HOUR},  # it has just started
        {"one_unpaid_audits": 1, "one_last_audit": int(NOW) - 60},  # a voucher takes a moment
        {"one_served": False, "one_paying": False, "one_last_audit": 0},
        {"lane_open": False, "lane_expiry": 0},
        {"live_last_contact": None, "live_since": NOW - HOUR},
        {"live_synchronised": None},
    ],
)
def test_what_is_no_cause_is_no_warning(changes: dict[str, Any]) -> None:
    assert warnings(report(**changes)) == ()


def test_the_worst_comes_first_and_gives_the_health() -> None:
    found = warnings(report(live_synchronised=False, live_slept=600.0, space_disk_free=0))
    assert [warn.level for warn in found] == ["critical", "warning", "notice"]
    assert health_of(found) == "critical"
    assert health_of(found[1:]) == "attention"
    assert health_of(found[2:]) == "good"
    assert set(LEVELS) == {warn.level for warn in found}


def test_every_warning_says_what_to_do_unless_nothing_is_to_be_done() -> None:
    for _, _, changes, _ in CASES:
        for warn in warnings(report(**changes)):
            assert isinstance(warn, Warn)
            assert warn.hint


@pytest.mark.parametrize(
    ("code", "changes", "said"),
    [
        ("share_more", {"space_left": GIB, "space_sold": 499 * GIB}, "140 GiB more"),
        ("price", {"contracts": (), "prices": Prices(2 * DEFAULT.storage, 0)}, "0.005 per GiB"),
        (
            "stay_up",
            {"days": tuple(day(ago, up=DAY // 2) for ago in range(10, -1, -1))},
            "about 3.500 credits",
        ),
        ("limit", {"live_sent": replace(LINE, limit=125_000, waiting=3)}, "3 renters wait"),
        ("listen", {"reachable": "this machine only"}, "other machines"),
    ],
)
def test_what_would_earn_more(code: str, changes: dict[str, Any], said: str) -> None:
    found = suggestions(report(**changes))
    assert [one.code for one in found] == [code]
    assert said in found[0].message


def test_prices_of_the_table_are_within_what_renters_pay() -> None:
    for row in TABLE.values():
        assert 0 < row.storage <= CREDIT // 100
        assert 0 < row.egress <= CREDIT // 20


def test_a_farmer_that_is_reached_and_that_nobody_has_come_to_is_well() -> None:
    found = report(live_reach=replace(CLOSED, state="open"), reachable="yes", live_last_contact=None)
    assert not warnings(found)
