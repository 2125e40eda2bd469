"""The user's own settings: `config.toml` in their configuration folder. None is read from a repository."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError

from minimax_code.budget import Price
from minimax_code.errors import InputError
from minimax_code.record import Record
from minimax_code.tools.mcp import McpServer, servers_of


class Settings(Record):
    """What the command line does unless its options say otherwise.

    Attributes:
        base_url, model, context_tokens: as of `ServerModel`. A key is no setting: it is MINIMAX_API_KEY.
        permissions: rules, as `Permissions` reads them.
        price: what the model costs, for limits on money.
        mcp: servers of tools by name; what each has is a command or a url.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    base_url: str | None = None
    model: str | None = None
    context_tokens: int | None = None
    permissions: tuple[str, ...] = ()
    price: Price | None = None
    mcp: Mapping[str, Mapping[str, Any]] = {}

    @property
    def servers(self) -> tuple[McpServer, ...]:
        """The servers of tools.

        Raises:
            InputError: one has an entry that isn't understood.
        """
        return servers_of(self.mcp)

    @property
    def mcp_env(self) -> dict[str, Mapping[str, str]]:
        """What servers of tools get in their environment, by their names."""
        return {server.name: server.env for server in self.servers}


def settings_path() -> Path:
    """Where the settings are: MINIMAX_CODE_CONFIG, else the platform's configuration folder."""
    import platformdirs

    named = os.environ.get("MINIMAX_CODE_CONFIG")
    return Path(named) if named else Path(platformdirs.user_config_path("minimax-code")) / "config.toml"


def read_settings() -> Settings:
    """The settings; the defaults where there is no file.

    Raises:
        InputError: the file can't be read, or has a key that isn't understood.
    """
    path = settings_path()
    if not path.exists():
        return Settings()
    try:
        return Settings.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}", first["msg"]) from error
    except (OSError, ValueError) as error:
        raise InputError(str(path), f"can't be read: {error}") from error
