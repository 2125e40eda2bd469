"""Which parts of a cached context are nearest to its last tokens, by the model's own keys.

Letters: m query tokens, n context tokens, w windows, h half windows, p pages, R key heads, S page size, D head size, C
that of all heads together.

A query token is compared with a context token by what their keys say beside their positions: cached keys are turned
back to position 0. A window's score for a query token is that of its nearest token (late interaction, arXiv
2004.12832), and counts as far as it is above the mean of all windows, squared: what occurs everywhere counts little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from openm3.model.cache import KVCache
from openm3.model.rope import rotate_, rotation

Metric = Literal["cosine", "dot"]

WINDOW = 64  # tokens; windows overlap by half
_HALF = WINDOW // 2
_TOKENS_AT_ONCE = 8192  # of fp32 copies of keys
# Depths of the layers that are compared, as shares of all. Late layers tell what comes next, not
# what is there; these three were the best of the default model together, on text that no figure in the README is from.
_DEPTHS = (0.07, 0.17, 0.6)


def layers_of(cache: KVCache) -> list[int]:
    """The layers whose keys are compared."""
    return sorted({int(depth * len(cache.layers)) for depth in _DEPTHS})


def window_scores(
    cache: KVCache, pages: Sequence[int], num_context: int, query: range, inv_freq_E: Tensor, metric: Metric
) -> Tensor:
    """fp32 `[w]`: how near each window of the context is; 1 is the nearest one in all layers that are compared.

    Window i is tokens `i * WINDOW / 2` to `i * WINDOW / 2 + WINDOW - 1`, the last one as far as it goes.

    Args:
        cache: where the keys are; they are read once, in parts.
        pages: of the sequence, in order.
        num_context: tokens at the beginning of the sequence that are compared with the query's.
        query: positions of the query's tokens.
        inv_freq_E: of the model's rotary positions.
        metric: what two keys are compared by.
    """
    layers = layers_of(cache)
    total = torch.zeros(())
    for number in layers:
        k_PRSD = cache.layers[number].k_PRSD

        def keys(positions: range, k_PRSD: Tensor = k_PRSD) -> Tensor:
            return _keys(k_PRSD, pages, positions, inv_freq_E, metric)

        query_mC = keys(query)
        best_mh = torch.cat([_best_of_halves(query_mC @ keys(part).T) for part in _parts(num_context)], dim=1)
        best_mw = torch.maximum(best_mh[:, :-1], best_mh[:, 1:]) if best_mh.shape[1] > 1 else best_mh
        above_mw = (best_mw - best_mw.mean(1, keepdim=True)).clamp_(min=0).square_()
        score_w = above_mw.mean(0)
        total = total + score_w / score_w.max().clamp(min=torch.finfo(score_w.dtype).tiny) / len(layers)
    return total.cpu()


def _parts(stop: int) -> list[range]:
    return [range(start, min(start + _TOKENS_AT_ONCE, stop)) for start in range(0, stop, _TOKENS_AT_ONCE)]


def _keys(k_PRSD: Tensor, pages: Sequence[int], positions: range, inv_freq_E: Tensor, metric: Metric) -> Tensor:
    """fp32 `[n, C]`: the keys at these positions without their positions; of length 1 for "cosine"."""
    size, start, stop = k_PRSD.shape[2], positions.start, positions.stop
    first_page = start // size
    page_p = torch.tensor(pages[first_page : -(-stop // size)], device=k_PRSD.device)
    k_nRD = k_PRSD[page_p].transpose(1, 2).flatten(0, 1)[start - first_page * size : stop - first_page * size]
    back = rotation(inv_freq_E, -torch.arange(start, stop, device=k_nRD.device))
    k_nC = rotate_(k_nRD.float(), back).flatten(1)
    return F.normalize(k_nC, dim=-1) if metric == "cosine" else k_nC


def _best_of_halves(similar_mn: Tensor) -> Tensor:
    """`[m, h]`: the most of each half window; the last one may be short."""
    short = -similar_mn.shape[1] % _HALF
    return F.pad(similar_mn, (0, short), value=-torch.inf).unflatten(1, (-1, _HALF)).amax(-1)
