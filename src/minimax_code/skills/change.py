"""Changes files of a workspace: mends what is wrong, or rebuilds what is right, and keeps no change that fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from minimax_code.model import Model, Usage
from minimax_code.skills.candidates import Candidate, Outcome, Search
from minimax_code.skills.checks import Checks, Examiner, defined_in, failure_of
from minimax_code.skills.edits import changed_files, edit_messages
from minimax_code.skills.effort import Effort
from minimax_code.skills.prompt import prompt_of
from minimax_code.skills.reproduce import reproduce
from minimax_code.skills.solution import Solution, Verdict
from minimax_code.skills.sources import localise, that_fit
from minimax_code.workbench.behaviour import alike, behave, inputs_for
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.examples import Example
from minimax_code.workbench.files import CodeFile
from minimax_code.workbench.testrun import TestRun, is_test


async def fix(
    model: Model,
    bench: Workbench,
    problem: str,
    *,
    paths: Sequence[str] = (),
    checks: Checks | None = None,
    effort: Effort | None = None,
) -> Solution:
    """Mends a problem: finds the files, changes them, and checks the change; what passed before has to pass still.

    Without checks of the caller's, tests that fail now are what has to pass. Where none does, a test is written that
    fails because of the problem; what passes only that is "plausible". If no answer passes, the workspace is as it was.

    Args:
        problem: in words, or the output of what fails.
        paths: the files to look at; those that the problem speaks of where none are given.

    Raises:
        InputError: a path is not there, or no file fits into the model's window.
        ModelError, SandboxError: there is no answer, or nothing can be run.
    """
    effort, may_write = effort or Effort(), checks.may_write if checks is not None else None
    before = await bench.run_tests()
    checks, own, usage, notes = await _what_to_pass(model, bench, problem, checks, before, effort)
    checks = replace(checks, kept=checks.kept | before.passing, may_write=may_write)
    failure = failure_of(before.failures[0]) if before.failures else ""
    found = list(paths) or await localise(bench, f"{problem}\n{failure}")
    asked = prompt_of("fix", problem=problem, failure=f"A test fails:\n\n{failure}" if failure else "").strip()
    base = await bench.workspace.snapshot()
    examiner = Examiner(bench=bench, checks=checks, base=base, frozen=_tests_of(before))
    solution = await _change(model, bench, asked, found, examiner, effort, is_proof=not own)
    return solution.model_copy(update={"usage": solution.usage + usage, "notes": (*notes, *solution.notes)})


async def _what_to_pass(
    model: Model, bench: Workbench, problem: str, checks: Checks | None, before: TestRun, effort: Effort
) -> tuple[Checks, bool, Usage, list[str]]:
    """The checks, whether the model wrote them itself, what that cost, and what there is to say about it."""
    if checks:
        return checks, False, Usage(), []
    if before.failures:
        names = [case.name for case in before.failures]
        return Checks(kept=frozenset(names)), False, Usage(), [f"{len(names)} tests fail at the start"]
    test = await reproduce(model, bench, problem, effort=effort)
    await bench.workspace.restore(await bench.workspace.snapshot())
    if test.verdict != "verified":
        return Checks(), True, test.usage, [*test.notes, "no test shows the problem, so nothing proves a change"]
    return Checks(tests=test.files), True, test.usage, [f"{test.files[0].path} was written and fails at the start"]


async def refactor(
    model: Model,
    bench: Workbench,
    asked: str,
    *,
    paths: Sequence[str] = (),
    checks: Checks | None = None,
    effort: Effort | None = None,
) -> Solution:
    """Rebuilds files without a change of what they do: tests pass as before, and functions return what they returned.
    Checks of the caller's have to pass besides.

    "verified" where tests run what was changed; "plausible" where only calls of functions were compared. If no answer
    keeps what the files do, the workspace is as it was.

    Raises:
        InputError: a path is not there, or no file fits into the model's window.
        ModelError, SandboxError: there is no answer, or nothing can be run.
    """
    effort = effort or Effort()
    found = list(paths) or await localise(bench, asked)
    sources = [path for path in found if not is_test(path)]
    before = await bench.run_tests(covered=[path for path in sources if path.endswith(".py")])
    shown, _ = await that_fit(model, bench, found)
    same = Alike(bench=bench)
    await same.remember(shown)
    base = await bench.workspace.snapshot()
    checks = replace(checks or Checks(), kept=before.passing)
    examiner = Examiner(bench=bench, checks=checks, base=base, frozen=_tests_of(before))
    is_run = any(file.statements - file.missing for file in before.lines.values())
    asked = prompt_of("refactor", asked=asked)
    return await _change(model, bench, asked, found, examiner, effort, is_proof=is_run, same=same)


@dataclass(kw_only=True)
class Alike:
    """What functions returned before a change, for inputs that follow from their types."""

    bench: Workbench
    before: dict[tuple[str, str], tuple[tuple[Example, ...], tuple[str, ...]]] = field(default_factory=dict)

    async def remember(self, files: Sequence[CodeFile]) -> None:
        """Calls the functions of files as they are now."""
        for file in files:
            for name in [] if is_test(file.path) else defined_in(file):
                calls = inputs_for(file.content, name)
                if calls and not name.startswith("_"):
                    ran = await self._run(file.path, calls)
                    if any(outcome != "raises" for outcome in ran):
                        self.before[file.path, name] = calls, ran

    async def compare(self, outcome: Outcome) -> Outcome:
        """The outcome of a change, with a check for each function that was called before."""
        failure, num_same = "", 0
        for (path, _), (calls, expected) in self.before.items():
            now = await self._run(path, calls)
            differs = next((i for i, (old, new) in enumerate(zip(expected, now, strict=True)) if old != new), None)
            if differs is None:
                num_same += 1
            elif not failure:
                failure = f"{calls[differs].call} was {expected[differs]} before the change, and is {now[differs]} now"
        return replace(
            outcome,
            num_checks=outcome.num_checks + len(self.before),
            num_passed=outcome.num_passed + num_same,
            failure=outcome.failure or failure,
        )

    async def _run(self, path: str, calls: Sequence[Example]) -> tuple[str, ...]:
        ran = await behave(self.bench.sandbox, self.bench.workspace.path, path, calls, python=self.bench.python)
        return tuple(map(alike, ran.outcomes))


async def _change(
    model: Model,
    bench: Workbench,
    asked: str,
    paths: Sequence[str],
    examiner: Examiner,
    effort: Effort,
    *,
    is_proof: bool,
    same: Alike | None = None,
) -> Solution:
    """The best change that fails no check, in the workspace; where there is none it is as it was.

    Args:
        is_proof: whether passing the checks verifies the change.
    """
    shown, left = await that_fit(model, bench, paths)
    before = {file.path: file.content for file in shown}
    known = effort.known

    async def examine(written: Sequence[CodeFile]) -> tuple[tuple[CodeFile, ...], Outcome]:
        files, outcome = await examiner(written)
        return files, await same.compare(outcome) if same and not outcome.is_broken else outcome

    search = Search(
        model=model,
        request=effort.request(edit_messages(asked, shown, known.edit_format)),
        read=lambda answer: changed_files(answer, before, known.edit_format),
        examine=examine,
        num_candidates=effort.candidates,
        repairs=known.repairs,
    )
    best = await search.best()
    notes = [f"not shown to the model, for want of room: {', '.join(left)}"] if left else []
    failed = bool(best.outcome.failure) or best.outcome.is_broken
    await examiner.keep(() if failed else best.files)
    return Solution(
        files=() if failed else best.files,
        verdict="failed" if failed else _verdict(best, is_proof),
        receipts=best.outcome.receipts,
        usage=search.usage,
        text=best.reply.content,
        notes=(*notes, *_told(best, before), *search.notes),
        num_candidates=len(search.candidates),
        chosen=best.number,
    )


def _verdict(best: Candidate, is_proof: bool) -> Verdict:
    if not best.outcome.passed:
        return "unverified"
    return "verified" if is_proof else "plausible"


def _told(best: Candidate, before: Mapping[str, str]) -> list[str]:
    if best.outcome.failure:
        return [f"nothing was changed: {best.outcome.failure}"]
    new = sum(file.path not in before for file in best.files)
    return [
        f"passes {best.outcome.num_passed} checks; {len(best.files) - new} files changed, {new} new"
        if best.outcome.num_checks
        else "there was nothing to check it by"
    ]


def _tests_of(before: TestRun) -> frozenset[str]:
    """Files of tests that were run: no answer may change what it is measured by."""
    return frozenset(case.name.partition("::")[0] for case in before.cases)
