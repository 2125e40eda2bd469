"""Runs a model over given tokens and says what it would have put next, and which blocks it reads.

Letters: L places, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openm3.engine.llm import LLM
from openm3.kernels.paged import PagedBatch
from openm3.model.batch import Batch
from openm3.train.recall import Recall


class Reader:
    """One sequence of tokens at a time, through the model's own runner.

    What a text has in common with the one before is not read again, in whole chunks, so that its bits are the same.

    Args:
        llm: the model; nothing else may use it meanwhile.
    """

    def __init__(self, llm: LLM) -> None:
        self.llm, self._held = llm, list[int]()
        self._chunk, self._page_size = llm.config.prefill_chunk, llm.config.blocks.index_block_size
        self._pages = list(range(llm.engine.runner.num_pages))

    @torch.inference_mode()
    def logits(self, ids: Sequence[int], places: Sequence[int], recall: Recall | None = None) -> Tensor:
        """fp32 `[L, V]` on the model's device: of the token after each of some places, which ascend.

        Places that lie in what is not read again must not be asked for; with `recall`, which takes down what its own
        places read, everything is read again.
        """
        start = self._begin(ids, places) if recall is None else 0
        runner, found = self.llm.engine.runner, []
        self._held = []  # until all of it is there
        for begin in range(start, len(ids), self._chunk):
            end = min(begin + self._chunk, len(ids))
            paged = PagedBatch.build([end - begin], [end], [self._pages[: -(-end // self._page_size)]], self._page_size)
            rows = torch.tensor([place - begin for place in places if begin <= place < end], dtype=torch.int64)
            watch, probe = (None, None) if recall is None else recall.watches(begin, paged)
            batch = Batch(torch.tensor(ids[begin:end]), paged, rows, watch=watch, probe=probe).to(runner.device)
            if len(rows):
                found.append(runner.decoder(batch, runner.cache))
            else:
                runner.follow(batch)
        self._held = list(ids)
        return torch.cat(found)

    def nll(self, ids: Sequence[int], places: Sequence[int], recall: Recall | None = None) -> Tensor:
        """fp32 `[L]`: the negative log likelihood (natural) of the tokens after some places."""
        logits_LV = self.logits(ids, places, recall)
        targets_L = torch.tensor([ids[place + 1] for place in places], device=logits_LV.device)
        return torch.nn.functional.cross_entropy(logits_LV, targets_L, reduction="none").cpu()

    def _begin(self, ids: Sequence[int], places: Sequence[int]) -> int:
        common = next(
            (i for i, (one, other) in enumerate(zip(ids, self._held, strict=False)) if one != other),
            min(len(ids), len(self._held)),
        )
        return min(common, places[0]) // self._chunk * self._chunk
