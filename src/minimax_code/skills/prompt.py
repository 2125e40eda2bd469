"""Prompts: Markdown files in a folder of their package. Change them there; nothing else says what a model is asked."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources


def prompt_of(name: str, package: str = "minimax_code.skills", /, **values: str) -> str:
    """A prompt by its file's name, with each `{placeholder}` replaced.

    What is put in is not looked at again, so braces in somebody's code stay what they are.
    """
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), _read(package, name))


@cache
def _read(package: str, name: str) -> str:
    return resources.files(package).joinpath(f"prompts/{name}.md").read_text(encoding="utf-8").strip()
