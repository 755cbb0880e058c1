"""Progress of a flush: a bar at a terminal, a line now and then elsewhere."""

import sys
from types import TracebackType
from typing import Any, Self

import click

from . import wording


class FlushBar:
    """Shows progress objects of the control socket: `{"waiting": bytes, "of": bytes}` and `{"step": text}`.

    The bar appears with the first byte to wait for, so that nothing flickers where nothing is to do.
    """

    def __init__(self) -> None:
        self._progress: Any = None
        self._task: Any = None
        self._terminal = sys.stderr.isatty()
        self._said = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

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
