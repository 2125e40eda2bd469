"""Evidence as one HTML page that needs nothing else: the prompt as a strip of blocks, and the answer beside it."""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from openm3.context.evidence import Evidence, Reference

_MOST_READS = 40  # blocks that are told of one token
_LEAST_READ = 1e-4


def evidence_page(evidence: Evidence, *, title: str, about: str) -> str:
    """The page. Texts are data in it, never markup or code: files and answers are hostile.

    Args:
        evidence: of one answer.
        title: what was asked.
        about: the model, and whatever else there is to say.
    """
    observed, num_tokens = evidence.observed, len(evidence.output_ids)
    mass_TB = observed.mass_TB(num_tokens)
    blocks = [observed.reference(block, 0.0, 0.0) for block in range(mass_TB.shape[1])]
    data = {
        "title": title,
        "about": f"{about} {observed.sources.num_tokens:,} tokens in {len(blocks):,} blocks of {observed.block_size}.",
        "blocks": [{"name": f"{block}", "text": block.text} for block in blocks],
        "tokens": [
            {"text": text, "reads": _reads(lift_B, mass_B)}
            for text, lift_B, mass_B in zip(
                _texts(observed.pieces(evidence.output_ids)), observed.lift_TB(mass_TB), mass_TB, strict=True
            )
        ],
        "references": [
            {"block": each.start // observed.block_size, "weight": each.weight, "sentence": _sentence(evidence, each)}
            for each in evidence.references()
        ],
    }
    template = resources.files("openm3.context").joinpath("evidence.html").read_text(encoding="utf-8")
    # Inside of a script only "<" could end it.
    written = json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    before, after = template.split("/*DATA*/")
    return before + written + after


def _reads(lift_B: Any, mass_B: Any) -> list[tuple[int, float, float]]:
    """Block, what stands out of it, and its mass, of the blocks with the most of either."""
    best = {*np.argsort(-lift_B)[:_MOST_READS].tolist(), *np.argsort(-mass_B)[:_MOST_READS].tolist()}
    noticed = sorted(block for block in best if mass_B[block] >= _LEAST_READ)
    return [(block, round(float(lift_B[block]), 5), round(float(mass_B[block]), 5)) for block in noticed]


def _texts(pieces: Sequence[bytes]) -> list[str]:
    """The text of each token; a character of several tokens is the last one's."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(piece, final=i == len(pieces) - 1) for i, piece in enumerate(pieces)]


def _sentence(evidence: Evidence, reference: Reference) -> str:
    """The sentence that a reference belongs to."""
    return next(sentence.text for sentence in evidence.sentences if reference in sentence.references)
