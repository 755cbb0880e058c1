"""What a farmer's figures warn of, before a penalty comes. Pure.

Each rule is a function of the report that yields what it finds; the table at the end names them all.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Final

from storjfs.farmer.advice_space import disk_room, other_disks, over_share
from storjfs.farmer.figures import ContractFigures, Report, Warn
from storjfs.farmer.payments import CLAIM_BEFORE
from storjfs.farmer.reachability import ReachFacts, State
from storjfs.volume.wording import ago, count, duration, money, short_id

HOUR: Final = 3600
DAY: Final = 86400
SPACE_RULES: Final = (disk_room, over_share, other_disks)
LATELY: Final = 7 * DAY
SLOW_BEAT: Final = 5.0
"""Seconds that a heartbeat may take without a word."""
STALE_BEAT: Final = 300.0
"""Seconds after which a heartbeat is overdue."""
LEVELS: Final = ("critical", "warning", "notice")


def warnings(report: Report) -> tuple[Warn, ...]:
    """All that is wrong or about to be, worst first."""
    found = [warn for rule in RULES for warn in rule(report)]
    return tuple(sorted(found, key=lambda warn: LEVELS.index(warn.level)))


def health_of(found: Iterable[Warn]) -> str:
    """`good`, `attention` or `critical`."""
    levels = {warn.level for warn in found}
    return "critical" if "critical" in levels else "attention" if "warning" in levels else "good"


# --- the process ---


def _not_running(report: Report) -> Iterator[Warn]:
    if report.running:
        return
    run = report.runs[0] if report.runs else None
    since = (run.stopped or run.seen) if run is not None else None
    graces = [one.offline_grace for one in report.contracts if one.served and one.shards]
    due = since + min(graces) if since is not None and graces else None
    words = f" since {duration(report.at - since)}" if since is not None else ""
    means = ""
    if graces:
        means = ": no audit is answered or paid"
        means += ", and renters begin to give it up" if due is not None and due <= report.at else ""
        if due is not None and due > report.at:
            means += f", and in {duration(due - report.at)} the first renter gives it up"
    yield Warn(
        "not_running",
        "critical" if graces else "warning",
        f"the farmer has not been running{words}{means}",
        f"Start it: storjfs farm --at {report.folder}, or its service.",
        due,
    )


def _silent(report: Report) -> Iterator[Warn]:
    if report.running and not report.answers:
        yield Warn(
            "silent",
            "critical",
            "the farmer's process runs and does not answer: audits may go unanswered",
            "Look at its log; if it stays so, restart it. As a service its watchdog does that.",
        )


def _restarts(report: Report) -> Iterator[Warn]:
    ended = report.runs[1:] if report.running else report.runs
    cut = [run for run in ended if run.stopped is None and report.at - run.seen < LATELY]
    if cut:
        yield Warn(
            "restarts",
            "warning",
            f"the farmer ended {count(len(cut), 'time')} without stopping within a week, last "
            f"{ago(cut[0].seen, report.at)}: a crash, a power cut, or its watchdog",
            "journalctl -u storjfs-farm (or --user) says which; stored shards are safe.",
        )


def _settings(report: Report) -> Iterator[Warn]:
    live = report.live
    if live is not None and live.refused_settings:
        yield Warn(
            "settings_refused",
            "warning",
            f"farmer.toml was refused, the settings of before hold: {live.refused_settings}",
            "Correct it, then: storjfs farm reload",
        )
    if live is not None and live.at_next_start:
        yield Warn(
            "settings_waiting",
            "notice",
            f"changed in farmer.toml, from the next start on: {', '.join(live.at_next_start)}",
            "Restart the farmer when it suits you.",
        )


# --- the machine ---


def _heartbeat(report: Report) -> Iterator[Warn]:
    beat = report.live.heartbeat if report.live is not None else None
    if beat is None:
        return
    hint = "Look at the disk: dmesg, smartctl -a. Copy the farmer's folder while that still works."
    if beat.read_only:
        message = (
            f"the disk fails, so the farmer is read-only: {beat.problem}. It takes nothing new; what can "
            "still be read is served and proved, and renters wait for the rest until their grace time is over"
        )
        yield Warn("read_only", "critical", message, hint + " It is tried again twice a minute.")
    elif not beat.works:
        yield Warn("disk_failing", "critical", f"the disk does not work: {beat.problem}", hint)
    elif beat.full:
        message = f"the disk is full: {beat.problem}. Shards that renters paid room for are refused"
        yield Warn("disk_full", "critical", message, "Free some space, or lower the share.")
    elif report.at - beat.at > STALE_BEAT:
        message = f"the disk has not answered for {duration(report.at - beat.at)}"
        yield Warn("disk_failing", "critical", message, hint)
    elif beat.took > SLOW_BEAT:
        message = f"a small write took the disk {beat.took:.1f} s: audits may be answered too late to be paid"
        yield Warn(
            "disk_slow", "warning", message, "Find out what else uses the disk, or whether it is failing."
        )


def _clock(report: Report) -> Iterator[Warn]:
    live, hint = report.live, "Let something keep the clock right: timedatectl set-ntp true"
    if live is None:
        return
    if live.clock_set_back:
        yield Warn(
            "clock_wrong",
            "critical",
            f"the clock is {duration(live.clock_set_back)} behind what it once was: contracts and vouchers "
            "go by it, and may be refused",
            hint,
        )
    elif live.clock_step:
        message = f"the clock was set by {live.clock_step:+.0f} s while the farmer ran"
        yield Warn("clock_stepped", "warning", message, hint)
    if live.synchronised is False:
        message = "nothing keeps the clock right: where it drifts, contracts end and lapse at the wrong time"
        yield Warn("clock_unsynchronised", "notice", message, hint)
    if live.slept:
        yield Warn(
            "slept",
            "warning",
            f"the machine slept for {duration(live.slept)}: no audit was answered meanwhile",
            "Switch sleep off: systemctl mask sleep.target suspend.target",
        )


# --- the network ---


def _reach(report: Report) -> Iterator[Warn]:
    live = report.live
    if live is None:
        return
    if live.reach is not None and live.reach.state == State.CLOSED:
        yield from _closed(live.reach)
    elif report.reachable == "this machine only":
        level = "warning" if not report.contracts else "notice"
        yield Warn(
            "local_only",
            level,
            "the farmer listens on this machine only: no renter elsewhere can reach it",
            "Let it listen to others: storjfs farm --listen all",
        )
    elif live.reach is not None and live.reach.state == State.OPEN:
        return  # that nobody has come yet is no fault of the network
    elif live.last_contact is None and report.at - live.since > DAY:
        yield Warn(
            "no_contact",
            "warning",
            f"no renter elsewhere has connected for {duration(report.at - live.since)}",
            f"Does the router forward the port to this machine? It should reach {', '.join(live.listening)}.",
        )


def _closed(reach: ReachFacts) -> Iterator[Warn]:
    """Nobody can dial it: bad without a relay, and slower than need be with one."""
    words = list(reach.words)
    if reach.relayed:
        message = f"renters cannot dial it, and come through a relay, which is slower: {words[0]}"
        yield Warn("relayed", "notice", message, "; ".join(words[1:]))
    else:
        message = f"renters cannot reach it: {words[0]}"
        yield Warn("unreachable", "critical", message, "; ".join(words[1:]))


def _uptime(report: Report) -> Iterator[Warn]:
    if report.contracts and (away := time_away(report)) is not None:
        share = 1 - away / (7 * DAY)
        if share < 0.95:
            yield Warn(
                "uptime",
                "warning",
                f"the farmer ran {share:.0%} of the last week: audits that find it away are not paid, and "
                "renters move elsewhere",
                "Leave it running, as a service: storjfs farm service --install",
            )


# --- audits ---


def _audits(report: Report) -> Iterator[Warn]:
    lately = [day for day in report.days if day.day > utc_date(report.at - LATELY)]
    lost, late = sum(day.lost for day in lately), sum(day.late for day in lately)
    if lost:
        yield Warn(
            "audits_failing",
            "critical",
            f"{count(lost, 'challenged shard')} could not be proved within a week: damaged or not here. "
            "They earn nothing, and renters leave farmers that lose shards",
            "The disk may be failing: dmesg, smartctl -a. Never delete files in the farmer's folder.",
        )
    if late:
        yield Warn(
            "audits_late",
            "warning",
            f"{count(late, 'audit')} came too late to be paid within a week",
            "The disk or the machine is too slow: find out what else uses them.",
        )
    for one in report.contracts:
        yield from _overdue(report, one)


def _damaged(report: Report) -> Iterator[Warn]:
    if report.damaged:
        yield Warn(
            "damaged",
            "critical",
            f"{count(report.damaged, 'shard')} on the disk {'is' if report.damaged == 1 else 'are'} damaged: "
            "renters are told and rebuild them elsewhere; nothing is lost, but damaged shards earn nothing",
            "Look at the disk: dmesg, smartctl -a. Replace it if this becomes more; leave the files alone.",
        )


def _overdue(report: Report, one: ContractFigures) -> Iterator[Warn]:
    """A renter that should have audited by now."""
    live = report.live
    if live is None or not one.served or not one.shards:
        return
    last = max(one.last_audit or 0, int(live.since))
    if report.at - last > 2 * one.audit_period + HOUR:
        yield Warn(
            "not_audited",
            "warning",
            f"renter {short_id(one.renter)} has not audited for {duration(report.at - last)}, and "
            f"should every {duration(one.audit_period)}: it is away, or cannot reach this farmer",
            "Unaudited shards earn nothing. If it is so with all renters, look at router and firewall.",
        )


# --- pay ---


def _unpaid(report: Report) -> Iterator[Warn]:
    for one in report.contracts:
        if not one.served:
            continue
        who = f"renter {short_id(one.renter)}"
        if not one.paying:
            when = f" in {duration(one.breach_at - report.at)}" if one.breach_at is not None else " soon"
            yield Warn(
                "not_paying",
                "warning",
                f"{who} has not paid {count(one.unpaid_audits, 'audit')} and is not served; if it stays "
                f"so, the contract ends{when}: its shards are removed and what was promised is claimed",
                "Nothing to do here: it pays, or its room is sold to others.",
                one.breach_at,
            )
        elif one.unpaid_audits and one.last_audit is not None and report.at - one.last_audit > HOUR:
            yield Warn(
                "audit_unpaid",
                "warning",
                f"{who} has not paid the audit of {ago(one.last_audit, report.at)}; after a second one it "
                "is not served",
                "Nothing to do here.",
            )


def _lanes(report: Report) -> Iterator[Warn]:
    seen: set[str] = set()
    stuck = not report.running or (report.live is not None and bool(report.live.settlement_trouble))
    for one in report.contracts:
        lane = one.lane
        if lane.lane in seen or not lane.open:
            continue
        seen.add(lane.lane)
        who = f"the lane of renter {short_id(one.renter)}"
        left = lane.expiry - report.at
        if lane.claimable and left < (2 * DAY if stuck else CLAIM_BEFORE // 2):
            yield Warn(
                "lane_expiring",
                "critical" if left < 2 * HOUR else "warning",
                f"{who} expires in {duration(left)} with {money(lane.claimable)} credits unclaimed",
                "A running farmer claims by itself: start it, and see that its ledger can be reached.",
                lane.expiry,
            )
        elif one.served and lane.expiry < one.ends_at:
            yield Warn(
                "lane_short",
                "warning",
                f"{who} expires before its contract ends: later proofs could not be paid",
                "The renter extends it; if it does not, its contract ends unpaid.",
                lane.expiry,
            )
        if one.served and one.per_day and lane.deposit - lane.promised < 2 * one.per_day:
            yield Warn(
                "deposit_low",
                "warning",
                f"the deposit on {who} is used up in two days: then proofs cannot be paid",
                "The renter tops it up; if it does not, it is no longer served.",
            )


def _settlement(report: Report) -> Iterator[Warn]:
    live = report.live
    if live is None or not live.settlement_trouble:
        return
    since = ago(live.settlement_trouble_since, report.at)
    yield Warn(
        "settlement",
        "critical" if report.at - live.settlement_trouble_since > DAY else "warning",
        f"the ledger does not do what it should, since {since}: {live.settlement_trouble}. "
        f"{money(report.money.claimable)} credits wait to be claimed",
        "See that the ledger named in farmer.toml is there and can be written, or, if it is a served one, "
        "that it runs and can be reached. What was promised stays valid meanwhile.",
    )


def utc_date(moment: float) -> str:
    """The day, as in the figures."""
    return datetime.fromtimestamp(moment, UTC).date().isoformat()


def time_away(report: Report) -> int | None:
    """Seconds of the last seven whole days in which it did not run; None for a farmer younger than that."""
    first, today = utc_date(report.at - 7 * DAY), utc_date(report.at)
    if not report.days or report.days[0].day >= first:
        return None
    return 7 * DAY - sum(min(day.up, DAY) for day in report.days if first <= day.day < today)


Rule = Callable[[Report], Iterator[Warn]]
RULES: Final[tuple[Rule, ...]] = (
    _not_running,
    _silent,
    _heartbeat,
    _audits,
    _damaged,
    _unpaid,
    _lanes,
    _settlement,
    *SPACE_RULES,
    _clock,
    _reach,
    _restarts,
    _uptime,
    _settings,
)
