"""Somebody with a small repository, a home of their own and the command line, for tests of what they do with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from helpers.agents import call
from minimax_code.testing import Line, ModelServer, ScriptedModel

WRONG, RIGHT = "def total(prices):\n    return 0\n", "def total(prices):\n    return sum(prices)\n"
CHECK = "from cart import total\n\nassert total([1, 2]) == 3, total([1, 2])\n"
TASK = "total() adds up the prices"
PLAN, FIX, DONE, PASS = "1. Mend total()", call("write", path="cart.py", content=RIGHT), "It adds up.", "VERDICT: PASS"


class User:
    """Somebody at a terminal, with a repository and a home of their own."""

    def __init__(self, root: Path) -> None:
        self.root, self.shop = root, root / "shop"
        self.shop.mkdir()
        (root / ".gitconfig").write_text("[user]\n\tname = me\n\temail = me@localhost\n")
        self.lay("cart.py", WRONG)
        self.lay("check.py", CHECK)
        self.git("init", "-q", "-b", "main")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "first")

    def lay(self, name: str, text: str) -> None:
        (self.shop / name).write_text(text)

    def git(self, *args: str) -> str:
        command = ["git", *args]
        return subprocess.run(
            command, cwd=self.shop, env=self.environment, check=True, capture_output=True, text=True
        ).stdout

    @property
    def environment(self) -> dict[str, str]:
        own = {"HOME": str(self.root), "MINIMAX_CODE_STORE": str(self.root / "jobs.db"), "COLUMNS": "100"}
        own |= {"MINIMAX_CODE_CONFIG": str(self.root / "config.toml"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        return {**os.environ, **own}

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-W", "error", "-c", "from minimax_code.cli.main import main; main()", *args]

    def types(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*args), env=self.environment, cwd=self.shop, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip

    def asks(self, script: Iterable[Line], *args: str) -> subprocess.CompletedProcess[str]:
        with ModelServer(ScriptedModel(script)) as server:
            return self.types(*args, "--base-url", server.base_url)
