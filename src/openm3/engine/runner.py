"""Runs the network over a batch: the only part of the engine that holds weights and cache."""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.config import EngineConfig
from openm3.kernels.backend import choose, choose_device
from openm3.model.batch import Batch
from openm3.model.cache import KVCache, page_bytes
from openm3.model.weights import Checkpoint, load_decoder

_SMALLEST_CACHE_BYTES = 1 << 30


class Runner:
    """A loaded decoder and its cache.

    Args:
        checkpoint: the model's file or folder.
        config: the engine's.

    Attributes:
        device: where weights and cache lie.
        backend: the kernel backend in use.
        num_pages: pages in the cache.
        max_context: longest prompt and answer together.
    """

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig) -> None:
        model, dtype, page_size = (
            checkpoint.config,
            getattr(torch, config.dtype),
            config.sparse.index_block_size,
        )
        on_cpu = config.backend not in (None, "triton")  # the other backends run nowhere else
        self.device = choose_device(config.device or ("cpu" if on_cpu else None))
        self.backend = choose(config.backend, like=torch.empty(0, model.head_dim, dtype=dtype, device=self.device))
        self.max_context = config.max_context or model.max_position_embeddings
        one_page = page_bytes(model, page_size, dtype)
        full_window = -(-self.max_context // page_size) * one_page
        cache_bytes = config.cache_bytes or max(full_window, _SMALLEST_CACHE_BYTES)
        self.num_pages = max(1, cache_bytes // one_page)
        self.cache = KVCache.allocate(model, self.num_pages, page_size, dtype, self.device)
        sparse = config.sparse if config.attention == "sparse" else None
        self.decoder = load_decoder(checkpoint, dtype, sparse=sparse, backend=self.backend).to(self.device).pack()

    @torch.inference_mode()
    def run(self, batch: Batch) -> Tensor:
        """fp32 `[L, vocab_size]` logits of the batch's `logit_rows_L`, on the CPU."""
        logits_LV: Tensor = self.decoder(batch.to(self.device), self.cache)
        return logits_LV.cpu()
