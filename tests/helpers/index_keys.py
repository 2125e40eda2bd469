"""Queries and index keys that try the bounds of keys of 8 bits; each change is made in place."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Change = Callable[[Tensor, Tensor], None]
_NOISE = torch.Generator().manual_seed(7)


def _outlier_channels(q: Tensor, k: Tensor) -> None:
    k[..., 3] *= 300
    k[..., 7] += 40
    q[..., 7] -= 5


def _equal_scores(q: Tensor, k: Tensor) -> None:
    k[:] = k[0, 0, 0]


def _nearly_equal_scores(q: Tensor, k: Tensor) -> None:
    k[:] = k[0, 0, 0] * (1 + 1e-2 * torch.randn(k.shape, generator=_NOISE))


def _huge_and_tiny(q: Tensor, k: Tensor) -> None:
    k *= 10.0 ** torch.randint(-38, 30, k.shape[:3], generator=_NOISE)[..., None]


def _tiny(q: Tensor, k: Tensor) -> None:
    k *= 1e-38


def _tiny_products(q: Tensor, k: Tensor) -> None:
    q *= 1e-22
    k *= 1e-22


def _huge_products(q: Tensor, k: Tensor) -> None:
    q *= 1e18
    k *= 3e18


def _not_finite(q: Tensor, k: Tensor) -> None:
    for value in (torch.nan, torch.inf, -torch.inf):
        k.view(-1)[torch.randint(0, k.numel(), (40,), generator=_NOISE)] = value


def _queries_not_finite(q: Tensor, k: Tensor) -> None:
    q[:, 0, 3], q[:, 1, 5], q[:, 2] = torch.inf, torch.nan, torch.nan


def _one_page_shines(q: Tensor, k: Tensor) -> None:
    k[5] *= 50


def _equal_but_for_rounding(q: Tensor, k: Tensor) -> None:
    q.fill_(0.3)
    for page in k:
        page[:] = k[0, 0, 0, torch.randperm(k.shape[3], generator=_NOISE)]


def _alternating(k: Tensor) -> Tensor:
    """Signs of a page's tokens, with which its centre is zero."""
    return (1 - 2 * (torch.arange(k.shape[2]) % 2))[:, None].to(k.dtype)


def _aligned_errors_of_keys(q: Tensor, k: Tensor) -> None:
    """Even pages score higher, by what their bytes lose: the bound is attained."""
    q[:], q[..., 0] = 1, 0
    k.zero_()
    k[0::2] = 0.49
    k[1::2, ..., :28] = 1
    k[..., 0] = 127
    k *= _alternating(k)


def _aligned_errors_of_queries(q: Tensor, k: Tensor) -> None:
    """Even pages score higher, by what the query's bytes lose."""
    q[..., 0], q[..., 1], q[..., 2:32], q[..., 32:] = 127, 0, 0.49, 0.51
    k.zero_()
    k[0::2, ..., 2:32] = 1
    k[1::2, ..., 32:57] = 1
    k[..., 1] = 127
    k *= _alternating(k)


CHANGES: list[Change] = [
    lambda q, k: None,
    lambda q, k: q.zero_(),  # type: ignore[func-returns-value]
    lambda q, k: k.zero_(),  # type: ignore[func-returns-value]
    _outlier_channels,
    _equal_scores,
    _nearly_equal_scores,
    _huge_and_tiny,
    _tiny,
    _tiny_products,
    _huge_products,
    _not_finite,
    _queries_not_finite,
    _one_page_shines,
    _equal_but_for_rounding,
    _aligned_errors_of_keys,
    _aligned_errors_of_queries,
]
