"""What a farmer's figures warn of where room and disks are concerned. Pure; rules as those of `advice`."""

from collections.abc import Iterator

from storjfs.farmer.figures import Report, Warn
from storjfs.volume.wording import count, duration, size


def disk_room(report: Report) -> Iterator[Warn]:
    """What is sold finds no room on the disks."""
    space = report.space
    free = max(space.disk_free - space.keep_free * max(len(report.disks), 1), 0)
    owed = max(min(space.sold, space.share) - space.stored, 0)
    if owed > free:
        level = "critical" if free < owed // 10 or not free else "warning"
        yield Warn(
            "disk_nearly_full",
            level,
            f"the disk has {size(free)} left of {size(owed)} that are sold and not filled yet: "
            "renters will be refused what they pay for",
            f"Free {size(owed - free)} on the disk, or lower the share.",
        )


def over_share(report: Report) -> Iterator[Warn]:
    """More is there than was allowed, or could be."""
    space = report.space
    over = [one for one in report.disks if one.used > one.share and one.state == "working"]
    used, share = (over[0].used, over[0].share) if over else (space.used, space.share)
    if used > share:
        where = f" in {over[0].folder}" if len(report.disks) > 1 and over else ""
        yield Warn(
            "over_share",
            "warning",
            f"{size(used)} are there{where} (the farmer's own files among them), "
            f"{size(used - share)} more than are shared: nothing new is taken or offered until "
            "renters delete or contracts end; what is stored stays, is proved and paid",
            "Share as much as that, or wait: it becomes less as contracts end.",
        )
    elif space.own_most > space.share:
        yield Warn(
            "share_too_small",
            "warning",
            f"of {size(space.share)} the farmer may need {size(space.own_most)} for its own records: no "
            "shard has room",
            "Share more: capacity in farmer.toml, then storjfs farm reload.",
        )


def other_disks(report: Report) -> Iterator[Warn]:
    """A disk beside the first that fails alone, or waits to be emptied."""
    for one in report.disks[1:]:
        since = f" for {duration(report.at - one.failing_since)}" if one.failing_since is not None else ""
        if one.state == "failing":
            yield Warn(
                "disk_missing",
                "critical",
                f"the disk of {one.folder} fails or is not there{since}: its {count(one.shards, 'shard')} "
                "are not proved, and audits that ask for one of them wait; the other disks go on. After "
                "disk_grace renters are told that they are gone",
                "Put the disk back, or look at it: dmesg, smartctl -a. It is tried again twice a minute.",
            )
        elif one.state == "not answering":
            yield Warn(
                "disk_silent",
                "critical",
                f"the disk of {one.folder} does not answer and is set aside: its "
                f"{count(one.shards, 'shard')} are not proved, and audits that ask for one of them wait; the "
                "other disks go on. After disk_grace renters are told that they are gone",
                "Look at it, and at its cable or server: dmesg, smartctl -a. It is used again by itself, at "
                "most half a minute after all that was asked of it has returned.",
            )
        elif one.state == "lost":
            yield Warn(
                "disk_lost",
                "critical",
                f"the disk of {one.folder} is lost{since}: renters are told that "
                f"{count(one.shards, 'shard')} are gone, and rebuild them elsewhere",
                "If it comes back, what renters have not deleted yet counts again; else take its line out "
                "of disks in farmer.toml.",
            )
        elif one.state == "leaving":
            yield Warn(
                "disk_leaving",
                "notice",
                f"the disk of {one.folder} is being emptied: {count(one.shards, 'shard')} with "
                f"{size(one.stored)} are still there",
                "Leave it in until it is no longer shown here. Where the others have no room, share more.",
            )
