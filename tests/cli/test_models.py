from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from openm3 import hub
from openm3.cli.models import models, pull
from openm3.errors import ModelError


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in a cache of its own."""
    monkeypatch.setenv("OPENM3_HOME", str(tmp_path))
    folder = hub.home() / "hub" / "owner" / "name"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"x" * 2998)
    return folder


def test_pull_prints_the_path_alone(snapshot: Path) -> None:
    result = CliRunner().invoke(pull, ["owner/name"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{snapshot}\n", "")


def test_pull_of_nonsense_raises_for_the_main_command_to_print(snapshot: Path) -> None:
    assert isinstance(CliRunner().invoke(pull, ["nonsense"]).exception, ModelError)


def test_models_are_listed_with_size_and_path(snapshot: Path) -> None:
    result = CliRunner().invoke(models)
    assert result.stdout.split() == ["owner/name", "3.0", "kB", str(snapshot)]


def test_models_as_json(snapshot: Path) -> None:
    result = CliRunner().invoke(models, ["--json"])
    assert json.loads(result.stdout) == [{"name": "owner/name", "path": str(snapshot), "size_bytes": 3000}]


def test_no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENM3_HOME", str(tmp_path))
    result = CliRunner().invoke(models)
    assert result.stdout == ""
    assert "openm3 pull" in result.stderr
    assert CliRunner().invoke(models, ["--json"]).stdout == "[]\n"


def test_help_teaches_with_an_example() -> None:
    assert "  openm3 pull\n" in CliRunner().invoke(pull, ["--help"]).stdout
    assert "  openm3 models --json\n" in CliRunner().invoke(models, ["--help"]).stdout
