"""Files that small models nearly write."""

from __future__ import annotations

import pytest

from minimax_code.skills.mend import mended, undefined_names
from minimax_code.workbench.files import CodeFile


@pytest.mark.parametrize(
    ("source", "after"),
    [
        ("x: List = math.pi\ndef f(): ...", "from typing import List\nimport math\nx: List = math.pi\ndef f(): ..."),
        ('"""Doc."""\nfrom __future__ import annotations\nx = deque()\n',
         '"""Doc."""\nfrom __future__ import annotations\nfrom collections import deque\nx = deque()\n'),
        ("def f():\n    return 1\n\nThis returns one.\n", "def f():\n    return 1\n\n"),
        ("def f():\n    return 1\n\nprint('It's')\n", "def f():\n    return 1\n\n"),
        ("def f():\n    return 1\n\ndef g(:\n    return 2\n\ndef h():\n    pa", "def f():\n    return 1\n\n"),
    ],
)  # fmt: skip
def test_mended(source: str, after: str) -> None:
    assert mended(CodeFile("a.py", source)).content == after


@pytest.mark.parametrize(
    "source",
    [
        "import re\nx = re.compile('')\n",
        "def f():\n    return unknown_thing\n",
        "def f(x):\n    return math.pi\nmath = x\n",
        "from math import *\nx = sqrt(List)\n",
        "def f(:\n    pass\n",
        "x = 1\ndef f(:\n",
        "(" * 500,
        "\0",
        "",
    ],
)
def test_what_is_whole_or_hopeless_stays(source: str) -> None:
    assert mended(CodeFile("a.py", source)).content == source
    assert mended(CodeFile("a.js", "def f(:")).content == "def f(:"


def test_undefined_names() -> None:
    source = """
import a.b, c as d
def f(x, *args, **kwargs):
    global G
    G = [y for y in x]
    match x:
        case {"k": v, **rest}: return v, rest
        case [first, *others] as whole: return first, others, whole
    try: pass
    except E as error: return error
    return (lambda z: z)(a, d, f, args, kwargs, missing), (w := 1), w, __name__
"""
    assert undefined_names(source) == ["E", "missing"]
