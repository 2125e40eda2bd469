"""A progress bar that is also readable in a pipe: what is counted, its rate, the time left and a note."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TextIO

if TYPE_CHECKING:
    import rich.progress

Unit = Literal["bytes", "tokens", "requests", "steps"]

_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_WORTH_A_LINE = 2.0


class Progress:
    """Draw a bar on a terminal; elsewhere print a plain line every few seconds, and nothing for quick work.

    Nothing appears before the first `update`, so work that was already done stays silent.

        with Progress("reading", "tokens", total=8192) as progress:
            progress.update(512)

    Args:
        label: what is going on, in front of the bar.
        unit: what is counted.
        total: how many there are; None when `update` will say.
        stream: where to draw; None for the standard error.
        clock: seconds from any start.
    """

    def __init__(
        self,
        label: str,
        unit: Unit,
        total: int | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label = label
        self._unit: Unit = unit
        self._total = total
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._done = 0
        self._note = ""
        self._first: tuple[float, int] | None = None  # when the first update came, and with how many done
        self._line_time = 0.0
        self._printed = -1  # how many were done in the last line
        self._bar: rich.progress.Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._done != self._printed and self._elapsed_s() > _SECONDS_WORTH_A_LINE:
            self._print_line()

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Say that `done` units of `total` are done, counted from the start of the whole work, and how it goes."""
        self._done, self._note = done, note
        self._total = self._total if total is None else total
        now = self._clock()
        if self._first is None:
            self._first = now, done
            self._line_time = now
            self._bar = self._start_bar()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=self._total, status=self._status())
        elif now - self._line_time >= _SECONDS_BETWEEN_LINES:
            self._line_time = now
            self._print_line()

    def _elapsed_s(self) -> float:
        return self._clock() - self._first[0] if self._first is not None else 0.0

    def _start_bar(self) -> rich.progress.Progress | None:
        # Asked before rich, which a variable like FORCE_COLOR makes see a terminal in any pipe.
        if not self._stream.isatty():
            return None
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        console = Console(file=self._stream)
        if not console.is_terminal or console.is_dumb_terminal:
            return None
        # markup=False: a label is a file's or a model's name, and may hold brackets.
        label = TextColumn("{task.description}", markup=False)
        status = TextColumn("{task.fields[status]}", markup=False)
        bar = RichProgress(label, BarColumn(bar_width=None), status, console=console)
        bar.add_task(self._label, total=self._total, status="")
        bar.start()
        return bar

    def _print_line(self) -> None:
        self._printed = self._done
        print(f"{self._label}: {self._status()}", file=self._stream, flush=True)

    def _status(self) -> str:
        assert self._first is not None
        parts = [format_amount(self._done, self._unit)]
        if self._total is not None:
            parts[0] += f" of {format_amount(self._total, self._unit)}"
        if self._note:
            parts.append(self._note)
        first_done, elapsed_s = self._first[1], self._elapsed_s()
        # What an earlier run had done says nothing about the speed of this one.
        if elapsed_s > 0 and self._done > first_done:
            rate = (self._done - first_done) / elapsed_s
            is_slow = self._unit in ("requests", "steps") and rate < 10
            parts.append(f"{rate:.2g} {self._unit}/s" if is_slow else f"{format_amount(round(rate), self._unit)}/s")
            if self._total is not None and self._done < self._total:
                parts.append(f"{format_duration((self._total - self._done) / rate)} left")
        return ", ".join(parts)


def format_amount(count: int, unit: Unit) -> str:
    """`92.9 MB`, `8,192 tokens`."""
    if unit != "bytes":
        return f"{count:,} {unit}"
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for prefix in "kMGT":
        value /= 1000
        # 999.95 would be shown as 1000.0.
        if value < 999.95 or prefix == "T":
            break
    return f"{value:.1f} {prefix}B"


def format_duration(seconds: float) -> str:
    """`1:05`, `2:00:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
