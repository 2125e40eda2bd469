"""The engine on the default model, dense and sparse, against llama.cpp on the same GGUF file.

    python -m benchmarks.engine [--sections speed crowd again overhead] [--contexts 2048 8192 32768] [--repeats 3]
                                [--index-branch FOLDER]

Every figure is a median over repeats. The engines take turns inside one repeat, in a random order, so that a drift of
the machine hits all alike; past the trained window there is one repeat. First a gate: greedy tokens of the fp32 engine
and of its reference kernels must be the same, and those of the file's own weights and of bf16 ones, else no speed is
printed.

- speed: prefill and decode of one request; drafts and the prefix cache are off. Past the trained window positions go on
  as in llama.cpp; "clamped" is what `openm3 ask` does there, and reads 3 times the blocks. "sparse" chooses blocks by
  the model's own keys, "branch" by the default model's index branch, or that of `--index-branch FOLDER`.
- crowd: 16 requests at once at 2,048 tokens each, different texts, against one.
- again: time to the first token of another question over the same context, against the first.
- overhead: what scheduler, batch, sampler and engine take of a decode step beside the network.

llama.cpp takes part when `llama-cpp-python` is installed: as many threads, flash attention, its default f16 cache.
Limits: a decode step reads every weight and all keys and values once (sparse: keys, and the chosen blocks), so bytes
over the bandwidth of memory bound it; prefill is bound by matrix products. Contexts on disk and spilled ones are in
`benchmarks/contexts.py`.
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.machine import describe, save, spread
from openm3 import hub
from openm3.config import EngineConfig
from openm3.engine.llm import LLM
from openm3.engine.output import Delta
from openm3.engine.params import SamplingParams
from openm3.model.cache import page_parts

SECTIONS = ("speed", "crowd", "again", "overhead")
DECODED = 32
CROWD, CROWD_TOKENS = 16, 2048
TRAINED = 8192
Engine = Callable[[list[int]], tuple[float, float]]  # prompt -> prefill and decode tokens/s
Kind = Literal["dense", "sparse", "branch"]
KINDS: dict[Kind, dict[str, Any]] = {
    "dense": {"attention": "dense"},
    "sparse": {"attention": "sparse", "index_branch": "none"},
    "branch": {"attention": "sparse"},
}
Extend = Literal["none", "clamped"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--contexts", type=int, nargs="+", default=[2048, TRAINED - DECODED, 32768])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--index-branch", default="auto", metavar="FOLDER")
    options = parser.parse_args()
    path = hub.pull("default")
    KINDS["branch"]["index_branch"] = options.index_branch
    if load(path, "branch", 1024).branch is None:
        del KINDS["branch"]
    gate(path)
    probe = load(path, "dense", 1024)
    report: dict[str, Any] = {
        "benchmark": "engine",
        "machine": describe(),
        "model": probe.name,
        "backend": probe.engine.runner.backend,
        "weights": probe.engine.runner.weights,
        "load_s": round(load_seconds(path), 2),
        "read_gbps": round(read_bandwidth(), 1),
        "product_gflops": round(product_rate()),
        "weight_mb": round(weight_bytes(probe) / 1e6, 1),
    }
    if "speed" in options.sections:
        report["speed"] = {str(n): speed(path, probe, n, options.repeats) for n in options.contexts}
    if "crowd" in options.sections:
        report["crowd"] = {kind: crowd(path, kind, options.repeats) for kind in KINDS}
    if "again" in options.sections:
        report["again"] = {kind: again(path, kind, max(options.contexts)) for kind in KINDS}
    if "overhead" in options.sections:
        report["overhead"] = {kind: overhead(path, kind) for kind in KINDS}
    report["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    save("engine", report, table(report))


def gate(path: Path) -> None:
    """Refuses to go on when kernels and reference disagree, or packed weights and bf16 ones."""
    params = SamplingParams(max_tokens=16, ignore_eos=True)
    prompts = ["def quicksort(items):", "The capital of France is"]

    def tokens(**options: Any) -> list[list[int]]:
        llm = LLM(path, EngineConfig(attention="sparse", speculation="off", **options))
        return [answer.token_ids for answer in llm.generate(prompts, params)]

    if tokens(dtype="float32") != tokens(dtype="float32", backend="reference"):
        raise SystemExit("gate: the engine and its reference kernels gave different tokens; no speed is printed")
    if tokens() != tokens(weights="bf16"):
        raise SystemExit("gate: packed weights and bf16 ones gave different tokens; no speed is printed")


def load(path: Path, kind: Kind, window: int, *, extend: Extend = "none", **options: Any) -> LLM:
    """An engine whose window is the trained one, or longer where it must be."""
    gc.collect()  # the cache of the one before
    window = max(window, TRAINED)
    options = {**KINDS[kind], **options}
    return LLM(path, EngineConfig(max_context=window, speculation="off", extend=extend, **options))


def load_seconds(path: Path) -> float:
    started = time.perf_counter()
    LLM(path)
    return time.perf_counter() - started


def speed(path: Path, probe: LLM, context: int, repeats: int) -> dict[str, Any]:
    """Prefill and decode tokens/s of each engine at one context, and what bounds ours."""
    window = context + DECODED
    prompt = text_tokens(probe, context)
    llms: dict[str, LLM] = {kind: load(path, kind, window, prefix_cache=False) for kind in KINDS}
    for kind in KINDS if window > TRAINED else ():
        if kind != "dense":
            llms[f"{kind}, clamped"] = load(path, kind, window, prefix_cache=False, extend="clamped")
    engines: dict[str, Engine] = {kind: lambda prompt, llm=llm: ours(llm, prompt) for kind, llm in llms.items()}
    if (peer := llama_cpp(path, window)) is not None:
        engines["llama.cpp"] = peer
    for engine in engines.values():
        engine(prompt[:600])  # warm
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for repeat in range(repeats if window <= TRAINED else 1):
        for name in random.Random(repeat).sample(sorted(engines), len(engines)):
            runs[name].append(engines[name](prompt))
    return {
        name: {
            "prefill": spread([p for p, _ in speeds]),
            "decode": spread([d for _, d in speeds]),
            **({"bytes": step_bytes(llms[name], context)} if name in llms else {}),
        }
        for name, speeds in runs.items()
    }


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


def crowd(path: Path, kind: Kind, repeats: int) -> dict[str, Any]:
    """Decode tokens/s of 16 requests together, and of one, by turns."""
    window = CROWD_TOKENS + 512
    pages = CROWD * (window // 128 + 1)
    llm = load(path, kind, window, prefix_cache=False, cache_bytes=pages * 128 * token_bytes())
    ids = text_tokens(llm, CROWD * CROWD_TOKENS)
    prompts = [ids[i * CROWD_TOKENS : (i + 1) * CROWD_TOKENS] for i in range(CROWD)]
    samples: dict[int, list[float]] = {1: [], CROWD: []}
    for _ in range(repeats):
        for count, speeds in samples.items():
            speeds.append(decode_together(llm, prompts[:count]))
    alone, together = (spread(samples[count]) for count in samples)
    return {"alone": alone, "together": together, "gain": together["median"] / alone["median"]}


def decode_together(llm: LLM, prompts: list[list[int]]) -> float:
    """Tokens/s of steps in which all prompts are answered."""
    engine, params = llm.engine, SamplingParams(max_tokens=512, ignore_eos=True)
    requests = [engine.add(prompt, params) for prompt in prompts]
    while not all(request.output_ids for request in requests):
        engine.step()
    started, before = time.perf_counter(), sum(len(request.output_ids) for request in requests)
    for _ in range(DECODED):
        engine.step()
    tokens, seconds = sum(len(request.output_ids) for request in requests) - before, time.perf_counter() - started
    assert tokens == DECODED * len(prompts), "a request ended within the measurement"
    for request in requests:
        engine.cancel(request)
    return tokens / seconds


def again(path: Path, kind: Kind, context: int) -> dict[str, Any]:
    """Seconds to the first token of two questions over one context."""
    llm = load(path, kind, context + 128)
    text, seconds = text_tokens(llm, context), []
    for question in ("\n# What does this module do?\n", "\n# Which class has the most methods?\n"):
        prompt = text + llm.tokenizer.encode(question)
        started = time.perf_counter()
        _, events = llm.stream(prompt, SamplingParams(max_tokens=1))
        for _ in events:
            pass
        seconds.append(time.perf_counter() - started)
    return {"context": context, "first_s": seconds[0], "second_s": seconds[1], "share": seconds[1] / seconds[0]}


def overhead(path: Path, kind: Kind) -> dict[str, Any]:
    """Milliseconds of a decode step at 2,048 tokens, and what share of it is not the network's."""
    llm = load(path, kind, TRAINED)
    runner, inside = llm.engine.runner, [0.0]
    run = runner.run

    def timed(batch: Any) -> torch.Tensor:
        started = time.perf_counter()
        out = run(batch)
        inside[0] += time.perf_counter() - started
        return out

    runner.run = timed  # type: ignore[method-assign]
    request = llm.engine.add(text_tokens(llm, 2048), SamplingParams(max_tokens=400, ignore_eos=True))
    while not request.output_ids:
        llm.engine.step()
    steps, shares = [], []
    for _ in range(200):
        inside[0], started = 0.0, time.perf_counter()
        llm.engine.step()
        steps.append(time.perf_counter() - started)
        shares.append(1 - inside[0] / steps[-1])
    llm.engine.cancel(request)
    return {"step_ms": 1e3 * statistics.median(steps), "share": statistics.median(shares)}


def text_tokens(llm: LLM, count: int) -> list[int]:
    """Tokens of real Python source: the standard library's."""
    files = sorted(Path(argparse.__file__).parent.glob("[a-d]*.py"))
    ids = llm.encode("".join(file.read_text(encoding="utf-8") for file in files))
    assert len(ids) >= count, "the standard library is too short for this context"
    return ids[:count]


def token_bytes() -> int:
    """Of keys and values of a token in the default model, and some room for 8-bit keys."""
    return 30 * 3 * 64 * 2 * 3


def weight_bytes(llm: LLM) -> int:
    """Bytes of the matrices that one token's pass reads, as they are laid out."""
    packed = [linear.packed for linear in llm.engine.runner.decoder.fused_linears()]
    return sum(linear.packed.nbytes for linear in packed if linear is not None)


def step_bytes(llm: LLM, context: int) -> int:
    """What a decode step has to read: weights; keys and values, or the keys that are scanned and the chosen blocks."""
    model, sparse, runner = llm.model_config, llm.config.blocks, llm.engine.runner
    one = model.num_hidden_layers * model.num_key_value_heads * model.head_dim * 2  # a token's keys, or its values
    chosen = sparse.index_topk_blocks * sparse.index_block_size
    if llm.config.attention == "dense" or context <= chosen:
        return weight_bytes(llm) + 2 * one * context
    page, dtype = sparse.index_block_size, runner.cache.layers[0].k_PRSD.dtype
    far = runner.extension is not None and runner.extension.method == "clamped"
    parts = [part for i in range(model.num_hidden_layers) for part in page_parts(model, i, page, dtype, far=far)]
    scanned = sum(part.num_bytes for part in parts if part.chooses) * context // page
    scanned //= 2 if runner.index == "int8" else 1
    return weight_bytes(llm) + scanned + 2 * one * chosen


def read_bandwidth() -> float:
    """GB/s of summing 1 GB that was really written."""
    data = torch.ones(1 << 27, dtype=torch.int64)
    return max(data.nbytes / seconds / 1e9 for seconds in timed_runs(data.sum))


def product_rate() -> float:
    """GFLOP/s of torch's bf16 product of 2048 cubed."""
    a = torch.randn(2048, 2048).bfloat16()
    return max(2 * 2048**3 / seconds / 1e9 for seconds in timed_runs(lambda: a @ a))


def timed_runs(call: Callable[[], Any]) -> list[float]:
    samples = []
    for _ in range(5):
        started = time.perf_counter()
        call()
        samples.append(time.perf_counter() - started)
    return samples


def table(report: dict[str, Any]) -> str:
    lines = [
        f"{report['model']}, {report['backend']} kernels, {report['weights']} weights of {report['weight_mb']} MB; "
        f"loaded in {report['load_s']} s, peak {report['peak_rss_mb']} MB. Memory reads at {report['read_gbps']} GB/s, "
        f"a bf16 product runs at {report['product_gflops']} GFLOP/s.",
    ]
    if "speed" in report:
        lines += [
            "",
            "| context | engine | prefill tokens/s (least to most) | decode tokens/s (least to most) | bound of decode "
            "| against llama.cpp |",
            "|---|---|---|---|---|---|",
            *(row for context, engines in report["speed"].items() for row in speed_rows(report, context, engines)),
        ]
    if "crowd" in report:
        lines += ["", f"| {CROWD} requests of {CROWD_TOKENS} tokens | one alone, tokens/s | together | gain |"]
        lines += ["|---|---|---|---|"]
        for kind, it in report["crowd"].items():
            alone, together = it["alone"]["median"], it["together"]["median"]
            lines.append(f"| {kind} | {alone:.1f} | {together:.0f} | {it['gain']:.1f}x |")
    if "again" in report:
        lines += [
            "",
            "| two questions over one context | first token, s | second question | share |",
            "|---|---|---|---|",
        ]
        for kind, it in report["again"].items():
            name = f"{kind}, {it['context']:,} tokens"
            lines.append(f"| {name} | {it['first_s']:.2f} | {it['second_s']:.3f} | {it['share']:.1%} |")
    if "overhead" in report:
        lines += ["", "| decode step at 2,048 tokens | ms | beside the network |", "|---|---|---|"]
        lines += [f"| {kind} | {it['step_ms']:.2f} | {it['share']:.1%} |" for kind, it in report["overhead"].items()]
    return "\n".join(lines)


def speed_rows(report: dict[str, Any], context: str, engines: dict[str, Any]) -> list[str]:
    peer, rows = engines.get("llama.cpp"), []
    for name, it in engines.items():
        prefill, decode = it["prefill"], it["decode"]
        bound = f"{report['read_gbps'] * 1e9 / it['bytes']:.0f}" if "bytes" in it else ""
        against = ""
        if peer and name != "llama.cpp":
            against = "{:.2f}x, {:.2f}x".format(*(it[k]["median"] / peer[k]["median"] for k in ("prefill", "decode")))
        rows.append(
            f"| {context} | {name} | {prefill['median']:.0f} ({prefill['min']:.0f} to {prefill['max']:.0f}) "
            f"| {decode['median']:.1f} ({decode['min']:.1f} to {decode['max']:.1f}) | {bound} | {against} |"
        )
    return rows


if __name__ == "__main__":
    main()
