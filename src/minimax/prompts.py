"""The prompts of the methods that are one chat completion. Change them here; nothing else says what a method asks."""

from __future__ import annotations

from collections.abc import Sequence

FILES = (
    "Write each file as a fenced code block whose first line is ```LANGUAGE PATH, for example ```python src/app.py. "
    "Write nothing but such blocks and short explanations between them."
)

ANALYZE = "{task}\n\nDepth of the analysis: {depth}. Name files and lines.\n\n{context}"
REFACTORED = "Refactor this project towards {style}, by these patterns: {patterns}. Keep its behaviour."
REFACTOR = "{wanted} Return every changed file as a whole. {files}\n\n{context}"
FIX_BUG = (
    "A program fails with this error:\n\n{error}\n\nFind the root cause in the project below and fix it with the "
    "smallest change.{explain} Return every changed file as a whole. {files}\n\n{context}"
)
EXPLAIN = " Explain the cause and the fix first."
TESTS = (
    "Write {framework} tests for this code, for {coverage}% of its lines.{edges}{mocking} They import the code from "
    "the module `{module}`. {files}\n\n```\n{code}\n```"
)
EDGES = " Include edge cases: empty, zero, negative and extreme values, and wrong types."
MOCKING = " Replace what reaches the network, the clock or the disk by test doubles."
DOCUMENT = (
    "Write a {style} docstring for each definition of this code and return the code with them, otherwise unchanged."
    "{examples}{logic} {files}\n\n```\n{code}\n```"
)
EXAMPLES = " Give examples of use."
ANY = "Nothing else."
LOGIC = " Explain the logic before the code."
PART = "This is part {number} of {count} of a longer text. Do the task for this part alone.\n\n{prompt}"
COMBINE = (
    "These are answers to one task, each from a part of the same text. Combine them into one answer.\n\n"
    "The task: {task}\n\n{context}"
)


def listed(names: Sequence[str]) -> str:
    """ "a, b, c", without spaces around the names."""
    return ", ".join(name.strip() for name in names) or "none in particular"
