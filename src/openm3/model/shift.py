"""Moves cached keys to other positions.

Letters: n pages, X heads, S page size, D head size, E pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openm3.model.cache import KVCache
from openm3.model.rope import Rotation, rotate_, rotation

_PAGES_AT_ONCE = 16  # of fp32 copies, which stay in a core's cache


def shift_pages(cache: KVCache, pages: Sequence[int], shifts: Sequence[int], inv_freq_E: Tensor) -> None:
    """Turns the keys and index keys of pages, in place, by as many positions each; all tokens of a page alike.

    A key rotated at position p and then by s is the key rotated at p + s (arXiv 2104.09864). The product is fp32, so a
    key is rounded once more than one that was rotated there at once. Keys of 8 bits are made again.

    Args:
        cache: where the pages are.
        pages: each at most once.
        shifts: by how many positions each moves; negative towards the beginning.
        inv_freq_E: of the model's rotary positions.
    """
    device = cache.layers[0].k_PRSD.device
    for start in range(0, len(pages), _PAGES_AT_ONCE):
        page_n = torch.tensor(pages[start : start + _PAGES_AT_ONCE], device=device)
        by_n = torch.tensor(shifts[start : start + _PAGES_AT_ONCE], device=device)
        turned = rotation(inv_freq_E, by_n)
        for layer in cache.layers:
            _turn(layer.k_PRSD, page_n, turned)
            # What far queries see of a page, its index keys too then, doesn't depend on where it stands.
            if layer.index_k_PXSC is not None and layer.far_k_PRSD is None:
                _turn(layer.index_k_PXSC, page_n, turned.thinned(cache.index_rotary_dim // 2))
            if layer.quantised is not None:
                layer.quantised.quantise(layer.choosing, page_n)


def _turn(keys_PXSD: Tensor, page_n: Tensor, turned: Rotation) -> None:
    moved_nXSD = keys_PXSD[page_n].float()
    rotate_(moved_nXSD.view(len(page_n), -1, moved_nXSD.shape[-1]), turned)
    keys_PXSD[page_n] = moved_nXSD.to(keys_PXSD.dtype)
