"""Small repositories, a commit after another."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path


class Commits:
    """A repository in a folder; its commits are named by tags."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", "-b", "main")

    def git(self, *args: str) -> str:
        """What git says."""
        who = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *who, *args], cwd=self.folder, check=True, capture_output=True, text=True)
        return done.stdout

    def commit(self, tag: str, files: Mapping[str, str | None]) -> str:
        """Writes files, removes those that are None, and commits."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                path.unlink()
            else:
                path.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", tag)
        self.git("tag", tag)
        return self.git("rev-parse", "HEAD").strip()

    def state(self) -> tuple[str, ...]:
        """What must not change by being read."""
        return tuple(self.git(*args) for args in (("status", "--porcelain"), ("for-each-ref",), ("stash", "list")))
