"""Random paged caches for the tests of the kernels, with every slot that no token was written to poisoned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openm3.kernels.backend import BACKENDS, interpreting
from openm3.kernels.paged import PagedBatch

# Every backend of the CPU but the definition, which judges them.
FAST_BACKENDS = [name for name in BACKENDS if name not in ("reference", "triton")]

# Where Triton's kernels are tested: on a GPU, else on the CPU in Triton's interpreter (`conftest.py` turns it on).
DEVICE = "cpu" if interpreting() else "cuda"

# The largest difference allowed between a backend and the reference, for values of about 1.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


@dataclass(frozen=True)
class Case:
    """Sizes of a batch: `lens` are (queries, context) of each sequence."""

    lens: tuple[tuple[int, int], ...]
    page_size: int = 16
    num_kv_heads: int = 2
    group_size: int = 3
    head_dim: int = 32
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        lens = "+".join(f"{queries}of{context}" for queries, context in self.lens)
        kind = str(self.dtype).removeprefix("torch.")
        return f"{lens}-s{self.page_size}-r{self.num_kv_heads}g{self.group_size}-d{self.head_dim}-{kind}"


# Sizes around the edges of pages and tiles, cached prefixes that end on and inside a block, several sequences.
CASES = [
    Case(((1, 1),)),
    Case(((16, 16),)),
    Case(((17, 17),)),
    Case(((1, 127),), page_size=128),
    Case(((128, 128),), page_size=128, dtype=torch.bfloat16),
    Case(((129, 129),), page_size=128),
    Case(((1, 241), (1, 255)), num_kv_heads=1, group_size=16, page_size=128, head_dim=128, dtype=torch.bfloat16),
    Case(((5, 21), (1, 1), (40, 200), (1, 77))),
    Case(((5, 21), (1, 1), (40, 200), (1, 77)), dtype=torch.bfloat16),
    Case(((3, 48), (2, 49)), num_kv_heads=1, group_size=1, head_dim=80, dtype=torch.float16),
    Case(((130, 259),), page_size=128, num_kv_heads=3, head_dim=64, dtype=torch.bfloat16),
    Case(((64, 512),), page_size=32, group_size=1, head_dim=96),
    Case(((2, 2049),), page_size=256, num_kv_heads=1, head_dim=256),
    Case(((1, 2047), (1, 2048), (1, 2049)), page_size=128, head_dim=64, dtype=torch.bfloat16),
]


@dataclass(frozen=True)
class Paged:
    """A batch with its tensors; `k_LRD` and `v_LRD` are the keys and values in order, sequence after sequence."""

    batch: PagedBatch
    q_THD: Tensor
    k_cache: Tensor
    v_cache: Tensor
    k_LRD: Tensor
    v_LRD: Tensor
    pages: tuple[tuple[int, ...], ...]


def build(case: Case, seed: int = 0) -> Paged:
    """Random tensors of a case; pages are dealt out in random order and unwritten slots are NaN."""
    generator = torch.Generator().manual_seed(seed)
    contexts = [context for _, context in case.lens]
    counts = [-(-context // case.page_size) for context in contexts]
    num_pages = sum(counts) + 3
    deal = iter(torch.randperm(num_pages, generator=generator).tolist())
    pages = tuple(tuple(next(deal) for _ in range(count)) for count in counts)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(case.dtype)

    heads = case.num_kv_heads * case.group_size
    k_LRD, v_LRD = (noise(sum(contexts), case.num_kv_heads, case.head_dim) for _ in range(2))
    batch = PagedBatch.build([queries for queries, _ in case.lens], contexts, pages, case.page_size)
    q_THD = noise(batch.num_tokens, heads, case.head_dim)
    k_cache, v_cache = (poisoned(case, num_pages) for _ in range(2))
    fill(k_cache, k_LRD, contexts, pages)
    fill(v_cache, v_LRD, contexts, pages)
    return Paged(batch, q_THD, k_cache, v_cache, k_LRD, v_LRD, pages)


def on_device(x: Paged) -> Paged:
    """The same where Triton's kernels run; the batch stays, it is copied by the kernels' callers."""
    q, k, v, k_LRD, v_LRD = (t.to(DEVICE) for t in (x.q_THD, x.k_cache, x.v_cache, x.k_LRD, x.v_LRD))
    return Paged(x.batch, q, k, v, k_LRD, v_LRD, x.pages)


def poisoned(case: Case, num_pages: int) -> Tensor:
    shape = (num_pages, case.num_kv_heads, case.page_size, case.head_dim)
    return torch.full(shape, torch.nan, dtype=case.dtype)


def fill(cache: Tensor, x_LRD: Tensor, contexts: list[int], pages: tuple[tuple[int, ...], ...]) -> None:
    """Writes tokens to their pages, one by one."""
    rows = iter(x_LRD)
    for context, page_ids in zip(contexts, pages, strict=True):
        for position in range(context):
            cache[page_ids[position // cache.shape[2]], :, position % cache.shape[2]] = next(rows)
