"""Contract of `rotate_and_write`.

Letters: T packed query tokens, H query heads, R key/value heads, P pages, S page size, D head size, E = D / 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.kernels import checks
from openm3.kernels.backend import choose
from openm3.kernels.lazy import lazy
from openm3.kernels.paged import PagedBatch
from openm3.kernels.rotate import cpu, reference, torch_path

_IMPLEMENTATIONS = {
    "triton": lazy("openm3.kernels.rotate.gpu", "rotate_and_write"),
    "native": cpu.rotate_and_write,
    "torch": torch_path.rotate_and_write,
    "reference": reference.rotate_and_write,
}


def rotate_and_write(
    heads_TXD: Tensor,
    cos_TE: Tensor,
    sin_TE: Tensor,
    k_cache_PRSD: Tensor,
    v_cache_PRSD: Tensor,
    batch: PagedBatch,
    *,
    backend: str = "torch",
) -> Tensor:
    """What stands between a layer's projection and its attention, in one pass over the new tokens.

    Queries and keys are rotated (arXiv 2104.09864) in fp32, the pairs being elements i and i + E of a head; keys and
    values go to their pages.

    Args:
        heads_TXD: `[T, H + 2R, D]`: the heads of the queries, the keys and the values.
        cos_TE, sin_TE: float32 `[T, E]`, of the tokens' positions.
        k_cache_PRSD, v_cache_PRSD: `[P, R, S, D]`, changed in place, like `heads_TXD`.
        batch: sequences and pages; queries are the last tokens of their contexts.
        backend: see `kernels/backend.py`.

    Returns:
        `[T, H, D]`: the rotated queries.

    Raises:
        ValueError: a shape, dtype or device is wrong, or a page lies outside a cache.
    """
    checks.check_queries("heads_TXD", heads_TXD, batch)
    for name, cache in (("k_cache_PRSD", k_cache_PRSD), ("v_cache_PRSD", v_cache_PRSD)):
        checks.check_cache(name, cache, batch)
        checks.check_alike(name, cache, "heads_TXD", heads_TXD)
        num_heads = heads_TXD.shape[1] - 2 * cache.shape[1]
        if num_heads < 1 or cache.shape[3] != heads_TXD.shape[2] or cache.shape[3] % 2:
            raise ValueError(f"heads_TXD: expected queries and 2 x {list(cache.shape)}, got {list(heads_TXD.shape)}")
    checks.check_shape("v_cache_PRSD", v_cache_PRSD, tuple(k_cache_PRSD.shape), "P, R, S, D")
    for name, table in (("cos_TE", cos_TE), ("sin_TE", sin_TE)):
        checks.check_shape(name, table, (heads_TXD.shape[0], heads_TXD.shape[2] // 2), "T, E")
        if table.dtype != torch.float32:
            raise ValueError(f"{name}: expected float32, got {table.dtype}")
    return _IMPLEMENTATIONS[choose(backend)](heads_TXD, cos_TE, sin_TE, k_cache_PRSD, v_cache_PRSD, batch)
