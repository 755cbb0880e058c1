"""Uploads leave the machine to programs that write, but not for ever."""

import trio
import trio.testing

from storjfs.segments.uploader import FOREGROUND, GENTLE_PUTS, MUCH, PATIENCE, PUTS_AT_ONCE, Pace


class Writing:
    """What programs appended so far, and whether somebody waits for uploads."""

    def __init__(self) -> None:
        self.appended = 0
        self.urgent = False
        self.pace = Pace(lambda: self.appended, lambda: self.urgent)

    async def step(self, much: bool) -> int:
        """Let FOREGROUND pass, with much writing or none; the puts allowed then."""
        await trio.sleep(FOREGROUND * 1.01)
        self.appended += MUCH if much else 0
        return self.pace.puts()


async def test_nothing_starts_before_it_is_known_whether_programs_write(
    autojump_clock: trio.testing.MockClock,
) -> None:
    writing = Writing()
    assert writing.pace.puts() == 0
    assert await writing.step(much=False) == PUTS_AT_ONCE
    await trio.sleep(5.0)
    writing.appended += 100 * MUCH  # perhaps long ago, perhaps just now
    assert writing.pace.puts() == 0
    assert await writing.step(much=True) == 0


async def test_uploads_wait_for_a_pause(autojump_clock: trio.testing.MockClock) -> None:
    writing = Writing()
    writing.pace.puts()
    assert [await writing.step(much=True) for _ in range(3)] == [0, 0, 0]
    assert await writing.step(much=False) == PUTS_AT_ONCE


async def test_lasting_writing_does_not_stop_uploads_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    writing = Writing()
    writing.pace.puts()
    allowed = [await writing.step(much=True) for _ in range(round(PATIENCE / FOREGROUND) + 5)]
    assert allowed[0] == 0
    assert allowed[-1] == GENTLE_PUTS


async def test_who_waits_for_uploads_goes_first(autojump_clock: trio.testing.MockClock) -> None:
    writing = Writing()
    writing.urgent = True
    assert writing.pace.puts() == PUTS_AT_ONCE
    assert await writing.step(much=True) == PUTS_AT_ONCE
