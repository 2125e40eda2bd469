"""One layer of M3 on this CPU: decode and prefill of MSA against dense attention, ours and the best of torch.

    python -m benchmarks.kernels [--contexts 8192 32768 131072 524288 1048576] [--repeats 7]

Geometry of the published model: 64 query heads, 4 key/value heads, head size 128, index 4 x 128, blocks of 128, top-k
16, bf16; random keys. A gate comes first: selections equal the reference and attention is within tolerance of it at the
smallest context, else no speed is printed. At every context the native selections, of bf16 and of 8-bit keys, are
compared with torch's fp32 scan.

Limits: a decode step reads the index keys once (256 bytes a token, or 128 in 8 bits) and 16 blocks; dense attention
reads all keys and values (2,048 bytes a token): at equal bandwidth MSA can be 7.9 times faster at 1M tokens, 15.3 times
with 8 bits. Prefill is bound by matrix products: 28.4 times fewer at 1M tokens (arXiv 2606.13392, section 2.4).
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernel_peers import dense_calls, drop_in
from benchmarks.machine import RESULTS, describe, save, spread
from benchmarks.speedup_picture import draw
from openm3.config import SparseConfig
from openm3.kernels.dense_attention import dense_attention
from openm3.kernels.paged import PagedBatch
from openm3.kernels.select_blocks import QuantisedIndex, select_blocks
from openm3.kernels.sparse_attention import sparse_attention

HEADS, GROUPS, SIZE, INDEX_SIZE, PAGE = 64, 4, 128, 128, 128
SPARSE = SparseConfig(index_block_size=PAGE, index_topk_blocks=16)
SHORT = (512, 1024, 2048)  # contexts where MSA has nothing to leave out and must not be slower
CHUNK = 512  # prefill queries, the last ones of the context
DROP_IN_CONTEXT = 32768


class Layer:
    """Random keys, values and index keys of one context, paged, and queries at its end."""

    def __init__(self, context: int) -> None:
        generator = torch.Generator().manual_seed(context)
        self.context, pages = context, context // PAGE
        self._batches: dict[int, PagedBatch] = {}

        def noise(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.bfloat16)

        self.k, self.v = noise(pages, GROUPS, PAGE, SIZE), noise(pages, GROUPS, PAGE, SIZE)
        self.index_k = noise(pages, 1, PAGE, INDEX_SIZE)
        self.q, self.index_q = noise(CHUNK, HEADS, SIZE), noise(CHUNK, GROUPS, INDEX_SIZE)
        self.quantised = QuantisedIndex(self.index_k)
        self.quantised.update(self.index_k, self.batch(context))

    def batch(self, queries: int) -> PagedBatch:
        """Built once, as a model builds it once for all its layers."""
        if queries not in self._batches:
            pages = range(self.context // PAGE)
            self._batches[queries] = PagedBatch.build([queries], [self.context], [pages], PAGE)
        return self._batches[queries]

    def scan(self, queries: int, backend: str = "native", quantised: bool = False) -> Tensor:
        return select_blocks(
            self.index_q[-queries:],
            self.index_k,
            self.batch(queries),
            SPARSE,
            num_groups=GROUPS,
            backend=backend,
            quantised=self.quantised if quantised else None,
        )

    def msa(self, queries: int, backend: str = "native", quantised: bool = False) -> Tensor:
        blocks = self.scan(queries, backend, quantised)
        return sparse_attention(self.q[-queries:], self.k, self.v, blocks, self.batch(queries), backend=backend)

    def dense(self, queries: int, backend: str = "native") -> Tensor:
        return dense_attention(self.q[-queries:], self.k, self.v, self.batch(queries), backend=backend)

    def torch_ms(self, queries: int, repeats: int) -> dict[str, float]:
        """The median of each of torch's ways."""
        plain = [x.transpose(0, 1).flatten(1, 2) for x in (self.k, self.v)]
        times = {}
        for name, call in dense_calls(self.q[-queries:], *plain):
            times[name] = milliseconds(call, repeats)["median"]
            del call
            gc.collect()
        return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, nargs="+", default=[8192, 32768, 131072, 524288, 1048576])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: benchmarks/kernels_gpu.py")
    options = parser.parse_args()
    if options.device == "cuda":
        from benchmarks import kernels_gpu

        kernels_gpu.run(options.contexts)
        return
    with torch.inference_mode():
        gate(Layer(min(options.contexts)))
        report: dict[str, Any] = {"benchmark": "kernels", "machine": describe(), "contexts": {}}
        report["read_gbps"], report["gemm_gflops"] = read_bandwidth(), gemm_rate()
        report["slower_when_short"] = {str(context): short(Layer(context)) for context in SHORT}
        for context in options.contexts:
            report["contexts"][str(context)] = figures = measure(Layer(context), options.repeats)
            print(context, {key: value for key, value in figures.items() if not isinstance(value, dict)}, flush=True)
            # The machine's bandwidth drifts; the best that was seen is what shares are taken of.
            report["read_gbps"] = max(report["read_gbps"], read_bandwidth())
        report["drop_in"] = drop_in(DROP_IN_CONTEXT)
    save("kernels", report, table(report))
    plot(report)


def measure(layer: Layer, repeats: int) -> dict[str, Any]:
    decode = {
        "decode": lambda: layer.msa(1, quantised=True),
        "decode_bf16": lambda: layer.msa(1),
        "scan": lambda: layer.scan(1, quantised=True),
        "scan_bf16": lambda: layer.scan(1),
        "dense_native": lambda: layer.dense(1),
    }
    layer.quantised.counts_2.zero_()
    times = {name: milliseconds(call, 2 * repeats) for name, call in decode.items()}
    scored_share = layer.quantised.scored_share
    expected = layer.scan(CHUNK, "torch")
    same = torch.equal(layer.scan(CHUNK), expected) and all(
        torch.equal(layer.scan(1, quantised=quantised), expected[-1:]) for quantised in (False, True)
    )
    _reset_peak()
    before = _memory_mb("VmRSS")
    prefill = milliseconds(lambda: layer.msa(CHUNK), repeats)
    extra_mb = _memory_mb("VmHWM") - before
    few = 16 if layer.context <= 131072 else 4  # queries of dense peers, which are slow or hold all scores
    native = milliseconds(lambda: layer.dense(4 * few), 1)
    torch_decode, torch_prefill = layer.torch_ms(1, 3), layer.torch_ms(few, 1)
    return {
        **{f"{name}_ms": spent["median"] for name, spent in times.items()},
        "dense_torch_ms": min(torch_decode.values()),
        "dense_torch_best": min(torch_decode, key=torch_decode.__getitem__),
        "scored_share": scored_share,
        "prefill_msa_ms_per_token": prefill["median"] / CHUNK,
        "prefill_dense_native_ms_per_token": native["median"] / (4 * few),
        "prefill_dense_torch_ms_per_token": min(torch_prefill.values()) / few,
        "prefill_dense_torch_best": min(torch_prefill, key=torch_prefill.__getitem__),
        "prefill_dense_queries": few,
        "peak_extra_mb": extra_mb,
        "same_selection": bool(same),
        "spread": times | {"prefill": prefill},
        "torch_decode_ms": torch_decode,
        "torch_prefill_ms": torch_prefill,
    }


def short(layer: Layer) -> dict[str, float]:
    """How many times longer MSA takes than dense attention where it reads all blocks; calls in turn, least times."""
    queries = min(CHUNK, layer.context)
    calls = {
        "decode": (lambda: layer.msa(1, quantised=True), lambda: layer.dense(1)),
        "prefill": (lambda: layer.msa(queries), lambda: layer.dense(queries)),
    }
    ratios = {}
    for name, pair in calls.items():
        rounds = [[milliseconds(call, 5)["min"] for call in pair] for _ in range(4)]
        sparse, dense = (min(times) for times in zip(*rounds, strict=True))
        ratios[name] = sparse / dense
    return ratios


def gate(layer: Layer) -> None:
    """Ends the program when a kernel disagrees with its reference."""
    expected = layer.scan(4, "reference")
    if not all(torch.equal(layer.scan(4, quantised=quantised), expected) for quantised in (False, True)):
        raise SystemExit("gate: the selection differs from the reference; no speed is printed")
    for name, call in (("msa", layer.msa), ("dense", layer.dense)):
        error = (call(16, "native").float() - call(16, "reference").float()).abs().max().item()
        if error > 2e-2:
            raise SystemExit(f"gate: {name} differs from the reference by {error:.3g}; no speed is printed")


def milliseconds(call: Callable[[], Tensor], repeats: int) -> dict[str, float]:
    call()
    samples = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        samples.append((time.perf_counter() - started) * 1e3)
    return spread(samples)


def read_bandwidth() -> float:
    """GB/s of summing 1 GB that was really written; the best of ten."""
    data = torch.ones(1 << 27, dtype=torch.int64)
    return data.nbytes / milliseconds(data.sum, 10)["min"] / 1e6


def gemm_rate() -> float:
    """GFLOP/s of a bf16 product of 2048 cubed; the best of ten."""
    a, b = (torch.randn(2048, 2048).bfloat16() for _ in range(2))
    return 2 * 2048**3 / milliseconds(lambda: a @ b, 10)["min"] / 1e6


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _memory_mb(field: str) -> float:
    """A line of Linux's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def table(report: dict[str, Any]) -> str:
    lines = [
        f"Native kernels, bf16. The machine reads {report['read_gbps']:.1f} GB/s; bf16 products "
        f"{report['gemm_gflops']:.0f} GFLOP/s.",
        "",
        "| context | decode ms: 8-bit scan / bf16 scan / dense / best torch | faster than dense: 8-bit, bf16 "
        "| than torch | of bandwidth: scans, dense | blocks rescored | same blocks |",
        "|---|---|---|---|---|---|---|",
    ]
    for context, x in report["contexts"].items():
        share = {
            name: int(context) * size / x[f"{name}_ms"] / (report["read_gbps"] * 1e6)
            for name, size in (("scan", INDEX_SIZE), ("scan_bf16", 2 * INDEX_SIZE), ("dense_native", GROUPS * SIZE * 4))
        }
        lines.append(
            f"| {int(context):,} | {x['decode_ms']:.2f} / {x['decode_bf16_ms']:.2f} / {x['dense_native_ms']:.2f} / "
            f"{x['dense_torch_ms']:.1f} ({x['dense_torch_best']}) "
            f"| {x['dense_native_ms'] / x['decode_ms']:.1f}x, {x['dense_native_ms'] / x['decode_bf16_ms']:.1f}x "
            f"| {x['dense_torch_ms'] / x['decode_ms']:.0f}x "
            f"| {share['scan']:.0%}, {share['scan_bf16']:.0%}, {share['dense_native']:.0%} "
            f"| {x['scored_share']:.1%} | {'yes' if x['same_selection'] else 'NO'} |"
        )
    lines += [
        "",
        "| context | prefill ms a token: MSA / dense / best torch | faster than dense | than torch | extra MB |",
        "|---|---|---|---|---|",
    ]
    for context, x in report["contexts"].items():
        msa, dense = x["prefill_msa_ms_per_token"], x["prefill_dense_native_ms_per_token"]
        torchs = x["prefill_dense_torch_ms_per_token"]
        lines.append(
            f"| {int(context):,} | {msa:.3f} / {dense:.3f} / {torchs:.2f} ({x['prefill_dense_torch_best']}) "
            f"| {dense / msa:.1f}x | {torchs / msa:.1f}x | {x['peak_extra_mb']:.0f} |"
        )
    shorts = ", ".join(f"{n}: {x['decode']:.2f}x, {x['prefill']:.2f}x" for n, x in report["slower_when_short"].items())
    drop = report["drop_in"]
    lines += [
        "",
        f"Time of MSA over dense where all blocks are read (decode, prefill of up to {CHUNK}): {shorts}.",
        f"A small M3 of transformers, {drop['context']:,} tokens: {drop['sdpa_s']:.1f} s by its sdpa, "
        f"{drop['openm3_s']:.2f} s by `openm3_msa`, {drop['times_faster']:.1f}x; "
        f"mean difference of the output {drop['mean_difference']:.2%}.",
    ]
    return "\n".join(lines)


def plot(report: dict[str, Any]) -> None:
    """Speedup over context, beside the tables."""
    contexts = [int(context) for context in report["contexts"]]
    rows = list(report["contexts"].values())
    curves = {
        "decode, over our dense": [x["dense_native_ms"] / x["decode_ms"] for x in rows],
        "decode, over best torch": [x["dense_torch_ms"] / x["decode_ms"] for x in rows],
        "prefill, over our dense": [
            x["prefill_dense_native_ms_per_token"] / x["prefill_msa_ms_per_token"] for x in rows
        ],
        "prefill, over best torch": [
            x["prefill_dense_torch_ms_per_token"] / x["prefill_msa_ms_per_token"] for x in rows
        ],
    }
    draw(contexts, curves, "MSA, one layer of M3", RESULTS / f"{report['machine']['date']}-kernels.png")


if __name__ == "__main__":
    main()
