"""The page is data in a fixed frame, however hostile the texts are."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from openm3.context.evidence import Evidence, Observed
from openm3.context.evidence_page import evidence_page
from openm3.context.sources import Passage, SourceMap

BLOCK = 16
EVIL = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> /*DATA*/\u2028 "


def evidence(file: str, answer: str, path: str = "a.txt") -> Evidence:
    """An answer of bytes whose first token read block 2 more than all others."""
    ids = list(file.encode())
    observed = Observed(SourceMap(ids, lambda token: bytes([token]), [Passage(file, path)]), BLOCK)
    for i in range(len(answer.encode())):
        mass_B = np.full(-(-len(ids) // BLOCK), 0.01, np.float32)
        mass_B[2] += 0.5 * (i == 0)
        observed.add(mass_B)
    return observed.evidence(list(answer.encode()))


def data_of(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_page_holds_blocks_tokens_and_references() -> None:
    file = "".join(f"a line number {i}\n" for i in range(20))
    data = data_of(evidence_page(evidence(file, "Zoë."), title="Who?", about="tiny."))
    assert "".join(block["text"] for block in data["blocks"]) == file
    assert [token["text"] for token in data["tokens"]] == ["Z", "o", "", "ë", "."]
    first, *others = data["tokens"]
    assert max(first["reads"], key=lambda read: read[1])[0] == 2
    assert all(lift == 0 for token in others for _, lift, _ in token["reads"])
    assert [(each["block"], each["sentence"]) for each in data["references"]] == [(2, "Zoë.")]
    assert data["title"] == "Who?" and str(data["about"]).startswith("tiny. ")


def test_hostile_texts_stay_data() -> None:
    plain = evidence_page(evidence("quiet " * 40, "fine."), title="?", about="tiny.")
    page = evidence_page(evidence(EVIL * 5, EVIL, EVIL), title=EVIL, about=EVIL)
    for mark in ("<script", "</script", "<img", "<!--"):
        assert page.count(mark) == plain.count(mark), mark
    assert data_of(page)["title"] == EVIL


def test_nothing_is_fetched() -> None:
    page = evidence_page(evidence("quiet " * 40, "fine."), title="?", about="tiny.")
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|//[a-z]+\.|url\(|@import|\bsrc=|fetch\(", page)
