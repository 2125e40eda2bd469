"""What every operation checks at its border, before any memory is touched. Wrong tensors raise `ValueError`."""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.kernels.paged import PagedBatch

# float64 is for checks of gradients: the torch and reference backends only.
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_shape(name: str, tensor: Tensor, expected: tuple[int | None, ...], letters: str) -> None:
    """Checks the shape; None stands for any size. `letters` is the shape in the words of the docstring."""
    shape = tensor.shape
    if len(shape) == len(expected):  # a plain loop: this runs many times a layer
        for size, given in zip(expected, shape, strict=True):
            if size is not None and size != given:
                break
        else:
            return
    wanted = ", ".join("any" if size is None else str(size) for size in expected)
    raise ValueError(f"{name}: expected [{letters}] = [{wanted}], got {list(shape)}")


def check_alike(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Checks that two tensors have one floating dtype and one device."""
    if tensor.dtype not in DTYPES:
        raise ValueError(f"{name}: expected float32, bfloat16 or float16, got {tensor.dtype}")
    if tensor.dtype != other.dtype or tensor.device != other.device:
        raise ValueError(
            f"{name}: expected {other.dtype} on {other.device} like {other_name}, got {tensor.dtype} on {tensor.device}"
        )


def check_queries(name: str, tensor: Tensor, batch: PagedBatch) -> None:
    """Checks that a packed `[T, heads, size]` tensor has one row for each query token."""
    check_shape(name, tensor, (batch.num_tokens, None, None), "T, heads, size")


def check_cache(name: str, cache: Tensor, batch: PagedBatch) -> None:
    """Checks that a cache `[P, R, S, D]` has the batch's page size and holds every page of its table."""
    if cache.shape in batch.fitting:  # those of all layers are alike
        return
    check_shape(name, cache, (None, None, batch.page_size, None), "P, R, S, D")
    if batch.highest_page >= cache.shape[0]:
        raise ValueError(f"page_table: page {batch.highest_page} lies outside {name}, which has {cache.shape[0]} pages")
    if batch.lowest_page < 0:
        raise ValueError("page_table: no page -1; a row has fewer pages than its context needs")
    batch.fitting.add(cache.shape)


def check_heads(name: str, num_heads: int, kv_name: str, num_kv_heads: int) -> None:
    """Checks that query heads divide evenly among key/value heads."""
    if num_heads % num_kv_heads:
        raise ValueError(f"{name}: expected a multiple of the {num_kv_heads} heads of {kv_name}, got {num_heads} heads")


def check_attention(q_THD: Tensor, k_cache_PRSD: Tensor, v_cache_PRSD: Tensor, batch: PagedBatch) -> None:
    """Checks the tensors that dense and sparse attention share."""
    checked = (("k_cache_PRSD", k_cache_PRSD), ("v_cache_PRSD", v_cache_PRSD))
    check_queries("q_THD", q_THD, batch)
    for name, cache in checked:
        check_cache(name, cache, batch)
        check_alike(name, cache, "q_THD", q_THD)
        if cache.shape[3] != q_THD.shape[2]:
            raise ValueError(f"{name}: expected head size {q_THD.shape[2]} like q_THD, got {cache.shape[3]}")
    check_shape("v_cache_PRSD", v_cache_PRSD, tuple(k_cache_PRSD.shape), "P, R, S, D")
    check_heads("q_THD", q_THD.shape[1], "k_cache_PRSD", k_cache_PRSD.shape[1])
