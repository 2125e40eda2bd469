"""What files of several languages define."""

from __future__ import annotations

import subprocess
import sys

import pytest

from minimax_code.workbench.symbols import symbol_at, symbols_in

SOURCES = {
    "a.py": (
        "class A:\n    @property\n    def f(self):\n        def inner(): ...\n\nasync def g(): ...\n",
        ["A class 1-4", "A.f function 2-4", "A.f.inner function 4-4", "g function 6-6"],
    ),
    "a.js": (
        "class K {\n  m(a) {}\n}\nconst f = (x) => x * 2;\nexport default function h() {}\nconst n = 1;\n",
        ["K class 1-3", "K.m function 2-2", "f function 4-4", "h function 5-5"],
    ),
    "a.ts": (
        "interface I { a: 1 }\ntype T = 1;\nexport class C<T> {\n  go() {}\n}\nnamespace N {\n  function q() {}\n}",
        ["I type 1-1", "T type 2-2", "C class 3-5", "C.go function 4-4", "N module 6-8", "N.q function 7-7"],
    ),
    "a.go": (
        "package p\ntype S struct{ a int }\nfunc (s *S) Get() int { return 0 }\nfunc New() *S { return nil }\n",
        ["S type 2-2", "S.Get function 3-3", "New function 4-4"],
    ),
    "a.rs": (
        "mod m {\n  pub struct S;\n  impl S {\n    fn f(&self) {}\n  }\n}\ntrait T { fn q(&self); }\n",
        ["m module 1-6", "m.S class 2-2", "m.S.f function 4-4", "T type 7-7", "T.q function 7-7"],
    ),
    "A.java": (
        "class A {\n  A() {}\n  int f(int x) { return x; }\n  interface I {}\n}\n",
        ["A class 1-5", "A.A function 2-2", "A.f function 3-3", "A.I type 4-4"],
    ),
    "a.cpp": (
        "namespace n {\nclass C { int m(); };\nint C::m() { return 1; }\n}\nstruct S s;\nint *f(int a) { return 0; }\n",
        ["n module 1-4", "n.C class 2-2", "n.C::m function 3-3", "f function 6-6"],
    ),
    "a.sh": ("f() {\n  echo\n}\n", ["f function 1-3"]),
    "a.txt": ("def f(): ...\n", []),
}  # fmt: skip


@pytest.mark.parametrize("path", SOURCES)
def test_definitions_with_their_lines(path: str) -> None:
    source, expected = SOURCES[path]
    found = [f"{one.name} {one.kind} {one.line}-{one.end_line}" for one in symbols_in(path, source.encode())]
    assert found == expected


def test_what_is_broken_or_deep_is_read_as_far_as_it_goes() -> None:
    assert [one.name for one in symbols_in("a.py", b"def f(:\n  \xff\ndef g(): ...\n")][-1:] == ["g"]
    assert symbols_in("a.py", b"(" * 50_000) == ()


def test_a_server_without_the_extra_starts() -> None:
    script = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tree_sitter", "unidiff", "coverage"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Without())
import minimax_code.workbench.bench, openm3.server.schema.code, openm3.server.routes.code
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_innermost_definition_around_a_line() -> None:
    symbols = symbols_in("a.py", SOURCES["a.py"][0].encode())
    names = [symbol.name if (symbol := symbol_at(symbols, line)) else None for line in (1, 3, 4, 5, 6)]
    assert names == ["A", "A.f", "A.f.inner", None, "g"]
