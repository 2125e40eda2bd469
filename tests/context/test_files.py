"""Collecting files from real folders."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from openm3.context.files import Collection, SkippedFile, collect
from openm3.errors import InputError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def names(collection: Collection) -> list[str]:
    return [file.path for file in collection.files]


def test_files_are_sorted_and_rendered_under_their_paths(here: Path) -> None:
    write(here, {"b.txt": "no line break at the end", "a/z.py": "z = 1\n", "a.txt": "1\n"})
    collection = collect(["."])
    assert collection.render() == (
        "=== a.txt ===\n1\n\n=== a/z.py ===\nz = 1\n\n=== b.txt ===\nno line break at the end\n"
    )
    assert collection.files[1].absolute == here / "a" / "z.py"
    assert collect([here / "b.txt", "a", "a.txt"]) == collection


def test_a_file_named_twice_is_taken_once(here: Path) -> None:
    write(here, {"a/x.py": "x"})
    (here / "link.py").symlink_to(here / "a" / "x.py")
    assert names(collect(["a", "a/x.py", "./a/../a/x.py", "a/*.py", "link.py"])) == ["a/x.py"]


def test_paths_outside_the_working_folder_are_shown_from_what_was_named(here: Path) -> None:
    write(here.parent, {"other/src/x.py": "x", "other/y.py": "y"})
    other = here.parent / "other"
    assert names(collect([other])) == ["other/src/x.py", "other/y.py"]
    assert names(collect([other / "src"])) == ["src/x.py"]
    assert names(collect([other / "src", other / "y.py"])) == ["src/x.py", "y.py"]
    assert names(collect(["../other/*.py"])) == ["other/y.py"]


def test_ignored_files_are_left_out_unless_named(here: Path) -> None:
    write(
        here,
        {
            ".gitignore": "*.log\nbuild/\n/only_top.py\n.venv\n!\nnot\\/a pattern\n",
            "x.py": "x",
            "x.log": "x",
            "only_top.py": "x",
            "sub/only_top.py": "x",
            "build/deep/x.py": "x",
            ".venv/x.py": "x",
            ".github/ci.yml": "x",
            ".git/config": "x",
        },
    )
    assert names(collect(["."])) == [".github/ci.yml", ".gitignore", "sub/only_top.py", "x.py"]
    assert names(collect(["x.log", "x.py"])) == ["x.log", "x.py"]
    # Who names an ignored folder wants what is in it.
    assert names(collect(["build"])) == ["build/deep/x.py"]


def test_a_nested_gitignore_overrules_the_outer_one_below_its_folder(here: Path) -> None:
    write(
        here,
        {
            ".gitignore": "*.log\n",
            "x.log": "x",
            "sub/.gitignore": "!keep.log\n/x.py\n",
            "sub/keep.log": "x",
            "sub/other.log": "x",
            "sub/x.py": "x",
            "sub/deep/x.py": "x",
        },
    )
    assert names(collect(["."])) == [".gitignore", "sub/.gitignore", "sub/deep/x.py", "sub/keep.log"]


def test_rules_above_hold_up_to_the_repository_root(here: Path) -> None:
    write(
        here,
        {
            ".gitignore": "*.py\n",  # above the repository: not in force
            "repo/.git/HEAD": "x",
            "repo/.gitignore": "/src/secret.txt\n*.log\n",
            "repo/src/x.py": "x",
            "repo/src/x.log": "x",
            "repo/src/secret.txt": "x",
        },
    )
    assert names(collect(["repo/src"])) == ["repo/src/x.py"]
    assert names(collect(["repo/src/*"])) == ["repo/src/x.py"]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize(
    "patterns",
    [
        "*.md\n!a.md\n",
        "/*\n!/src/\n/src/*\n!/src/deep\n",
        "*\n!*/\n!*.py\n",
        "*.md\n!src/\n!src/deep\n",
        "src/**\n!src/deep/\n!b.py\n",
        "/src/deep/**/\n[!a].md\n",
        "src/**/b.py\n",
        "**/deep/\n",
        "# comment\n\\#odd\n*.py  \n[ab].md\n",
    ],
)
def test_git_agrees(here: Path, patterns: str) -> None:
    files = (
        "a.md",
        "b.md",
        "#odd",
        "src/a.py",
        "src/b.py",
        "src/deep/b.py",
        "src/deep/a.md",
        "doc/deep/c.txt",
    )
    write(here, {**dict.fromkeys(files, "x"), ".gitignore": patterns, "doc/.gitignore": "!c.txt\n"})
    subprocess.run(["git", "init", "-q"], check=True)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert names(collect(["."])) == sorted(listed.stdout.split())


def test_globs(here: Path) -> None:
    write(
        here,
        {
            "src/x.py": "x",
            "src/a/b/y.py": "x",
            "src/a/y.md": "x",
            "src/ignored.py": "x",
            "src/.gitignore": "ignored.py\n",
            "[id].py": "x",
        },
    )
    assert names(collect(["src/**/*.py"])) == ["src/a/b/y.py", "src/x.py"]
    assert names(collect(["src/*.py"])) == ["src/x.py"]
    assert names(collect(["s*/*/b"])) == ["src/a/b/y.py"]
    assert names(collect(["src/*"])) == ["src/.gitignore", "src/a/b/y.py", "src/a/y.md", "src/x.py"]
    assert names(collect(["src/a/**"])) == ["src/a/b/y.py", "src/a/y.md"]
    assert names(collect([str(here / "s?c" / "a")])) == ["src/a/b/y.py", "src/a/y.md"]
    assert names(collect(["[id].py"])) == ["[id].py"]
    with pytest.raises(InputError, match="no glob"):
        collect(["*\\/x"])
    for nothing in ("src/*.c", "nowhere/*.py", "src/ign*.py"):
        with pytest.raises(InputError, match="matches no file"):
            collect([nothing])


def test_what_is_no_text_is_skipped_with_the_reason(here: Path) -> None:
    write(
        here,
        {
            "bom.txt": b"\xef\xbb\xbfwith a mark",
            "binary": b"ELF\0",
            "latin-1.txt": "caf\xe9".encode("latin-1"),
            "utf-16.txt": "text".encode("utf-16"),
            "empty.txt": b"",
            "large.txt": b"x" * 101,
            "full.txt": b"x" * 100,
        },
    )
    collection = collect(["."], max_file_bytes=100)
    assert [(file.path, file.text) for file in collection.files] == [
        ("bom.txt", "with a mark"),
        ("full.txt", "x" * 100),
    ]
    assert collection.skipped == (
        SkippedFile("binary", "binary"),
        SkippedFile("empty.txt", "empty"),
        SkippedFile("large.txt", "larger than 100 bytes"),
        SkippedFile("latin-1.txt", "not UTF-8"),
        SkippedFile("utf-16.txt", "binary"),
    )


def test_symbolic_links_are_not_followed(here: Path) -> None:
    write(here.parent, {"secret.txt": "secret"})
    write(here, {"x.txt": "x", "sub/y.txt": "y"})
    (here / "loop").symlink_to(here)
    (here / "before_x.txt").symlink_to(here / "x.txt")
    (here / "sub" / "secret.txt").symlink_to(here.parent / "secret.txt")
    collection = collect(["."])
    assert names(collection) == ["sub/y.txt", "x.txt"]
    assert {file.path for file in collection.skipped} == {"before_x.txt", "loop", "sub/secret.txt"}
    assert {file.reason for file in collection.skipped} == {"a symbolic link"}
    assert names(collect(["**/*.txt"])) == ["sub/y.txt", "x.txt"]
    # A link that is named itself is meant.
    assert names(collect(["sub/secret.txt"])) == ["sub/secret.txt"]
    assert names(collect(["sub/secret.txt", "sub"])) == ["sub/secret.txt", "sub/y.txt"]


def test_pipes_are_never_opened(here: Path) -> None:
    write(here, {"x.txt": "x"})
    os.mkfifo(here / "pipe")
    assert collect(["."]).skipped == (SkippedFile("pipe", "not a regular file"),)
    with pytest.raises(InputError, match="pipe' is neither a file nor a folder"):
        collect(["pipe"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_skipped(here: Path) -> None:
    write(here, {"x.txt": "x", "closed.txt": "x", "closed/y.txt": "y"})
    (here / "closed.txt").chmod(0)
    (here / "closed").chmod(0)
    try:
        skipped = collect(["."]).skipped
    finally:
        (here / "closed").chmod(0o700)
    assert skipped == (
        SkippedFile("closed", "unreadable: Permission denied"),
        SkippedFile("closed.txt", "unreadable: Permission denied"),
    )
    write(here, {".gitignore": "secret\n"})
    (here / ".gitignore").chmod(0)
    with pytest.raises(InputError, match=r"\.gitignore can't be read"):
        collect(["."])


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs /proc")
def test_a_read_that_fails_is_a_reason(here: Path) -> None:
    with pytest.raises(InputError, match="mem is unreadable: Input/output error"):
        collect(["/proc/self/mem"])


def test_names_that_could_forge_a_marker_or_are_not_utf_8(here: Path) -> None:
    try:
        write(here, {"a\n=== b ===": "x", os.fsdecode(b"caf\xe9.txt"): "y"})
    except OSError:
        pytest.skip("this file system takes no such names")
    collection = collect(["."])
    assert names(collection) == ["a\ufffd=== b ===", "caf\ufffd.txt"]
    collection.render().encode()
    assert [file.absolute.read_text() for file in collection.files] == ["x", "y"]


@pytest.mark.parametrize("path", ["nowhere", "nowhere/x.py", "", "a\0b"])
def test_a_path_that_does_not_exist(here: Path, path: str) -> None:
    write(here, {"x.txt": "x"})
    with pytest.raises(InputError, match="does not exist") as caught:
        collect(["x.txt", path])
    assert caught.value.field == "--context"


def test_no_text_at_all_says_what_was_skipped(here: Path) -> None:
    with pytest.raises(InputError, match=r"no text file in \.: there is nothing that \.gitignore lets through"):
        collect(["."])
    write(here, {f"{i}.bin": b"\0" for i in range(7)})
    with pytest.raises(InputError, match=r"0\.bin is binary; .*4\.bin is binary; and 2 more"):
        collect(["."])
