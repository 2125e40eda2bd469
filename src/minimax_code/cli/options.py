"""The options of everything that works with a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from minimax_code.cli.jobs import store_option
from minimax_code.cli.settings import Settings, read_settings
from minimax_code.permissions import Rule

if TYPE_CHECKING:
    from minimax_code.jobs.spec import JobSpec
    from minimax_code.remote import ServerModel
    from minimax_code.tools.mcp import McpServer
    from minimax_code.work.task import Task

_FOLDER = (
    click.option("--folder", "-C", default=".", type=click.Path(exists=True, file_okay=False, path_type=Path),
                 show_default=True, help="What is worked on: a copy of it."),
)  # fmt: skip
_LIMITS = (
    click.option("--require", "requirements", multiple=True, help="What has to hold; may be given again."),
    click.option("--check", "checks", multiple=True,
                 help="A command, 'exit N: COMMAND', 'api: MODULE:NAME(ARGUMENTS)' or 'file: PATH'; may be repeated."),
    click.option("--budget", help="As in '100 API calls', '2M tokens' or '$5'."),
    click.option("--time", help="As in '30 minutes'."),
    click.option("--forbid", "forbidden", multiple=True, help="A path or pattern that may not be changed."),
    click.option("--min-coverage", type=click.FloatRange(0, 100), help="Percent of the changed lines."),
    click.option("--rule", "rules", multiple=True, help="A permission, as in 'allow bash(pytest *)'."),
    click.option("--python", help="The interpreter that has what the code needs.  [default: the folder's .venv]"),
    click.option("--strategy", type=click.Choice(["auto", "agent", "pipeline"]), default="auto", show_default=True,
                 help="A loop of tool calls, or a fixed pipeline for small models; auto: what a calibration says."),
)  # fmt: skip
_MODEL = (
    click.option("--base-url", envvar="MINIMAX_BASE_URL", help="The model's server.  [default: a local one]"),
    click.option("--model", help="By the server's name."),
    click.option("--context-tokens", type=click.IntRange(1024), help="The model's window, if its server doesn't say."),
)


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that name a model."""
    return _with(_MODEL, command)


def work_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of work: its folder, and those of `limit_options`."""
    return _with(_FOLDER, limit_options(command))


def limit_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds what a task has to keep to, the model's options, and where jobs are kept."""
    return _with(_LIMITS, model_options(store_option(command)))


def _with(options: tuple[Any, ...], command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the options and the user's settings say together; options win."""

    folder: Path = Path()
    requirements: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    budget: str | None = None
    time: str | None = None
    forbidden: tuple[str, ...] = ()
    min_coverage: float | None = None
    rules: tuple[str, ...] = ()
    strategy: Literal["auto", "agent", "pipeline"] = "auto"
    python: str | None = None
    base_url: str | None = None
    model: str | None = None
    context_tokens: int | None = None
    store: str | None = None
    settings: Settings = field(default_factory=read_settings)

    def task(self, description: str, **fields: Any) -> Task:
        """The task of this description; `fields` are further ones of a `Task`.

        Raises:
            InputError: an option can't be used.
        """
        from minimax_code.work.task import Task

        constraints = {
            "budget_limit": self.budget,
            "max_execution_time": self.time,
            "forbidden_paths": list(self.forbidden) or None,
            "min_coverage": self.min_coverage,
        }
        given = {name: value for name, value in constraints.items() if value is not None}
        fields |= {"requirements": self.requirements, "constraints": given, "checks": self.checks}
        return Task(description=description, **fields)

    def spec(
        self,
        description: str,
        folder: Path | None = None,
        servers: Sequence[McpServer] | None = None,
        **fields: Any,
    ) -> JobSpec:
        """The job of this description; on another folder, or with other servers of tools, where they are given.

        Args:
            fields: of the `Task`.

        Raises:
            InputError: an option can't be used.
        """
        from minimax_code.jobs.spec import JobSpec

        return JobSpec.of(
            self.task(description, **fields),
            folder=str((folder or self.folder).resolve()),
            rules=self.all_rules,
            servers=self.settings.servers if servers is None else servers,
            price=self.settings.price,
            strategy=self.strategy,
            python=self.interpreter,
            **self.address,
        )

    @property
    def address(self) -> dict[str, Any]:
        """Which model: `base_url`, `model` and `context_tokens`."""
        names = ("base_url", "model", "context_tokens")
        return {name: getattr(self, name) or getattr(self.settings, name) for name in names}

    def server_model(self) -> ServerModel:
        """The model."""
        from minimax_code.remote import ServerModel

        return ServerModel(**self.address)

    @property
    def interpreter(self) -> str | None:
        """Of the option, as a path.

        Raises:
            InputError: it is none.
        """
        from minimax_code.workbench.interpreter import python_of

        return python_of(None, self.python) if self.python else None

    @property
    def all_rules(self) -> tuple[str, ...]:
        """Permissions of the settings and of the options.

        Raises:
            InputError: one is no rule.
        """
        return tuple(str(Rule.of(rule)) for rule in (*self.settings.permissions, *self.rules))

    @property
    def limits(self) -> str:
        """What it may use, in words."""
        return ", ".join(limit for limit in (self.budget, self.time) if limit)
