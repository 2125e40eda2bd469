"""Writes new files, alone or into a project: the best of some answers, by running them."""

from __future__ import annotations

from dataclasses import replace

from minimax_code.model import Message, Model
from minimax_code.skills.agreement import Comparison
from minimax_code.skills.answer import Wish, files_in, request_for_files
from minimax_code.skills.candidates import Candidate, Search
from minimax_code.skills.checks import Checks, Examiner, failure_of
from minimax_code.skills.edits import EditError
from minimax_code.skills.effort import Effort
from minimax_code.skills.solution import NOTHING_RUN, Solution, Verdict
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.examples import examples_in
from minimax_code.workbench.files import CodeFile
from minimax_code.workbench.testrun import is_test


async def generate(
    model: Model,
    bench: Workbench | None,
    wish: Wish,
    *,
    checks: Checks | None = None,
    effort: Effort | None = None,
) -> Solution:
    """Writes files; the workspace has them afterwards.

    Examples of calls in the wish are checks too. Tests that the model writes are run, but prove little: what passes
    only those is "plausible".

    Args:
        bench: its workspace is the project, where there is one; None: nothing is run, and nothing is verified.

    Raises:
        ModelError: there is no answer.
        SandboxError: nothing can be run.
    """
    effort = effort or Effort()
    checks = checks or Checks()
    checks = replace(checks, examples=checks.examples or examples_in(wish.prompt))
    base = await bench.workspace.snapshot() if bench else ""
    examiner = Examiner(bench=bench, checks=checks, base=base)
    known = effort.known
    compare = None
    if bench and not checks.tests and not checks.commands and not checks.measure:
        judge = model if known.judges else None
        compare = Comparison(bench=bench, examiner=examiner, task=wish.prompt, examples=checks.examples, judge=judge)
    system, prompt = request_for_files(wish)
    messages = (Message(role="system", content=system), Message(role="user", content=prompt))
    search = Search(
        model=model,
        request=effort.request(messages),
        read=lambda answer: _files(answer, wish.language),
        examine=examiner,
        num_candidates=effort.candidates,
        repairs=known.repairs,
        compare=compare,
    )
    best = await search.best()
    await examiner.keep(best.files)
    verdict, notes = _verdict(best, checks, has_bench=bench is not None)
    if verdict == "unverified" and search.agreed:
        verdict = "plausible"
    receipts = best.outcome.receipts
    tests = [file.path for file in best.files if is_test(file.path)]
    if bench and tests and not best.outcome.is_broken:
        ran = await bench.run_tests(tests)
        receipts = (*receipts, ran.receipt)
        if verdict == "unverified":
            verdict = "plausible" if ran.passed else "failed"
        failed = f"; {failure_of(ran.failures[0])}" if ran.failures else ""
        notes.append(f"its own tests: {ran.summary}{failed}")
    return Solution(
        files=best.files,
        verdict=verdict,
        receipts=receipts,
        findings=best.outcome.findings,
        usage=search.usage,
        text=best.reply.content,
        notes=(*notes, *search.notes),
        num_candidates=len(search.candidates),
        chosen=best.number,
    )


def _files(answer: str, language: str | None) -> list[CodeFile]:
    files, _ = files_in(answer, language)
    if not files:
        raise EditError("the answer has no fenced block with a file")
    return files


def _verdict(best: Candidate, checks: Checks, *, has_bench: bool) -> tuple[Verdict, list[str]]:
    outcome = best.outcome
    if outcome.is_broken or outcome.failure:
        return "failed", [outcome.failure]
    if not has_bench:
        return "unverified", [NOTHING_RUN]
    if outcome.passed:
        return "verified", [f"passes {outcome.num_passed} checks that it has not written"]
    return "unverified", [] if checks else ["there was nothing to check it by: give tests, commands or examples"]
