"""Writes tests that pass, and shows that they can fail: on small wrong changes of the code that they test."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from minimax_code.model import Message, Model
from minimax_code.skills.answer import fenced
from minimax_code.skills.candidates import Outcome, Search
from minimax_code.skills.checks import failure_of, lay
from minimax_code.skills.effort import Effort
from minimax_code.skills.mend import mended
from minimax_code.skills.prompt import prompt_of
from minimax_code.skills.reproduce import one_test
from minimax_code.skills.solution import NOTHING_RUN, Solution, Verdict
from minimax_code.workbench import coverage
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.files import CodeFile, module_of
from minimax_code.workbench.receipt import Case
from minimax_code.workbench.testrun import TestRun

_TIMES_LEFT_OUT = 3  # how often failing tests are left out and the rest run again: a file may hide a second failure


@dataclass(frozen=True, kw_only=True)
class TestWish:
    """What tests are to be like.

    Attributes:
        framework: "pytest" or "unittest".
        wishes: what else the model is told, in words.
        coverage_percent: of the lines; below it further answers are asked for.
        num_mutants: how many small wrong changes are tried at most.
    """

    __test__ = False  # its name looks like a test to pytest

    framework: str = "pytest"
    wishes: str = "Include edge cases: empty, zero, negative and extreme values, and wrong types."
    coverage_percent: float = 90.0
    num_mutants: int = 8


async def write_tests(
    model: Model,
    bench: Workbench | None,
    sources: Sequence[CodeFile],
    *,
    wish: TestWish | None = None,
    effort: Effort | None = None,
) -> Solution:
    """Writes tests for Python files. Those that fail on the code as it is are left out, and told of in the notes.

    "verified": all that is left passes, and notices at least one small wrong change. "plausible": it passes, and
    notices none. The workspace has the tests afterwards, unless the verdict is "failed".

    Args:
        bench: its workspace has the sources; None: nothing is run, and nothing is verified.
        sources: `files_of` reads them.

    Raises:
        ModelError, SandboxError: there is no answer, or nothing can be run.
    """
    effort, wish = effort or Effort(), wish or TestWish()
    trial = _Trial(
        bench=bench,
        paths=tuple(file.path for file in sources),
        wish=wish,
        base=await bench.workspace.snapshot() if bench else "",
    )
    prompt = prompt_of(
        "tests",
        framework=wish.framework,
        percent=f"{wish.coverage_percent:g}",
        wishes=wish.wishes,
        modules=", ".join(module_of(path) for path in trial.paths),
    )
    messages = [Message(role="user", content="\n\n".join([prompt, *map(fenced, sources)]))]
    name = f"test_{PurePosixPath(trial.paths[0]).stem}.py"
    search = Search(
        model=model,
        request=effort.request(messages),
        read=lambda answer: [mended(file) for file in one_test(answer, bench, name)],
        examine=trial,
        num_candidates=effort.candidates,
        repairs=effort.known.repairs,
    )
    best = await search.best()
    failed = best.outcome.is_broken
    if bench:
        await bench.workspace.restore(trial.base)
        lay(bench, () if failed else best.files)
    return Solution(
        files=() if failed else best.files,
        verdict="failed" if failed else _verdict(bench, best.outcome),
        receipts=best.outcome.receipts,
        usage=search.usage,
        text=best.reply.content,
        notes=(*trial.notes.get(best.files, ()), *([best.outcome.failure] if failed else ()), *search.notes),
        num_candidates=len(search.candidates),
        chosen=best.number,
    )


def _verdict(bench: Workbench | None, outcome: Outcome) -> Verdict:
    if bench is None:
        return "unverified"
    return "verified" if outcome.num_passed else "plausible"


@dataclass(kw_only=True)
class _Trial:
    """Runs the tests of an answer, leaves out those that fail, and measures the rest."""

    bench: Workbench | None
    paths: tuple[str, ...]
    wish: TestWish
    base: str
    notes: dict[tuple[CodeFile, ...], list[str]] = field(default_factory=dict)  # by the files that they are about

    async def __call__(self, written: Sequence[CodeFile]) -> tuple[tuple[CodeFile, ...], Outcome]:
        if self.bench is None:
            self.notes[tuple(written)] = [NOTHING_RUN]
            return tuple(written), Outcome()
        await self.bench.workspace.restore(self.base)
        [file] = written
        left_out: list[Case] = []
        for _ in range(_TIMES_LEFT_OUT):
            lay(self.bench, [file])
            ran = await self.bench.run_tests([file.path], suite="python", covered=self.paths)
            shorter = without_tests(file, ran.failures) if ran.failures else None
            if shorter is None:
                break
            left_out += ran.failures
            file = shorter
        files = (file,)
        self.notes[files] = [f"left out, as it fails on the code as it is: {failure_of(case)}" for case in left_out]
        if not ran.passed:
            told = failure_of(ran.failures[0]) if ran.failures else ran.problem or "no test is left that passes"
            return files, Outcome(failure=told, is_broken=True, receipts=(ran.receipt,))
        return files, await self._measured(self.bench, files, ran)

    async def _measured(self, bench: Workbench, files: tuple[CodeFile, ...], ran: TestRun) -> Outcome:
        """Checks are mutants, so that of two answers the one is better whose tests notice more."""
        lines = {path: frozenset(ran.lines[path].statements) for path in self.paths if path in ran.lines}
        outcome = Outcome(receipts=(ran.receipt,))
        if not lines:
            self.notes[files].append(f"nothing is known of what they cover: {ran.unmeasured or 'no line was measured'}")
            return outcome
        percent = coverage.percent({path: ran.lines[path] for path in lines}) or 0.0
        mutation = await bench.mutate(lines, paths=[files[0].path], limit=self.wish.num_mutants)
        noticed, tried = len(mutation.killed), len(mutation.killed) + len(mutation.survived)
        self.notes[files].append(
            f"{ran.summary}; they run {percent:g}% of the lines and notice {noticed} of {tried} small wrong changes"
        )
        failure = ""
        if percent < self.wish.coverage_percent:
            missing = {path: sorted(ran.lines[path].missing) for path in lines if ran.lines[path].missing}
            failure = f"the tests run {percent:g}% of the lines; these are never run: {missing}"
        elif mutation.survived:
            mutant = mutation.survived[0]
            failure = f"the tests pass, whatever the code does in {mutant.path}, line {mutant.line}: {mutant.change}"
        return replace(outcome, num_checks=tried, num_passed=noticed, failure=failure)


def without_tests(file: CodeFile, failed: Iterable[Case]) -> CodeFile | None:
    """The file without the functions of tests that failed; None where they can't be told apart or nothing is left."""
    names = {tuple(case.name.partition("[")[0].split("::")[1:]) for case in failed}
    try:
        tree = ast.parse(file.content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    kept, cut = 0, list[tuple[int, int]]()
    for node in tree.body:
        members = [(node.name, one) for one in node.body] if isinstance(node, ast.ClassDef) else [("", node)]
        tests = [
            (owner, one) for owner, one in members if isinstance(one, ast.FunctionDef) and one.name.startswith("test")
        ]
        failing = [one for owner, one in tests if tuple(filter(None, (owner, one.name))) in names]
        kept += len(tests) - len(failing)
        whole = isinstance(node, ast.ClassDef) and failing and len(failing) == len(tests)
        for one in [node] if whole else failing:
            first = min([one.lineno, *(decorator.lineno for decorator in getattr(one, "decorator_list", ()))])
            cut.append((first - 1, one.end_lineno or one.lineno))
    if not cut or not kept:
        return None
    lines = file.content.splitlines(keepends=True)
    for start, end in reversed(cut):
        del lines[start:end]
    return CodeFile(file.path, "".join(lines).rstrip("\n") + "\n")
