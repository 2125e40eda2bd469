"""Decode steps on a GPU, recorded once and replayed: one launch for a whole step instead of hundreds from Python.

A graph repeats the same kernels on the same memory. So the batch that it was recorded with stays where it is, and a
step writes its own tokens, context lengths and pages there, in one copy; the kernels find everything else from those.
There is one graph for each number of sequences and each width of the page table, which is a power of two.

Letters: B sequences, W pages of the widest row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from openm3.kernels.gpu_shape import power_of_2
from openm3.kernels.paged import PagedBatch
from openm3.model.batch import Batch
from openm3.model.cache import KVCache
from openm3.model.decoder import Decoder

MOST_SEQUENCES = 16
_LEAST_WIDTH = 64

Record = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]


class DecodeGraphs:
    """Replays the decode steps of a model; a step that is seen for the first time runs once and is recorded.

    Args:
        decoder, cache: what runs; nothing of either may move.
        page_size: tokens in a page.
        record: from a call that gives logits to a call that does the same again on the same memory.

    Attributes:
        sizes: (sequences, width of the page table) of every step that was recorded.
    """

    def __init__(self, decoder: Decoder, cache: KVCache, page_size: int, record: Record | None = None) -> None:
        self._decoder, self._cache, self._page_size = decoder, cache, page_size
        self._record = record or _Recorder()
        self._steps: dict[tuple[int, int], _Step] = {}

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        return tuple(self._steps)

    @staticmethod
    def fits(batch: Batch) -> bool:
        """Whether a batch is a decode step: a token of each of a few sequences, the logits of all, nobody watching."""
        num_tokens = batch.paged.num_tokens
        return (
            num_tokens == len(batch.paged.context_len_B) == len(batch.logit_rows_L) <= MOST_SEQUENCES
            and batch.seen_rows_M is None
            and batch.pooling is None
            and not batch.watches
        )

    def run(self, batch: Batch) -> Tensor:
        """fp32 `[B, V]` logits on the CPU, which the next step of the same size writes over."""
        size = len(batch.token_ids_T), power_of_2(batch.paged.page_table_BP.shape[1], _LEAST_WIDTH)
        if size in self._steps:
            return self._steps[size].replay(batch)
        step = _Step(self._decoder, self._cache, *size, self._page_size)
        logits_BV = step.first(batch, self._record)
        self._steps[size] = step
        return logits_BV


class _Step:
    """One recorded step and the memory that it reads."""

    def __init__(self, decoder: Decoder, cache: KVCache, num_sequences: int, width: int, page_size: int) -> None:
        self._decoder, self._cache, device = decoder, cache, cache.layers[0].k_PRSD.device
        self._paged = PagedBatch.of_decode(num_sequences, width, page_size)
        self._on = self._paged.on(device)
        on_gpu = device.type == "cuda"
        # The page table, the lengths of contexts, the tokens: one stretch of memory on either side.
        self._host = torch.zeros(num_sequences * (width + 2), dtype=torch.int32, pin_memory=on_gpu)
        self._device = torch.zeros_like(self._host, device=device)
        table_BW, rest = self._device.split((num_sequences * width, 2 * num_sequences))
        context_len_B, self._token_ids_B = rest.chunk(2)
        self._on.move_to(table_BW.view(num_sequences, width), context_len_B)
        self._rows_B = torch.arange(num_sequences, device=device)
        self._logits_BV = torch.empty(num_sequences, decoder.config.vocab_size, pin_memory=on_gpu)
        self._replay: Callable[[], Tensor] | None = None

    def first(self, batch: Batch, record: Record) -> Tensor:
        """Computes a batch, which also has every kernel compiled, then records the same."""
        self._write(batch)
        logits_BV = self._read(self._compute())
        self._replay = record(self._compute)
        return logits_BV

    def replay(self, batch: Batch) -> Tensor:
        assert self._replay is not None, "a step is recorded before it is replayed"
        self._write(batch)
        return self._read(self._replay())

    def _compute(self) -> Tensor:
        self._on.follow_lengths()
        logits_BV: Tensor = self._decoder(Batch(self._token_ids_B.long(), self._paged, self._rows_B), self._cache)
        return logits_BV

    def _write(self, batch: Batch) -> None:
        num, table_BP = len(self._rows_B), batch.paged.page_table_BP
        host = self._host.numpy()  # which keeps the interpreter, see `PagedBatch.build`
        host[: -2 * num].reshape(num, -1)[:, : table_BP.shape[1]] = table_BP.numpy()
        host[-2 * num : -num] = batch.paged.context_len_B.numpy()
        host[-num:] = batch.token_ids_T.numpy()
        self._device.copy_(self._host, non_blocking=True)

    def _read(self, logits_BV: Tensor) -> Tensor:
        self._logits_BV.copy_(logits_BV, non_blocking=True)
        if logits_BV.is_cuda:
            torch.cuda.current_stream(logits_BV.device).synchronize()
        return self._logits_BV


class _Recorder:
    """Records CUDA graphs, which share their memory: steps run one after the other."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            out = compute()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay
