"""Recorded decode steps: the same tokens as steps that are launched one by one.

On a CPU a step is "recorded" by keeping the call: it reads and writes the same memory as a graph would.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.paged_case import DEVICE
from helpers.tiny_m3 import write_tiny_m3
from openm3.config import EngineConfig, SparseConfig
from openm3.engine.graphs import DecodeGraphs
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams
from openm3.kernels.backend import BACKENDS
from openm3.kernels.paged import PagedBatch
from openm3.model.batch import Batch
from openm3.model.watch import Watch

pytestmark = [
    pytest.mark.skipif("triton" not in BACKENDS, reason="triton is not installed"),
    pytest.mark.filterwarnings("ignore:All-NaN slice", "ignore:invalid value", "ignore:overflow", "ignore:divide"),
]

PROMPTS = ["def quicksort(items):", "import os", "x = 1"]


def answers(path: Path, config: EngineConfig, *, graphs: bool) -> list[list[int]]:
    """The tokens of each answer; with `graphs` every decode step must have come from one."""
    llm = LLM(path, config)
    runner = llm.engine.runner
    if graphs and DEVICE == "cpu":
        runner.graphs = DecodeGraphs(runner.decoder, runner.cache, 16, record=lambda compute: compute)
    tokens = 12 if DEVICE == "cuda" else 2
    results = llm.generate(PROMPTS, SamplingParams(max_tokens=tokens, ignore_eos=True))
    assert (runner.graphs is not None) == graphs
    if runner.graphs is not None:
        assert (3, 64) in runner.graphs.sizes, "three sequences, few pages"
    return [answer.token_ids for answer in results]


def config(attention: str, graphs: bool, index: str = "auto") -> EngineConfig:
    return EngineConfig(
        attention=attention,  # type: ignore[arg-type]
        sparse=SparseConfig(index_block_size=16, index_topk_blocks=2),
        index=index,  # type: ignore[arg-type]
        dtype="float32",
        device=DEVICE,  # type: ignore[arg-type]
        backend="triton",
        cuda_graphs=graphs,
        max_context=256,
        cache_bytes=1 << 20,
    )


@pytest.mark.parametrize("index", ["exact", "int8"])
def test_the_same_tokens_sparse(tiny_model: Path, index: str) -> None:
    if index == "int8" and DEVICE == "cpu":
        pytest.skip("the interpreter is slow")
    with_and_without = [answers(tiny_model, config("sparse", on, index), graphs=on) for on in (True, False)]
    assert with_and_without[0] == with_and_without[1]


@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter is slow")
def test_the_same_tokens_dense_and_with_experts(tiny_model: Path, tmp_path: Path) -> None:
    m3 = write_tiny_m3(tmp_path / "m3")
    for path, attention in ((tiny_model, "dense"), (m3, "auto")):
        configs = [config(attention, on) for on in (True, False)]
        if attention == "auto":
            configs = [EngineConfig(dtype="float32", device="cuda", cuda_graphs=on) for on in (True, False)]
        assert answers(path, configs[0], graphs=True) == answers(path, configs[1], graphs=False)


@pytest.mark.parametrize(
    ("queries", "rows", "fits"), [([1, 1], [0, 1], True), ([1, 2], [0, 2], False), ([1, 1], [1], False)]
)
def test_which_steps_are_recorded(queries: list[int], rows: list[int], fits: bool) -> None:
    paged = PagedBatch.build(queries, [20, 30], [[0, 1], [2, 3]], 16)
    batch = Batch(torch.zeros(sum(queries), dtype=torch.int64), paged, torch.tensor(rows))
    assert DecodeGraphs.fits(batch) == fits
    assert not DecodeGraphs.fits(replace(batch, watch=Watch(torch.tensor([0]), batch.paged)))
