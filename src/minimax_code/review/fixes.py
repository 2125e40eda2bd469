"""Fixes of what a review has found, and tests of changed lines, each tried: kept only where that makes it better."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from minimax_code.model import Model, Usage
from minimax_code.review.change import Change
from minimax_code.review.config import ReviewConfig
from minimax_code.review.facts import Facts
from minimax_code.review.issue import ReviewIssue
from minimax_code.review.result import Patch
from minimax_code.skills.change import fix
from minimax_code.skills.effort import Effort
from minimax_code.skills.sources import files_of
from minimax_code.skills.write_tests import write_tests
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.receipt import Receipt
from minimax_code.workbench.running import Limits

_MAX_FIXES = 20


@dataclass(frozen=True, kw_only=True)
class _State:
    """What is known of the files at a moment: findings by kind, and tests that don't pass."""

    findings: Counter[tuple[str, str]]
    failing: frozenset[str]
    receipts: tuple[Receipt, ...]


class Fixer:
    """Makes fixes on a copy of the head, one on top of the other.

    Attributes:
        notes: fixes that weren't kept, and why.
    """

    def __init__(
        self,
        head: Workbench,
        change: Change,
        config: ReviewConfig,
        facts: Facts,
        model: Model | None = None,
        effort: Effort | None = None,
    ) -> None:
        self._head, self._change, self._config, self._facts = head, change, config, facts
        self._model, self._effort = model, effort or Effort()
        self.notes: list[str] = []
        self.usage = Usage()

    async def fix(self, issues: Sequence[ReviewIssue]) -> tuple[Patch, ...]:
        """The fixes that are kept, in their order: ruff's own, and a model's for what fails or no tool mends.

        Raises:
            ModelError, SandboxError: there is no answer, or the sandbox can't be started.
        """
        groups: dict[tuple[str, str], list[ReviewIssue]] = {}
        for issue in issues:
            if self._model or (issue.rule.startswith("ruff:") and issue.suggestion):
                groups.setdefault((issue.file, issue.rule), []).append(issue)
        if not groups:
            return ()
        patches: list[Patch] = []
        async with self._head.copy() as copy:
            state = await self._state(copy)
            for (path, rule), own in list(groups.items())[:_MAX_FIXES]:
                if rule.startswith("ruff:") and own[0].suggestion:
                    title = f"{path}: {own[0].suggestion} ({rule.removeprefix('ruff:')})"
                    change = _ruff(copy, path, rule.removeprefix("ruff:"))
                elif own[0].severity != "low":
                    title = f"{path}: {own[0].message.splitlines()[0][:60]}"
                    change = self._by_model(copy, own)
                else:
                    continue
                kept = await self._try(copy, state, own, title, change)
                if kept is not None:
                    patch, state = kept
                    patches.append(patch)
        return tuple(patches)

    async def test(self) -> tuple[Patch, ...]:
        """Tests of changed lines that no test runs, a commit for each file; kept where they notice wrong changes.

        Raises:
            ModelError, SandboxError: there is no answer, or the sandbox can't be started.
        """
        missing = self._facts.coverage.missing if self._facts.coverage else {}
        bare = [path for path, lines in missing.items() if lines and path.endswith(".py")]
        if bare and not self._model:
            self.notes.append("No tests were written: that takes a model.")
        if not bare or not self._model:
            return ()
        patches: list[Patch] = []
        async with self._head.copy() as copy:
            for path in bare:
                tree = await copy.workspace.snapshot()
                written = await write_tests(self._model, copy, files_of(copy, [path]), effort=self._effort)
                self.usage += written.usage
                new_tree = await copy.workspace.snapshot()
                runs, _ = await copy.coverage({path: missing[path]})
                if written.verdict != "verified" or not runs.covered.get(path):
                    why = "; ".join(written.notes) or "they run none of the changed lines"
                    self.notes.append(f"Tests of {path} were written and not kept: {why}.")
                    await copy.workspace.restore(tree)
                    continue
                title = f"{path}: tests of {len(runs.covered[path])} changed lines"
                patch = (await copy.workspace.patch(tree, new_tree)).decode(errors="surrogateescape")
                patches.append(Patch(title=title, patch=patch, receipts=written.receipts))
        return tuple(patches)

    def _by_model(self, copy: Workbench, issues: Sequence[ReviewIssue]) -> Callable[[], Awaitable[None]]:
        problem = "\n".join(f"{one.file}:{one.line}: {one.message}\n{one.details}".strip() for one in issues)

        async def run() -> None:
            assert self._model is not None
            solution = await fix(self._model, copy, problem, paths=[issues[0].file], effort=self._effort)
            self.usage += solution.usage

        return run

    async def _try(
        self,
        copy: Workbench,
        before: _State,
        issues: Sequence[ReviewIssue],
        title: str,
        change: Callable[[], Awaitable[None]],
    ) -> tuple[Patch, _State] | None:
        tree = await copy.workspace.snapshot()
        await change()
        new_tree = await copy.workspace.snapshot()
        after = await self._state(copy)
        if why := self._why_not(issues, before, after, changed=new_tree != tree):
            self.notes.append(f"A fix was tried and not kept ({title}): {why}.")
            await copy.workspace.restore(tree)
            return None
        patch = (await copy.workspace.patch(tree, new_tree)).decode(errors="surrogateescape")
        prints = tuple(issue.fingerprint for issue in issues)
        return Patch(title=title, patch=patch, fingerprints=prints, receipts=after.receipts), after

    def _why_not(self, issues: Sequence[ReviewIssue], before: _State, after: _State, *, changed: bool) -> str:
        """Why a fix isn't kept, or ""."""
        if not changed:
            return "it changes nothing"
        if worse := after.findings - before.findings:
            return f"it brings {next(iter(worse))[1]}"
        if new := after.failing - before.failing:
            return f"it breaks {min(new)}"
        kinds = Counter((issue.file, issue.rule) for issue in issues if issue.evidence == "tool")
        there = any(before.findings[kind] - after.findings[kind] < count for kind, count in kinds.items())
        if there or (not kinds and not before.failing - after.failing):
            return "the issue is still there"
        return ""

    async def _state(self, copy: Workbench) -> _State:
        found = await copy.analyse(self._facts.read, self._config.named)
        limits = Limits(seconds=self._config.test_seconds)
        runs = [await copy.run_tests(suite=run.suite, limits=limits) for run in self._facts.head_runs]
        broken = {run.suite for run in runs if run.problem}
        return _State(
            findings=Counter((issue.file, issue.rule) for issue in found.issues),
            failing=frozenset(case.name for run in runs for case in run.failures) | broken,
            receipts=(*found.receipts, *(run.receipt for run in runs)),
        )


def _ruff(copy: Workbench, path: str, rule: str) -> Callable[[], Awaitable[None]]:
    """ruff's own fix of one rule in one file, where it is sure of it."""

    async def run() -> None:
        ruff = [sys.executable, "-I", "-m", "ruff", "check", "--isolated", "--no-cache", "--quiet", "--fix"]
        await copy.run([*ruff, f"--select={rule}", f"./{path}"])

    return run
