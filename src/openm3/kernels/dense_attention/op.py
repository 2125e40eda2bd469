"""Contract of `dense_attention`.

Letters: T packed query tokens, H query heads, R key/value heads, G = H / R heads a group, P pages, S page size,
D head size, L tokens of a context.
"""

from __future__ import annotations

from torch import Tensor

from openm3.kernels import checks
from openm3.kernels.backend import choose
from openm3.kernels.dense_attention import cpu, reference, torch_path
from openm3.kernels.lazy import lazy
from openm3.kernels.paged import PagedBatch

_IMPLEMENTATIONS = {
    "triton": lazy("openm3.kernels.dense_attention.gpu", "dense_attention"),
    "native": cpu.dense_attention,
    "torch": torch_path.dense_attention,
    "reference": reference.dense_attention,
}


def dense_attention(
    q_THD: Tensor,
    k_cache_PRSD: Tensor,
    v_cache_PRSD: Tensor,
    batch: PagedBatch,
    *,
    scale: float | None = None,
    backend: str = "torch",
) -> Tensor:
    """softmax(q·k * scale) v over all tokens of the sequence up to the query's own, grouped-query heads.

    Head h reads key/value head h // G. Nothing of size L x L is allocated.

    Args:
        q_THD: `[T, H, D]`, float32, bfloat16 or float16.
        k_cache_PRSD, v_cache_PRSD: `[P, R, S, D]`, like q; they hold this step's keys and values already.
        batch: sequences and pages.
        scale: 1 / sqrt(D) when None.
        backend: see `kernels/backend.py`.

    Returns:
        `[T, H, D]` like q.

    Raises:
        ValueError: a shape, dtype or device is wrong, or a page lies outside the cache.
    """
    checks.check_attention(q_THD, k_cache_PRSD, v_cache_PRSD, batch)
    if scale is None:
        scale = float(q_THD.shape[2] ** -0.5)
    return _IMPLEMENTATIONS[choose(backend, q_THD)](q_THD, k_cache_PRSD, v_cache_PRSD, batch, scale)
