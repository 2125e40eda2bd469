"""Times on a GPU, and the two rates that all shares are taken of."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch


def milliseconds(call: Callable[[], Any], repeats: int = 20, graph: bool = True) -> dict[str, float]:
    """Median, least and most of single calls by events; replays of a graph, so that launches from Python don't count.

    A call that takes longer than its launches needs no graph.
    """
    for _ in range(2):
        call()
    torch.cuda.synchronize()
    run = call
    if graph:
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            call()
        run = recorded.replay
        run()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, stop in events:
        start.record()
        run()
        stop.record()
    torch.cuda.synchronize()
    samples = [start.elapsed_time(stop) for start, stop in events]
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples)}


def copy_gbps() -> float:
    """GB/s of a copy on the device, bytes read and written."""
    source = torch.randint(1 << 30, (1 << 29,), dtype=torch.int64, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / milliseconds(lambda: target.copy_(source), 10, graph=False)["median"] / 1e6


def matmul_tflops() -> float:
    """TFLOP/s of a bf16 product of 8192 cubed on random data."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / milliseconds(lambda: a @ b, 10, graph=False)["median"] / 1e9
