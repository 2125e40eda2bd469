"""What a skill hands back: files, what is known of them, and by which receipts."""

from __future__ import annotations

from typing import Literal

from minimax_code.model import Usage
from minimax_code.record import Record
from minimax_code.workbench.files import CodeFile
from minimax_code.workbench.findings import Findings
from minimax_code.workbench.receipt import Receipt

NOTHING_RUN = "nothing was run: there is no sandbox here"

Verdict = Literal["verified", "plausible", "failed", "unverified"]
"""How far an answer is proven; only what was run, or compared by code, says more than "unverified".

verified: checks that the model has not written pass on exactly these files.
plausible: it runs, and passes what the model has written itself or what was derived from the code as it was.
failed: a check fails on them.
unverified: nothing was run.
"""


class Solution(Record):
    """The outcome of a skill.

    Attributes:
        files: new and changed files, whole; the workspace holds the same.
        verdict: how far they are proven.
        receipts: of everything that was run on these files.
        findings: of analysers, where a skill asks them.
        usage: tokens of all requests, of candidates that were not chosen too.
        text: what the model said beside the files.
        notes: what a reader has to know: candidates and their fate, what was left out and why.
        num_candidates: how many answers were looked at.
        chosen: which of them this is, counted from 1; the first is the model's single answer.
    """

    files: tuple[CodeFile, ...] = ()
    verdict: Verdict = "unverified"
    receipts: tuple[Receipt, ...] = ()
    findings: Findings | None = None
    usage: Usage = Usage()
    text: str = ""
    notes: tuple[str, ...] = ()
    num_candidates: int = 1
    chosen: int = 1
