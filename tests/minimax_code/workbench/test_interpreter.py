"""Which Python a project's code runs with, and that no folder shows what isn't a Python's."""

from __future__ import annotations

import asyncio
import sys
import venv
from pathlib import Path

import pytest

from minimax_code.errors import InputError
from minimax_code.workbench.interpreter import python_of, shown_for
from minimax_code.workbench.sandbox import find_sandbox


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with an environment in which there is a package."""
    folder = tmp_path / "project"
    venv.create(folder / ".venv", symlinks=True)
    [packages] = folder.glob(".venv/lib/python*/site-packages")
    (packages / "needed.py").write_text("ANSWER = 42\n")
    return folder


def test_a_project_s_own_environment(project: Path, tmp_path: Path) -> None:
    python = python_of(project)
    assert python == str(project / ".venv" / "bin" / "python")
    assert python_of(None, python) == python
    assert python_of(tmp_path) == python_of(None) == sys.executable
    work = tmp_path / "work"
    work.mkdir()
    command = ("python", "-c", "import needed, sys; print(needed.ANSWER, sys.executable)")
    ran = asyncio.run(find_sandbox(python=python).run(command, folder=work))
    assert ran.output == f"42 {python}\n"


def test_what_only_looks_like_one_shows_nothing(project: Path, tmp_path: Path) -> None:
    """A repository may bring links of any kind."""
    home, brought = tmp_path / "home", tmp_path / "brought"
    (home / "keys").mkdir(parents=True)
    (home / "keys" / "id").write_text("secret")
    (brought / ".venv" / "bin").mkdir(parents=True)
    (brought / ".venv" / "pyvenv.cfg").touch()
    for target in (home / "keys" / "id", "/etc/passwd", "/root", "/bin/sh", "nowhere"):
        link = brought / ".venv" / "bin" / "python"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        assert shown_for(str(link)) == ()
        assert python_of(brought) == sys.executable
    (project / ".venv" / "pyvenv.cfg").unlink()
    assert python_of(project) == sys.executable


@pytest.mark.parametrize("named", ["nowhere/bin/python", "/etc/passwd", "."])
def test_a_named_one_has_to_be_one(named: str) -> None:
    with pytest.raises(InputError, match=r"^python: .* is no interpreter"):
        python_of(None, named)
