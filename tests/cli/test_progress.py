from __future__ import annotations

import io

import pytest

from openm3.cli.progress import Progress, Unit, format_amount


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_in_pipe(seconds: int, *, first_done: int = 0) -> list[str]:
    """Read 100 tokens a second and return the lines."""
    stream, clock = io.StringIO(), Clock()
    with Progress("reading", "tokens", total=2000, stream=stream, clock=clock) as progress:
        for second in range(seconds + 1):
            clock.now_s = 100 + second
            progress.update(first_done + 100 * second)
    return stream.getvalue().splitlines()


def test_a_pipe_gets_a_plain_line_every_few_seconds_and_a_last_one() -> None:
    assert run_in_pipe(12) == [
        "reading: 500 tokens of 2,000 tokens, 100 tokens/s, 0:15 left",
        "reading: 1,000 tokens of 2,000 tokens, 100 tokens/s, 0:10 left",
        "reading: 1,200 tokens of 2,000 tokens, 100 tokens/s, 0:08 left",
    ]


def test_quick_work_says_nothing_in_a_pipe() -> None:
    assert run_in_pipe(2) == []
    assert len(run_in_pipe(3)) == 1


def test_the_rate_leaves_out_what_was_done_before() -> None:
    assert run_in_pipe(5, first_done=1000)[0] == "reading: 1,500 tokens of 2,000 tokens, 100 tokens/s, 0:05 left"


def test_a_variable_that_forces_colour_puts_no_escape_code_into_a_pipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in "".join(run_in_pipe(12))


def test_nothing_to_do_shows_nothing() -> None:
    for stream in (io.StringIO(), Terminal()):
        with Progress("pulling", "bytes", stream=stream):
            pass
        assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    stream, clock = Terminal(), Clock()
    with Progress("pulling [tiny]", "bytes", stream=stream, clock=clock) as progress:
        progress.update(0, 4_000_000)
        clock.now_s += 1
        progress.update(1_000_000, 4_000_000)
    assert "\x1b[" in stream.getvalue()
    assert "pulling [tiny]" in stream.getvalue()
    assert "1.0 MB of 4.0 MB, 1.0 MB/s, 0:03 left" in stream.getvalue()


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream, clock = Terminal(), Clock()
    with Progress("pulling", "bytes", stream=stream, clock=clock) as progress:
        progress.update(0)
        clock.now_s += 3
        progress.update(3000)
    assert stream.getvalue() == "pulling: 3.0 kB, 1.0 kB/s\n"


@pytest.mark.parametrize(
    ("count", "unit", "text"),
    [
        (0, "bytes", "0 B"),
        (999, "bytes", "999 B"),
        (1000, "bytes", "1.0 kB"),
        (999_960, "bytes", "1.0 MB"),
        (98_362_432, "bytes", "98.4 MB"),
        (5_000 * 10**12, "bytes", "5000.0 TB"),
        (8192, "tokens", "8,192 tokens"),
    ],
)
def test_amounts(count: int, unit: Unit, text: str) -> None:
    assert format_amount(count, unit) == text
