from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from click.testing import CliRunner

from openm3.cli.serve import serve
from openm3.errors import InputError
from openm3.server.settings import Settings


@pytest.mark.parametrize(
    "values",
    [{"max_body_bytes": 0}, {"grace_s": -1}, {"grace_s": float("nan")}, {"otlp_endpoint": "host:4318"}],
    ids=lambda values: next(iter(values)),
)
def test_values_out_of_range_are_told_by_name(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        Settings(**values)


def test_every_setting_is_an_option_of_serve() -> None:
    shown = CliRunner().invoke(serve, ["--help"], terminal_width=200).output
    for field in fields(Settings):
        name = field.name.removesuffix("s") if field.type.startswith("tuple") else field.name  # type: ignore[union-attr]
        assert f"--{name.replace('_', '-')}" in shown
        assert field.metadata["help"][:40] in shown


def test_an_option_reaches_the_settings() -> None:
    with pytest.raises(InputError, match="grace_s: -1.0 is below 0"):
        serve.main(["--grace-s", "-1", "--model", "no such model"], standalone_mode=False)


@pytest.mark.parametrize("option", ["--model", "--load", "--window", "--embeddings"])
def test_options_of_a_model_are_refused_beside_upstreams(option: str) -> None:
    value = "1024" if option == "--window" else "x"
    with pytest.raises(InputError, match=f"{option}: is for a model that is loaded here"):
        serve.main(["--upstream", "http://127.0.0.1:9", option, value], standalone_mode=False)
