"""Progress of what takes long: a bar at a terminal, a line now and then elsewhere."""

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import click

from storjfs.volume import wording


class _Bar:
    """A bar of rich, made when there is something to draw, and taken off in the end."""

    def __init__(self) -> None:
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()


class FlushBar(_Bar):
    """Shows progress objects of the control socket: `{"waiting": bytes, "of": bytes}` and `{"step": text}`.

    The bar appears with the first byte to wait for, so that nothing flickers where nothing is to do.
    """

    def __init__(self) -> None:
        super().__init__()
        self._terminal = sys.stderr.isatty()
        self._said = False

    def update(self, told: dict[str, Any]) -> None:
        """One progress object."""
        if "step" in told:
            if self._progress is not None:
                self._progress.console.print(told["step"])
            elif self._terminal:
                click.echo(told["step"], err=True)
            return
        waiting, of = told["waiting"], told["of"]
        if not of:
            return
        if self._terminal:
            self._draw(of - waiting, of)
        elif not self._said:
            self._said = True
            click.echo(f"sending {wording.size(of)} to the farmers", err=True)

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

    Without a terminal each part is named once on standard error; `quiet` leaves that out as well.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__()
        self._part = ""
        self._quiet = quiet
        self._terminal = sys.stderr.isatty() and not quiet

    def update(self, told: Mapping[str, Any]) -> None:
        """One progress object."""
        part = told.get("part", "")
        if not part:
            return
        if self._terminal:
            self._draw(part, told["done"], told["of"])
        elif part != self._part and not self._quiet:
            click.echo(f"{part} ...", err=True)
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
