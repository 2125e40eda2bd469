"""What reading few blocks costs: NLL of held-out text, dense against the chosen blocks and against the last ones.

    python -m benchmarks.quality [--tokens 8192] [--blocks 8]

The text is Python source of the standard library. NLL (natural log, mean) is that of the second half of the window,
where a query sees 32 to 64 blocks of 128 and the sparse model reads 8 of them. "last" reads the query's own block and
the ones just before it: what a sliding window of the same budget would cost.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe, save
from openm3 import hub
from openm3.config import EngineConfig, SparseConfig
from openm3.engine.llm import LLM
from openm3.kernels.paged import PagedBatch
from openm3.model.batch import Batch

SOURCES = ("json/decoder.py", "dataclasses.py", "tokenize.py", "textwrap.py", "shlex.py", "string.py", "ast.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--blocks", type=int, default=8)
    options = parser.parse_args()
    path = hub.pull("default")
    forms = {
        "dense": EngineConfig(),
        "chosen": EngineConfig(attention="sparse", sparse=SparseConfig(index_topk_blocks=options.blocks)),
        "last": EngineConfig(
            attention="sparse",
            sparse=SparseConfig(index_topk_blocks=options.blocks, index_local_blocks=options.blocks),
        ),
    }
    nll = {name: second_half_nll(LLM(path, config), options.tokens) for name, config in forms.items()}
    report: dict[str, Any] = {
        "benchmark": "quality",
        "machine": describe(),
        "tokens": options.tokens,
        "blocks": options.blocks,
        "nll": {name: round(value, 4) for name, value in nll.items()},
    }
    rows = [f"| {name} | {value:.4f} | {value / nll['dense']:.3f} |" for name, value in nll.items()]
    head = (
        f"{options.tokens} tokens of Python, {options.blocks} blocks of 128 a query, selection by the model's own keys"
    )
    save("quality", report, "\n".join([head, "", "| blocks | NLL | of dense |", "|---|---|---|", *rows]))


@torch.inference_mode()
def second_half_nll(llm: LLM, count: int) -> float:
    """Mean negative log likelihood of tokens count/2 to count - 1, each given all before it."""
    library = Path(json.__file__).parents[1]
    ids = llm.encode("\n".join((library / name).read_text(encoding="utf-8") for name in SOURCES))[:count]
    assert len(ids) == count, "the sources are too short"
    runner, page_size, total = llm.engine.runner, llm.config.sparse.index_block_size, 0.0
    pages = list(range(-(-count // page_size)))
    for start in range(0, count, llm.config.prefill_chunk):
        stop = min(start + llm.config.prefill_chunk, count)
        paged = PagedBatch.build([stop - start], [stop], [pages], page_size)
        scored = range(max(start, count // 2 - 1), min(stop, count - 1))  # positions whose next token counts
        rows = torch.tensor([position - start for position in scored] or [0])
        logits = runner.run(Batch(torch.tensor(ids[start:stop]), paged, rows))
        if scored:
            targets = torch.tensor(ids[scored.start + 1 : scored.stop + 1])
            total += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
    return total / (count - count // 2)


if __name__ == "__main__":
    main()
