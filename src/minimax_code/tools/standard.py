"""The tools that agents have unless somebody says otherwise."""

from __future__ import annotations

from minimax_code.tools.bash import Bash
from minimax_code.tools.files import Edit, Read, Write
from minimax_code.tools.plan import Plan
from minimax_code.tools.search import Search
from minimax_code.tools.tool import Tool


def working_tools() -> tuple[Tool, ...]:
    """For an agent that changes files."""
    return (Bash(), Read(), Write(), Edit(), Search(), Plan())


def reading_tools() -> tuple[Tool, ...]:
    """For an agent that looks and runs, and can change nothing: a verifier's."""
    return (Bash(writable=False), Read(), Search(), Plan())
