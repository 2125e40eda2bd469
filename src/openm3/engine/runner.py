"""Runs the network over a batch: the only part of the engine that holds weights and cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openm3.config import EngineConfig
from openm3.kernels.backend import choose
from openm3.model.batch import Batch
from openm3.model.cache import KVCache, page_bytes
from openm3.model.vision_checkpoint import vision_of
from openm3.model.vision_patches import Patches
from openm3.model.weights import Checkpoint, load_decoder

_SMALLEST_CACHE_BYTES = 1 << 30


class Runner:
    """A loaded decoder, its cache, and the vision part where the checkpoint has one.

    Args:
        checkpoint: the model's file or folder.
        config: the engine's.

    Attributes:
        backend: the kernel backend in use.
        num_pages: pages in the cache.
        max_context: longest prompt and answer together.
        vision: None where the model can't see.
    """

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig) -> None:
        model, dtype, page_size = (
            checkpoint.config,
            getattr(torch, config.dtype),
            config.sparse.index_block_size,
        )
        self.backend = choose(config.backend, like=torch.empty(0, model.head_dim, dtype=dtype))
        self.max_context = config.max_context or model.max_position_embeddings
        one_page = page_bytes(model, page_size, dtype)
        full_window = -(-self.max_context // page_size) * one_page
        cache_bytes = config.cache_bytes or max(full_window, _SMALLEST_CACHE_BYTES)
        self.num_pages = max(1, cache_bytes // one_page)
        self.cache = KVCache.allocate(model, self.num_pages, page_size, dtype)
        sparse = config.sparse if config.attention == "sparse" else None
        self.decoder = load_decoder(
            checkpoint, dtype, sparse=sparse, backend=self.backend, weights=config.weights, pack=True
        )

        self.vision = vision_of(checkpoint, dtype)

    @torch.inference_mode()
    def see(self, media: Sequence[Patches]) -> Tensor:
        """fp32 `[N, C]`: the embeddings of images and videos, one after the other."""
        assert self.vision is not None, "a model without vision part was given images"
        return torch.cat([self.vision.embed(patches) for patches in media])

    @torch.inference_mode()
    def run(self, batch: Batch) -> Tensor:
        """fp32 `[L, vocab_size]` logits of the batch's `logit_rows_L`."""
        logits_LV: Tensor = self.decoder(batch, self.cache)
        return logits_LV
