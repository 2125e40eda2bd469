"""What agents and skills have in hand: files of their own, a sandbox, and the tools that work in it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from minimax_code.workbench import checkers, formatters, mutate, search, symbols, testrun
from minimax_code.workbench.analysers import DEFAULT_STANDARDS, Analysers
from minimax_code.workbench.coverage import ChangedLines, of_changed
from minimax_code.workbench.files import CodeFile, read_inside
from minimax_code.workbench.findings import Findings, in_order
from minimax_code.workbench.mutate import Mutant, Mutation
from minimax_code.workbench.receipt import Receipt
from minimax_code.workbench.run import InSandbox
from minimax_code.workbench.running import Limits
from minimax_code.workbench.sandbox import Sandbox
from minimax_code.workbench.testrun import Suite, TestRun
from minimax_code.workbench.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command that was run, and all that it said."""

    receipt: Receipt
    output: str

    @property
    def succeeded(self) -> bool:
        """Whether it ended by itself with 0."""
        return self.receipt.exit_code == 0


class Workbench:
    """Works on the files of a workspace. Whatever of them runs, runs in the sandbox.

    Args:
        python: the interpreter that has what the project needs.
    """

    def __init__(self, workspace: Workspace, sandbox: Sandbox, *, python: str = sys.executable) -> None:
        self.workspace = workspace
        self.sandbox = sandbox
        self.python = python

    @property
    def variables(self) -> dict[str, str]:
        """What commands find in the environment: where the packages of a project with a folder `src` are.

        People install such a project to test it; here that would be another copy of it.
        """
        sources = self.workspace.path / "src"
        return {"PYTHONPATH": str(sources)} if sources.is_dir() and not (sources / "__init__.py").exists() else {}

    async def run(
        self,
        command: Sequence[str],
        *,
        limits: Limits | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        writable: bool = True,
        checked: str = "",
    ) -> Command:
        """Runs a command in the workspace; its receipt has the tree that it began with.

        Raises:
            SandboxError: the sandbox can't be started.
        """
        tree = await self.workspace.snapshot()
        env = {**self.variables, **(env or {})}
        ran = await self.sandbox.run(
            command, folder=self.workspace.path, writable=writable, limits=limits, env=env, stdin=stdin
        )
        receipt = Receipt(
            command=ran.command,
            tree=tree,
            exit_code=ran.exit_code,
            seconds=ran.seconds,
            sandbox=ran.sandbox,
            checked=checked,
        )
        return Command(receipt=receipt, output=ran.output)

    def suites(self) -> tuple[Suite, ...]:
        """Whose tests there are."""
        return testrun.suites_in(self.workspace.path)

    async def run_tests(
        self,
        paths: Sequence[str] = (),
        *,
        suite: Suite | None = None,
        covered: Sequence[str] = (),
        limits: Limits | None = None,
        fail_fast: bool = False,
    ) -> TestRun:
        """Runs tests: of `paths`, or all; of `suite`, or of the one that the files belong to (Python's, if none does).

        Args:
            covered: files whose lines are measured.

        Raises:
            SandboxError: the sandbox can't be started.
        """
        if suite is None:
            known = [one for one in testrun.PATTERNS if any(testrun.is_test(path, one) for path in _files_of(paths))]
            there = [*known, *self.suites()]
            suite = there[0] if there else "python"
        return await testrun.run_tests(
            self.sandbox, self.workspace.path, suite, python=self.python, paths=paths, covered=covered, limits=limits,
            tree=await self.workspace.snapshot(), fail_fast=fail_fast,
        )  # fmt: skip

    async def analyse(self, paths: Sequence[str], standards: Iterable[str] = DEFAULT_STANDARDS) -> Findings:
        """What analysers say about files: ruff, bandit and mypy, and the checkers of other languages.

        Raises:
            SandboxError: the sandbox can't be started.
            WorkspaceError: a path is no file of the workspace.
        """
        folder = self.workspace.path
        files = [CodeFile(path, read_inside(folder, path).decode(errors="replace")) for path in paths]
        found = await Analysers(InSandbox(self.sandbox)).analyse_in(folder, files, standards)
        wrong, parsed = checkers.syntax_issues(folder, paths)
        others, receipts = await checkers.check(self.sandbox, folder, paths)
        tree = await self.workspace.snapshot()
        all_receipts = [*found.receipts, *([parsed] if parsed else ()), *receipts]
        return replace(
            found,
            issues=in_order([*found.issues, *wrong, *others]),
            receipts=tuple(receipt.model_copy(update={"tree": tree}) for receipt in all_receipts),
            broken=found.broken | {issue.file for issue in wrong},
        )

    async def formatted(self, file: CodeFile) -> tuple[CodeFile, Receipt | None]:
        """A file that is to come into the workspace, as its formatter has it; see `formatters.format_file`.

        Raises:
            SandboxError: the sandbox can't be started.
        """
        folder = self.workspace.path
        before = read_inside(folder, file.path).decode(errors="replace") if (folder / file.path).is_file() else None
        return await formatters.format_file(self.sandbox, folder, file, before)

    async def search(
        self,
        pattern: str,
        *,
        paths: Sequence[str] = (),
        glob: str | None = None,
        ignore_case: bool = False,
        fixed: bool = False,
        limit: int = 100,
    ) -> search.Matches:
        """Lines that match; see `search.search`."""
        return await search.search(
            self.sandbox, self.workspace.path, pattern, paths=paths, glob=glob, ignore_case=ignore_case, fixed=fixed,
            limit=limit,
        )  # fmt: skip

    def symbols(self, path: str) -> tuple[symbols.Symbol, ...]:
        """What a file defines.

        Raises:
            WorkspaceError: the path is no file of the workspace.
        """
        return symbols.symbols_in(path, read_inside(self.workspace.path, path))

    async def coverage(
        self, changed: Mapping[str, Set[int]], *, paths: Sequence[str] = (), suite: Suite | None = None
    ) -> tuple[ChangedLines, TestRun]:
        """Which of the changed lines tests run, and those tests' run.

        Raises:
            SandboxError: the sandbox can't be started.
        """
        ran = await self.run_tests(paths, suite=suite, covered=sorted(changed))
        return of_changed(changed, ran.lines), ran

    async def mutate(
        self,
        changed: Mapping[str, Set[int]],
        *,
        paths: Sequence[str] = (),
        also: Callable[[Workbench], Awaitable[bool]] | None = None,
        limit: int = 20,
        seconds: float = 60.0,
    ) -> Mutation:
        """Whether tests notice small wrong changes of these lines. The workspace itself stays as it is.

        Tests that fail without any change notice nothing.

        Args:
            changed: lines by file.
            paths: the tests; all where empty. Of those, the ones that run a line are run for its mutants.
            also: asked of a mutant that tests don't notice: whether something else does.
            limit: how many mutants are tried at most.
            seconds: how long the tests of one may take; one that takes longer counts as noticed.

        Raises:
            SandboxError: the sandbox can't be started.
            WorkspaceError: a path is no file of the workspace.
        """
        async with self.copy() as copy:
            ran = await copy.run_tests(paths, covered=sorted(changed)) if paths or copy.suites() else None
            if also is None and not (ran and ran.passing):
                return Mutation(problem=f"no test passes as it is: {ran.summary if ran else 'there is none'}")
            folder = copy.workspace.path
            sources = {path: read_inside(folder, path) for path in changed}
            found = {path: mutate.mutants_of(path, sources[path], lines) for path, lines in changed.items()}
            chosen, skipped = mutate.spread(found, limit)
            killed: list[Mutant] = []
            survived: list[Mutant] = []
            for mutant in chosen:
                (folder / mutant.path).write_bytes(mutant.source)
                noticed = ran is not None and await copy._notices(mutant, ran, paths, Limits(seconds=seconds))
                noticed = noticed or (also is not None and await also(copy))
                (folder / mutant.path).write_bytes(sources[mutant.path])
                (killed if noticed else survived).append(mutant)
            return Mutation(killed=tuple(killed), survived=tuple(survived), skipped=skipped)

    async def _notices(self, mutant: Mutant, before: TestRun, paths: Sequence[str], limits: Limits) -> bool:
        """Whether a test that passed before a mutant doesn't pass any more."""
        tests = _tests_of(before, mutant)
        if tests is None or not before.passing:
            return False
        now = await self.run_tests(tests or paths, suite=before.suite, limits=limits, fail_fast=before.passed)
        return bool((set(tests) or before.passing) - now.passing)

    @asynccontextmanager
    async def copy(self, tree: str | None = None) -> AsyncIterator[Workbench]:
        """A workbench over another folder with the files of a tree, or with those of now; it ends with the context."""
        with tempfile.TemporaryDirectory(prefix="minimax-code-") as name:
            async with await Workspace.create(None, Path(name, "copy")) as workspace:
                await self.workspace.export(tree or await self.workspace.snapshot(), workspace.path)
                yield Workbench(workspace, self.sandbox, python=self.python)


def _files_of(paths: Sequence[str]) -> list[str]:
    """Of ids of tests, the files."""
    return [path.split("::")[0] for path in paths]


def _tests_of(ran: TestRun, mutant: Mutant) -> list[str] | None:
    """The passing tests that could notice a mutant: none at all (None), or unknown which (empty), or these."""
    file = ran.lines.get(mutant.path)
    if file is None:
        return []
    statement = max((line for line in file.statements if line <= mutant.line), default=mutant.line)
    running = file.tests.get(statement, frozenset())
    return None if statement in file.missing else sorted(running & ran.passing) or (None if running else [])
