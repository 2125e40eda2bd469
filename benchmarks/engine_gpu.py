"""The default model on this GPU: tokens per second of reading and writing, dense and sparse, at long contexts.

    python -m benchmarks.engine_gpu [--model PATH] [--contexts 8192 65536 524288 1048576] [--out FOLDER]

A gate comes first: the first greedy tokens of the fp32 engine are the same on the CPU and the GPU, dense and sparse.
Contexts beyond the model's trained window are read with clamped distances by sparse attention; what dense attention
answers there means nothing, and it is left out above --dense-up-to. Up to there each length is read once before it is
timed. A decode step is the median of 31, as the first of a width is recorded. The shortest context is also measured
without recorded decode steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import RESULTS, describe, save
from openm3.config import EngineConfig
from openm3.engine.llm import LLM
from openm3.engine.output import Delta
from openm3.engine.params import SamplingParams

DECODED = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--contexts", type=int, nargs="+", default=[8192, 65536, 524288, 1048576])
    parser.add_argument("--dense-up-to", type=int, default=65536)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    gate(options.model)
    figures: dict[str, Any] = {}
    for attention in ("dense", "sparse"):
        llm = LLM(options.model, config(attention, max(options.contexts) + DECODED))
        run(llm, source_tokens(llm, 2 * llm.config.prefill_chunk + 300))
        for context in options.contexts:
            if context <= options.dense_up_to:
                run(llm, source_tokens(llm, context + 1)[1:])  # compiles what this length needs; nothing of it is kept
            if attention == "sparse" or context <= options.dense_up_to:
                figures.setdefault(str(context), {})[attention] = run(llm, source_tokens(llm, context))
                print(context, attention, figures[str(context)][attention], flush=True)
        del llm
        torch.cuda.empty_cache()
        shortest = min(options.contexts)
        llm = LLM(options.model, config(attention, shortest + DECODED, graphs=False))
        run(llm, source_tokens(llm, shortest + 1)[1:])
        figures[str(shortest)][f"{attention}, no graphs"] = run(llm, source_tokens(llm, shortest))
        del llm
        torch.cuda.empty_cache()
    report = {
        "benchmark": "engine_gpu",
        "machine": describe(),
        "gpu": torch.cuda.get_device_name(),
        "model": Path(options.model).stem,
        "figures": figures,
    }
    save("engine-gpu", report, table(report), options.out)


def config(attention: Any, window: int, graphs: bool = True) -> EngineConfig:
    return EngineConfig(
        attention=attention,
        device="cuda",
        cuda_graphs=graphs,
        max_context=window,
        prefill_chunk=8192,
        max_batch_tokens=16384,
    )


def gate(model: str) -> None:
    """Ends the program when the GPU writes other tokens than the CPU."""
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    for attention in ("dense", "sparse"):
        answers = []
        for device in ("cpu", "cuda"):
            llm = LLM(model, EngineConfig(dtype="float32", attention=attention, device=device))  # type: ignore[arg-type]
            prompt = source_tokens(llm, 3000)
            answers.append(llm.generate([prompt, "def quicksort(items):"], params))
        ours, expected = ([answer.token_ids for answer in some] for some in reversed(answers))
        if ours != expected:
            raise SystemExit(f"gate: {attention} on the GPU wrote {ours}, on the CPU {expected}; no speed is printed")


def run(llm: LLM, prompt: list[int]) -> dict[str, float]:
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    request, events = llm.stream(prompt, SamplingParams(max_tokens=DECODED, ignore_eos=True))
    times = [time.perf_counter() for event in events if isinstance(event, Delta)]
    read_s, steps = request.stats().read_s, [after - before for before, after in pairwise(times)]
    return {
        "read_tokens_per_s": len(prompt) / read_s,
        "read_s": read_s,
        "written_tokens_per_s": 1 / statistics.median(steps),
        "slowest_step_s": max(steps),
        "whole_s": time.perf_counter() - started,
        "peak_gib": torch.cuda.max_memory_allocated() / (1 << 30),
    }


def source_tokens(llm: LLM, count: int) -> list[int]:
    """Tokens of real Python source, the standard library's, from its start again where it is too short."""
    ids: list[int] = []
    files = sorted(Path(argparse.__file__).parent.glob("*.py"))
    for file in files:
        if len(ids) >= count:
            break
        ids += llm.encode(file.read_text(encoding="utf-8", errors="replace"))
    return (ids * (count // len(ids) + 1))[:count]


def table(report: dict[str, Any]) -> str:
    lines = [
        f"{report['model']} on {report['gpu']}, bf16.",
        "",
        "| context | attention | reads tokens/s | writes tokens/s | slowest step s | whole answer s | peak GiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for context, rows in report["figures"].items():
        for attention, x in rows.items():
            lines.append(
                f"| {int(context):,} | {attention} | {x['read_tokens_per_s']:,.0f} "
                f"| {x['written_tokens_per_s']:.0f} | {x['slowest_step_s']:.2f} | {x['whole_s']:.1f} "
                f"| {x['peak_gib']:.1f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
