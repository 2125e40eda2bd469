"""The commands of docs/training.md are commands that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from openm3.cli.main import openm3

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_of_the_guide_is_understood(command: list[str]) -> None:
    here: click.Command = openm3
    while isinstance(here, click.Group):
        here, command = here.commands[command[0]], command[1:]
    assert here.make_context(here.name, command).params


def test_options_that_the_guide_names_are_options() -> None:
    train = openm3.commands["train"]
    assert isinstance(train, click.Group)
    known = {
        name
        for command in (*train.commands.values(), openm3.commands["ask"])
        for o in command.params
        for name in o.opts
    }
    named = set(re.findall(r"`(--[a-z-]+)", PAGE))
    assert named - {"--help"} <= known and len(COMMANDS) >= 6 and len(named) > 15
