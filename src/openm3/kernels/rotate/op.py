"""Contract of `rotate_and_write`.

Letters: T packed query tokens, H query heads, R key/value heads, P pages, S page size, D head size, E pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.kernels import checks
from openm3.kernels.backend import choose
from openm3.kernels.lazy import lazy
from openm3.kernels.paged import PagedBatch
from openm3.kernels.rotate import cpu, reference, torch_path
from openm3.kernels.rotate.norms import HeadNorms

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
    v_cache_PRSD: Tensor | None,
    batch: PagedBatch,
    *,
    norms: HeadNorms | None = None,
    turns_queries: bool = True,
    backend: str = "torch",
) -> Tensor:
    """What stands between a layer's projection and its attention, in one pass over the new tokens.

    Queries and keys are normed, each head by itself, and rotated (arXiv 2104.09864), the pairs being elements i and
    i + E of a head, whose other elements stay; all in fp32, rounded once. Keys and values go to their pages.

    Args:
        heads_TXD: `[T, H + 2R, D]`: the heads of the queries, the keys and the values; `[T, H + R, D]` without values.
        cos_TE, sin_TE: float32 `[T, E]`, of the tokens' positions, E at most D / 2.
        k_cache_PRSD, v_cache_PRSD: `[P, R, S, D]`, changed in place, like `heads_TXD`; v None without values.
        batch: sequences and pages; queries are the last tokens of their contexts.
        norms: of queries and keys; None leaves them.
        turns_queries: whether queries are rotated; keys always are.
        backend: see `kernels/backend.py`.

    Returns:
        `[T, H, D]`: the queries.

    Raises:
        ValueError: a shape, dtype or device is wrong, or a page lies outside a cache.
    """
    checks.check_queries("heads_TXD", heads_TXD, batch)
    num_tokens, num_heads, head_size = heads_TXD.shape
    caches = {"k_cache_PRSD": k_cache_PRSD, "v_cache_PRSD": v_cache_PRSD}
    given = {name: cache for name, cache in caches.items() if cache is not None}
    for name, cache in given.items():
        checks.check_cache(name, cache, batch)
        checks.check_alike(name, cache, "heads_TXD", heads_TXD)
        checks.check_shape(name, cache, tuple(k_cache_PRSD.shape), "P, R, S, D")
    if num_heads <= len(given) * k_cache_PRSD.shape[1] or k_cache_PRSD.shape[3] != head_size or head_size % 2:
        shapes = f"{len(given)} x {list(k_cache_PRSD.shape)}"
        raise ValueError(f"heads_TXD: expected queries and {shapes}, got {list(heads_TXD.shape)}")
    for name, table in (("cos_TE", cos_TE), ("sin_TE", sin_TE)):
        checks.check_shape(name, table, (num_tokens, cos_TE.shape[-1]), "T, E")
        if table.dtype != torch.float32 or 2 * table.shape[1] > head_size:
            raise ValueError(
                f"{name}: expected float32 and E at most {head_size // 2}, got {table.dtype} {table.shape}"
            )
    for name, scale in (("q_scale_D", norms.q_scale_D), ("k_scale_D", norms.k_scale_D)) if norms else ():
        checks.check_shape(f"norms.{name}", scale, (head_size,), "D")
        if scale.dtype != torch.float32:
            raise ValueError(f"norms.{name}: expected float32, got {scale.dtype}")
    return _IMPLEMENTATIONS[choose(backend)](
        heads_TXD, cos_TE, sin_TE, k_cache_PRSD, v_cache_PRSD, batch, norms, turns_queries
    )
