"""Runs the network over a batch: the only part of the engine that holds weights and cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from openm3 import hub
from openm3.config import EngineConfig
from openm3.context.extend import Extension
from openm3.engine.graphs import DecodeGraphs
from openm3.errors import InputError
from openm3.kernels.backend import choose, choose_device
from openm3.kernels.select_blocks import QuantisedIndex
from openm3.model.batch import Batch
from openm3.model.cache import KVCache, page_bytes, spilled_page_bytes
from openm3.model.parallel import Parallel
from openm3.model.shift import shift_pages
from openm3.model.spill import Spill
from openm3.model.vision_checkpoint import vision_of
from openm3.model.vision_patches import Patches
from openm3.model.weights import Checkpoint, choose_weights, load_decoder

_SMALLEST_CACHE_BYTES = 1 << 30


class Runner:
    """A loaded decoder, its cache, and the vision part where the checkpoint has one.

    Args:
        checkpoint: the model's file or folder.
        config: the engine's.
        parallel: of several processes, which compute the model together; this one then has its part of weights and
            cache.

    Attributes:
        device: where weights and cache lie.
        backend: the kernel backend in use.
        weights: "bf16", "packed" or "int8", how matrices are held, see `choose_weights` in `model/weights.py`.
        index: "int8" or "exact", how block scores are scanned; None where every block is read.
        num_pages: pages in the cache.
        invariant: whether a token's keys and values have the same bits in any batch, in prefill and decode: on the
            native kernels in bfloat16, in one process. Products of torch in fp32, and sums over processes, add up in
            an order of their own for each size.
        spill: the folder of the file in which keys and values are, None where all of them are in memory.
        max_context: longest prompt and answer together.
        extension: how positions past the trained window are read; None: as they are.
        vision: None where the model can't see.
        graphs: the recorded decode steps; None where every step is launched from Python: on a CPU, in several
            processes, with packed weights (their experts wait for what was chosen), and where the configuration says
            so.
    """

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig, parallel: Parallel | None = None) -> None:
        model, dtype, page_size = (
            checkpoint.config,
            getattr(torch, config.dtype),
            config.blocks.index_block_size,
        )
        self.device = choose_device(config.device, config.backend)
        self.backend = choose(config.backend, like=torch.empty(0, model.head_dim, dtype=dtype, device=self.device))
        if config.attention_mass is not None and self.backend == "triton":
            raise InputError(
                "attention_mass", "'triton' reads as many blocks for one answer as for another; leave it out"
            )
        self.invariant = self.backend == "native" and dtype == torch.bfloat16 and parallel is None
        self.max_context = config.max_context or model.max_position_embeddings
        self.weights = choose_weights(checkpoint, config.weights, dtype, self.backend)
        self.extension = Extension.of(config, model)
        self.index = self._choose_index(config)
        kinds = {
            "quantised": self.index == "int8",
            "far": self.extension is not None and self.extension.method == "clamped",
        }
        one_page = page_bytes(model, page_size, dtype, **kinds)
        window_pages = -(-self.max_context // page_size)
        cache_bytes = config.cache_bytes or max(window_pages * one_page, _SMALLEST_CACHE_BYTES)
        self.num_pages = max(1, cache_bytes // one_page)
        spill = None
        if config.spill:
            keeps_keys = self.index == "exact"
            in_file = spilled_page_bytes(model, page_size, dtype, keeps_keys=keeps_keys, far=kinds["far"])
            self.num_pages = window_pages if config.spill_bytes is None else max(1, config.spill_bytes // in_file)
            budget = cache_bytes - self.num_pages * (one_page - in_file)
            spill = self._spill(config, budget // (parallel.size if parallel else 1), keeps_keys)
        self.spill = spill and spill.folder
        part = model if parallel is None else parallel.part_of(model)
        self.cache = KVCache.allocate(
            part, self.num_pages, page_size, dtype, self.device, **kinds, backend=self.backend, spill=spill
        )
        sparse = config.blocks if config.attention == "sparse" else None
        on_cpu = self.device.type == "cpu"
        self.decoder = load_decoder(
            checkpoint,
            dtype,
            sparse=sparse,
            backend=self.backend,
            weights=self.weights,
            pack=on_cpu,
            parallel=parallel,
            extension=self.extension,
        )
        if not on_cpu:
            self.decoder.to(self.device).pack()
        replays = config.cuda_graphs and self.device.type == "cuda" and parallel is None and self.weights == "bf16"
        self.graphs = DecodeGraphs(self.decoder, self.cache, page_size) if replays else None
        self.vision = vision_of(checkpoint, dtype) if parallel is None or parallel.rank == 0 else None

    def _spill(self, config: EngineConfig, budget: int, keeps_keys: bool) -> Spill:
        if self.device.type != "cpu":
            raise InputError("spill", f"the cache lies on {self.device.type!r}, where nothing is spilled; leave it out")
        if budget <= 0:
            hint = "; index 'int8' keeps a quarter of them" if keeps_keys and self.backend == "native" else ""
            raise InputError(
                "cache_bytes",
                f"the keys that blocks are chosen by stay in memory, and those of {self.num_pages:,} pages alone take "
                f"all of it or more; give the cache more memory, or ask for a shorter window{hint}",
            )
        folder = Path(config.spill_dir).expanduser() if config.spill_dir else hub.home() / "spill"
        return Spill(folder, budget, keeps_keys=keeps_keys)

    def _choose_index(self, config: EngineConfig) -> str | None:
        if config.attention != "sparse":
            if config.index != "auto":
                raise InputError("index", f"{config.index!r} needs sparse attention; nothing is chosen here")
            return None
        if config.index == "int8" and self.backend not in ("native", "triton"):
            raise InputError("index", f"'int8' needs the native or the triton backend, not {self.backend!r}")
        if config.index == "auto":
            return "int8" if QuantisedIndex.pays(config.blocks, self.max_context, self.backend) else "exact"
        return config.index

    @torch.inference_mode()
    def copy_page(self, source: int, target: int) -> None:
        """Copies what all layers keep of a page."""
        self.cache.copy_page(source, target)

    @torch.inference_mode()
    def shift_pages(self, pages: Sequence[int], shifts: Sequence[int]) -> None:
        """Moves the keys of pages to other positions, see `openm3.model.shift`."""
        shift_pages(self.cache, pages, shifts, self.decoder.inv_freq_E)

    @torch.inference_mode()
    def see(self, media: Sequence[Patches]) -> Tensor:
        """fp32 `[N, C]`: the embeddings of images and videos, one after the other."""
        assert self.vision is not None, "a model without vision part was given images"
        return torch.cat([self.vision.embed(patches) for patches in media])

    @torch.inference_mode()
    def run(self, batch: Batch) -> Tensor:
        """fp32 `[L, vocab_size]` logits of the batch's `logit_rows_L`, on the CPU; the next call may overwrite them."""
        if self.graphs is not None and self.graphs.fits(batch):
            return self.graphs.run(batch)
        logits_LV: Tensor = self.decoder(batch.to(self.device), self.cache)
        return logits_LV.cpu()

    @torch.inference_mode()
    def follow(self, batch: Batch) -> None:
        """The same without logits, for processes whose share of the sums is what counts."""
        self.decoder.hidden_states(batch.to(self.device), self.cache)
