"""Fixes of what a review has found, each tried: kept only where the issue is gone and nothing got worse."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from minimax_code.review.change import Change
from minimax_code.review.config import ReviewConfig
from minimax_code.review.facts import Facts
from minimax_code.review.issue import ReviewIssue
from minimax_code.review.result import Patch
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

    def __init__(self, head: Workbench, change: Change, config: ReviewConfig, facts: Facts) -> None:
        self._head, self._change, self._config, self._facts = head, change, config, facts
        self.notes: list[str] = []

    async def fix(self, issues: Sequence[ReviewIssue]) -> tuple[Patch, ...]:
        """The fixes that are kept, in their order.

        Raises:
            SandboxError: the sandbox can't be started.
        """
        by_rule: dict[tuple[str, str], list[ReviewIssue]] = {}
        for issue in issues:
            if issue.rule.startswith("ruff:") and issue.suggestion:
                by_rule.setdefault((issue.file, issue.rule.removeprefix("ruff:")), []).append(issue)
        if not by_rule:
            return ()
        patches: list[Patch] = []
        async with self._head.copy() as copy:
            state = await self._state(copy)
            for (path, rule), own in list(by_rule.items())[:_MAX_FIXES]:
                title = f"{path}: {own[0].suggestion} ({rule})"
                kept = await self._try(copy, state, own, title, _ruff(copy, path, rule))
                if kept is not None:
                    patch, state = kept
                    patches.append(patch)
        return tuple(patches)

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
        kinds = Counter((issue.file, issue.rule) for issue in issues)
        if any(before.findings[kind] - after.findings[kind] < count for kind, count in kinds.items()):
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
