"""The judge of the benchmark of code: right answers pass, and nothing else does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from minimax_code.workbench.sandbox import find_sandbox


def test_references_pass_and_cheats_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))  # benchmarks are not installed
    from benchmarks.code_humaneval import CHEATS, problems, score

    sandbox = find_sandbox()
    every = {one.name: one for one in problems()}
    assert len(every) == 164
    # Functions of the problem in its checks, numbers, text.
    chosen = [every[f"HumanEval/{number}"] for number in (32, 39, 50)]
    assert asyncio.run(score(sandbox, [(one, one.reference) for one in chosen])) == [True] * 3
    assert not any(asyncio.run(score(sandbox, [(chosen[1], answer) for answer in ("", *CHEATS.values())])))
