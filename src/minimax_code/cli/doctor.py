"""`minimax-code doctor`: what this machine has, which of it is used, and the one command that mends what is missing."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from minimax_code.cli.options import Wanted, model_options
from minimax_code.cli.settings import settings_path
from minimax_code.errors import CodeError, SandboxError
from minimax_code.workbench import search
from minimax_code.workbench.interpreter import python_of
from minimax_code.workbench.sandbox import Probe, find_sandbox, probe


@click.command()
@model_options
@click.option("--offline", is_flag=True, help="Don't ask the model's server.")
def doctor(offline: bool, **options: Any) -> None:
    """Tell which sandbox, tools and model are used, and why. The sandbox that is used has a star.

    \b
    minimax-code doctor --base-url http://127.0.0.1:8000/v1

    Exits with 1 where agents can't work: without a sandbox, git, or a model that answers.
    """
    wanted = Wanted(**options)
    try:
        used = find_sandbox().name
    except SandboxError as error:
        used = ""
        click.echo(f"  sandbox     none: {error}")
    tell(probe(), used)
    git = _program("git", "snapshots and changes", "apt-get install git")
    model = Probe(name="model", works=True, detail="not asked") if offline else asyncio.run(_model(wanted))
    tell((_python(), git, _ripgrep(), _extra("mcp", "servers of tools"), _extra("acp", "editors"), model), "")
    path = settings_path()
    click.echo(f"  settings    {path}{'' if path.exists() else ' (not there, so defaults)'}")
    if not (used and git.works and model.works):
        sys.exit(1)


def tell(probes: Iterable[Probe], used: str) -> None:
    """A line for each, and what mends it."""
    for one in probes:
        mark = "*" if one.name == used else "+" if one.works else "-"
        click.echo(f"{mark} {one.name:<12}{one.detail}")
        if one.remedy:
            click.echo(f"{'':14}mend it: {one.remedy}")


def _program(name: str, gives: str, remedy: str) -> Probe:
    path = shutil.which(name)
    return Probe(name=name, works=bool(path), detail=path or f"not found: {gives}", remedy="" if path else remedy)


def _python() -> Probe:
    python = python_of(Path.cwd())
    own = "of this folder" if Path(python).is_relative_to(Path.cwd()) else "ours, as this folder has no .venv"
    return Probe(name="python", works=True, detail=f"{python}, {own}")


def _ripgrep() -> Probe:
    path = search.program()
    missing = "not installed; Python searches, slower"
    return Probe(name="ripgrep", works=bool(path), detail=path or missing, remedy="" if path else "pip install ripgrep")


def _extra(name: str, serves: str) -> Probe:
    there = importlib.util.find_spec(name) is not None
    detail = f"{serves} can be used" if there else f"not installed; no {serves}"
    return Probe(name=name, works=there, detail=detail, remedy="" if there else f"pip install 'openm3[{name}]'")


async def _model(wanted: Wanted) -> Probe:
    model = wanted.server_model()
    try:
        abilities = await model.abilities()
    except CodeError as error:
        return Probe(name="model", works=False, detail=str(error))
    finally:
        await model.close()
    calls = "calls tools" if abilities.calls_tools else "calls tools in words"
    schema = "follows schemas" if abilities.takes_json_schema else "follows no schema"
    detail = f"{model.name}: {abilities.context_tokens:,} tokens, {calls}, {schema}"
    return Probe(name="model", works=True, detail=detail)
