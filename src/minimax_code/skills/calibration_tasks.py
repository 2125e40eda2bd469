"""The questions of a calibration, with their answers. Whoever changes them raises `calibration.VERSION`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minimax_code.model import ToolSpec


@dataclass(frozen=True)
class Edit:
    """A change of a file that can be asked for exactly."""

    path: str
    before: str
    asked: str
    after: str


@dataclass(frozen=True)
class Call:
    """A wish that one call of a tool of `TOOLS` fulfils."""

    asked: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Repair:
    """A function with a mistake, the failure that shows it, and all the ways to write it right."""

    asked: str
    before: str
    failure: str
    after: tuple[str, ...]


@dataclass(frozen=True)
class Judgement:
    """A call of a function, by what its task says, and two outcomes of which one is wrong."""

    asked: str
    call: str
    right: str
    wrong: str


_SHOP = '''"""Prices of a shop."""

TAX = 0.2


def net(prices):
    return sum(prices)


def gross(prices, tax=TAX):
    return net(prices) * (1 + tax)


def discounted(price, percent):
    """A price after a discount in percent."""
    return price - price * percent / 100


class Basket:
    def __init__(self):
        self.items = []

    def add(self, name, price):
        self.items.append((name, price))

    def total(self):
        return gross([price for _, price in self.items])
'''

EDITS = (
    Edit(
        "shop.py",
        _SHOP,
        "In shop.py, give the parameter `percent` of `discounted` the default 10.",
        _SHOP.replace("def discounted(price, percent):", "def discounted(price, percent=10):"),
    ),
    Edit(
        "shop.py",
        _SHOP,
        "In shop.py, let `discounted` return `max(0, price - price * percent / 100)`.",
        _SHOP.replace("return price - price * percent / 100", "return max(0, price - price * percent / 100)"),
    ),
    Edit(
        "shop.py",
        _SHOP,
        "In shop.py, let the method `total` of `Basket` begin with the two lines\n\nif not self.items:\n    return 0",
        _SHOP.replace(
            "    def total(self):\n", "    def total(self):\n        if not self.items:\n            return 0\n"
        ),
    ),
)

TOOLS = (
    ToolSpec(
        name="read_file",
        description="Reads a file of the project.",
        parameters={
            "type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"],
            "additionalProperties": False,
        },
    ),
    ToolSpec(
        name="run_command",
        description="Runs a shell command in the project's folder and returns its output.",
        parameters={
            "type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"],
            "additionalProperties": False,
        },
    ),
)  # fmt: skip

CALLS = (
    Call("Read the file src/app.py.", "read_file", {"path": "src/app.py"}),
    Call("Run the shell command `ls -l docs`.", "run_command", {"command": "ls -l docs"}),
)

REPAIRS = (
    Repair(
        "Write a Python function `add(a, b)` that returns the sum of two numbers.",
        "def add(a, b):\n    return a - b\n",
        "add(2, 3) should return 5, but it is: -1",
        ("def add(a, b):\n    return a + b\n",),
    ),
    Repair(
        "Write a Python function `last(items)` that returns the last item of a list.",
        "def last(items):\n    return items[0]\n",
        "last([1, 2, 3]) should return 3, but it is: 1",
        ("def last(items):\n    return items[-1]\n", "def last(items):\n    return items[len(items) - 1]\n"),
    ),
    Repair(
        "Write a Python function `is_even(n)` that says whether a number is even.",
        "def is_even(n):\n    return n % 2 == 1\n",
        "is_even(4) should return True, but it is: False",
        ("def is_even(n):\n    return n % 2 == 0\n", "def is_even(n):\n    return not n % 2\n"),
    ),
)

JUDGEMENTS = (
    Judgement("Write `count(text, letter)`: how often a letter is in a text.", "count('banana', 'a')", "3", "2"),
    Judgement("Write `middle(a, b, c)`: the one of three numbers that is neither least nor most.",
              "middle(5, 1, 3)", "3", "1"),
    Judgement("Write `initials(name)`: the first letters of the words of a name, in upper case.",
              "initials('ada lovelace')", "'AL'", "'al'"),
    Judgement("Write `unique(items)`: the items of a list, each once, in the order of their first places.",
              "unique([2, 1, 2])", "[2, 1]", "[1, 2]"),
)  # fmt: skip
