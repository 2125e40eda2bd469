"""One layer of M3 on this GPU: decode, prefill and backward of MSA against dense attention, ours and the best of torch.

    python -m benchmarks.kernels_gpu [--contexts 8192 ... 1048576] [--flex 131072] [--out FOLDER | --draw REPORT]

Geometry of the published model, as `benchmarks/kernels.py`. A gate comes first: small cases equal the reference on the
CPU, else no speed is printed. At every context the selection of the last queries is compared with an fp32 product, and
that from index keys of 8 bits with the exact one. FlexAttention is compiled for each shape, so it runs at one context.
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu_peers import BACKENDS, dense_calls, flex_calls
from benchmarks.gpu_timing import copy_gbps, matmul_tflops, milliseconds
from benchmarks.machine import RESULTS, describe, save
from benchmarks.speedup_picture import draw
from openm3 import msa
from openm3.config import SparseConfig
from openm3.kernels.dense_attention import dense_attention
from openm3.kernels.paged import PagedBatch
from openm3.kernels.select_blocks import QuantisedIndex, select_blocks
from openm3.kernels.sparse_attention import sparse_attention

HEADS, GROUPS, SIZE, INDEX_SIZE, PAGE, TOPK = 64, 4, 128, 128, 128, 16
SPARSE = SparseConfig(index_block_size=PAGE, index_topk_blocks=TOPK)
CHUNK = 8192  # prefill queries, the last ones of the context
PEER_QUERIES = 2048  # of the dense peers' prefill


class Layer:
    """Random keys, values and index keys of one context, its pages in random order, and queries at its end."""

    def __init__(self, context: int, device: str = "cuda") -> None:
        torch.manual_seed(context)
        self.context, pages = context, context // PAGE
        noise = functools.partial(torch.randn, device=device, dtype=torch.bfloat16)
        self.k, self.v = noise(pages, GROUPS, PAGE, SIZE), noise(pages, GROUPS, PAGE, SIZE)
        self.index_k = noise(pages, 1, PAGE, INDEX_SIZE)
        self.chunk = min(CHUNK, context)
        self.q, self.index_q = noise(self.chunk, HEADS, SIZE), noise(self.chunk, GROUPS, INDEX_SIZE)
        self.order = torch.randperm(pages).tolist()
        self.index = QuantisedIndex(self.index_k, "triton")
        self.index.update(self.index_k, self.batch(context))

    @functools.cache  # noqa: B019  # as long as the layer lives: a model builds a batch once for all layers
    def batch(self, queries: int) -> PagedBatch:
        return PagedBatch.build([queries], [self.context], [self.order], PAGE)

    def scan(self, queries: int, quantised: QuantisedIndex | None = None) -> Tensor:
        args = (self.index_q[-queries:], self.index_k, self.batch(queries), SPARSE)
        return select_blocks(*args, num_groups=GROUPS, backend="triton", quantised=quantised)

    def attend(self, queries: int, ids: Tensor) -> Tensor:
        return sparse_attention(self.q[-queries:], self.k, self.v, ids, self.batch(queries), backend="triton")

    def msa(self, queries: int) -> Tensor:
        return self.attend(queries, self.scan(queries))

    def dense(self, queries: int) -> Tensor:
        return dense_attention(self.q[-queries:], self.k, self.v, self.batch(queries), backend="triton")

    def plain(self) -> tuple[Tensor, Tensor]:
        """Keys and values `[R, L, D]` in order."""
        order = torch.tensor(self.order, device=self.k.device)
        k, v = (x[order].transpose(0, 1).flatten(1, 2).contiguous() for x in (self.k, self.v))
        return k, v

    def differing(self, queries: int = 64) -> float:
        """The share of choices (a query and group) that an fp32 product chooses otherwise."""
        order = torch.tensor(self.order, device=self.k.device)
        keys, rows = self.index_k[order, 0].flatten(0, 1).float(), self.index_q[-queries:].float()
        position = torch.arange(self.context - queries, self.context, device=keys.device)
        expected = torch.empty(queries, GROUPS, TOPK, dtype=torch.int32, device=keys.device)
        for r in range(GROUPS):
            score = rows[:, r] @ keys.T
            score.masked_fill_(torch.arange(self.context, device=keys.device) > position[:, None], -torch.inf)
            best = score.unflatten(1, (-1, PAGE)).amax(-1)
            best.scatter_(1, position[:, None] // PAGE, torch.inf)
            expected[:, r] = best.topk(TOPK, dim=1).indices.sort(1).values.int()
        return (self.scan(queries) != expected).any(-1).float().mean().item()


def gate() -> None:
    """Ends the program when a kernel disagrees with its reference."""
    layer = Layer(4096)
    cpu = [x[-16:].cpu() for x in (layer.q, layer.index_q)] + [x.cpu() for x in (layer.index_k, layer.k, layer.v)]
    q, index_q, index_k, k, v = cpu
    batch = layer.batch(16)
    ids = select_blocks(index_q, index_k, batch, SPARSE, num_groups=GROUPS, backend="reference")
    if not torch.equal(layer.scan(16).cpu(), ids):
        raise SystemExit("gate: the selection differs from the reference; no speed is printed")
    pairs = {
        "sparse": (layer.attend(16, ids.cuda()), sparse_attention(q, k, v, ids, batch, backend="reference")),
        "dense": (layer.dense(16), dense_attention(q, k, v, batch, backend="reference")),
    }
    for name, (ours, expected) in pairs.items():
        error = (ours.cpu().float() - expected.float()).abs().max().item()
        if not error < 2e-2:
            raise SystemExit(f"gate: {name} attention differs from the reference by {error:.3g}; no speed is printed")


def measure(context: int) -> dict[str, Any]:
    layer = Layer(context)
    with torch.inference_mode():
        ids_1, ids = layer.scan(1), layer.scan(layer.chunk)
        decode = {
            "decode": lambda: layer.msa(1),
            "decode_int8": lambda: layer.attend(1, layer.scan(1, layer.index)),
            "scan_int8": lambda: layer.scan(1, layer.index),
            "scan": lambda: layer.scan(1),
            "attend": lambda: layer.attend(1, ids_1),
            "dense": lambda: layer.dense(1),
        }
        times = {name: milliseconds(call)["median"] for name, call in decode.items()}
        prefill = {
            "prefill_scan": lambda: layer.scan(layer.chunk),
            "prefill_attend": lambda: layer.attend(layer.chunk, ids),
            "prefill": lambda: layer.msa(layer.chunk),
        }
        times |= {name: milliseconds(call, 5, graph=False)["median"] for name, call in prefill.items()}
        few = min(PEER_QUERIES, layer.chunk)
        times["prefill_dense"] = milliseconds(lambda: layer.dense(few), 3, graph=False)["median"]
        plain = layer.plain()
        peers: dict[str, dict[str, float]] = {"decode": {}, "prefill": {}}
        for name, call in dense_calls(layer.q[-1:], *plain):
            peers["decode"][name] = milliseconds(call)["median"]
        for name, call in dense_calls(layer.q[-few:], *plain):
            peers["prefill"][name] = milliseconds(call, 3, graph=False)["median"]
        differing = layer.differing()
        alike = all(torch.equal(layer.scan(n), layer.scan(n, layer.index)) for n in (1, 4, 8))
    scan_flops = 2 * GROUPS * INDEX_SIZE * context * layer.chunk
    attend_flops = 4 * HEADS * SIZE * min(TOPK * PAGE, context) * layer.chunk
    return {
        **{f"{name}_ms": value for name, value in times.items()},
        "queries": layer.chunk,
        "peer_queries": few,
        "peers_ms": peers,
        "scan_gbps": context * INDEX_SIZE * 2 / times["scan"] / 1e6,
        "dense_gbps": context * GROUPS * SIZE * 4 / times["dense"] / 1e6,
        "prefill_scan_tflops": scan_flops / times["prefill_scan"] / 1e9,
        "prefill_attend_tflops": attend_flops / times["prefill_attend"] / 1e9,
        "prefill_dense_tflops": 4 * HEADS * SIZE * context * few / times["prefill_dense"] / 1e9,
        "differing": differing,
        "int8_alike": alike,
    }


def flex(context: int) -> dict[str, Any]:
    """FlexAttention with a causal block mask, beside MSA; or why it could not be compiled here."""
    layer = Layer(context)
    few = min(PEER_QUERIES, layer.chunk)
    with torch.inference_mode():
        plain = layer.plain()
        try:
            decode = milliseconds(next(flex_calls(layer.q[-1:], *plain))[1], graph=False)["median"]
            prefill = milliseconds(next(flex_calls(layer.q[-few:], *plain))[1], 3, graph=False)["median"] / few
        except Exception as error:  # torch.compile needs a C++ compiler, and fails in many ways without one
            return {"context": context, "failed": f"{type(error).__name__}: {error}"[:200]}
        msa = [milliseconds(lambda: layer.msa(1))["median"]]
        msa += [milliseconds(lambda: layer.msa(layer.chunk), 3, graph=False)["median"] / layer.chunk]
    return {"context": context, "decode": decode / msa[0], "prefill": prefill / msa[1]}


def training(context: int) -> dict[str, Any]:
    """Forward and backward of a whole context, of MSA (with and without its loss) and of torch's causal attention."""
    torch.manual_seed(context)
    noise = functools.partial(torch.randn, device="cuda", dtype=torch.bfloat16)
    q, dout = noise(1, HEADS, context, SIZE), noise(1, HEADS, context, SIZE)
    k, v = noise(1, GROUPS, context, SIZE), noise(1, GROUPS, context, SIZE)
    index_q, index_k = noise(1, GROUPS, context, INDEX_SIZE), noise(1, 1, context, INDEX_SIZE)
    leaves = [x.requires_grad_() for x in (q, k, v, index_q, index_k)]

    def sparse(kl: Any, backward: bool) -> None:
        result = msa(*leaves, sparse=SPARSE, kl=kl)
        out, loss = result if isinstance(result, tuple) else (result, None)
        if backward:
            torch.autograd.backward([out] + ([loss] if kl else []), [dout] + ([None] if kl else []))

    def dense(backend: SDPBackend, backward: bool) -> None:
        with sdpa_kernel(backend):
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        if backward:
            out.backward(dout)

    times: dict[str, float] = {}
    for backward in (False, True):
        name = "both" if backward else "forward"
        calls: dict[str, Any] = {
            f"{peer}_{name}": functools.partial(dense, b, backward) for peer, b in BACKENDS.items()
        }
        calls[f"msa_{name}"] = functools.partial(sparse, None, backward)
        calls[f"msa_kl_{name}"] = functools.partial(sparse, "selected", backward)
        for label, call in calls.items():
            times[label] = milliseconds(call, 2, graph=False)["min"]
    backward_ms = {peer: times[f"{peer}_both"] - times[f"{peer}_forward"] for peer in ("msa", "msa_kl", *BACKENDS)}
    best = min(backward_ms[peer] for peer in BACKENDS)
    return {"context": context, "ms": times, "backward_ms": backward_ms, "backward": best / backward_ms["msa"]}


def ratios(x: dict[str, Any]) -> dict[str, float]:
    """How many times faster than the best dense attention of the run, ours or torch's."""
    dense = min(x["dense_ms"], *x["peers_ms"]["decode"].values())
    prefill = min(x["prefill_dense_ms"], *x["peers_ms"]["prefill"].values()) / x["peer_queries"]
    decode = {name: dense / x[f"{name}_ms"] for name in ("decode", "decode_int8")}
    return {**decode, "prefill": prefill / (x["prefill_ms"] / x["queries"])}


def table(report: dict[str, Any]) -> str:
    copy, matmul = report["copy_gbps"], report["matmul_tflops"]
    lines = [
        f"{report['gpu']}: copy {copy:.0f} GB/s, bf16 product {matmul:.0f} TFLOP/s.",
        "",
        "| context | decode us: MSA with 8-bit keys (choice) / with bf16 (choice) / our dense / best torch "
        "| faster: 8 bits, bf16 | choice, dense of copy | other choices: 8 bits, bf16 |",
        "|---|---|---|---|---|",
    ]
    for context, x in report["contexts"].items():
        peers = x["peers_ms"]["decode"]
        best = min(peers, key=peers.__getitem__)
        lines.append(
            f"| {int(context):,} | {x['decode_int8_ms'] * 1e3:.0f} ({x['scan_int8_ms'] * 1e3:.0f}) / "
            f"{x['decode_ms'] * 1e3:.0f} ({x['scan_ms'] * 1e3:.0f}) / "
            f"{x['dense_ms'] * 1e3:.0f} / {peers[best] * 1e3:.0f} ({best}) "
            f"| {ratios(x)['decode_int8']:.1f}x, {ratios(x)['decode']:.1f}x "
            f"| {x['scan_gbps'] / copy:.0%}, {x['dense_gbps'] / copy:.0%} "
            f"| {'none' if x['int8_alike'] else 'SOME'}, {x['differing']:.2%} |"
        )
    lines += [
        "",
        "| context | prefill us a token: MSA (scan, attend) / our dense / best torch | faster "
        "| TFLOP/s: scan, attend, dense |",
        "|---|---|---|---|",
    ]
    for context, x in report["contexts"].items():
        peers = x["peers_ms"]["prefill"]
        best = min(peers, key=peers.__getitem__)
        ours = [x[f"{name}_ms"] / x["queries"] * 1e3 for name in ("prefill", "prefill_scan", "prefill_attend")]
        dense = [value / x["peer_queries"] * 1e3 for value in (x["prefill_dense_ms"], peers[best])]
        lines.append(
            f"| {int(context):,} | {ours[0]:.2f} ({ours[1]:.2f}, {ours[2]:.2f}) / {dense[0]:.2f} / "
            f"{dense[1]:.2f} ({best}) | {ratios(x)['prefill']:.1f}x "
            f"| {x['prefill_scan_tflops']:.0f}, {x['prefill_attend_tflops']:.0f}, {x['prefill_dense_tflops']:.0f} |"
        )
    train = report["training"]
    lines += [
        "",
        f"Whole contexts of {train['context']:,} tokens, ms:",
        "",
        "| | forward | backward |",
        "|---|---|---|",
    ]
    for name, backward in train["backward_ms"].items():
        lines.append(f"| {name} | {train['ms'][f'{name}_forward']:.1f} | {backward:.1f} |")
    if "failed" in report["flex"]:
        lines += ["", f"FlexAttention did not run: {report['flex']['failed']}"]
    else:
        at, decode, prefill = (report["flex"][name] for name in ("context", "decode", "prefill"))
        lines += ["", f"FlexAttention at {at:,} tokens over MSA: decode {decode:.1f}x, prefill {prefill:.1f}x."]
    lines += ["", f"Backward of MSA is {train['backward']:.1f} times faster than the best dense one."]
    return "\n".join(lines)


def picture(report: dict[str, Any], path: Path) -> None:
    rows = [ratios(x) for x in report["contexts"].values()]
    names = {"decode, 8-bit keys": "decode_int8", "decode, bf16 keys": "decode", "prefill": "prefill"}
    curves = {f"{label}, over the best dense": [row[name] for row in rows] for label, name in names.items()}
    draw([int(context) for context in report["contexts"]], curves, f"MSA, one layer of M3, {report['gpu']}", path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, nargs="+", default=[8192, 32768, 131072, 524288, 1048576])
    parser.add_argument("--training", type=int, default=131072, help="context of forward and backward")
    parser.add_argument("--flex", type=int, default=131072, help="context of FlexAttention as a peer; 0: none")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--draw", type=Path, metavar="REPORT", help="draw a report's picture beside it and stop")
    options = parser.parse_args()
    if options.draw:
        return picture(json.loads(options.draw.read_text()), options.draw.with_suffix(".png"))
    run(options.contexts, options.training, options.flex, options.out)


def run(contexts: list[int], train: int = 131072, flex_at: int = 131072, out: Path = RESULTS) -> None:
    gate()
    report: dict[str, Any] = {"benchmark": "kernels_gpu", "machine": describe(), "contexts": {}}
    report["gpu"] = torch.cuda.get_device_name()
    report["copy_gbps"], report["matmul_tflops"] = copy_gbps(), matmul_tflops()
    for context in contexts:
        report["contexts"][str(context)] = figures = measure(context)
        print(context, figures, flush=True)
        torch.cuda.empty_cache()
    report["training"] = training(train)
    report["flex"] = flex(flex_at) if flex_at else {"failed": "left out"}
    save("kernels-gpu", report, table(report), out)


if __name__ == "__main__":
    main()
