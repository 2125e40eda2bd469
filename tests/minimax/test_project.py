"""A repository as context."""

from __future__ import annotations

from pathlib import Path

import pytest

from minimax import load_project_files
from minimax.project import texts_in


@pytest.fixture
def project(tmp_path: Path) -> Path:
    files = {
        ".gitignore": "*.log\nbuild/\n",
        ".env": "KEY=secret",
        "b.py": "b = 1\n",
        "a.py": "a = 1\n",
        "app.log": "noise",
        "build/out.py": "made",
        "docs/.gitignore": "/draft.md\n",
        "docs/draft.md": "draft",
        "docs/guide.md": "guide\n",
        "docs/deep/draft.md": "kept, as the rule is anchored\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "image.bin").write_bytes(b"\0\1\2")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "large.txt").write_text("x" * 2000)
    (tmp_path / "link.py").symlink_to("/etc/hostname")
    return tmp_path


def test_text_files_in_order(project: Path) -> None:
    context = load_project_files(project, max_file_bytes=1000)
    assert context.files == ("a.py", "b.py", "docs/deep/draft.md", "docs/guide.md")
    assert context.startswith("### a.py\na = 1\n\n\n### b.py\n")
    assert context.left_out == {"image.bin": "binary", "large.txt": "larger than 1,000 bytes", "latin.txt": "not UTF-8"}
    assert len(context.encode()) / 3 <= context.tokens < len(context.encode()) / 3 + 1


def test_the_files_of_a_context_can_be_told_apart(project: Path) -> None:
    (project / "docs/guide.md").write_text("### not.py\nno file of its own\n")
    context = load_project_files(project, include=("*.py", "guide.md"))
    whole = {
        "a.py": "a = 1\n",
        "b.py": (project / "b.py").read_text(),
        "docs/guide.md": "### not.py\nno file of its own\n",
    }
    assert texts_in(context) == whole
    assert texts_in("\n### app/main.py\nx = 1\n\n### b.md\nB\n") == {"app/main.py": "x = 1\n", "b.md": "B\n"}
    assert texts_in("def f(): ...\n") == texts_in("See:\n### a.py\nx = 1\n") == {}


def test_a_budget_says_what_was_left_out(project: Path) -> None:
    whole = load_project_files(project, max_file_bytes=1000)
    part = load_project_files(project, max_file_bytes=1000, max_tokens=15)
    assert whole.startswith(part), "the beginning stays, so that a prefix cache finds it"
    assert part.tokens <= 15
    assert part.left_out["docs/guide.md"] == "beyond the budget of 15 tokens"


def test_patterns_and_single_files(project: Path) -> None:
    assert load_project_files(project, include=("*.py",)).files == ("a.py", "b.py")
    assert load_project_files(project / "a.py").files == ("a.py",)


def test_nothing_there_and_nothing_left(project: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        load_project_files(project / "none")
    with pytest.raises(ValueError, match="no text file is left; 1 were left out"):
        load_project_files(project, include=("image.bin",))
