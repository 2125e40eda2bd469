"""One layer of M3 on this CPU: decode and prefill of MSA against dense attention, ours and the best of torch.

    python -m benchmarks.kernels [--contexts 8192 32768 131072 524288 1048576] [--repeats 5]

Geometry of the published model: 64 query heads, 4 key/value heads, head size 128, index 4 x 128, blocks of 128, top-k
16, bf16. A gate comes first: selections equal the reference and attention is within tolerance of it at the smallest
context, else no speed is printed. At every context the native selection is compared with torch's fp32 scan.

Limits: a decode step reads the index keys once (256 bytes a token) and 16 blocks, dense attention all keys and values
(2,048 bytes a token): at equal bandwidth MSA can be 7.9 times faster at 1M tokens, and more only with fewer bytes.
Prefill is bound by matrix products: 28.4 times fewer at 1M tokens (arXiv 2606.13392, section 2.4).
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.machine import RESULTS, describe, save, spread
from openm3.config import SparseConfig
from openm3.kernels.backend import choose
from openm3.kernels.dense_attention import dense_attention
from openm3.kernels.paged import PagedBatch
from openm3.kernels.select_blocks import select_blocks
from openm3.kernels.sparse_attention import sparse_attention

HEADS, GROUPS, SIZE, INDEX_SIZE, PAGE = 64, 4, 128, 128, 128
SPARSE = SparseConfig(index_block_size=PAGE, index_topk_blocks=16)
CHUNK, DENSE_CHUNK = 512, 16  # prefill queries at the end of the context; fewer for the dense peer, which is slow


class Layer:
    """Random keys, values and index keys of one context, paged, and queries at its end."""

    def __init__(self, context: int) -> None:
        generator = torch.Generator().manual_seed(context)
        self.context, pages = context, context // PAGE

        def noise(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.bfloat16)

        self.k, self.v = noise(pages, GROUPS, PAGE, SIZE), noise(pages, GROUPS, PAGE, SIZE)
        self.index_k = noise(pages, 1, PAGE, INDEX_SIZE)
        self.q, self.index_q = noise(CHUNK, HEADS, SIZE), noise(CHUNK, GROUPS, INDEX_SIZE)

    def batch(self, queries: int) -> PagedBatch:
        return PagedBatch.build([queries], [self.context], [range(self.context // PAGE)], PAGE)

    def scan(self, queries: int, backend: str) -> Tensor:
        args = self.index_q[-queries:], self.index_k, self.batch(queries), SPARSE
        return select_blocks(*args, num_groups=GROUPS, backend=backend)

    def msa(self, queries: int, backend: str) -> Tensor:
        blocks = self.scan(queries, backend)
        return sparse_attention(self.q[-queries:], self.k, self.v, blocks, self.batch(queries), backend=backend)

    def dense(self, queries: int, backend: str) -> Tensor:
        return dense_attention(self.q[-queries:], self.k, self.v, self.batch(queries), backend=backend)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, nargs="+", default=[8192, 32768, 131072, 524288, 1048576])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--backend", default=None)
    options = parser.parse_args()
    backend = choose(options.backend)
    gate(Layer(min(options.contexts)), backend)
    report: dict[str, Any] = {
        "benchmark": "kernels",
        "machine": describe(),
        "backend": backend,
        "read_gbps": round(read_bandwidth(), 1),
        "gemm_gflops": round(gemm_rate()),
        "contexts": {},
    }
    with torch.inference_mode():
        for context in options.contexts:
            report["contexts"][str(context)] = figures = measure(Layer(context), backend, options.repeats)
            print(context, {key: value for key, value in figures.items() if not isinstance(value, dict)}, flush=True)
    save("kernels", report, table(report))
    plot(report)


def measure(layer: Layer, backend: str, repeats: int) -> dict[str, Any]:
    peers = torch_dense(layer, 1)
    decode = {
        "decode": lambda: layer.msa(1, backend),
        "scan_bf16": lambda: layer.scan(1, backend),
        "dense_native": lambda: layer.dense(1, backend),
        **{f"torch {name}": peer for name, peer in peers.items()},
    }
    times = {name: milliseconds(call, repeats) for name, call in decode.items()}
    torch_times = {name: spent["median"] for name, spent in times.items() if name.startswith("torch ")}
    del peers, decode
    same = bool(torch.equal(layer.scan(CHUNK, backend), layer.scan(CHUNK, "torch")))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    prefill = milliseconds(lambda: layer.msa(CHUNK, backend), repeats)
    extra_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    native = milliseconds(lambda: layer.dense(CHUNK, backend), 1)
    dense = {name: milliseconds(peer, 1)["median"] for name, peer in torch_dense(layer, DENSE_CHUNK).items()}
    return {
        "decode_ms": times["decode"]["median"],
        "scan_bf16_ms": times["scan_bf16"]["median"],
        "dense_native_ms": times["dense_native"]["median"],
        "dense_torch_ms": min(torch_times.values()),
        "dense_torch_best": min(torch_times, key=torch_times.__getitem__),
        "prefill_msa_ms_per_token": prefill["median"] / CHUNK,
        "prefill_dense_native_ms_per_token": native["median"] / CHUNK,
        "prefill_dense_torch_ms_per_token": min(dense.values()) / DENSE_CHUNK,
        "prefill_dense_torch_best": min(dense, key=dense.__getitem__),
        "peak_extra_mb": extra_mb,
        "same_selection": same,
        "spread": {name: times[name] for name in ("decode", "scan_bf16", "dense_native")} | {"prefill": prefill},
    }


def torch_dense(layer: Layer, queries: int) -> dict[str, Callable[[], Tensor]]:
    """Torch's ways to the last queries of a context; keys and values laid out as each likes best, not timed."""
    k, v = (x.transpose(0, 1).flatten(1, 2)[None] for x in (layer.k, layer.v))
    q = layer.q[-queries:].transpose(0, 1)[None]
    calls: dict[str, Callable[[], Tensor]] = {}
    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        qd, kd, vd = (x.to(dtype) for x in (q, k, v))
        rows = qd.reshape(1, GROUPS, -1, SIZE)
        # The last queries may see all but the newest tokens; a mask would only slow torch down, so none is given.
        calls[f"sdpa {name}"] = lambda q=qd, k=kd, v=vd: F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        calls[f"grouped sdpa {name}"] = lambda q=rows, k=kd, v=vd: F.scaled_dot_product_attention(q, k, v)
        calls[f"grouped products {name}"] = lambda q=rows, k=kd, v=vd: (
            (q @ k.mT).mul_(SIZE**-0.5).float().softmax(-1).to(v.dtype) @ v
        )
    return calls


def gate(layer: Layer, backend: str) -> None:
    """Ends the program when a kernel disagrees with its reference."""
    blocks = layer.scan(16, backend)
    if not torch.equal(blocks, layer.scan(16, "reference")):
        raise SystemExit("gate: the selection differs from the reference; no speed is printed")
    for name, call in (("msa", layer.msa), ("dense", layer.dense)):
        error = (call(16, backend).float() - call(16, "reference").float()).abs().max().item()
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
    """GB/s of summing 2 GB that were really written; the best of five."""
    data = torch.ones(1 << 28, dtype=torch.int64)
    return max(data.nbytes / milliseconds(data.sum, 1)["min"] / 1e6 for _ in range(5))


def gemm_rate() -> float:
    """GFLOP/s of a bf16 product of 2048 cubed; the best of five."""
    a, b = (torch.randn(2048, 2048).bfloat16() for _ in range(2))
    return max(2 * 2048**3 / milliseconds(lambda: a @ b, 1)["min"] / 1e6 for _ in range(5))


def table(report: dict[str, Any]) -> str:
    lines = [
        f"{report['backend']} kernels; reads {report['read_gbps']} GB/s, bf16 products {report['gemm_gflops']} GFLOP/s",
        "",
        "| context | decode ms: MSA / scan / dense / best torch | of bandwidth: scan, dense | faster than dense, torch "
        "| prefill ms a token: MSA / dense / best torch | faster than torch | extra MB | same blocks |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for context, x in report["contexts"].items():
        limit = report["read_gbps"] * 1e6
        scan = int(context) * INDEX_SIZE * 2 / x["scan_bf16_ms"] / limit
        dense = int(context) * GROUPS * SIZE * 4 / x["dense_native_ms"] / limit
        lines.append(
            f"| {context} | {x['decode_ms']:.2f} / {x['scan_bf16_ms']:.2f} / {x['dense_native_ms']:.2f} / "
            f"{x['dense_torch_ms']:.1f} ({x['dense_torch_best'].removeprefix('torch ')}) | {scan:.0%}, {dense:.0%} "
            f"| {x['dense_native_ms'] / x['decode_ms']:.1f}x, {x['dense_torch_ms'] / x['decode_ms']:.0f}x "
            f"| {x['prefill_msa_ms_per_token']:.3f} / {x['prefill_dense_native_ms_per_token']:.3f} / "
            f"{x['prefill_dense_torch_ms_per_token']:.2f} "
            f"| {x['prefill_dense_torch_ms_per_token'] / x['prefill_msa_ms_per_token']:.1f}x "
            f"| {x['peak_extra_mb']:.0f} | {'yes' if x['same_selection'] else 'NO'} |"
        )
    return "\n".join(lines)


def plot(report: dict[str, Any]) -> None:
    """Speedup over context, beside the tables."""
    from matplotlib import pyplot

    contexts = [int(context) for context in report["contexts"]]
    rows = list(report["contexts"].values())
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    axes.plot(contexts, [x["dense_native_ms"] / x["decode_ms"] for x in rows], "o-", label="decode, over our dense")
    axes.plot(contexts, [x["dense_torch_ms"] / x["decode_ms"] for x in rows], "o-", label="decode, over best torch")
    ratios = [x["prefill_dense_torch_ms_per_token"] / x["prefill_msa_ms_per_token"] for x in rows]
    axes.plot(contexts, ratios, "s-", label="prefill, over best torch")
    axes.set(xscale="log", yscale="log", xlabel="context, tokens", ylabel="times faster", title="MSA, one layer of M3")
    axes.set_xticks(contexts, [f"{context // 1024}K" for context in contexts], minor=False)
    axes.minorticks_off()
    axes.grid(True, alpha=0.3)
    axes.legend()
    figure.savefig(RESULTS / f"{report['machine']['date']}-kernels.png", dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
