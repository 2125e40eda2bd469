"""Contract of `write_cache`. Letters: see `kernels/paged.py`; X index-key heads, C index head size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from openm3.kernels import checks
from openm3.kernels.backend import choose
from openm3.kernels.lazy import lazy
from openm3.kernels.paged import PagedBatch
from openm3.kernels.write_cache import reference, torch_path

_IMPLEMENTATIONS = {
    "triton": lazy("openm3.kernels.write_cache.gpu", "write_cache"),
    "native": torch_path.write_cache,  # no native code: torch's own operations
    "torch": torch_path.write_cache,
    "reference": reference.write_cache,
}


def write_cache(
    new_THD: Sequence[Tensor], caches_PHSD: Sequence[Tensor], batch: PagedBatch, *, backend: str = "torch"
) -> None:
    """Writes each query token's key, value and (where there is one) index key to its place in the pages.

    They go in together because a page is a block: what is selected by an index key must be what is read.

    Args:
        new_THD: one tensor for each cache, `[T, R, D]` keys and values, `[T, X, C]` index keys.
        caches_PHSD: `[P, R, S, D]` and `[P, X, S, C]`, changed in place, each like its new tensor.
        batch: sequences and pages; queries are the last tokens of their contexts.
        backend: see `kernels/backend.py`.

    Raises:
        ValueError: a shape, dtype or device is wrong, or a page lies outside a cache.
    """
    if len(new_THD) != len(caches_PHSD):
        raise ValueError(f"new_THD: expected one tensor for each of {len(caches_PHSD)} caches, got {len(new_THD)}")
    for i, (new, cache) in enumerate(zip(new_THD, caches_PHSD, strict=True)):
        checks.check_cache(f"caches_PHSD[{i}]", cache, batch)
        checks.check_shape(f"new_THD[{i}]", new, (batch.num_tokens, cache.shape[1], cache.shape[3]), "T, H, D")
        checks.check_alike(f"new_THD[{i}]", new, f"caches_PHSD[{i}]", cache)
    for new, cache in zip(new_THD, caches_PHSD, strict=True):
        _IMPLEMENTATIONS[choose(backend)](new, cache, batch)
