"""A workbench: the tools over the files of a workspace, in a sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

from minimax_code.errors import InputError, WorkspaceError
from minimax_code.workbench import search, testrun
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.sandbox import find_sandbox
from minimax_code.workbench.workspace import Workspace

T = TypeVar("T")

SUMS = """def sign(x: int) -> int:
    if x > 0:
        return 1
    return -1


def twice(x: int) -> int:
    return x + x
"""
TESTS = """from sums import sign


def test_sign() -> None:
    assert sign(3) == 1
    assert sign(-3) == -1
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest in the sandbox starts without the plugins that are installed here."""
    monkeypatch.setitem(testrun._ENV, "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def on_bench(tmp_path: Path, files: Mapping[str, str], work: Callable[[Workbench], Awaitable[T]]) -> T:
    """What some work on a workbench with these files comes to."""

    async def run() -> T:
        async with await Workspace.create(None, tmp_path / "work") as workspace:
            for name, text in files.items():
                (workspace.path / name).parent.mkdir(parents=True, exist_ok=True)
                (workspace.path / name).write_text(text)
            return await work(Workbench(workspace, find_sandbox()))

    return asyncio.run(run())


def test_commands_have_receipts_with_their_tree(tmp_path: Path) -> None:
    async def work(bench: Workbench) -> None:
        before = await bench.workspace.snapshot()
        ran = await bench.run(["sh", "-c", "echo one > new; cat sums.py; exit 3"], checked="whether it can write")
        assert (ran.receipt.exit_code, ran.receipt.tree, ran.receipt.checked) == (3, before, "whether it can write")
        assert ran.receipt.sandbox == bench.sandbox.name
        assert ran.output == SUMS
        assert not ran.succeeded
        assert await bench.workspace.snapshot() != before
        assert not (await bench.run(["touch", "other"], writable=False)).succeeded

    on_bench(tmp_path, {"sums.py": SUMS}, work)


def test_tests_have_receipts_and_changed_lines_coverage(tmp_path: Path) -> None:
    async def work(bench: Workbench) -> None:
        changed, ran = await bench.coverage({"sums.py": {2, 3, 8, 9}, "notes.md": {1}})
        assert ran.passed
        assert ran.receipt.tree == await bench.workspace.snapshot()
        assert [case.outcome for case in ran.receipt.cases] == ["passed"]
        assert (changed.covered, changed.missing) == ({"sums.py": {2, 3}}, {"sums.py": {8}})
        assert (changed.percent, changed.unmeasured) == (66.7, ("notes.md",))

    on_bench(tmp_path, {"sums.py": SUMS, "test_sums.py": TESTS, "notes.md": "x\n"}, work)


def test_mutants_that_tests_notice_and_those_they_dont(tmp_path: Path) -> None:
    async def work(bench: Workbench) -> None:
        before = await bench.workspace.snapshot()
        found = await bench.mutate({"sums.py": {2, 8}})
        told = {mutant.change: mutant.line for mutant in found.survived}
        assert told == {"`>` became `>=`": 2, "`0` became `1`": 2, "`x + x` became `None`": 8, "`+` became `-`": 8}
        assert [mutant.change for mutant in found.killed] == ["`x > 0` became `not (x > 0)`"]
        assert found.score == 0.2
        assert await bench.workspace.snapshot() == before
        limited = await bench.mutate({"sums.py": {2, 8}}, limit=2)
        assert (len(limited.killed) + len(limited.survived), limited.skipped) == (2, 3)
        (bench.workspace.path / "test_other.py").write_text("def test_bad():\n    assert False\n")
        assert await bench.mutate({"sums.py": {2, 8}}) == found, "what fails anyway notices nothing"

        async def has_changed(copy: Workbench) -> bool:
            return b"x - x" in (copy.workspace.path / "sums.py").read_bytes()

        also = await bench.mutate({"sums.py": {8}}, also=has_changed)
        assert [mutant.change for mutant in also.killed] == ["`+` became `-`"]
        (bench.workspace.path / "sums.py").write_text(SUMS.replace("return 1", "return 2"))
        broken = await bench.mutate({"sums.py": {2}})
        assert "no test passes as it is" in broken.problem
        assert broken.score is None

    on_bench(tmp_path, {"sums.py": SUMS, "test_sums.py": TESTS}, work)


def test_analysers_of_several_languages(tmp_path: Path) -> None:
    files = {
        "sums.py": SUMS.replace("return -1", "return 'x'"),
        "use.py": "from sums import twice\n\nprint(twice('a'))\n",
        "evil/ruff.py": "raise SystemExit(9)\n",
        "a.js": "let x = ;\n",
        "a.go": "package a\nfunc f() {\n",
        "ok.ts": "export const x: number = 1;\n",
        "pyproject.toml": "[tool.ruff]\nlint.ignore = ['ALL']\n",
    }

    async def work(bench: Workbench) -> None:
        found = await bench.analyse([path for path in files if path != "evil/ruff.py"])
        told = {(issue.file, issue.line, issue.rule) for issue in found.issues}
        assert {("sums.py", 4, "mypy:return-value"), ("use.py", 3, "mypy:arg-type")} <= told
        assert {("a.js", 1, "parse:syntax-error"), ("a.go", 2, "parse:syntax-error")} <= told
        assert found.broken == {"a.js", "a.go"}
        assert {receipt.tree for receipt in found.receipts} == {await bench.workspace.snapshot()}
        (bench.workspace.path / "link.py").symlink_to("/etc/passwd")
        with pytest.raises(WorkspaceError, match="link.py"):
            await bench.analyse(["link.py"])

    on_bench(tmp_path, files, work)


def test_checkers_say_what_they_find_and_what_is_missing(tmp_path: Path) -> None:
    async def work(bench: Workbench) -> None:
        found = await bench.analyse(["a.c"])
        assert [(issue.line, issue.severity, issue.rule) for issue in found.issues] == [
            (2, "medium", "gcc:-Wint-conversion")
        ]
        (bench.workspace.path / "go.mod").write_text("module m\n")
        (bench.workspace.path / "a.go").write_text("package m\n")
        found = await bench.analyse(["a.go"])
        assert found.receipts[-1].command[:2] == ("go", "vet")

    on_bench(tmp_path, {"a.c": 'int f(void) {\nreturn "a";\n}\n'}, work)


@pytest.mark.parametrize("engine", ["ripgrep", "python"])
def test_search(tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine == "python":
        monkeypatch.setattr(search, "program", lambda: None)
    files = {
        "a.py": "one\nTwo two\n", "b/c.txt": "two\n", "b/.gitignore": "out*\n", "b/out.txt": "two\n", ".hid": "two\n",
        "-x.py": "two (x)\n", "bin.py": "two\0\n",
    }  # fmt: skip

    async def work(bench: Workbench) -> None:
        found = await bench.search("two")
        assert found.engine == engine
        places = [(match.file, match.line, match.text) for match in found.matches]
        assert sorted(places) == [
            ("-x.py", 1, "two (x)"),
            (".hid", 1, "two"),
            ("a.py", 2, "Two two"),
            ("b/c.txt", 1, "two"),
        ]
        assert [match.file for match in (await bench.search(r"^two", glob="*.txt")).matches] == ["b/c.txt"]
        assert [match.file for match in (await bench.search("(x)", fixed=True)).matches] == ["-x.py"]
        assert [match.line for match in (await bench.search("ONE", ignore_case=True, paths=["a.py"])).matches] == [1]
        assert ((await bench.search("nothing at all")).matches, (await bench.search("two", limit=1)).more) == ((), True)
        with pytest.raises(InputError, match="pattern: can't be read"):
            await bench.search("(")

    on_bench(tmp_path, files, work)


def test_symbols_of_a_file(tmp_path: Path) -> None:
    async def work(bench: Workbench) -> list[tuple[str, str, int, int]]:
        return [(one.name, one.kind, one.line, one.end_line) for one in bench.symbols("sums.py")]

    assert on_bench(tmp_path, {"sums.py": SUMS}, work) == [("sign", "function", 1, 4), ("twice", "function", 7, 8)]


def test_commands_find_packages_in_src(tmp_path: Path) -> None:
    async def work(bench: Workbench) -> None:
        ran = await bench.run(["python3", "-c", "import shop; print(shop.PRICE)"])
        assert ran.output == "2\n"

    on_bench(tmp_path, {"src/shop.py": "PRICE = 2\n"}, work)
