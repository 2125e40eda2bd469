"""Mutants: small, wrong, and still the language."""

from __future__ import annotations

import ast

import pytest

from minimax_code.workbench.mutate import Mutant, mutants_of, spread

PYTHON = b'''import os
LIMIT: int | None = 3


class A:
    def f(self, x: int | None) -> bool:
        """Says 1 + 1 == 2."""
        if x is not None and x < 3:
            return not self.g(x + 1)
        assert x != 4
        for i in range(10):
            if i not in self:
                break
        return True
'''


def test_mutants_of_python_change_one_thing_and_parse() -> None:
    found = mutants_of("a.py", PYTHON)
    for mutant in found:
        ast.parse(mutant.source)
        pairs = zip(PYTHON.splitlines(), mutant.source.splitlines(), strict=True)
        assert [i for i, (old, new) in enumerate(pairs, 1) if old != new] == [mutant.line]
    assert {(mutant.line, mutant.change) for mutant in found} == {
        (2, "`3` became `4`"), (8, "`is not` became `is`"), (8, "`and` became `or`"), (8, "`<` became `<=`"),
        (8, "`3` became `4`"), (8, "`x is not None and x < 3` became `not (x is not None and x < 3)`"),
        (9, "`not` became nothing"), (9, "`not self.g(x + 1)` became `None`"), (9, "`+` became `-`"),
        (9, "`1` became `2`"), (11, "`10` became `11`"), (12, "`i not in self` became `not (i not in self)`"),
        (12, "`not in` became `in`"), (13, "`break` became `continue`"), (14, "`True` became `False`"),
        (14, "`True` became `None`"),
    }  # fmt: skip
    assert {mutant.line for mutant in mutants_of("a.py", PYTHON, {13, 14})} == {13, 14}


@pytest.mark.parametrize(
    ("path", "source", "change"),
    [
        ("a.js", "function f(a, b) { if (a && !b) { return a + 1; } }", "`&&` became `||`"),
        ("a.ts", "type T = 1;\nfunction f(a: 1 | 2) { while (a < 3) { continue; } }", "`continue` became `break`"),
        ("a.go", "package p\nfunc f(a int) int { if a > 1 { return a - 1 }; return 0 }", "`a > 1` became `!(a > 1)`"),
        ("a.rs", "fn f() -> bool { 1 < 2 && true }", "`true` became `false`"),
        ("A.java", "class A { int f(int x) { return x > 1 ? 2 : 3; } }", "`>` became `>=`"),
        ("a.cpp", "int f(int a) { return a == 2; }", "`==` became `!=`"),
    ],
)
def test_mutants_of_other_languages(path: str, source: str, change: str) -> None:
    assert change in {mutant.change for mutant in mutants_of(path, source.encode())}


def test_there_are_none_of_what_isnt_the_language() -> None:
    assert mutants_of("a.py", b"def f(:") == mutants_of("a.md", b"1 + 1") == ()


def test_every_line_gets_one_before_any_gets_two() -> None:
    def some(path: str, *lines: int) -> tuple[Mutant, ...]:
        return tuple(Mutant(path=path, line=line, change=str(i), source=b"") for i, line in enumerate(lines))

    chosen, left = spread({"a": some("a", 1, 1, 1, 2), "b": some("b", 1, 1)}, 4)
    assert [(one.path, one.line, one.change) for one in chosen] == [
        ("a", 1, "0"), ("a", 2, "3"), ("b", 1, "0"), ("a", 1, "1"),
    ]  # fmt: skip
    assert left == 2
