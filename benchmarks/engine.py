"""Prefill and decode speed of the default model, dense and sparse, against llama.cpp on the same GGUF file.

    python -m benchmarks.engine [--contexts 512 2048 8192] [--repeats 3]

Every figure is a median over repeats, and the engines take turns inside one repeat, so that a drift of the machine
hits all alike. First a gate: the greedy tokens of the fp32 engine and of its reference kernels must be the same, else
no speed is printed. llama.cpp takes part when `llama-cpp-python` is installed: 2 threads, flash attention, its default
f16 cache. Limits: decode reads every weight once per token, so bytes of weights over the bandwidth of memory bound
it; prefill is bound by matrix products.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe, save, spread
from openm3 import hub
from openm3.config import EngineConfig
from openm3.engine.llm import LLM
from openm3.engine.output import Delta
from openm3.engine.params import SamplingParams

DECODED = 32
Engine = Callable[[list[int]], tuple[float, float]]  # prompt -> prefill and decode tokens/s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 2048, 8192 - DECODED])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    path = hub.pull("default")
    gate(path)

    started = time.perf_counter()
    dense = LLM(path)
    load_s = time.perf_counter() - started
    engines: dict[str, Engine] = {
        "dense": lambda prompt: ours(dense, prompt),
        "sparse": lambda prompt: ours(sparse, prompt),
    }
    sparse = LLM(path, EngineConfig(attention="sparse"))
    if (peer := llama_cpp(path, max(options.contexts) + DECODED)) is not None:
        engines["llama.cpp"] = peer

    figures: dict[str, Any] = {}
    for context in options.contexts:
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
        prompt = text_tokens(dense, context)
        for _, (name, engine) in itertools.product(range(options.repeats), engines.items()):
            runs[name].append(engine(prompt))
        figures[str(context)] = {
            name: {"prefill": spread([p for p, _ in speeds]), "decode": spread([d for _, d in speeds])}
            for name, speeds in runs.items()
        }
    weight_bytes = sum(2 * p.numel() for p in dense.engine.runner.decoder.parameters()) + packed_bytes(dense)
    report = {
        "benchmark": "engine",
        "machine": describe(),
        "model": dense.name,
        "backend": dense.engine.runner.backend,
        "load_s": round(load_s, 2),
        "weight_mb": round(weight_bytes / 1e6),
        "read_gbps": round(read_bandwidth(), 1),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "tokens_per_s": figures,
    }
    save("engine", report, table(report))


def gate(path: Path) -> None:
    """Refuses to go on when the kernels and their reference disagree."""
    params = SamplingParams(max_tokens=16, ignore_eos=True)
    answers = {}
    for backend in (None, "reference"):
        llm = LLM(path, EngineConfig(dtype="float32", attention="sparse", backend=backend))
        answers[backend] = llm.generate(["def quicksort(items):"], params)[0].token_ids
    if answers[None] != answers["reference"]:
        raise SystemExit("gate: the engine and its reference kernels gave different tokens; no speed is printed")


def ours(llm: LLM, prompt: list[int]) -> tuple[float, float]:
    request, events = llm.stream(prompt, SamplingParams(max_tokens=DECODED, ignore_eos=True))
    times = [time.perf_counter() for event in events if isinstance(event, Delta)]
    return len(prompt) / request.stats().read_s, (DECODED - 1) / (times[-1] - times[0])


def llama_cpp(path: Path, window: int) -> Engine | None:
    """llama.cpp through its Python binding, without sampling; None when it is not installed."""
    try:
        from llama_cpp import Llama
    except ImportError:
        return None
    threads = torch.get_num_threads()
    llama = Llama(
        str(path), n_ctx=window, n_threads=threads, n_threads_batch=threads, n_batch=512, flash_attn=True, verbose=False
    )

    def run(prompt: list[int]) -> tuple[float, float]:
        llama.reset()
        started = time.perf_counter()
        llama.eval(prompt)
        read = time.perf_counter()
        for token in prompt[1:DECODED]:
            llama.eval([token])
        return len(prompt) / (read - started), (DECODED - 1) / (time.perf_counter() - read)

    return run


def text_tokens(llm: LLM, count: int) -> list[int]:
    """Tokens of real Python source: the standard library's."""
    text = "".join(file.read_text(encoding="utf-8") for file in sorted(Path(argparse.__file__).parent.glob("a*.py")))
    ids = llm.encode(text)
    assert len(ids) >= count, "the standard library is too short for this context"
    return ids[:count]


def packed_bytes(llm: LLM) -> int:
    """Bytes of the matrices that one token's pass reads, apart from those still held as parameters."""
    config = llm.model_config
    attention = config.hidden_size * config.head_dim * 2 * (config.num_attention_heads + config.num_key_value_heads)
    return 2 * config.num_hidden_layers * (attention + 3 * config.hidden_size * config.intermediate_size)


def read_bandwidth() -> float:
    """GB/s of summing 1 GB that was really written."""
    data = torch.ones(1 << 27, dtype=torch.int64)
    samples = []
    for _ in range(5):
        started = time.perf_counter()
        data.sum()
        samples.append(data.nbytes / (time.perf_counter() - started) / 1e9)
    return max(samples)


def table(report: dict[str, Any]) -> str:
    bound = report["read_gbps"] * 1e3 / report["weight_mb"]
    lines = [
        f"{report['model']}, {report['backend']} kernels; loaded in {report['load_s']} s, "
        f"peak {report['peak_rss_mb']} MB",
        f"memory reads at {report['read_gbps']} GB/s and {report['weight_mb']} MB of weights: "
        f"decode is bound by {bound:.0f} tokens/s",
        "",
        "| context | engine | prefill tokens/s (least to most) | decode tokens/s (least to most) | against llama.cpp |",
        "|---|---|---|---|---|",
    ]
    for context, engines in report["tokens_per_s"].items():
        peer = engines.get("llama.cpp")
        for name, speed in engines.items():
            prefill, decode = speed["prefill"], speed["decode"]
            against = ""
            if peer and name != "llama.cpp":
                ratios = (speed[kind]["median"] / peer[kind]["median"] for kind in ("prefill", "decode"))
                against = "{:.2f}x, {:.2f}x".format(*ratios)
            lines.append(
                f"| {context} | {name} | {prefill['median']:.0f} ({prefill['min']:.0f} to {prefill['max']:.0f}) "
                f"| {decode['median']:.1f} ({decode['min']:.1f} to {decode['max']:.1f}) | {against} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
