"""Formatters: what is new or was formatted is formatted by the project's settings, and nothing else is touched."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from helpers.agents import bench_of
from minimax_code.workbench.files import CodeFile

UGLY = "def total( prices ):\n    return sum( prices )\n"
NEAT = "def total(prices):\n    return sum(prices)\n"


def formatted(tmp_path: Path, path: str, text: str, files: dict[str, str]) -> tuple[str, str]:
    """The file's text, and what its receipt says."""

    bench = bench_of(tmp_path, files)

    async def run() -> tuple[str, str]:
        tree = await bench.workspace.snapshot()
        file, receipt = await bench.formatted(CodeFile(path, text))
        assert await bench.workspace.snapshot() == tree, "nothing is written"
        return file.content, receipt.checked if receipt else ""

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("before", "text", "expected", "told"),
    [
        (None, UGLY, NEAT, "that it is formatted"),
        ("x = 1\n", UGLY, NEAT, "that it is formatted"),
        ("x=1\n", UGLY, UGLY, "nothing: it was not formatted before"),
        (None, "def total(:\n", "def total(:\n", "nothing: ruff format can't be run, or can't read it"),
    ],
)
def test_what_is_new_or_was_formatted_is_formatted(
    tmp_path: Path, before: str | None, text: str, expected: str, told: str
) -> None:
    files = {} if before is None else {"cart.py": before}
    assert formatted(tmp_path, "cart.py", text, files) == (expected, told)


def test_the_projects_settings_count(tmp_path: Path) -> None:
    settings = {"pyproject.toml": "[tool.ruff.format]\nquote-style = 'single'\n"}
    assert formatted(tmp_path, "src/cart.py", 'NAME = "cart"\n', settings)[0] == "NAME = 'cart'\n"


def test_other_languages_have_theirs_where_the_project_uses_them(tmp_path: Path) -> None:
    assert formatted(tmp_path, "cart.ts", "let a  = 1", {}) == ("let a  = 1", "")
    told = formatted(tmp_path / "other", "cart.ts", "let a  = 1", {".prettierrc": "{}"})
    assert told in [
        ("let a  = 1", "nothing: prettier can't be run, or can't read it"),
        ("let a = 1;\n", "that it is formatted"),
    ]
