"""What is said of progress where there is no terminal, and who is said to be missing."""

import itertools

import pytest

from storjfs.cli.progress import SAY_EVERY, FlushBar, PartsBar


class Clock:
    """Seconds that pass when they are told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_parts_are_named_and_counted_now_and_then(capfd: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with PartsBar(clock=clock) as bar:
        for done in range(100):
            bar.update({"part": "shards", "done": done, "of": 100})
        clock.now += SAY_EVERY
        bar.update({"part": "shards", "done": 50, "of": 100})
        bar.update({"part": "shards", "done": 51, "of": 100})
        bar.update({"part": "names", "done": 0, "of": 0})
    assert capfd.readouterr().err.splitlines() == ["shards: 0 of 100", "shards: 50 of 100", "names ..."]


def test_the_last_line_about_parts_is_the_last_state(capfd: pytest.CaptureFixture[str]) -> None:
    with PartsBar(clock=Clock()) as bar:
        for done in range(101):
            bar.update({"part": "shards", "done": done, "of": 100})
    assert capfd.readouterr().err.splitlines() == ["shards: 0 of 100", "shards: 100 of 100"]
    with pytest.raises(KeyboardInterrupt), PartsBar(clock=Clock()) as bar:
        for done in (5, 7):
            bar.update({"part": "shards", "done": done, "of": 100})
        raise KeyboardInterrupt
    assert capfd.readouterr().err.splitlines() == ["shards: 5 of 100", "shards: 7 of 100"]
    with PartsBar(clock=Clock()) as bar:
        for done in (0, 1, 0):
            bar.update({"part": "shards", "done": done, "of": 100})
    assert capfd.readouterr().err.splitlines() == ["shards: 0 of 100"]


def test_a_flush_says_how_far_it_is_and_who_is_missing(capfd: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    away = ["ab" * 32, "cd" * 32]
    with FlushBar(clock) as bar:
        for waiting in (20, 19, 18):
            bar.update({"waiting": waiting << 20, "of": 20 << 20})
        clock.now += SAY_EVERY
        bar.update({"waiting": 5 << 20, "of": 20 << 20})
        for _ in range(3):
            bar.update({"waiting": 5 << 20, "of": 20 << 20, "away": away})
    assert capfd.readouterr().err.splitlines() == [
        "sending 20.0 MiB to the farmers",
        "15.0 MiB of 20.0 MiB sent",
        "5.00 MiB wait for farmers; 2 farmers do not answer: abababab, cdcdcdcd",
    ]


def test_many_missing_farmers_are_not_all_named(capfd: pytest.CaptureFixture[str]) -> None:
    away = [f"{number:064x}"[::-1] for number in itertools.islice(itertools.count(), 20)]
    with FlushBar(Clock()) as bar:
        bar.update({"waiting": 1, "of": 1, "away": away})
    assert "20 farmers do not answer" in (said := capfd.readouterr().err)
    assert "and 14 more" in said


def test_a_flush_says_once_who_has_no_room(capfd: pytest.CaptureFixture[str]) -> None:
    with FlushBar(Clock()) as bar:
        for _ in range(3):
            bar.update({"waiting": 5 << 20, "of": 5 << 20, "away": [], "full": ["ab" * 32]})
    assert capfd.readouterr().err.splitlines()[-1:] == [
        "5.00 MiB wait for room; 1 farmer has no room for more: abababab"
    ]


def test_what_can_be_done_is_said_once_where_nothing_moves(capfd: pytest.CaptureFixture[str]) -> None:
    with FlushBar(Clock(), hint="do not wait") as bar:
        bar.update({"waiting": 5 << 20, "of": 5 << 20})
        assert "do not wait" not in capfd.readouterr().err
        for _ in range(3):
            bar.update({"waiting": 5 << 20, "of": 5 << 20, "away": ["ab" * 32]})
    assert capfd.readouterr().err.splitlines()[-1] == "do not wait"
