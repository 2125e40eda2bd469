"""Files that agents hand on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from minimax_code.clusters.files import merged, with_diffs
from minimax_code.errors import WorkspaceError
from minimax_code.workbench.workspace import Workspace

LINES = "".join(f"line {i}\n" for i in range(12))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "a.txt").write_text(LINES)
    return tmp_path / "user"


async def diff_of(folder: Path | None, place: Path, files: dict[str, str]) -> str:
    """The change that somebody makes."""
    async with await Workspace.create(folder, place) as workspace:
        for name, text in files.items():
            (workspace.path / name).write_text(text)
        return (await workspace.patch()).decode()


def test_changes_of_several_come_together(folder: Path, tmp_path: Path) -> None:
    async def run() -> None:
        first = await diff_of(folder, tmp_path / "1", {"a.txt": LINES.replace("line 1\n", "first\n")})
        second = await diff_of(
            folder, tmp_path / "2", {"a.txt": LINES.replace("line 9\n", "second\n"), "b.bin": "\0\n"}
        )
        laid = await with_diffs(folder, {"x": first, "y": second, "z": ""}, tmp_path / "3")
        assert laid is not None
        assert (laid / "a.txt").read_text() == LINES.replace("line 1\n", "first\n").replace("line 9\n", "second\n")
        assert (laid / "b.bin").read_text() == "\0\n"
        assert (folder / "a.txt").read_text() == LINES

    asyncio.run(run())


def test_what_does_not_go_together_is_named(folder: Path, tmp_path: Path) -> None:
    async def run() -> None:
        diffs = {
            name: await diff_of(folder, tmp_path / name, {"a.txt": LINES.replace("line 1\n", f"{name}\n")})
            for name in ("x", "y")
        }
        with pytest.raises(WorkspaceError, match="what 'y' has changed doesn't go together with what was before: git"):
            await merged(folder, diffs, tmp_path / "3")

    asyncio.run(run())


def test_nobody_can_write_elsewhere(folder: Path, tmp_path: Path) -> None:
    evil = "diff --git a/x b/../../x\nnew file mode 100644\n--- /dev/null\n+++ b/../../x\n@@ -0,0 +1 @@\n+evil\n"

    async def run() -> None:
        for diff in (evil, evil.replace("../../x", ".git/hooks/x")):
            with pytest.raises(WorkspaceError, match="what 'x' has changed"):
                await merged(folder, {"x": diff}, tmp_path / f"{len(diff)}")

    asyncio.run(run())
    assert not (tmp_path / "x").exists()


def test_without_changes_it_is_the_folder_itself(folder: Path, tmp_path: Path) -> None:
    assert asyncio.run(with_diffs(folder, {"x": ""}, tmp_path / "1")) == folder
    assert asyncio.run(with_diffs(None, {}, tmp_path / "1")) is None
