"""Examples of calls in what was asked: `>>> double(2)` and `4`, `double(2) == 4`, `double(2) returns 4`.

Whoever asks has written them, so they are checks that the model can't have fitted to its own answer.
"""

from __future__ import annotations

import ast
import builtins
import re
from dataclasses import dataclass
from itertools import takewhile

MAX_EXAMPLES = 20

_CALL = re.compile(r"(?<![\w.])(?P<name>[A-Za-z_]\w*)\(")
_RETURNS = re.compile(
    r"\s*`?\s*(?:==|=>|➞|→|⇒|->|=|(?:should |must |will )?(?:returns?|gives?|yields?|be|is)\b:?|#\s*(?:=>|->|➞)?)"
    r"\s*`?\s*",
    re.IGNORECASE,
)
_SESSION = re.compile(r"^(?P<indent>[ \t]*)>>> (?P<call>[^\n]*)\n?(?P<rest>(?:(?![ \t]*>>> )[^\n]*\n?)*)", re.MULTILINE)
_DEFINED = re.compile(r"^[ \t]*(?:async )?def (\w+)\s*\(", re.MULTILINE)


@dataclass(frozen=True, order=True)
class Example:
    """What a call must come to.

    Attributes:
        call: an expression of Python, as "double(2)".
        expected: a literal of Python, or "" where it must raise.
        raises: the name of the exception, or "".
    """

    call: str
    expected: str = ""
    raises: str = ""

    @property
    def function(self) -> str:
        """What is called."""
        return self.call.partition("(")[0]


def examples_in(text: str) -> tuple[Example, ...]:
    """The examples of a text, in its order, each call once; at most `MAX_EXAMPLES`.

    Outside of doctests only functions are looked for that the text defines or shows in code marks; where there are
    none, any that Python doesn't have.
    """
    found = {example.call: example for example in _doctests(text)}
    defined = {*_DEFINED.findall(text), *re.findall(r"`(\w+)\(", text)}
    for line in text.splitlines():
        if ">>>" in line:
            continue
        for match in _CALL.finditer(line):
            is_meant = match["name"] in defined if defined else match["name"] not in dir(builtins)
            example = _in_line(line, match) if is_meant else None
            if example:
                found.setdefault(example.call, example)
    return tuple(found.values())[:MAX_EXAMPLES]


def _doctests(text: str) -> list[Example]:
    """Examples at a prompt of Python's. The `doctest` module would refuse a whole text for one line that is indented
    less than its prompt, as the end of a docstring or of a fenced block is."""
    found = []
    for session in _SESSION.finditer(text):
        indent = session["indent"]
        lines = [line.removeprefix(indent) for line in session["rest"].splitlines()]
        more = [line[4:] for line in takewhile(lambda line: line.startswith("... "), lines)]
        call = "\n".join([session["call"], *more]).strip()
        want = "\n".join(
            takewhile(lambda line: line.strip() and not line.startswith((">>>", "```")), lines[len(more) :])
        )
        if not _is_call(call):
            continue
        if want.startswith("Traceback "):
            error = [line for line in want.splitlines()[1:] if not line.startswith(" ")]
            found += [Example(call, raises=error[0].partition(":")[0].strip().rpartition(".")[2])] if error else []
        elif literal := _literal(want):
            found.append(Example(call, literal))
    return found


def _in_line(line: str, match: re.Match[str]) -> Example | None:
    """The example that begins with a match of `_CALL`."""
    rest = line[match.start() :]
    for end in (i + 1 for i, character in enumerate(rest) if character == ")"):
        call = rest[:end]
        if not _is_call(call):
            continue
        says = _RETURNS.match(rest, end)
        literal = _literal(rest[says.end() :]) if says and says.end() > end else None
        return Example(call, literal) if literal else None
    return None


def _literal(text: str) -> str | None:
    """The longest literal that a text begins with, where no word or operator follows it."""
    text = text.strip()
    ends = {len(text), *(match.start() for match in re.finditer(r"[\s.,;:`#)\]}'\"]", text))}
    ends |= {end + 1 for end in ends if end < len(text)}
    for end in sorted(ends, reverse=True):
        candidate = text[:end].rstrip().removesuffix(".").removesuffix(",")  # of the sentence
        try:
            ast.literal_eval(candidate)
            plain = ast.unparse(ast.parse(candidate, mode="eval"))  # without a comment
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
        return None if re.match(r"\w|\s*[-+*/%<>=(\[]", text[len(candidate) :].removeprefix(".")) else plain
    return None


def _is_call(text: str) -> bool:
    """Whether a text is one call of a plain name with literal arguments."""
    try:
        tree = ast.parse(text, mode="eval").body
        if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)):
            return False
        for argument in (*tree.args, *(keyword.value for keyword in tree.keywords)):
            ast.literal_eval(argument)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return False
    return True
