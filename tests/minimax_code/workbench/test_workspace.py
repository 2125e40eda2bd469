"""Copies of other people's folders, whatever these are like, and what is done to the copies from within."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from minimax_code.errors import WorkspaceError
from minimax_code.workbench.bubblewrap import Bubblewrap
from minimax_code.workbench.landing import apply_patch, commit_patch
from minimax_code.workbench.workspace import Workspace

RAW = b"caf\xe9.txt"  # a name that is no UTF-8


def git(folder: Path, *args: str) -> str:
    people = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always"]
    done = subprocess.run(["git", *people, *args], cwd=folder, capture_output=True, check=True)
    return done.stdout.decode(errors="replace")


def state(folder: Path) -> dict[str, object]:
    """All that could be harmed: files to the byte, with modes and times, and all of `.git`."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or path.is_file()]
    times = {path: (path.lstat().st_mode, path.lstat().st_mtime_ns) for path in files}
    return {str(path): (times[path], os.readlink(path) if path.is_symlink() else path.read_bytes()) for path in files}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A repository with everything that makes copying hard, and uncommitted work."""
    sub = tmp_path / "sub"
    sub.mkdir()
    git(sub, "init", "-q")
    (sub / "inner.py").write_text("inner = 1\n")
    git(sub, "add", ".")
    git(sub, "commit", "-qm", "sub")
    folder = tmp_path / "source"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / ".gitattributes").write_text("* text=auto eol=lf\n*.bin filter=lfs diff=lfs -text\n*.id ident\n")
    (folder / ".gitignore").write_text("ignored/\n")
    (folder / "crlf.txt").write_bytes(b"one\r\ntwo\r\n")
    (folder / "a.id").write_text("$Id$\n")
    (folder / "big.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    (folder / os.fsdecode(RAW)).write_text("latin\n")
    (folder / "removed.py").write_text("gone\n")
    (folder / "code.py").write_text("x = 1\n")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "out").symlink_to("/etc/passwd")
    git(folder, "add", ".")
    git(folder, "submodule", "--quiet", "add", str(sub), "module")
    git(folder, "commit", "-qm", "all")
    (folder / "module" / "inner.py").write_text("inner = 2\n")  # in the submodule, not committed
    (folder / "code.py").write_text("x = 2\n")
    git(folder, "add", "code.py")  # staged
    (folder / "code.py").write_text("x = 3\n")  # and changed again
    (folder / "removed.py").unlink()
    (folder / "untracked.py").write_text("new\n")
    (folder / "ignored").mkdir()
    (folder / "ignored" / "secret").write_text("key\n")
    nested = folder / "nested"
    nested.mkdir()
    git(nested, "init", "-q")  # another repository, without a commit
    (nested / "file").write_text("of another\n")
    return folder


def within(source: Path | None, tmp_path: Path, act: Callable[[Workspace], Awaitable[None]]) -> None:
    async def run() -> None:
        async with await Workspace.create(source, tmp_path / "workspace") as workspace:
            await act(workspace)

    asyncio.run(run())
    assert not (tmp_path / "workspace").exists()


def test_a_copy_is_the_folder_as_it_is_and_the_folder_stays(source: Path, tmp_path: Path) -> None:
    # What a repository's configuration would have git run must not run.
    git(source, "config", "core.fsmonitor", f"touch {tmp_path}/attacked; false")
    git(source, "config", "filter.lfs.clean", f"touch {tmp_path}/attacked; cat")
    git(source, "config", "filter.lfs.smudge", f"touch {tmp_path}/attacked; cat")
    before = state(source)

    async def act(workspace: Workspace) -> None:
        copied = {
            path.relative_to(workspace.path)
            for path in workspace.path.rglob("*")
            if not path.is_dir() or path.is_symlink()
        }
        expected = {
            ".gitattributes", ".gitignore", ".gitmodules", "a.id", "big.bin", "code.py", "crlf.txt", "module/inner.py",
            "nested/file", os.fsdecode(RAW), "out", "run.sh", "untracked.py",
        }  # fmt: skip
        assert copied == set(map(Path, expected))
        for path in copied - {Path("out")}:
            assert (workspace.path / path).read_bytes() == (source / path).read_bytes()
        assert os.readlink(workspace.path / "out") == "/etc/passwd"
        assert os.access(workspace.path / "run.sh", os.X_OK)
        assert not list(workspace.path.rglob(".git"))
        assert await workspace.snapshot() == workspace.base
        assert (await Workspace.open(workspace.folder)).base == workspace.base

    within(source, tmp_path, act)
    assert state(source) == before
    assert not (tmp_path / "attacked").exists()


def test_parts_of_repositories_and_plain_folders(source: Path, tmp_path: Path) -> None:
    (source / "part").mkdir()
    (source / "part" / "file").write_text("part\n")

    async def act(workspace: Workspace) -> None:
        assert [path.name for path in workspace.path.iterdir()] == ["file"]

    within(source / "part", tmp_path, act)
    within(source / "ignored", tmp_path, lambda workspace: _has(workspace, ["secret"]))
    within(None, tmp_path, lambda workspace: _has(workspace, []))


async def _has(workspace: Workspace, names: list[str]) -> None:
    assert [path.name for path in workspace.path.iterdir()] == names


def test_changes_are_seen_and_taken_back(source: Path, tmp_path: Path) -> None:
    async def act(workspace: Workspace) -> None:
        (workspace.path / "code.py").write_text("x = 4\n")
        (workspace.path / os.fsdecode(RAW)).write_bytes(b"\xff\xfe")
        (workspace.path / "run.sh").unlink()
        (workspace.path / "crlf.txt").unlink()
        (workspace.path / "crlf.txt").mkdir()  # a folder in the place of a file
        (workspace.path / "crlf.txt" / "new.py").write_text("new\n")
        os.mkfifo(workspace.path / "pipe")  # no file to git
        tree = await workspace.snapshot()
        assert await workspace.changed_files() == ["caf\\xe9.txt", "code.py", "crlf.txt", "crlf.txt/new.py", "run.sh"]
        assert "-x = 3\n+x = 4\n" in await workspace.diff()
        assert await workspace.diff(tree, tree) == ""
        await workspace.restore(workspace.base)
        assert (workspace.path / "crlf.txt").read_bytes() == b"one\r\ntwo\r\n"
        assert await workspace.snapshot() == workspace.base
        await workspace.restore(tree)
        assert (workspace.path / "crlf.txt" / "new.py").exists()
        await workspace.export(tree, tmp_path / "export")
        assert (tmp_path / "export" / "code.py").read_text() == "x = 4\n"
        with pytest.raises(WorkspaceError, match="is not empty"):
            await workspace.export(tree, tmp_path / "export")

    within(source, tmp_path, act)


def test_what_is_done_from_within_hides_nothing_and_runs_nothing(tmp_path: Path) -> None:
    """By a program in the sandbox: repositories, files that can't be read, times that lie, links out."""
    attack = f"""
        mkdir -p tool/.git/objects tool/.git/refs && echo 'ref: refs/heads/x' > tool/.git/HEAD
        printf '[core]\\n\\tfsmonitor = touch {tmp_path}/attacked\\n\\tbare = false\\n' > tool/.git/config
        echo hidden > tool/hidden.py
        git init -q made && echo hidden > made/hidden.py && echo evil > made/.git/hooks/pre-commit
        git init -q .
        echo 'b = 2' > same.py && touch -d '2001-01-01' same.py
        mkdir locked && echo unread > locked/file && chmod 000 locked/file locked
        ln -s /etc out && ln -s ../.. up
    """

    async def act(workspace: Workspace) -> None:
        (workspace.path / "same.py").write_text("a = 1\n")
        os.utime(workspace.path / "same.py", (978307200, 978307200))
        before = await workspace.snapshot()
        (workspace.folder / "shadow.git" / "index.lock").touch()  # as a process leaves it that was killed
        ran = await Bubblewrap().run(["sh", "-c", attack], folder=workspace.path)
        assert (ran.exit_code, ran.output) == (0, "")
        changed = await workspace.changed_files(before)
        assert changed == ["locked/file", "made/hidden.py", "out", "same.py", "tool/hidden.py", "up"]
        await workspace.restore(before)
        assert sorted(path.name for path in workspace.path.iterdir()) in (["same.py"], [".git", "same.py"])
        assert (workspace.path / "same.py").read_text() == "a = 1\n"

    within(None, tmp_path, act)
    assert not (tmp_path / "attacked").exists()
    assert Path("/etc/passwd").exists()


def test_no_edit_is_so_quick_that_it_is_missed(tmp_path: Path) -> None:
    """Of the same size, with its time set back, for longer than the second in which git is blind."""
    path = tmp_path / "source" / "same.py"
    path.parent.mkdir()
    path.write_text("x = 100\n")

    async def act(workspace: Workspace) -> None:
        began, n = time.monotonic(), 100
        while time.monotonic() < began + 1.2:
            n += 1
            (workspace.path / "same.py").write_text(f"x = {n}\n")
            os.utime(workspace.path / "same.py", (978307200, 978307200))
            tree = await workspace.snapshot()
            assert await workspace.git("cat-file", "blob", f"{tree}:same.py") == f"x = {n}\n".encode()
            assert tree == await workspace.snapshot()

    within(tmp_path / "source", tmp_path, act)


def test_a_folder_with_a_link_in_its_place(tmp_path: Path) -> None:
    """What its files' names then lead to is elsewhere: other than they were, or not there."""
    source = tmp_path / "source"
    (source / "old" / "deep").mkdir(parents=True)
    (source / "old" / "changed.py").write_text("x = 1\n")
    (source / "old" / "deep" / "gone.py").write_text("x = 1\n")

    async def act(workspace: Workspace) -> None:
        (workspace.path / "old").rename(workspace.path / "new")
        (workspace.path / "old").symlink_to("new")
        (workspace.path / "new" / "changed.py").write_text("x = 2\n")
        (workspace.path / "new" / "deep" / "gone.py").unlink()
        tree = await workspace.snapshot()
        assert await workspace.changed_files() == ["new/changed.py", "old", "old/changed.py", "old/deep/gone.py"]
        await workspace.restore(workspace.base)
        assert (workspace.path / "old" / "deep" / "gone.py").read_text() == "x = 1\n"
        await workspace.restore(tree)
        assert (workspace.path / "old").is_symlink()

    within(source, tmp_path, act)


def test_a_change_comes_to_the_user_whole_or_not_at_all(source: Path, tmp_path: Path) -> None:
    async def act(workspace: Workspace) -> None:
        (workspace.path / "code.py").write_text("x = 3\ny = 1\n")
        (workspace.path / "crlf.txt").write_bytes(b"one\r\nTWO\r\n")
        (workspace.path / "module" / "new.py").write_text("new\n")
        (workspace.path / "blob").write_bytes(bytes(range(256)))
        patch = await workspace.patch()
        index, head = (source / ".git/index").read_bytes(), git(source, "rev-parse", "HEAD")
        (source / "code.py").write_text("# of today\n" + "\n" * 9 + "x = 3\n")
        with pytest.raises(WorkspaceError, match="doesn't fit to the files of today"):
            await apply_patch(patch, source)
        assert not (source / "blob").exists()
        (source / "code.py").write_text("x = 3\n")
        assert await apply_patch(patch, source) == ["blob", "code.py", "crlf.txt", "module/new.py"]
        assert (source / "crlf.txt").read_bytes() == b"one\r\nTWO\r\n"
        assert (source / "blob").read_bytes() == bytes(range(256))
        assert (source / ".git/index").read_bytes() == index and git(source, "rev-parse", "HEAD") == head

    within(source, tmp_path, act)


def test_what_a_result_keeps_as_text_lands_to_the_byte(source: Path, tmp_path: Path) -> None:
    """Latin-1, CRLF, filters, modes, links, binary files, names that are no UTF-8: all in one change."""
    git(source, "config", "filter.lfs.clean", f"touch {tmp_path}/attacked; cat")
    git(source, "config", "core.autocrlf", "true")
    (source / "latin.txt").write_bytes("Gr\u00fc\u00dfe\n".encode("latin-1") * 5)
    (source / "link").symlink_to("code.py")

    async def act(workspace: Workspace) -> None:
        files = workspace.path
        (files / "latin.txt").write_bytes("Gr\u00fc\u00dfe\n".encode("latin-1") * 4 + b"\xff\xfe ende\r\n")
        (files / "crlf.txt").write_bytes(b"one\r\nTWO\nthree\r\n")
        (files / "big.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:11\nsize 2\n")
        (files / os.fsdecode(RAW)).rename(files / os.fsdecode(b"th\xe9.txt"))
        (files / "run.sh").chmod(0o644)
        (files / "code.py").chmod(0o755)
        (files / "link").unlink()
        (files / "link").write_text("no link any more\n")
        (files / "other").symlink_to("code.py")
        (files / "blob").write_bytes(bytes(range(256)))
        (files / "module" / "inner.py").write_bytes(b"inner = '\xe9'\n")
        patch = (await workspace.patch()).decode().encode()  # as a result has it
        assert b"+TWO\n" in patch  # what is text stays readable
        untouched = state(source / ".git"), state(source / "untracked.py")
        await apply_patch(patch, source)
        for path in files.rglob("*"):
            mine = source / path.relative_to(files)
            assert path.is_symlink() == mine.is_symlink()
            if path.is_file() and not path.is_symlink():
                assert (mine.read_bytes(), os.access(mine, os.X_OK)) == (path.read_bytes(), os.access(path, os.X_OK))
        assert not (source / os.fsdecode(RAW)).exists()
        assert (state(source / ".git"), state(source / "untracked.py")) == untouched
        assert not (tmp_path / "attacked").exists()

        before = state(source)
        with pytest.raises(WorkspaceError, match=r"files of today: caf\\xe9.txt: does not exist"):  # it was renamed
            await apply_patch(patch, source)
        assert state(source) == before

    within(source, tmp_path, act)


def test_three_ways_where_the_user_went_on(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    git(folder, "config", "user.name", "A")
    git(folder, "config", "user.email", "a@example.org")
    lines = [f"line {n}\n" for n in range(9)]
    (folder / "file").write_text("".join(lines))
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "base")

    async def act(workspace: Workspace) -> None:
        (workspace.path / "file").write_text("".join(["changed\n", *lines[1:]]))
        patch = await workspace.patch()
        (folder / "file").write_text("".join([*lines[:2], "mine\n", *lines[3:]]))  # within the context of the change
        commit = await commit_patch(patch, folder, "agent", "A change")
        assert git(folder, "show", "agent:file") == "".join(["changed\n", *lines[1:]])
        assert git(folder, "log", "--format=%H %s", "agent").splitlines()[0] == f"{commit} A change"
        assert git(folder, "branch", "--show-current").strip() != "agent" and git(folder, "diff", "--cached") == ""
        with pytest.raises(WorkspaceError, match="update-ref"):
            await commit_patch(patch, folder, "agent", "again")
        await apply_patch(patch, folder)
        assert (folder / "file").read_text() == "".join(["changed\n", lines[1], "mine\n", *lines[3:]])

    within(folder, tmp_path, act)


@pytest.mark.parametrize("path", [".git/hooks/pre-commit", "../outside", "/outside", "a/.GIT/config", "link/file"])
def test_patches_that_lead_elsewhere_are_refused(path: str, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "link").symlink_to("..")
    before = state(folder)
    patch = f"diff --git a/{path} b/{path}\nnew file mode 100755\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+evil\n"
    with pytest.raises(WorkspaceError):
        asyncio.run(apply_patch(patch.encode(), folder))
    assert state(folder) == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["repository"]


@pytest.mark.parametrize("target", ["/etc/passwd", "../../home", "a/../../.ssh"])
def test_links_out_of_the_folder_are_not_brought_home(target: str, tmp_path: Path) -> None:
    async def act(workspace: Workspace) -> None:
        (workspace.path / "link").symlink_to(target)
        with pytest.raises(WorkspaceError, match="link would be a link to"):
            await apply_patch(await workspace.patch(), tmp_path)

    within(None, tmp_path, act)


def test_what_cannot_be_a_workspace(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(WorkspaceError, match="is not empty"):
        asyncio.run(Workspace.create(None, tmp_path / "full"))
    with pytest.raises(WorkspaceError, match="is not a folder that can be worked on"):
        asyncio.run(Workspace.create(tmp_path / "nowhere", tmp_path / "new"))
    with pytest.raises(WorkspaceError, match="is not a workspace"):
        asyncio.run(Workspace.open(tmp_path / "full"))


def test_nothing_is_left_of_a_copy_that_was_broken_off(source: Path, tmp_path: Path) -> None:
    async def cancel() -> None:
        task = asyncio.create_task(Workspace.create(source, tmp_path / "workspace"))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert not (tmp_path / "workspace").exists()


def test_a_snapshot_after_an_edit_is_quick(tmp_path: Path) -> None:
    """The benchmark has the bar, 0.15 s for 5,000 files at rest. Other work is beside, so git is the measure."""
    source = tmp_path / "source"
    for folder in range(4):
        (source / f"d{folder}").mkdir(parents=True)
        for file in range(50):
            (source / f"d{folder}" / f"f{file}.py").write_text(f"x = {folder * file}\n")

    async def act(workspace: Workspace) -> None:
        await workspace.snapshot()
        times, bare = [], []
        for n in range(7):
            (workspace.path / "d1" / "f1.py").write_text(f"y = {n}\n")
            began = time.perf_counter()
            await workspace.snapshot()
            times.append(time.perf_counter() - began)
            began = time.perf_counter()
            await workspace.git("version")
            bare.append(time.perf_counter() - began)
        assert min(times) < 0.1 + 12 * min(bare)

    within(source, tmp_path, act)
