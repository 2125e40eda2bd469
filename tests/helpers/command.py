"""The `openm3` command: run in this process, or as its user has it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from openm3.cli.main import main

OPENM3 = [sys.executable, "-c", "from openm3.cli.main import main; main()"]


def openm3(*args: str | Path, given: str | bytes = "") -> subprocess.CompletedProcess[str]:
    """What a process would print and return. It is this one: an interpreter with torch takes seconds to start."""
    threads = torch.get_num_threads()
    with CliRunner().isolation(given) as (out, err, _), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["openm3", *map(str, args)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            torch.set_num_threads(threads)
    return subprocess.CompletedProcess(args, code, out.getvalue().decode(), err.getvalue().decode())


def openm3_process(*args: str | Path, given: str | bytes = "") -> subprocess.CompletedProcess[str]:
    """The same, of a process of its own."""
    data = given.encode() if isinstance(given, str) else given
    done = subprocess.run([*OPENM3, *map(str, args)], input=data, capture_output=True, check=False, timeout=120)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def start_openm3(*args: str | Path) -> subprocess.Popen[bytes]:
    """A process with pipes; what it says comes at once."""
    environment, pipe = {**os.environ, "PYTHONUNBUFFERED": "1"}, subprocess.PIPE
    return subprocess.Popen([*OPENM3, *map(str, args)], stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
