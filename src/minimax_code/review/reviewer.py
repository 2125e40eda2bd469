"""Reviews a change: facts of both sides, a model's findings that were tried, fixes and tests that were tried."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minimax_code.errors import InputError, ModelError, WorkspaceError
from minimax_code.model import Model
from minimax_code.review.change import read_change
from minimax_code.review.config import ReviewConfig, read_config
from minimax_code.review.facts import gather
from minimax_code.review.fixes import Fixer
from minimax_code.review.issue import ranked
from minimax_code.review.opinions import Opinions, gather_opinions
from minimax_code.review.repository import Repository, split_range
from minimax_code.review.result import Review, comments_of
from minimax_code.skills.calibration import calibrate, default_cache
from minimax_code.skills.effort import Effort
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.coverage import ChangedLines
from minimax_code.workbench.files import CodeFile, read_inside
from minimax_code.workbench.interpreter import python_of
from minimax_code.workbench.sandbox import Sandbox, find_sandbox


async def review_range(
    folder: Path,
    commits: str,
    config: Mapping[str, Any] | ReviewConfig | None = None,
    *,
    model: Model | None = None,
    effort: Effort | None = None,
    sandbox: Sandbox | None = None,
    python: str | None = None,
) -> Review:
    """Reviews BASE..HEAD of a local repository, as a pull request would show it. The repository is only read.

    Args:
        config: as `ReviewConfig` has it.
        model: what reads the change beside analysers and tests; None: nothing does, nor with `facts_only`.
        effort: what it may be asked, and how it is best asked; by default as its calibration says, which is made where
            the user's cache has none of a model of this name.
        python: the interpreter that has what the project needs; by default the repository's `.venv`, or this one.

    Raises:
        InputError: the configuration or the commits are wrong.
        WorkspaceError: the repository can't be read.
        SandboxError: no sandbox can be had.
        ModelError: the model can't be reached.
    """
    base, head = split_range(commits)
    repository = Repository(folder)
    python = python_of(folder, python)
    return await review_commits(
        repository, base, head, config, model=model, effort=effort, sandbox=sandbox, python=python
    )


async def review_commits(
    repository: Repository,
    base: str,
    head: str,
    config: Mapping[str, Any] | ReviewConfig | None = None,
    *,
    model: Model | None = None,
    effort: Effort | None = None,
    sandbox: Sandbox | None = None,
    python: str | None = None,
) -> Review:
    """Reviews what `head` has changed since it left `base`; see `review_range`."""
    config = read_config(config)
    model = None if config.facts_only else model
    head = await repository.commit(head)
    base = await repository.merge_base(await repository.commit(base), head)
    python = python or sys.executable
    sandbox = sandbox or find_sandbox(python=python)
    asked = effort or (await _known(model) if model else Effort())
    if config.documents:
        _check_reader(config.documents, model, asked)
    async with repository.checkout(base) as before, repository.checkout(head) as after:
        old, new = Workbench(before, sandbox, python=python), Workbench(after, sandbox, python=python)
        change = read_change(before.base, after.base, await after.diff(before.base, after.base))
        standards = [_document(name, old) for name in config.documents]
        facts = await gather(old, new, change, config)
        opinions = Opinions()
        if model:
            opinions = await gather_opinions(model, old, new, change, facts, asked, standards)
        issues = ranked([*facts.issues, *opinions.issues])
        fixer = Fixer(new, change, config, facts, model, asked)
        fixes = await fixer.fix(issues) if config.auto_fix else ()
        tests = await fixer.test() if config.auto_test else ()
        return Review(
            base=base,
            head=head,
            files=facts.read,
            unread=facts.unread,
            issues=issues,
            comments=comments_of(issues, change, config),
            auto_fixes=fixes,
            auto_tests=tests,
            test_summary=facts.test_summary,
            coverage=facts.coverage.percent if facts.coverage else None,
            uncovered=_uncovered(facts.coverage),
            min_coverage=config.min_coverage,
            receipts=(*facts.receipts, *opinions.receipts),
            notes=(*facts.notes, *opinions.notes, *fixer.notes),
            dropped=opinions.dropped,
            usage=opinions.usage + fixer.usage,
            model=model.name if model else None,
            read_by_model=opinions.read,
        )


async def _known(model: Model) -> Effort:
    """How a model is best asked. One that isn't there is told of before tests run for minutes."""
    try:
        await model.abilities()
        return Effort(calibration=await calibrate(model, default_cache()))
    except ModelError as error:
        raise ModelError(f"{error}; start its server, or review by facts alone (--facts-only, facts_only)") from error


def _check_reader(documents: Sequence[str], model: Model | None, effort: Effort) -> None:
    """That somebody reads these standards: analysers don't."""
    if model and effort.known.judges:
        return
    why = f"{model.name} can't judge, by its calibration" if model else "there is none"
    raise InputError(
        "config.standards",
        f"{', '.join(documents)} would be read by nobody: that takes a model, and {why}; leave it out",
    )


def _document(name: str, base: Workbench) -> CodeFile:
    """A standard as the base has it: a change doesn't write the rules that it is held to."""
    try:
        content = read_inside(base.workspace.path, name)
    except WorkspaceError as error:
        raise InputError("config.standards", f"{name} is no file that the base of the change has") from error
    return CodeFile(name, content.decode(errors="replace"))


def _uncovered(coverage: ChangedLines | None) -> dict[str, tuple[int, ...]]:
    missing = coverage.missing if coverage else {}
    return {path: tuple(sorted(lines)) for path, lines in missing.items() if lines}
