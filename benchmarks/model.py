"""A small M3 against `transformers` on the same weights in the same run: prefill, decode, loading.

    python -m benchmarks.model [--preset small] [--contexts 4096 16352] [--repeats 3] [--load-experts 300]

The checkpoint is random, so only speeds and bytes mean anything. First a gate: in fp32 the logits of both must agree
over a context that is longer than the blocks a query reads, else no speed is printed. Figures are medians over repeats,
and both take turns inside one repeat. Both read a prompt in chunks: ours in the engine's, theirs in chunks that keep
its materialised mask small (it is faster so than whole). Then a larger checkpoint is loaded in a process of its own,
and its peak of memory compared with the size of the files, with the planner's figure, and its speed with that of
reading the files from the page cache.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import logging
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe, save, spread
from openm3.config import EngineConfig, ModelConfig
from openm3.config.presets import preset
from openm3.kernels.backend import choose
from openm3.kernels.paged import PagedBatch
from openm3.model.batch import Batch
from openm3.model.cache import KVCache
from openm3.model.create import write_checkpoint
from openm3.model.decoder import Decoder
from openm3.model.plan import parameter_shapes, plan_memory
from openm3.model.weights import load_decoder, open_checkpoint

DECODED = 32
THEIR_CHUNK = 1024
GATE_TOLERANCE = 2e-3
Run = Callable[[list[int]], tuple[float, float]]  # prompt -> prefill and decode tokens/s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--contexts", type=int, nargs="+", default=[4096, 16384 - DECODED])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--load-experts", type=int, default=300, help="experts of the checkpoint that is loaded")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        raw = with_a_vision_part(preset(options.preset))
        write_checkpoint(folder, raw)
        backend = choose()
        gap = gate(folder, backend)
        ours = load_decoder(open_checkpoint(folder), torch.bfloat16, backend=backend, pack=True)
        theirs = load_theirs(folder, torch.bfloat16)
        runs: dict[str, Run] = {
            "openm3": lambda prompt: run_ours(ours, prompt),
            "transformers": lambda prompt: run_theirs(theirs, prompt),
        }
        figures = {str(context): compare(runs, context, options.repeats, raw) for context in options.contexts}
        loading = measure_loading(Path(scratch) / "large", raw, options.load_experts)
    report = {
        "benchmark": "model",
        "machine": describe(),
        "preset": options.preset,
        "parameters": sum(shape.numel() for shape in parameter_shapes(ours.config).values()),
        "backend": backend,
        "gate_largest_difference": gap,
        "tokens_per_s": figures,
        "loading": loading,
    }
    save("model", report, table(report))


def with_a_vision_part(raw: dict[str, Any]) -> dict[str, Any]:
    """transformers builds a vision part whatever the file says; this one is small."""
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return {**raw, "vision_config": {**small, "patch_size": 2, "image_size": 28}}


def gate(folder: Path, backend: str) -> float:
    """The largest difference of fp32 logits; refuses to go on when it is large."""
    decoder = load_decoder(open_checkpoint(folder), torch.float32, backend=backend, pack=True)
    assert decoder.config.index is not None
    sparse = decoder.config.index.sparse
    ids = random_ids((sparse.index_topk_blocks + 2) * sparse.index_block_size, decoder.config.vocab_size)
    logits_V, _, _ = prefill(decoder, ids)
    with torch.inference_mode():
        expected_V = load_theirs(folder, torch.float32)(input_ids=torch.tensor([ids]), logits_to_keep=1).logits[0, -1]
    gap = float((logits_V - expected_V).abs().max() / expected_V.abs().max())
    if gap > GATE_TOLERANCE:
        raise SystemExit(f"gate: logits differ by {gap:.2g} of the largest; no speed is printed")
    return gap


def load_theirs(folder: Path, dtype: torch.dtype) -> Any:
    from transformers import MiniMaxM3SparseForConditionalGeneration

    logging.disable(logging.WARNING)  # it reports the vision part, which the checkpoint lacks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MiniMaxM3SparseForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()


def compare(runs: dict[str, Run], context: int, repeats: int, raw: dict[str, Any]) -> dict[str, Any]:
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    prompt = random_ids(context, ModelConfig.from_hf(raw).vocab_size)
    for _, (name, run) in itertools.product(range(repeats), runs.items()):
        samples[name].append(run(prompt))
    return {
        name: {"prefill": spread([p for p, _ in speeds]), "decode": spread([d for _, d in speeds])}
        for name, speeds in samples.items()
    }


def random_ids(count: int, vocab_size: int) -> list[int]:
    ids: list[int] = torch.randint(0, vocab_size, (count,), generator=torch.Generator().manual_seed(0)).tolist()
    return ids


def prefill(decoder: Decoder, ids: list[int]) -> tuple[torch.Tensor, KVCache, list[int]]:
    """The logits after the last token; the cache has room for the answer."""
    engine = EngineConfig().for_model(decoder.config)
    size = engine.blocks.index_block_size
    pages = list(range(-(-(len(ids) + DECODED) // size)))
    cache = KVCache.allocate(decoder.config, len(pages), size, decoder.embed_tokens.weight.dtype)
    logits = torch.empty(0)
    for start in range(0, len(ids), engine.prefill_chunk):
        logits = forward(decoder, ids[start : start + engine.prefill_chunk], start, cache, pages, size)
    return logits, cache, pages


def forward(decoder: Decoder, ids: list[int], start: int, cache: KVCache, pages: list[int], size: int) -> torch.Tensor:
    paged = PagedBatch.build([len(ids)], [start + len(ids)], [pages], size)
    with torch.inference_mode():
        logits_LV: torch.Tensor = decoder(Batch(torch.tensor(ids), paged, torch.tensor([len(ids) - 1])), cache)
    return logits_LV[0]


def run_ours(decoder: Decoder, prompt: list[int]) -> tuple[float, float]:
    started = time.perf_counter()
    logits_V, cache, pages = prefill(decoder, prompt)
    read = time.perf_counter()
    size = cache.layers[0].k_PRSD.shape[2]
    for step in range(DECODED):
        logits_V = forward(decoder, [int(logits_V.argmax())], len(prompt) + step, cache, pages, size)
    return len(prompt) / (read - started), DECODED / (time.perf_counter() - read)


@torch.inference_mode()
def run_theirs(model: Any, prompt: list[int]) -> tuple[float, float]:
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config.text_config)
    started = time.perf_counter()
    for start in range(0, len(prompt), THEIR_CHUNK):
        ids = torch.tensor([prompt[start : start + THEIR_CHUNK]])
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    read = time.perf_counter()
    for _ in range(DECODED):
        ids = logits[:, -1:].argmax(-1)
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    return len(prompt) / (read - started), DECODED / (time.perf_counter() - read)


def measure_loading(folder: Path, raw: dict[str, Any], experts: int) -> dict[str, Any]:
    """Loads a checkpoint with this many experts in a process of its own, and reads its files for comparison."""
    raw = copy.deepcopy(raw)
    raw["text_config"]["num_local_experts"] = experts
    write_checkpoint(folder, raw, shard_bytes=1 << 29)
    files = sorted(folder.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    page_cache_s = min(read_all(files) for _ in range(3))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        loaded = process.submit(load_once, folder).result()
    return {
        "file_mb": round(size / 1e6),
        "peak_of_size": round(loaded["peak_bytes"] / size, 3),
        "held_of_plan": round(loaded["held_bytes"] / loaded["planned_bytes"], 3),
        "gb_per_s": round(size / loaded["seconds"] / 1e9, 2),
        "page_cache_gb_per_s": round(size / page_cache_s / 1e9, 2),
    }


def read_all(files: list[Path]) -> float:
    started = time.perf_counter()
    buffer = bytearray(1 << 24)
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass
    return time.perf_counter() - started


def load_once(folder: Path) -> dict[str, float]:
    """Seconds, and bytes beyond what the process had before."""
    checkpoint = open_checkpoint(folder)
    shapes = parameter_shapes(checkpoint.config)  # brings in what torch imports late
    planned = plan_memory(
        checkpoint.config, shapes, context=1, page_size=128, dtype=torch.bfloat16, batch_tokens=1
    ).weights
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    started = time.perf_counter()
    decoder = load_decoder(checkpoint, torch.bfloat16, backend=choose(), pack=True)
    seconds = time.perf_counter() - started
    peak, held = memory("VmHWM") - before, memory("VmRSS") - before
    del decoder
    return {"seconds": seconds, "peak_bytes": peak, "held_bytes": held, "planned_bytes": planned}


def memory(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def table(report: dict[str, Any]) -> str:
    loading = report["loading"]
    lines = [
        f"{report['preset']}, {report['parameters'] / 1e6:.0f} million parameters, bf16, {report['backend']} kernels; "
        f"fp32 logits within {report['gate_largest_difference']:.1g}",
        f"loading {loading['file_mb']} MB: {loading['gb_per_s']} GB/s (page cache {loading['page_cache_gb_per_s']}), "
        f"peak {loading['peak_of_size']} of the files, held {loading['held_of_plan']} of the plan",
        "",
        "| context | | prefill tokens/s (least to most) | decode tokens/s (least to most) | against transformers |",
        "|---|---|---|---|---|",
    ]
    for context, engines in report["tokens_per_s"].items():
        for name, speed in engines.items():
            medians = [
                (speed[kind]["median"], engines["transformers"][kind]["median"]) for kind in ("prefill", "decode")
            ]
            against = "" if name == "transformers" else ", ".join(f"{a / b:.2f}x" for a, b in medians)
            prefilled, decoded = (
                f"{speed[kind]['median']:.1f} ({speed[kind]['min']:.1f} to {speed[kind]['max']:.1f})"
                for kind in ("prefill", "decode")
            )
            lines.append(f"| {context} | {name} | {prefilled} | {decoded} | {against} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
