"""`openm3 find` as users run it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from openm3.cli.main import openm3
from openm3.errors import InputError


def test_prints_places_scores_and_excerpts(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"line {i}\n" for i in range(30)))
    (tmp_path / "b.txt").write_text("The sea is calm tonight.\n")
    (tmp_path / "c.bin").write_bytes(b"\0")
    args = ["find", "-c", str(tmp_path), "The sea is calm", "-m", str(tiny_model), "-k", "40"]
    done = CliRunner().invoke(openm3, args, catch_exceptions=False)
    assert "b.txt:1-1  " in done.stdout
    assert "    The sea is calm tonight.\n" in done.stdout
    assert "c.bin: binary" in done.stderr
    assert "2 files, " in done.stderr
    as_json = CliRunner().invoke(openm3, [*args, "--json"], catch_exceptions=False)
    parts = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert {"path", "first_line", "last_line", "score", "text"} == set(parts[0])
    assert [part["score"] for part in parts] == sorted((part["score"] for part in parts), reverse=True)
    assert any(part["text"].startswith("The sea is calm") for part in parts)


def test_tells_what_a_small_window_drops(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"line {i}\n" for i in range(600)))
    args = ["find", "-c", str(tmp_path), "line", "-m", str(tiny_model), "-k", "64"]
    done = CliRunner().invoke(openm3, [*args, "--overflow", "compact", "--window", "2048"], catch_exceptions=False)
    assert "2,048 of them fit into the window: what was dropped can't be found" in done.stderr
    assert "a.txt:" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-c", "a.txt", " "], "query: is empty"),
        (["-c", "a.txt", "sea", "-k", "9999"], "k: must be from 1 to the"),
        (["sea"], "--context: name files to search, or a context"),
    ],
    ids=str,
)
def test_refuses(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("a\n")
    with pytest.raises(InputError, match=message):
        CliRunner().invoke(openm3, ["find", *options, "-m", str(tiny_model)], catch_exceptions=False)
