"""Progress of what takes long: a bar at a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import click

from storjfs.volume import wording

SAY_EVERY = 10.0
"""Seconds between two lines about the same thing, where there is no terminal."""


class _Bar:
    """A bar of rich, made when there is something to draw, and taken off in the end."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._told_at = -SAY_EVERY
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _say(self, line: str, *, now: bool) -> bool:
        """A line on standard error, at once or if the last one is a while ago; whether it was said."""
        due = now or self._clock() - self._told_at >= SAY_EVERY
        if due:
            self._told_at = self._clock()
            click.echo(line, err=True)
        return due


class FlushBar(_Bar):
    """Shows progress objects of the control socket: `{"waiting": bytes, "of": bytes}` and `{"step": text}`.

    The bar appears with the first byte to wait for, so that nothing flickers where nothing is to do. Without
    a terminal it is a line at the beginning and one now and then. `away` and `full` (node ids of farmers
    that do not answer, or have no room) in the first kind are said once, whoever watches.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, hint: str = "") -> None:
        """`hint`: what can be done where nothing moves, said once."""
        super().__init__(clock)
        self._hint = hint
        self._terminal = sys.stderr.isatty()
        self._said = False
        self._away: list[str] = []
        self._full: list[str] = []

    def update(self, told: dict[str, Any]) -> None:
        """One progress object."""
        if "step" in told:
            if self._terminal:
                self._line(told["step"])
            return
        waiting, of = told["waiting"], told["of"]
        if not of:
            return
        if self._terminal:
            self._draw(of - waiting, of)
        elif not self._said:
            self._say(f"sending {wording.size(of)} to the farmers", now=True)
        else:
            self._say(f"{wording.size(of - waiting)} of {wording.size(of)} sent", now=False)
        self._said = True
        away = list(told.get("away", ()))
        if away and away != self._away:
            self._line(f"{wording.size(waiting)} wait for farmers; {wording.farmers(away)}")
        self._away = away or self._away
        full = list(told.get("full", ()))
        if full and full != self._full:
            self._line(f"{wording.size(waiting)} wait for room; {wording.without_room(full)}")
        self._full = full or self._full
        if self._hint and (away or full):
            self._line(self._hint)
            self._hint = ""

    def _line(self, text: str) -> None:
        if self._progress is not None:
            self._progress.console.print(text, markup=False)
        else:
            click.echo(text, err=True)

    def _draw(self, done: int, of: int) -> None:
        if self._progress is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            self._progress = Progress(
                TextColumn("to the farmers"),
                BarColumn(),
                DownloadColumn(binary_units=True),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._progress.add_task("flush", total=of)
            self._progress.start()
        self._progress.update(self._task, completed=done, total=of)


class PartsBar(_Bar):
    """Shows progress objects `{"part": name, "done": count, "of": count}`: a bar for the part under way.

    Without a terminal it is a line on standard error for each part, one now and then, and in the end one that
    says how far it came; `quiet` leaves those out as well.
    """

    def __init__(self, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._part = ""
        self._said = ""
        self._unsaid = ""
        """The newest state, where no line has told it."""
        self._quiet = quiet
        self._terminal = sys.stderr.isatty() and not quiet

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._unsaid:
            self._say(self._unsaid, now=True)

    def update(self, told: Mapping[str, Any]) -> None:
        """One progress object."""
        part = told.get("part", "")
        if not part:
            return
        if self._terminal:
            self._draw(part, told["done"], told["of"])
        elif not self._quiet:
            done, of = told["done"], told["of"]
            line = f"{part}: {done} of {of}" if of else f"{part} ..."
            if self._say(line, now=part != self._part):
                self._said, self._unsaid = line, ""
            else:
                self._unsaid = line if line != self._said else ""
        self._part = part

    def _draw(self, part: str, done: int, of: int) -> None:
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description:<10}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._progress.add_task(part, total=None)
            self._progress.start()
        if part != self._part:
            self._progress.reset(self._task, description=part, total=of or None, completed=done)
        self._progress.update(self._task, completed=done, total=of or None)
